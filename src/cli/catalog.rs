//! `purlin catalog`: what the mesh knows of hosts and services.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::output::{Table, field};
use super::{Session, help};
use crate::client::Path;

/// List datacenters, nodes and services
#[derive(Debug, Subcommand)]
#[command(after_help = help::CATALOG)]
pub(super) enum CatalogVerb {
    /// List the datacenters
    #[command(after_help = help::CATALOG_DATACENTERS)]
    Datacenters,
    Nodes(NodesArgs),
    Services(ServicesArgs),
}

/// List the hosts
#[derive(Debug, Args)]
#[command(after_help = help::CATALOG_NODES)]
pub(super) struct NodesArgs {
    /// With tagged addresses and metadata
    #[arg(long)]
    detailed: bool,
    /// Only those that run this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// This host first: a name, or _agent for the agent's own
    #[arg(long, value_name = "NAME")]
    near: Option<String>,
    /// Only those with this metadata; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    node_meta: Vec<String>,
    /// Only those that this expression matches
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
}

/// List the services
#[derive(Debug, Args)]
#[command(after_help = help::CATALOG_SERVICES)]
pub(super) struct ServicesArgs {
    /// With their tags
    #[arg(long)]
    tags: bool,
    /// Only those of this host
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Only those on hosts with this metadata; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    node_meta: Vec<String>,
    /// Only those that this expression matches
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
}

/// Consul's API has `key:value` where its command line has `key=value`.
fn with_meta(path: Path, pairs: &[String]) -> Path {
    pairs.iter().fold(path, |path, pair| path.with("node-meta", &pair.replacen('=', ":", 1)))
}

pub(super) async fn run(session: &mut Session, verb: &CatalogVerb) -> anyhow::Result<ExitCode> {
    match verb {
        CatalogVerb::Datacenters => datacenters(session).await,
        CatalogVerb::Nodes(args) => nodes(session, args).await,
        CatalogVerb::Services(args) => services(session, args).await,
    }
}

async fn datacenters(session: &mut Session) -> anyhow::Result<ExitCode> {
    let list = session.client.get(Path::new(&["catalog", "datacenters"])).await?;
    if session.json() {
        session.screen.json(&list)?;
        return Ok(ExitCode::SUCCESS);
    }
    for name in list.as_array().into_iter().flatten().filter_map(Value::as_str) {
        session.screen.line(name)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn nodes(session: &mut Session, args: &NodesArgs) -> anyhow::Result<ExitCode> {
    let path = match &args.service {
        Some(name) => Path::new(&["catalog", "service", name]),
        None => Path::new(&["catalog", "nodes"]),
    };
    let path = path.with_some("near", args.near.as_deref());
    let path = with_meta(path, &args.node_meta).with_some("filter", args.filter.as_deref());
    let mut list = session.client.get(path).await?;
    // A host that runs several instances is still one host.
    if let Some(items) = list.as_array_mut().filter(|_| args.service.is_some()) {
        let mut seen = std::collections::BTreeSet::new();
        items.retain(|item| seen.insert(field(item, "Node")));
        if args.near.is_none() {
            items.sort_by_key(|item| field(item, "Node"));
        }
    }
    if session.json() {
        session.screen.json(&list)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut head = vec!["Node", "ID", "Address", "DC"];
    if args.detailed {
        head.extend(["TaggedAddresses", "Meta"]);
    }
    let mut table = Table::new(&head);
    for node in list.as_array().into_iter().flatten() {
        let id = field(node, "ID");
        let id = if args.detailed { id } else { id.split('-').next().unwrap_or_default().to_owned() };
        let mut row = vec![field(node, "Node"), id, field(node, "Address"), field(node, "Datacenter")];
        if args.detailed {
            let meta = if args.service.is_some() { "NodeMeta" } else { "Meta" };
            row.extend([field(node, "TaggedAddresses"), field(node, meta)]);
        }
        table.row(row);
    }
    session.screen.table(&table)?;
    Ok(ExitCode::SUCCESS)
}

async fn services(session: &mut Session, args: &ServicesArgs) -> anyhow::Result<ExitCode> {
    let path = match &args.node {
        Some(name) => Path::new(&["catalog", "node", name]),
        None => Path::new(&["catalog", "services"]),
    };
    let path = with_meta(path, &args.node_meta).with_some("filter", args.filter.as_deref());
    let answer = session.client.get(path).await?;
    if session.json() {
        session.screen.json(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(node) = args.node.as_ref().filter(|_| answer.is_null()) {
        anyhow::bail!("there is no node {node:?}; see `purlin catalog nodes`");
    }
    let names = if args.node.is_some() { of_node(&answer) } else { of_all(&answer) };
    if !args.tags {
        for (name, _) in names {
            session.screen.line(&name)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::pairs();
    for (name, tags) in names {
        table.row([name, tags]);
    }
    session.screen.table(&table)?;
    Ok(ExitCode::SUCCESS)
}

/// Names with tags, as the list of all services has them.
fn of_all(answer: &Value) -> Vec<(String, String)> {
    let all = answer.as_object().into_iter().flatten();
    all.map(|(name, _)| (name.clone(), field(answer, name))).collect()
}

/// The same from one host's instances, each name once.
fn of_node(answer: &Value) -> Vec<(String, String)> {
    let mut names = std::collections::BTreeMap::<String, std::collections::BTreeSet<String>>::new();
    for (_, service) in answer["Services"].as_object().into_iter().flatten() {
        let tags = names.entry(field(service, "Service")).or_default();
        tags.extend(
            service["Tags"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned),
        );
    }
    names.into_iter().map(|(name, tags)| (name, tags.into_iter().collect::<Vec<_>>().join(","))).collect()
}
