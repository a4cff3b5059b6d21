//! `purlin config`: config entries, which say how services are treated.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use purlin_model::definition::parse_config_entry;
use purlin_model::limit;
use serde_json::Value;

use super::output::field;
use super::{Session, help};
use crate::client::Path;
use crate::config::{ConfigErrors, parse_file, parse_text};

/// Manage config entries: service-defaults, proxy-defaults, service-intentions
#[derive(Debug, Subcommand)]
#[command(after_help = help::CONFIG)]
pub(super) enum ConfigVerb {
    Write(WriteArgs),
    Read(ReadArgs),
    List(ListArgs),
    Delete(DeleteArgs),
}

/// Write a config entry from a file (.hcl, .json, .toml), or from standard input with '-'
#[derive(Debug, Args)]
#[command(after_help = help::CONFIG_WRITE)]
pub(super) struct WriteArgs {
    file: PathBuf,
    /// Only if it has not changed since --modify-index
    #[arg(long, requires = "modify_index")]
    cas: bool,
    /// The ModifyIndex that the entry must have; 0: it must not exist
    #[arg(long, value_name = "INDEX", requires = "cas")]
    modify_index: Option<u64>,
}

/// Show a config entry as JSON
#[derive(Debug, Args)]
#[command(after_help = help::CONFIG_READ)]
pub(super) struct ReadArgs {
    #[arg(long)]
    kind: String,
    #[arg(long)]
    name: String,
}

/// List the names of the entries of a kind
#[derive(Debug, Args)]
#[command(after_help = help::CONFIG_LIST)]
pub(super) struct ListArgs {
    #[arg(long)]
    kind: String,
}

/// Delete a config entry
#[derive(Debug, Args)]
#[command(after_help = help::CONFIG_DELETE)]
pub(super) struct DeleteArgs {
    #[arg(long, required_unless_present = "filename", requires = "name")]
    kind: Option<String>,
    #[arg(long, requires = "kind")]
    name: Option<String>,
    /// Take kind and name from this file
    #[arg(long, value_name = "FILE", conflicts_with = "kind")]
    filename: Option<PathBuf>,
    /// Only if it has not changed since --modify-index
    #[arg(long, requires = "modify_index")]
    cas: bool,
    /// The ModifyIndex that the entry must have
    #[arg(long, value_name = "INDEX", requires = "cas")]
    modify_index: Option<u64>,
}

pub(super) async fn run(session: &mut Session, verb: &ConfigVerb) -> anyhow::Result<ExitCode> {
    match verb {
        ConfigVerb::Write(args) => write(session, args).await,
        ConfigVerb::Read(args) => read(session, args).await,
        ConfigVerb::List(args) => list(session, args).await,
        ConfigVerb::Delete(args) => delete(session, args).await,
    }
}

fn with_cas(path: Path, index: Option<u64>) -> Path {
    path.with_some("cas", index.map(|index| index.to_string()).as_deref())
}

/// Reads and checks an entry, so that all that is wrong is said before anything is sent.
fn entry(file: &std::path::Path) -> anyhow::Result<Value> {
    let (name, value) = if file.as_os_str() == "-" {
        let limit = limit::CONFIG_ENTRY_BYTES as u64;
        let mut text = String::new();
        let read = std::io::stdin()
            .take(limit + 1)
            .read_to_string(&mut text)
            .context("cannot read standard input")?;
        if read as u64 > limit {
            bail!("standard input: is larger than {limit} bytes");
        }
        ("standard input".to_owned(), parse_text("standard input", &text)?)
    } else {
        (file.display().to_string(), parse_file(file)?)
    };
    if let Err(faults) = parse_config_entry(&value) {
        let lines = faults.into_iter().map(|fault| format!("{name}: {}", fault.text)).collect();
        return Err(ConfigErrors(lines).into());
    }
    Ok(value)
}

/// Kind and name of an entry whose keys may be spelled in any case.
fn kind_and_name(value: &Value) -> (String, String) {
    let of = |wanted: &str| {
        let mut all = value.as_object().into_iter().flatten();
        let found = all.find(|(key, _)| key.eq_ignore_ascii_case(wanted));
        found.and_then(|(_, value)| value.as_str()).unwrap_or_default().to_owned()
    };
    (of("kind"), of("name"))
}

async fn write(session: &mut Session, args: &WriteArgs) -> anyhow::Result<ExitCode> {
    let body = entry(&args.file)?;
    let (kind, name) = kind_and_name(&body);
    let written =
        session.client.put(with_cas(Path::new(&["config"]), args.modify_index), Some(&body)).await?;
    if written == Value::Bool(false) {
        bail!("{kind}/{name} was not written: it has changed since; read it again");
    }
    session.screen.line(&format!("Config entry written: {kind}/{name}"))?;
    Ok(ExitCode::SUCCESS)
}

async fn read(session: &mut Session, args: &ReadArgs) -> anyhow::Result<ExitCode> {
    let found = session.client.get(Path::new(&["config", &args.kind, &args.name])).await?;
    session.screen.json(&found)?;
    Ok(ExitCode::SUCCESS)
}

async fn list(session: &mut Session, args: &ListArgs) -> anyhow::Result<ExitCode> {
    let found = session.client.get(Path::new(&["config", &args.kind])).await?;
    if session.json() {
        session.screen.json(&found)?;
        return Ok(ExitCode::SUCCESS);
    }
    for entry in found.as_array().into_iter().flatten() {
        session.screen.line(&field(entry, "Name"))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn delete(session: &mut Session, args: &DeleteArgs) -> anyhow::Result<ExitCode> {
    let (kind, name) = match (&args.filename, &args.kind, &args.name) {
        (Some(file), ..) => kind_and_name(&entry(file)?),
        (None, Some(kind), Some(name)) => (kind.clone(), name.clone()),
        _ => bail!("give --kind and --name, or --filename"),
    };
    let path = with_cas(Path::new(&["config", &kind, &name]), args.modify_index);
    if session.client.delete(path).await? == Value::Bool(false) {
        bail!("{kind}/{name} was not deleted: it has changed since; read it again");
    }
    session.screen.line(&format!("Config entry deleted: {kind}/{name}"))?;
    Ok(ExitCode::SUCCESS)
}
