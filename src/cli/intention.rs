//! `purlin intention`: who may call whom, in Consul's words.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::output::{Table, field};
use super::{Session, help};
use crate::client::{Client, Path};
use crate::config::parse_file;

/// Say who may call whom
#[derive(Debug, Subcommand)]
#[command(after_help = help::INTENTION)]
pub(super) enum IntentionVerb {
    Create(CreateArgs),
    /// Delete an intention
    #[command(after_help = help::INTENTION_DELETE)]
    Delete(Pair),
    /// Show one intention
    #[command(after_help = help::INTENTION_GET)]
    Get(Pair),
    List(ListArgs),
    /// Tell whether a source may connect to a destination: exit code 0 for yes, 1 for no, 2 for an error
    #[command(after_help = help::INTENTION_CHECK)]
    Check(Pair),
    Match(MatchArgs),
}

/// The two sides of an intention
#[derive(Debug, Clone, Args)]
pub(super) struct Pair {
    /// The service that calls, or '*'
    source: String,
    /// The service that is called, or '*'
    destination: String,
}

/// Allow (the default) or deny calls of a source to a destination
#[derive(Debug, Args)]
#[command(after_help = help::INTENTION_CREATE)]
pub(super) struct CreateArgs {
    /// Allow calls; the default
    #[arg(long, conflicts_with = "deny")]
    allow: bool,
    /// Deny calls
    #[arg(long)]
    deny: bool,
    /// Change an intention that exists
    #[arg(long)]
    replace: bool,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Metadata; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    meta: Vec<String>,
    /// Read intentions from a file instead, each with SourceName, DestinationName and Action or Permissions
    #[arg(long, short = 'f', value_name = "FILE", conflicts_with_all = ["source", "allow", "deny", "description", "meta"])]
    file: Option<PathBuf>,
    /// The service that calls, or '*'
    #[arg(required_unless_present = "file", requires = "destination")]
    source: Option<String>,
    /// The service that is called, or '*'
    destination: Option<String>,
}

/// List all intentions, the most exact first
#[derive(Debug, Args)]
#[command(after_help = help::INTENTION_LIST)]
pub(super) struct ListArgs {
    /// Only those that this expression matches
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
}

/// List the intentions that concern a service, in deciding order
#[derive(Debug, Args)]
#[command(after_help = help::INTENTION_MATCH)]
pub(super) struct MatchArgs {
    /// Where the service is the one that calls
    #[arg(long, conflicts_with = "destination")]
    source: bool,
    /// Where the service is the one that is called; the default
    #[arg(long)]
    destination: bool,
    /// The service
    service: String,
}

pub(super) async fn run(session: &mut Session, verb: &IntentionVerb) -> anyhow::Result<ExitCode> {
    match verb {
        IntentionVerb::Create(args) => create(session, args).await,
        IntentionVerb::Delete(pair) => delete(session, pair).await,
        IntentionVerb::Get(pair) => get(session, pair).await,
        IntentionVerb::List(args) => list(session, args).await,
        IntentionVerb::Check(pair) => check(session, pair).await,
        IntentionVerb::Match(args) => matching(session, args).await,
    }
}

fn exact(pair: &Pair) -> Path {
    let path = Path::new(&["connect", "intentions", "exact"]);
    path.with("source", &pair.source).with("destination", &pair.destination)
}

async fn find(client: &Client, pair: &Pair) -> anyhow::Result<Option<Value>> {
    Ok(client.find(exact(pair)).await?)
}

/// `web => api (allow)`, as Consul says it.
fn words(intention: &Value) -> String {
    let action = match field(intention, "Action") {
        none if none.is_empty() => {
            format!("{} permissions", intention["Permissions"].as_array().map_or(0, Vec::len))
        }
        action => action,
    };
    format!("{} => {} ({action})", field(intention, "SourceName"), field(intention, "DestinationName"))
}

async fn create(session: &mut Session, args: &CreateArgs) -> anyhow::Result<ExitCode> {
    let bodies = match (&args.file, &args.source, &args.destination) {
        (Some(file), ..) => from_file(file)?,
        (None, Some(source), Some(destination)) => vec![from_flags(args, source, destination)?],
        _ => bail!("name the source and the destination, or --file"),
    };
    for body in bodies {
        let pair = Pair { source: field(&body, "SourceName"), destination: field(&body, "DestinationName") };
        if !args.replace
            && let Some(old) = find(&session.client, &pair).await?
        {
            bail!("there is already an intention {}; add --replace to change it", words(&old));
        }
        session
            .client
            .put(exact(&pair), Some(&body))
            .await
            .with_context(|| format!("{} was not created", words(&body)))?;
        session.screen.line(&format!("Created: {}", words(&body)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn from_flags(args: &CreateArgs, source: &str, destination: &str) -> anyhow::Result<Value> {
    let mut meta = Map::new();
    for pair in &args.meta {
        let Some((key, value)) = pair.split_once('=') else { bail!("--meta {pair:?}: write KEY=VALUE") };
        meta.insert(key.into(), value.into());
    }
    let mut body = json!({
        "SourceName": source,
        "DestinationName": destination,
        "Action": if args.deny { "deny" } else { "allow" },
    });
    if let Some(text) = &args.description {
        body["Description"] = text.as_str().into();
    }
    if !meta.is_empty() {
        body["Meta"] = Value::Object(meta);
    }
    Ok(body)
}

/// One intention, or a list of them.
fn from_file(file: &std::path::Path) -> anyhow::Result<Vec<Value>> {
    let value = parse_file(file)?;
    let list = match value {
        Value::Array(items) => items,
        one => vec![one],
    };
    for (n, item) in list.iter().enumerate() {
        for name in ["SourceName", "DestinationName"] {
            if field(item, name).is_empty() {
                bail!("{}: intention {}: {name}: is required", file.display(), n + 1);
            }
        }
    }
    Ok(list)
}

async fn delete(session: &mut Session, pair: &Pair) -> anyhow::Result<ExitCode> {
    if find(&session.client, pair).await?.is_none() {
        bail!("there is no intention {} => {}; see `purlin intention list`", pair.source, pair.destination);
    }
    session.client.delete(exact(pair)).await?;
    session.screen.line("Intention deleted.")?;
    Ok(ExitCode::SUCCESS)
}

async fn get(session: &mut Session, pair: &Pair) -> anyhow::Result<ExitCode> {
    let Some(intention) = find(&session.client, pair).await? else {
        bail!("there is no intention {} => {}; see `purlin intention list`", pair.source, pair.destination);
    };
    if session.json() {
        session.screen.json(&intention)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::pairs();
    let rows = [
        ("Source:", "SourceName"),
        ("Destination:", "DestinationName"),
        ("Action:", "Action"),
        ("Precedence:", "Precedence"),
        ("Description:", "Description"),
        ("ID:", "ID"),
        ("Created At:", "CreatedAt"),
        ("Updated At:", "UpdatedAt"),
    ];
    for (label, name) in rows {
        let text = field(&intention, name);
        if !text.is_empty() {
            table.row([label.into(), text]);
        }
    }
    session.screen.table(&table)?;
    if let Some(permissions) = intention.get("Permissions").filter(|value| !value.is_null()) {
        session.screen.line("Permissions:")?;
        session.screen.json(permissions)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(session: &mut Session, args: &ListArgs) -> anyhow::Result<ExitCode> {
    let path = Path::new(&["connect", "intentions"]).with_some("filter", args.filter.as_deref());
    let all = session.client.get(path).await?;
    if session.json() {
        session.screen.json(&all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let items = all.as_array().map(Vec::as_slice).unwrap_or_default();
    if items.is_empty() {
        session.screen.line("There are no intentions.")?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["Source", "Action", "Destination", "Precedence"]);
    for one in items {
        let action = match field(one, "Action") {
            none if none.is_empty() => "permissions".to_owned(),
            action => action,
        };
        table.row([
            field(one, "SourceName"),
            action,
            field(one, "DestinationName"),
            field(one, "Precedence"),
        ]);
    }
    session.screen.table(&table)?;
    Ok(ExitCode::SUCCESS)
}

async fn check(session: &mut Session, pair: &Pair) -> anyhow::Result<ExitCode> {
    let path = Path::new(&["connect", "intentions", "check"]);
    let path = path.with("source", &pair.source).with("destination", &pair.destination);
    let answer = session.client.get(path).await?;
    let Some(allowed) = answer["Allowed"].as_bool() else {
        bail!("the agent's answer has no \"Allowed\": {answer}")
    };
    if session.json() {
        session.screen.json(&answer)?;
    } else {
        session.screen.line(if allowed { "Allowed" } else { "Denied" })?;
    }
    Ok(if allowed { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn matching(session: &mut Session, args: &MatchArgs) -> anyhow::Result<ExitCode> {
    let by = if args.source { "source" } else { "destination" };
    let path = Path::new(&["connect", "intentions", "match"]).with("by", by).with("name", &args.service);
    let answer = session.client.get(path).await?;
    if session.json() {
        session.screen.json(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    for one in answer[&args.service].as_array().into_iter().flatten() {
        session.screen.line(&words(one))?;
    }
    Ok(ExitCode::SUCCESS)
}
