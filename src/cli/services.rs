//! `purlin services`: registers and deregisters services of this host.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::{Session, help};
use crate::client::Path;
use crate::config::parse_services;

/// Register and deregister services of this host
#[derive(Debug, Subcommand)]
#[command(after_help = help::SERVICES)]
pub(super) enum ServicesVerb {
    Register(RegisterArgs),
    Deregister(DeregisterArgs),
}

/// Register services from files, or one from flags
#[derive(Debug, Args)]
#[command(after_help = help::SERVICES_REGISTER)]
pub(super) struct RegisterArgs {
    /// Service definitions (.hcl, .json, .toml)
    #[arg(value_name = "FILE", required_unless_present = "name", conflicts_with_all = ["name", "id", "port", "address", "tag", "meta"])]
    files: Vec<PathBuf>,
    /// The name of the service
    #[arg(long)]
    name: Option<String>,
    /// The id of the instance [default: its name]
    #[arg(long)]
    id: Option<String>,
    #[arg(long)]
    port: Option<u16>,
    /// [default: the host's]
    #[arg(long)]
    address: Option<String>,
    /// Repeatable
    #[arg(long)]
    tag: Vec<String>,
    /// Repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    meta: Vec<String>,
    /// Checks that the definition no longer has go away
    #[arg(long)]
    replace_existing_checks: bool,
}

/// Deregister services named in files, or one by its id
#[derive(Debug, Args)]
#[command(after_help = help::SERVICES_DEREGISTER)]
pub(super) struct DeregisterArgs {
    /// Service definitions (.hcl, .json, .toml)
    #[arg(value_name = "FILE", required_unless_present = "id", conflicts_with = "id")]
    files: Vec<PathBuf>,
    /// The id of the instance
    #[arg(long)]
    id: Option<String>,
}

pub(super) async fn run(session: &mut Session, verb: &ServicesVerb) -> anyhow::Result<ExitCode> {
    match verb {
        ServicesVerb::Register(args) => register(session, args).await,
        ServicesVerb::Deregister(args) => deregister(session, args).await,
    }
}

/// Nothing is registered unless every file is right.
async fn register(session: &mut Session, args: &RegisterArgs) -> anyhow::Result<ExitCode> {
    let mut bodies: Vec<(String, Value)> = Vec::new();
    if let Some(name) = &args.name {
        bodies.push((name.clone(), from_flags(name, args)?));
    }
    for file in &args.files {
        let (services, warnings) = parse_services(file)?;
        for warning in warnings {
            eprintln!("purlin: warning: {warning}");
        }
        bodies.extend(services.into_iter().map(|(body, service)| (service.instance.name.to_string(), body)));
    }
    for (name, body) in bodies {
        let path = Path::new(&["agent", "service", "register"]);
        let path =
            if args.replace_existing_checks { path.with("replace-existing-checks", "true") } else { path };
        let missing = session.client.put_in_catalog(path, Some(&body)).await?;
        session.screen.line(&format!("Registered service: {name}"))?;
        warn(&name, missing.as_deref());
    }
    Ok(ExitCode::SUCCESS)
}

fn from_flags(name: &str, args: &RegisterArgs) -> anyhow::Result<Value> {
    let mut meta = Map::new();
    for pair in &args.meta {
        let Some((key, value)) = pair.split_once('=') else { bail!("--meta {pair:?}: write KEY=VALUE") };
        meta.insert(key.into(), value.into());
    }
    Ok(json!({
        "ID": args.id, "Name": name, "Port": args.port, "Address": args.address, "Tags": args.tag, "Meta": meta,
    }))
}

async fn deregister(session: &mut Session, args: &DeregisterArgs) -> anyhow::Result<ExitCode> {
    let mut ids: Vec<String> = args.id.iter().cloned().collect();
    for file in &args.files {
        ids.extend(parse_services(file)?.0.into_iter().map(|(_, service)| service.instance.id.to_string()));
    }
    for id in ids {
        let path = Path::new(&["agent", "service", "deregister", &id]);
        let missing = session.client.put_in_catalog(path, None).await?;
        session.screen.line(&format!("Deregistered service: {id}"))?;
        warn(&id, missing.as_deref());
    }
    Ok(ExitCode::SUCCESS)
}

/// The agent has taken it, and yet the mesh does not know.
fn warn(service: &str, missing: Option<&str>) {
    let Some(state) = missing else { return };
    let why = match state.split_once(": ") {
        Some(("refused", why)) => format!("a server refused a part of what this host registers: {why}"),
        Some(("shadowed", why)) => format!("it is not in force: {why}"),
        _ if state == "offline" => {
            "the catalog does not know yet, because no server can be reached; the agent keeps trying".into()
        }
        _ => "the catalog does not know yet; the agent keeps trying".into(),
    };
    eprintln!("purlin: warning: {service}: {why}");
}
