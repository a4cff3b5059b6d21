//! `purlin session`: what holds locks.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::output::{Table, field};
use super::{Session, help};
use crate::client::Path;

/// Manage sessions, which hold locks of the key-value tree
#[derive(Debug, Subcommand)]
#[command(after_help = help::SESSION)]
pub(super) enum SessionVerb {
    Create(CreateArgs),
    List(ListArgs),
    /// Show a session
    #[command(after_help = help::SESSION_INFO)]
    Info {
        id: String,
    },
    /// Let the time to live of a session begin anew
    #[command(after_help = help::SESSION_RENEW)]
    Renew {
        id: String,
    },
    /// End a session, and let go what it holds
    #[command(after_help = help::SESSION_DESTROY)]
    Destroy {
        id: String,
    },
}

/// Make a session and print its id
#[derive(Debug, Args)]
#[command(after_help = help::SESSION_CREATE)]
pub(super) struct CreateArgs {
    #[arg(long)]
    name: Option<String>,
    /// The host that it lives and dies with; this one by default
    #[arg(long)]
    node: Option<String>,
    /// It ends unless it is renewed within this time: 10s to 24h
    #[arg(long, value_name = "DURATION")]
    ttl: Option<String>,
    /// How long its keys stay locked after it ended
    #[arg(long, value_name = "DURATION")]
    lock_delay: Option<String>,
    /// What becomes of its keys when it ends: release or delete
    #[arg(long, value_name = "WHAT")]
    behavior: Option<String>,
    /// A check of the host that it depends on; serfHealth by default, may be repeated
    #[arg(long, value_name = "ID")]
    node_check: Vec<String>,
    /// A check of a service on the host that it depends on; may be repeated
    #[arg(long, value_name = "ID")]
    service_check: Vec<String>,
}

/// List sessions
#[derive(Debug, Args)]
#[command(after_help = help::SESSION_LIST)]
pub(super) struct ListArgs {
    /// Of this host only
    #[arg(long)]
    node: Option<String>,
    /// Only those that this expression matches
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
}

pub(super) async fn run(session: &mut Session, verb: &SessionVerb) -> anyhow::Result<ExitCode> {
    match verb {
        SessionVerb::Create(args) => create(session, args).await,
        SessionVerb::List(args) => list(session, args).await,
        SessionVerb::Info { id } => info(session, id).await,
        SessionVerb::Renew { id } => {
            let renewed = session.client.put(Path::new(&["session", "renew", id]), None).await?;
            show(session, &renewed)
        }
        SessionVerb::Destroy { id } => {
            session.client.put(Path::new(&["session", "destroy", id]), None).await?;
            Ok(session.screen.line(&format!("Session destroyed: {id}"))?)
        }
    }?;
    Ok(ExitCode::SUCCESS)
}

async fn create(session: &mut Session, args: &CreateArgs) -> anyhow::Result<()> {
    let mut body = json!({});
    let texts = [
        ("Name", &args.name),
        ("Node", &args.node),
        ("TTL", &args.ttl),
        ("LockDelay", &args.lock_delay),
        ("Behavior", &args.behavior),
    ];
    for (key, text) in texts {
        if let Some(text) = text {
            body[key] = text.as_str().into();
        }
    }
    if !args.node_check.is_empty() {
        body["NodeChecks"] = args.node_check.clone().into();
    }
    if !args.service_check.is_empty() {
        body["ServiceChecks"] = args.service_check.iter().map(|id| json!({"ID": id})).collect();
    }
    let made = session.client.put(Path::new(&["session", "create"]), Some(&body)).await?;
    if session.json() {
        return Ok(session.screen.json(&made)?);
    }
    Ok(session.screen.line(&field(&made, "ID"))?)
}

async fn list(session: &mut Session, args: &ListArgs) -> anyhow::Result<()> {
    let path = match &args.node {
        Some(node) => Path::new(&["session", "node", node]),
        None => Path::new(&["session", "list"]),
    };
    let found = session.client.get(path.with_some("filter", args.filter.as_deref())).await?;
    if session.json() {
        return Ok(session.screen.json(&found)?);
    }
    let mut table = Table::new(&["ID", "Name", "Node", "TTL", "Behavior"]);
    for one in found.as_array().into_iter().flatten() {
        table.row(["ID", "Name", "Node", "TTL", "Behavior"].map(|name| field(one, name)));
    }
    Ok(session.screen.table(&table)?)
}

async fn info(session: &mut Session, id: &str) -> anyhow::Result<()> {
    let found = session.client.get(Path::new(&["session", "info", id])).await?;
    if found.as_array().is_none_or(Vec::is_empty) {
        bail!("there is no session {id}: see \"purlin session list\"");
    }
    show(session, &found)
}

fn show(session: &mut Session, found: &Value) -> anyhow::Result<()> {
    if session.json() {
        return Ok(session.screen.json(found)?);
    }
    let mut table = Table::pairs();
    let one = &found[0];
    for name in ["ID", "Name", "Node", "TTL", "Behavior", "NodeChecks", "CreateIndex", "ModifyIndex"] {
        table.row([name.to_owned(), field(one, name)]);
    }
    let checks = one["ServiceChecks"].as_array().into_iter().flatten().map(|check| field(check, "ID"));
    table.row(["ServiceChecks".to_owned(), checks.collect::<Vec<_>>().join(",")]);
    let delay = std::time::Duration::from_nanos(one["LockDelay"].as_u64().unwrap_or_default());
    table.row(["LockDelay".to_owned(), purlin_model::duration::format(delay)]);
    Ok(session.screen.table(&table)?)
}
