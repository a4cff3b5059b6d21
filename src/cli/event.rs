//! `purlin event`: something happened that other hosts shall hear of.

use std::process::ExitCode;

use clap::Args;

use super::output::field;
use super::{Session, help};
use crate::client::Path;

/// Fire a user event, which every agent that it concerns lists
#[derive(Debug, Args)]
#[command(after_help = help::EVENT)]
pub(super) struct EventArgs {
    /// Of the event
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Only for hosts whose name this matches
    #[arg(long, value_name = "REGEX")]
    node: Option<String>,
    /// Only for hosts that run a service whose name or id this matches
    #[arg(long, value_name = "REGEX")]
    service: Option<String>,
    /// Only where such a service has a tag that this matches
    #[arg(long, value_name = "REGEX", requires = "service")]
    tag: Option<String>,
    /// What goes with it, at most 512 bytes
    payload: Option<String>,
}

pub(super) async fn run(session: &mut Session, args: &EventArgs) -> anyhow::Result<ExitCode> {
    let path = Path::new(&["event", "fire", &args.name])
        .with_some("node", args.node.as_deref())
        .with_some("service", args.service.as_deref())
        .with_some("tag", args.tag.as_deref());
    let payload = args.payload.clone().unwrap_or_default();
    let event = session.client.put_bytes(path, payload.into_bytes()).await?;
    if session.json() {
        session.screen.json(&event)?;
    } else {
        session.screen.line(&format!("Event ID: {}", field(&event, "ID")))?;
    }
    Ok(ExitCode::SUCCESS)
}
