//! Finds configuration files and parses them, whatever their form, to one kind of value.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Report, hcl};

/// A file may have so many bytes, and a directory so many files.
const FILE_BYTES: u64 = 4 * 1024 * 1024;
const FILES: usize = 4_096;

const EXTENSIONS: [&str; 3] = ["hcl", "json", "toml"];

/// The files of `paths` in their order; those of a directory in the order of their names.
pub(super) fn find(paths: &[PathBuf], report: &mut Report) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = match std::fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => {
                report.errors.push(format!("{}: cannot be read: {error}", path.display()));
                continue;
            }
        };
        let mut found: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| extension(path).is_some_and(|known| EXTENSIONS.contains(&known)) && path.is_file())
            .collect();
        found.sort();
        files.extend(found);
    }
    if files.len() > FILES {
        report.errors.push(format!("{} configuration files are too many; the limit is {FILES}", files.len()));
        files.clear();
    }
    files
}

fn extension(path: &Path) -> Option<&str> {
    path.extension().and_then(|text| text.to_str())
}

/// The value of a file with its text; what is wrong with it is reported.
pub(super) fn parse(path: &Path, report: &mut Report) -> Option<(Value, String)> {
    let name = path.display();
    let text = match read(path) {
        Ok(text) => text,
        Err(why) => {
            report.errors.push(format!("{name}: {why}"));
            return None;
        }
    };
    let parsed = match extension(path) {
        Some("hcl") => hcl::parse(&text),
        Some("json") => parse_json(&text),
        Some("toml") => parse_toml(&text),
        _ => Err("has no known form; name it .hcl, .json or .toml".into()),
    };
    match parsed {
        Ok(value) => Some((value, text)),
        Err(why) => {
            report.errors.push(format!("{name}: {why}"));
            None
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let mut bytes = Vec::new();
    let read = file.take(FILE_BYTES + 1).read_to_end(&mut bytes);
    let length = read.map_err(|error| format!("cannot be read: {error}"))?;
    if length as u64 > FILE_BYTES {
        return Err(format!("is larger than {FILE_BYTES} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".into())
}

pub(super) fn parse_json(text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))
}

fn parse_toml(text: &str) -> Result<Value, String> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text.get(..at).unwrap_or_default().matches('\n').count() + 1;
        format!("line {line}: is not TOML: {}", error.message().replace('\n', ", "))
    })
}
