//! `purlin maint`: a host or an instance out of service on purpose.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use serde_json::Value;

use super::output::field;
use super::{Session, help};
use crate::client::Path;

/// Take this host or one of its services out of service, or show what is
#[derive(Debug, Args)]
#[command(after_help = help::MAINT)]
pub(super) struct MaintArgs {
    /// Begin maintenance
    #[arg(long, conflicts_with = "disable")]
    enable: bool,
    /// End maintenance
    #[arg(long)]
    disable: bool,
    /// Of this instance alone, by its id
    #[arg(long, value_name = "ID")]
    service: Option<String>,
    /// Shown with the check that it causes
    #[arg(long, value_name = "TEXT", requires = "enable")]
    reason: Option<String>,
}

const NODE: &str = "_node_maintenance";
const SERVICE: &str = "_service_maintenance:";

pub(super) async fn run(session: &mut Session, args: &MaintArgs) -> anyhow::Result<ExitCode> {
    if !args.enable && !args.disable {
        if args.service.is_some() {
            bail!("--service needs --enable or --disable");
        }
        return show(session).await;
    }
    let path = match &args.service {
        Some(id) => Path::new(&["agent", "service", "maintenance", id]),
        None => Path::new(&["agent", "maintenance"]),
    };
    let switch = if args.enable { "true" } else { "false" };
    let path = path.with("enable", switch).with_some("reason", args.reason.as_deref());
    session.client.put(path, None).await?;
    let what = args.service.as_ref().map_or("the node".to_owned(), |id| format!("service {id}"));
    let now = if args.enable { "now enabled" } else { "now disabled" };
    session.screen.line(&format!("Maintenance mode is {now} for {what}"))?;
    Ok(ExitCode::SUCCESS)
}

async fn show(session: &mut Session) -> anyhow::Result<ExitCode> {
    let checks = session.client.get(Path::new(&["agent", "checks"])).await?;
    let all = checks.as_object().into_iter().flatten();
    let found: Vec<(&String, &Value)> =
        all.filter(|(id, _)| *id == NODE || id.starts_with(SERVICE)).collect();
    if session.json() {
        let list = Value::Array(found.into_iter().map(|(_, check)| check.clone()).collect());
        session.screen.json(&list)?;
        return Ok(ExitCode::SUCCESS);
    }
    for (id, check) in found {
        session.screen.line(match id.as_str() {
            NODE => "Node:",
            _ => "Service:",
        })?;
        session
            .screen
            .line(&format!("  Name:   {}", field(check, if id == NODE { "Node" } else { "ServiceName" })))?;
        if let Some(service) = id.strip_prefix(SERVICE) {
            session.screen.line(&format!("  ID:     {service}"))?;
        }
        session.screen.line(&format!("  Reason: {}", field(check, "Notes")))?;
    }
    Ok(ExitCode::SUCCESS)
}
