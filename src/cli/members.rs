//! `purlin members`, `force-leave` and `node`: the hosts of the mesh.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::output::{Table, field};
use super::{Session, help};
use crate::client::Path;

/// List the hosts of the mesh
#[derive(Debug, Args)]
#[command(after_help = help::MEMBERS)]
pub(super) struct MembersArgs {
    /// With all that is known of each
    #[arg(long)]
    detailed: bool,
    /// Only those whose state this regular expression matches: alive, leaving, left or failed
    #[arg(long, value_name = "STATUS", value_parser = whole)]
    status: Option<regex::Regex>,
    /// Only servers
    #[arg(long)]
    wan: bool,
    /// Only those that this expression matches
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
}

/// A pattern for the whole of a text.
fn whole(text: &str) -> Result<regex::Regex, String> {
    regex::Regex::new(&format!("^(?:{text})$")).map_err(|_| format!("{text:?} is not a regular expression"))
}

/// Tell the servers that a host which failed will not come back
#[derive(Debug, Args)]
#[command(after_help = help::FORCE_LEAVE)]
pub(super) struct ForceLeaveArgs {
    /// Forget it and all that it registered
    #[arg(long)]
    prune: bool,
    /// The name of the host
    node: String,
}

/// Manage hosts
#[derive(Debug, Subcommand)]
#[command(after_help = help::NODE)]
pub(super) enum NodeVerb {
    /// Forget a host that failed or left, and all that it registered
    #[command(after_help = help::NODE)]
    Remove {
        /// The name of the host
        name: String,
    },
}

/// Consul's numbers.
fn status_text(member: &Value) -> &'static str {
    match member["Status"].as_u64() {
        Some(1) => "alive",
        Some(2) => "leaving",
        Some(3) => "left",
        Some(4) => "failed",
        _ => "none",
    }
}

pub(super) async fn list(session: &mut Session, args: &MembersArgs) -> anyhow::Result<ExitCode> {
    let path = Path::new(&["agent", "members"]).with_some("filter", args.filter.as_deref());
    let members = session.client.get(path).await?;
    let wanted = |member: &&Value| {
        let is_server = field(&member["Tags"], "role") == "consul";
        args.status.as_ref().is_none_or(|status| status.is_match(status_text(member)))
            && (is_server || !args.wan)
    };
    let mut found: Vec<&Value> = members.as_array().into_iter().flatten().filter(wanted).collect();
    found.sort_by_key(|member| field(member, "Name"));
    if session.json() {
        session.screen.json(&found.into_iter().cloned().collect())?;
        return Ok(ExitCode::SUCCESS);
    }
    let table = if args.detailed { detailed(&found) } else { brief(&found) };
    session.screen.table(&table)?;
    Ok(ExitCode::SUCCESS)
}

fn address(member: &Value) -> String {
    let (host, port) = (field(member, "Addr"), field(member, "Port"));
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn brief(members: &[&Value]) -> Table {
    let mut table = Table::new(&["Node", "Address", "Status", "Type", "Build", "DC"]);
    for member in members {
        let tag = |name: &str| field(&member["Tags"], name);
        let kind = match tag("role").as_str() {
            "consul" | "server" => "server",
            _ => "agent",
        };
        let build = tag("build").split(':').next().unwrap_or_default().to_owned();
        let status = status_text(member).to_owned();
        table.row([field(member, "Name"), address(member), status, kind.into(), build, tag("dc")]);
    }
    table
}

fn detailed(members: &[&Value]) -> Table {
    let mut table = Table::new(&["Node", "Address", "Status", "Tags"]);
    for member in members {
        table.row([
            field(member, "Name"),
            address(member),
            status_text(member).into(),
            field(member, "Tags"),
        ]);
    }
    table
}

pub(super) async fn force_leave(session: &mut Session, args: &ForceLeaveArgs) -> anyhow::Result<ExitCode> {
    let path = Path::new(&["agent", "force-leave", &args.node]);
    let path = if args.prune { path.with("prune", "true") } else { path };
    session.client.put(path, None).await?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn node(session: &mut Session, verb: &NodeVerb) -> anyhow::Result<ExitCode> {
    let NodeVerb::Remove { name } = verb;
    session.client.delete(Path::new(&["node", name])).await?;
    session.screen.line(&format!("Node removed: {name}"))?;
    Ok(ExitCode::SUCCESS)
}
