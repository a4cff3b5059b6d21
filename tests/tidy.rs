//! Rules of the house, held by a test: who may know whom, how long a file may be, what may be depended on.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of a file without its tests. May fall, never rise.
const FILE_LINES_MAX: usize = 500;

/// What each crate of ours may depend on, of ours.
const MAY_KNOW: [(&str, &[&str]); 7] = [
    ("purlin-history", &[]),
    ("purlin-model", &[]),
    ("purlin-wire", &["purlin-model"]),
    ("purlin-server", &["purlin-model", "purlin-wire"]),
    ("purlin-agent", &["purlin-model", "purlin-wire"]),
    ("purlin-proxy", &["purlin-model", "purlin-wire"]),
    ("purlin", &["purlin-agent", "purlin-model", "purlin-proxy", "purlin-server", "purlin-wire"]),
];

/// What their tests may know beyond that.
const TESTS_MAY_KNOW: [(&str, &[&str]); 2] =
    [("purlin", &["purlin-history"]), ("purlin-server", &["purlin-history"])];

/// Crates that only one file or folder may name, and which.
const ONLY_IN: [(&str, &[&str]); 4] = [
    ("sled::", &["server/src/raft/"]),
    ("openraft::", &["server/src/raft"]),
    ("quinn::", &["wire/src/quic"]),
    ("hickory_proto::", &["agent/src/dns", "src/demo/dig.rs"]),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for top in ["src", "model", "wire", "server", "agent", "proxy", "tests"] {
        collect(&root().join(top), &mut found);
    }
    assert!(found.len() > 30, "only {} sources found", found.len());
    found
}

fn collect(dir: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            found.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

fn is_test(name: &str) -> bool {
    name.starts_with("tests/") || name.contains("/tests/") || name.ends_with("/tests.rs")
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent: Vec<String> = sources()
        .into_iter()
        .filter(|(name, text)| !is_test(name) && !text.starts_with("//!"))
        .map(|(name, _)| name)
        .collect();
    assert!(silent.is_empty(), "begin these with a //! line: {silent:?}");
}

#[test]
fn files_hold_one_idea() {
    let long: Vec<String> = sources()
        .into_iter()
        .filter_map(|(name, text)| {
            let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
            (lines > FILE_LINES_MAX && !is_test(&name)).then(|| format!("{name}: {lines}"))
        })
        .collect();
    assert!(long.is_empty(), "longer than {FILE_LINES_MAX} lines: {long:#?}");
}

#[test]
fn some_crates_have_one_door() {
    for (name, text) in sources() {
        for (krate, homes) in ONLY_IN {
            let named = text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(krate));
            let may = is_test(&name) || homes.iter().any(|home| name.starts_with(home));
            assert!(!named || may, "{name} names {krate}, only {homes:?} may");
        }
    }
}

#[test]
fn no_globs_and_no_unfinished_work() {
    // Put together here, so that this file does not find itself.
    let words = [
        ["to", "do!("].concat(),
        ["unimpl", "emented!("].concat(),
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
    ];
    for (name, text) in sources() {
        for word in &words {
            assert!(!text.contains(word), "{name} has {word}");
        }
        let glob = text.lines().find(|line| line.trim_start().starts_with("use ") && line.contains("::*"));
        assert!(glob.is_none_or(|line| line.contains("super::*")), "{name}: {glob:?}");
    }
}

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--manifest-path"])
        .arg(root().join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(value: &serde_json::Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[test]
fn arrows_point_down_only() {
    let metadata = metadata();
    let mut seen = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = text(&package["name"]);
        if !name.starts_with("purlin") {
            continue;
        }
        let in_tests = TESTS_MAY_KNOW.iter().find(|(one, _)| *one == name).map_or(&[][..], |(_, may)| may);
        let ours = package["dependencies"].as_array().unwrap().iter();
        let ours = ours.filter(|one| one["kind"] != "dev" || !in_tests.contains(&text(&one["name"])));
        let ours = ours.map(|one| text(&one["name"]).to_owned());
        let ours: BTreeSet<String> = ours.filter(|one| one.starts_with("purlin") && one != name).collect();
        seen.insert(name.to_owned(), ours);
    }
    for (name, allowed) in MAY_KNOW {
        let ours = seen.remove(name).unwrap_or_else(|| panic!("no crate {name}"));
        let stray: Vec<&String> = ours.iter().filter(|one| !allowed.contains(&one.as_str())).collect();
        assert!(stray.is_empty(), "{name} may not know {stray:?}");
    }
    assert!(seen.is_empty(), "crates without a place in the house: {seen:?}");
}

/// Strings in quotes after `key = ` or inside a list, line by line: all that .deny.toml needs.
fn quoted(line: &str) -> Vec<&str> {
    line.split('"').skip(1).step_by(2).collect()
}

#[test]
fn banned_crates_and_licences_stay_out() {
    let deny = std::fs::read_to_string(root().join(".deny.toml")).unwrap();
    let (bans, licences) = deny.split_once("[licenses]").unwrap();
    let banned: Vec<&str> =
        bans.lines().filter(|line| line.contains("name =")).map(|line| quoted(line)[0]).collect();
    let allowed: BTreeSet<&str> = licences.lines().flat_map(quoted).collect();
    assert!(banned.len() > 3 && allowed.len() > 5);

    // What is really built: `cargo metadata` also lists optional dependencies that nobody asked for.
    let tree = ["tree", "--workspace", "--locked", "--offline", "--prefix=none", "--format={p}|{l}"];
    let output = Command::new(env!("CARGO")).args(tree).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8(output.stdout).unwrap();
    let packages: BTreeSet<(&str, &str)> = listed.lines().filter_map(|line| line.split_once('|')).collect();
    assert!(packages.len() > 100, "only {} packages found", packages.len());
    for (package, licence) in packages {
        let name = package.split(' ').next().unwrap_or(package);
        assert!(!banned.contains(&name), "{name} is banned, see .deny.toml");
        let licence = licence.trim_end_matches(" (*)");
        assert!(acceptable(licence, &allowed), "{name}: licence {licence:?} is not allowed");
    }
}

/// An SPDX expression of `OR` and `AND`, without nesting beyond what crates use.
fn acceptable(licence: &str, allowed: &BTreeSet<&str>) -> bool {
    let flat = licence.replace(['(', ')'], "").replace('/', " OR ");
    flat.split(" AND ").all(|part| part.split(" OR ").any(|one| allowed.contains(one.trim())))
}
