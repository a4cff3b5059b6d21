//! What `purlin validate` looks at: each file is taken for what it is, and everything that is wrong or worth knowing
//! is said, warnings also where there are errors.

use std::path::{Path, PathBuf};

use purlin_model::definition::parse_config_entry;
use serde_json::Value;

use super::{Host, Mode, Overrides, Report, Source, Warning, files, gather, raw};

/// What is to be said about some files.
#[derive(Debug, Default)]
pub struct Findings {
    pub errors: Vec<String>,
    pub warnings: Vec<Warning>,
}

/// What a file is for.
enum Kind {
    /// An agent's configuration, or a part of it.
    Settings,
    /// `purlin services register` takes it: one definition without a block around it.
    Service,
    /// `purlin config write` takes it.
    Entry,
}

/// Judges files and directories: settings laid over each other as an agent does, services and entries each by itself.
pub fn inspect(paths: &[PathBuf]) -> Findings {
    let mut report = Report::default();
    let mut settings = Vec::new();
    for path in paths {
        // A file that cannot be read is reported once, as settings are.
        let parsed = if path.is_dir() { None } else { files::parse(path, &mut Report::default()) };
        match &parsed {
            Some((value, text)) => match kind_of(value) {
                Kind::Settings => settings.push(path.clone()),
                Kind::Service => drop(raw::services_alone(value, &Source::file(path, text), &mut report)),
                Kind::Entry => judge_entry(path, value, &mut report),
            },
            None => settings.push(path.clone()),
        }
    }
    if !settings.is_empty() {
        let (_, found) = gather(&settings, &Overrides::default(), Mode::Validate, &Host::read());
        report.errors.extend(found.errors);
        report.warnings.extend(found.warnings);
    }
    Findings { errors: report.errors, warnings: report.warnings }
}

/// No key of the configuration is called `kind` or `name`, so that a file tells what it is.
fn kind_of(value: &Value) -> Kind {
    let Some(object) = value.as_object() else { return Kind::Settings };
    let text = |wanted: &str| {
        object.iter().find(|(key, _)| key.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.as_str())
    };
    match text("kind") {
        // These are kinds of services, and only of them.
        Some(Some("" | "typical" | "connect-proxy")) => Kind::Service,
        Some(_) => Kind::Entry,
        None if text("name").is_some() => Kind::Service,
        None => Kind::Settings,
    }
}

fn judge_entry(path: &Path, value: &Value, report: &mut Report) {
    if let Err(faults) = parse_config_entry(value) {
        report.errors.extend(faults.into_iter().map(|fault| format!("{}: {}", path.display(), fault.text)));
    }
}
