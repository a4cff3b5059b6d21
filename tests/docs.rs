//! The documentation says what is there: its examples are valid, and every key that can be written is in it.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where keys are read, with how many there are at least, so that a scan that went blind is noticed.
const READERS: [(&str, usize); 8] = [
    ("src/config/raw.rs", 45),
    ("src/config/network.rs", 10),
    ("model/src/definition/service.rs", 25),
    ("model/src/definition/connect.rs", 25),
    ("model/src/definition/check.rs", 30),
    ("model/src/definition/entry.rs", 25),
    ("model/src/definition/intentions.rs", 25),
    ("src/config/foreign.rs", 140),
];

/// Calls that ask a table for a key, and lists of keys.
const ASKS: [&str; 15] = [
    ".value(",
    ".text(",
    ".filled(",
    ".short(",
    ".flag(",
    ".number(",
    ".port(",
    ".span(",
    ".child(",
    ".children(",
    ".texts(",
    ".text_map(",
    ".object(",
    "seconds(",
    "some(",
];
const LISTS: [&str; 4] = [".ignore(&[", ".unsupported(&[", ".only(&[", "for key in ["];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn is_key(text: &str) -> bool {
    let inner = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    inner && text.starts_with(|c: char| c.is_ascii_alphabetic())
}

/// Every text in quotes that a table is asked for: `.flag("key")`, `parse(table, "key", …)`, or one of a list.
fn keys_read_in(source: &str) -> BTreeSet<String> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let mut keys = BTreeSet::new();
    let mut before = String::new();
    for (n, part) in code.split('"').enumerate() {
        if n % 2 == 1 && is_key(part) && asks(before.trim_end_matches('"').trim_end()) {
            keys.insert(part.to_owned());
        }
        before.push_str(part);
        before.push('"');
    }
    keys
}

/// Whether code that ends so asks for the key that follows.
fn asks(before: &str) -> bool {
    let by_table = |call: &str| {
        let table = call.strip_suffix(',').and_then(|call| call.rsplit_once('(')).map(|(_, table)| table);
        table.is_some_and(|table| is_key(table.trim_start_matches('&')))
    };
    let listed = before.rfind('[').is_some_and(|at| {
        let (head, inside) = before.split_at(at + 1);
        !inside.contains(']') && LISTS.iter().any(|list| head.ends_with(list))
    });
    listed || by_table(before) || ASKS.iter().any(|call| before.ends_with(call))
}

/// The keys of the tables of Consul's keys: the first text of each pair.
fn foreign_keys(source: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for (at, _) in source.match_indices('(') {
        let rest = source[at + 1..].trim_start();
        let key = rest.strip_prefix('"').and_then(|rest| rest.split_once('"'));
        keys.extend(
            key.filter(|(key, rest)| is_key(key) && rest.starts_with(',')).map(|(key, _)| key.to_owned()),
        );
    }
    keys
}

/// Words of the document that stand as code, in a line or in a block.
fn words_of_code(document: &str) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    for (n, part) in document.replace("```", "`").split('`').enumerate() {
        if n % 2 == 1 {
            let found = part.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            words.extend(found.map(str::to_owned));
        }
    }
    words
}

#[test]
fn every_key_is_documented() {
    let words = words_of_code(&read("docs/configuration.md"));
    let mut missing = Vec::new();
    for (file, least) in READERS {
        let source = read(file);
        let keys = if file.ends_with("foreign.rs") { foreign_keys(&source) } else { keys_read_in(&source) };
        assert!(keys.len() >= least, "only {} keys found in {file}: {keys:?}", keys.len());
        missing
            .extend(keys.into_iter().filter(|key| !words.contains(key)).map(|key| format!("{file}: {key}")));
    }
    assert!(missing.is_empty(), "docs/configuration.md does not name: {missing:#?}");
}

/// What `purlin validate` says of a file.
fn validate(file: &Path) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_purlin")).arg("validate").arg(file).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn examples_are_valid() {
    let mut seen = 0;
    for entry in std::fs::read_dir(root().join("docs/examples")).unwrap() {
        let file = entry.unwrap().path();
        let (is_valid, said) = validate(&file);
        assert!(is_valid, "{}: {said}", file.display());
        // Only the file of a Consul agent has keys that mean nothing here.
        let is_foreign = file.file_stem().is_some_and(|stem| stem == "consul-agent");
        assert_eq!(said.contains("has no effect here"), is_foreign, "{}: {said}", file.display());
        seen += 1;
    }
    assert!(seen >= 6, "only {seen} examples");
    let (is_valid, said) = validate(&root().join("systemd/unit.toml"));
    assert!(is_valid, "systemd/unit.toml: {said}");
}

/// Blocks of code of a language in a document.
fn blocks<'a>(document: &'a str, language: &str) -> Vec<&'a str> {
    let start = format!("```{language}\n");
    let found = document.split(&start).skip(1);
    found.filter_map(|rest| rest.split_once("\n```").map(|(block, _)| block)).collect()
}

#[test]
fn blocks_of_the_configuration_are_valid() {
    let document = read("docs/configuration.md");
    let dir = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for language in ["toml", "hcl", "json"] {
        for block in blocks(&document, language) {
            seen += 1;
            let file = dir.path().join(format!("{seen}.{language}"));
            // A part of a service is shown by itself.
            let part = block.starts_with("upstreams") || block.starts_with("connect");
            let text = match (part, language) {
                (true, "toml") => format!("[[service]]\nname = \"web\"\n{block}\n"),
                (true, _) => format!("service {{\nname = \"web\"\n{block}\n}}\n"),
                (false, _) => block.to_owned(),
            };
            std::fs::write(&file, &text).unwrap();
            let (is_valid, said) = validate(&file);
            assert!(is_valid, "{said}\n{text}");
        }
    }
    assert!(seen >= 8, "only {seen} blocks");
}

#[test]
fn the_scan_sees_what_it_should() {
    let source = "fn f() { parse(table, \"one\", x); t.flag(\"two\"); t.ignore(&[\"three\", \"four\"]); }";
    let keys = keys_read_in(source);
    assert_eq!(keys.into_iter().collect::<Vec<_>>(), ["four", "one", "three", "two"]);
    assert!(
        words_of_code("a `b.c` d\n```toml\ne = 1\n```\n")
            .is_superset(&["b", "c", "e"].map(String::from).into())
    );
    assert!(!words_of_code("a `b` d").contains("a"));
}
