//! `purlin kv`: the key-value tree from the command line, with Consul's words.

use std::io::Read;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use purlin_model::limit;
use serde_json::{Value, json};

use super::output::{Table, field};
use super::{Session, help};
use crate::client::Path;

/// Of a file of exported keys.
const IMPORT_BYTES: usize = 256 * 1024 * 1024;

/// Read and write the key-value tree
#[derive(Debug, Subcommand)]
#[command(after_help = help::KV)]
pub(super) enum KvVerb {
    Get(GetArgs),
    Put(PutArgs),
    Delete(DeleteArgs),
    Export(ExportArgs),
    Import(ImportArgs),
}

/// Show a value, or all below a prefix
#[derive(Debug, Args)]
#[command(after_help = help::KV_GET)]
pub(super) struct GetArgs {
    /// The key, or the prefix; without one: everything
    #[arg(default_value = "", hide_default_value = true)]
    key: String,
    /// All keys that begin so
    #[arg(long)]
    recurse: bool,
    /// The keys that begin so, without their values
    #[arg(long)]
    keys: bool,
    /// Where --keys cuts keys off; empty: nowhere
    #[arg(long, default_value = "/", value_name = "TEXT")]
    separator: String,
    /// With indexes, flags and the session that holds it
    #[arg(long)]
    detailed: bool,
    /// Print values as Base64
    #[arg(long)]
    base64: bool,
    #[command(flatten)]
    read: ReadArgs,
}

#[derive(Debug, Args)]
pub(super) struct ReadArgs {
    /// From any server, however far behind
    #[arg(long, conflicts_with = "consistent")]
    stale: bool,
    /// Confirmed by a majority of the servers
    #[arg(long)]
    consistent: bool,
}

impl ReadArgs {
    fn on(&self, path: Path) -> Path {
        match (self.stale, self.consistent) {
            (true, _) => path.with("stale", ""),
            (_, true) => path.with("consistent", ""),
            _ => path,
        }
    }
}

/// Write a value: the text, '@FILE', or '-' for standard input
#[derive(Debug, Args)]
#[command(after_help = help::KV_PUT)]
pub(super) struct PutArgs {
    key: String,
    #[arg(allow_hyphen_values = true)]
    data: Option<String>,
    /// The data is Base64
    #[arg(long)]
    base64: bool,
    /// A number that is kept beside the value
    #[arg(long, value_name = "NUMBER")]
    flags: Option<u64>,
    /// Only if the key was last changed at --modify-index
    #[arg(long, conflicts_with_all = ["acquire", "release"])]
    cas: bool,
    /// For --cas; 0: only if the key is not there
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    modify_index: u64,
    /// Take the lock of the key for --session
    #[arg(long, requires = "session", conflicts_with = "release")]
    acquire: bool,
    /// Give the lock of the key back
    #[arg(long, requires = "session")]
    release: bool,
    /// The id of the session that locks
    #[arg(long, value_name = "ID")]
    session: Option<String>,
}

/// Delete a key, or all below a prefix
#[derive(Debug, Args)]
#[command(after_help = help::KV_DELETE)]
pub(super) struct DeleteArgs {
    #[arg(default_value = "", hide_default_value = true)]
    key: String,
    /// All keys that begin so
    #[arg(long, conflicts_with = "cas")]
    recurse: bool,
    /// Only if the key was last changed at --modify-index
    #[arg(long, requires = "modify_index")]
    cas: bool,
    /// For --cas
    #[arg(long, value_name = "INDEX", requires = "cas")]
    modify_index: Option<u64>,
}

/// Print all below a prefix as JSON that 'import' takes
#[derive(Debug, Args)]
#[command(after_help = help::KV_EXPORT)]
pub(super) struct ExportArgs {
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    #[command(flatten)]
    read: ReadArgs,
}

/// Write what 'export' printed: JSON, '@FILE', or '-' for standard input
#[derive(Debug, Args)]
#[command(after_help = help::KV_IMPORT)]
pub(super) struct ImportArgs {
    data: String,
    /// Put before each key
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
}

pub(super) async fn run(session: &mut Session, verb: &KvVerb) -> anyhow::Result<ExitCode> {
    match verb {
        KvVerb::Get(args) => get(session, args).await,
        KvVerb::Put(args) => put(session, args).await,
        KvVerb::Delete(args) => delete(session, args).await,
        KvVerb::Export(args) => export(session, args).await,
        KvVerb::Import(args) => import(session, args).await,
    }?;
    Ok(ExitCode::SUCCESS)
}

/// No key begins with a slash; people write one all the same.
pub(super) fn path(key: &str) -> Path {
    Path::new(&["kv", key.trim_start_matches('/')])
}

async fn get(session: &mut Session, args: &GetArgs) -> anyhow::Result<()> {
    let path = args.read.on(path(&args.key));
    if args.keys {
        let path = path.with("keys", "").with("separator", &args.separator);
        let keys = session.client.find(path).await?.unwrap_or_else(|| json!([]));
        if session.json() {
            return Ok(session.screen.json(&keys)?);
        }
        for key in keys.as_array().into_iter().flatten().filter_map(Value::as_str) {
            session.screen.line(key)?;
        }
        return Ok(());
    }
    let path = if args.recurse { path.with("recurse", "") } else { path };
    if args.key.trim_start_matches('/').is_empty() && !args.recurse {
        bail!("which key? name one, or use --recurse or --keys");
    }
    let Some(found) = session.client.find(path).await? else {
        if args.recurse {
            return Ok(());
        }
        bail!("No key exists at: {}", args.key);
    };
    if session.json() {
        return Ok(session.screen.json(&found)?);
    }
    for (n, entry) in found.as_array().into_iter().flatten().enumerate() {
        let value = shown(entry, args.base64)?;
        if args.detailed {
            if n > 0 {
                session.screen.line("")?;
            }
            session.screen.table(&detailed(entry, &String::from_utf8_lossy(&value)))?;
        } else {
            let before = if args.recurse { format!("{}:", field(entry, "Key")) } else { String::new() };
            session.screen.raw(&[before.as_bytes(), &value, b"\n"].concat())?;
        }
    }
    Ok(())
}

fn shown(entry: &Value, base64: bool) -> anyhow::Result<Vec<u8>> {
    let text = field(entry, "Value");
    if base64 {
        return Ok(text.into_bytes());
    }
    STANDARD.decode(text).context("the agent answered with a value that is not Base64")
}

fn detailed(entry: &Value, value: &str) -> Table {
    let mut table = Table::pairs();
    for name in ["CreateIndex", "Flags", "Key", "LockIndex", "ModifyIndex", "Session"] {
        table.row([name.to_owned(), field(entry, name)]);
    }
    table.row(["Value".to_owned(), value.to_owned()]);
    table
}

async fn put(session: &mut Session, args: &PutArgs) -> anyhow::Result<()> {
    let mut value = data(args.data.as_deref().unwrap_or_default(), limit::KV_VALUE_BYTES * 2)?;
    if args.base64 {
        value = STANDARD.decode(value.trim_ascii()).context("the data is not Base64")?;
    }
    let (name, id) = (args.key.trim_start_matches('/'), args.session.as_deref().unwrap_or_default());
    let mut path = path(&args.key).with_some("flags", args.flags.map(|flags| flags.to_string()).as_deref());
    if args.cas {
        path = path.with("cas", &args.modify_index.to_string());
    } else if args.acquire {
        path = path.with("acquire", id);
    } else if args.release {
        path = path.with("release", id);
    }
    let done = session.client.put_bytes(path, value).await? != Value::Bool(false);
    let said = match (done, args.cas, args.acquire, args.release) {
        (false, true, ..) => bail!("Did not write to {name}: CAS failed"),
        (false, _, true, _) => {
            bail!("Did not acquire lock on {name}: another session holds it, or held it a moment ago")
        }
        (false, ..) => bail!("Did not release lock on {name}: the session does not hold it"),
        (true, _, true, _) => "Lock acquired on",
        (true, _, _, true) => "Lock released on",
        (true, ..) => "Data written to",
    };
    Ok(session.screen.line(&format!("Success! {said}: {name}"))?)
}

async fn delete(session: &mut Session, args: &DeleteArgs) -> anyhow::Result<()> {
    let name = args.key.trim_start_matches('/');
    if args.recurse {
        session.client.delete(path(name).with("recurse", "")).await?;
        return Ok(session.screen.line(&format!("Success! Deleted keys with prefix: {name}"))?);
    }
    if name.is_empty() {
        bail!("which key? name one, or use --recurse");
    }
    let path = path(name).with_some("cas", args.modify_index.map(|index| index.to_string()).as_deref());
    if session.client.delete(path).await? == Value::Bool(false) {
        bail!("Did not delete key {name}: CAS failed");
    }
    Ok(session.screen.line(&format!("Success! Deleted key: {name}"))?)
}

async fn export(session: &mut Session, args: &ExportArgs) -> anyhow::Result<()> {
    let path = args.read.on(path(&args.prefix).with("recurse", ""));
    let found = session.client.find(path).await?.unwrap_or_else(|| json!([]));
    let entry =
        |entry: &Value| json!({"key": entry["Key"], "flags": entry["Flags"], "value": field(entry, "Value")});
    let exported: Vec<Value> = found.as_array().into_iter().flatten().map(entry).collect();
    Ok(session.screen.json(&exported.into())?)
}

async fn import(session: &mut Session, args: &ImportArgs) -> anyhow::Result<()> {
    let exported: Vec<Value> = serde_json::from_slice(&data(&args.data, IMPORT_BYTES)?)
        .context("what is to be imported is no JSON list")?;
    let read = |(n, entry): (usize, &Value)| -> anyhow::Result<(String, u64, Vec<u8>)> {
        let key = entry["key"].as_str().filter(|key| !key.is_empty());
        let key = key.with_context(|| format!("entry {n} of what is to be imported has no \"key\""))?;
        let value = STANDARD.decode(entry["value"].as_str().unwrap_or_default());
        let value = value.with_context(|| format!("the \"value\" of {key} is not Base64"))?;
        Ok((format!("{}{key}", args.prefix), entry["flags"].as_u64().unwrap_or_default(), value))
    };
    // All is read before anything is written.
    let entries: Vec<_> = exported.iter().enumerate().map(read).collect::<anyhow::Result<_>>()?;
    for (key, flags, value) in entries {
        session.client.put_bytes(path(&key).with("flags", &flags.to_string()), value).await?;
        session.screen.line(&format!("Imported: {key}"))?;
    }
    Ok(())
}

/// `@FILE`, `-`, or the text itself; a text that begins with '@' is written `\@`.
pub(super) fn data(text: &str, most: usize) -> anyhow::Result<Vec<u8>> {
    let (name, source): (&str, Box<dyn Read>) = match text.strip_prefix('@') {
        Some(file) => {
            let opened = std::fs::File::open(file).with_context(|| format!("cannot read {file}"))?;
            (file, Box::new(opened))
        }
        None if text == "-" => ("standard input", Box::new(std::io::stdin())),
        None => {
            return Ok(text.strip_prefix('\\').filter(|text| text.starts_with('@')).unwrap_or(text).into());
        }
    };
    let mut bytes = Vec::new();
    source.take(most as u64 + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
    if bytes.len() > most {
        bail!("{name} is larger than {most} bytes");
    }
    Ok(bytes)
}
