//! Commands about a running agent itself, and about this binary.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, CommandFactory};
use serde_json::{Value, json};

use super::output::Screen;
use super::{Cli, Format, Session, help};
use crate::client::Path;

/// Have the agent read its configuration again
#[derive(Debug, Args)]
#[command(after_help = help::RELOAD)]
pub(super) struct ReloadArgs {}

/// Have the agent leave the mesh in order, and stop
#[derive(Debug, Args)]
#[command(after_help = help::LEAVE)]
pub(super) struct LeaveArgs {}

/// Show what the agent says of itself
#[derive(Debug, Args)]
#[command(after_help = help::INFO)]
pub(super) struct InfoArgs {}

/// Follow the agent's logs until Ctrl-C
#[derive(Debug, Args)]
#[command(after_help = help::MONITOR)]
pub(super) struct MonitorArgs {
    /// trace, debug, info, warn or error
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    log_level: String,
    /// As JSON
    #[arg(long)]
    log_json: bool,
}

/// Change what the agent logs, until it restarts
#[derive(Debug, Args)]
#[command(after_help = help::LOG_LEVEL)]
pub(super) struct LogLevelArgs {
    /// trace, debug, info, warn, error, or levels by module
    #[arg(value_name = "LEVEL", value_parser = crate::config::parse_log_filter)]
    level: String,
}

/// Show the version
#[derive(Debug, Args)]
#[command(after_help = help::VERSION)]
pub(super) struct VersionArgs {}

/// Write a script that completes commands and flags in a shell
#[derive(Debug, Args)]
#[command(after_help = help::COMPLETION)]
pub(super) struct CompletionArgs {
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub(super) async fn reload(session: &mut Session, _args: &ReloadArgs) -> anyhow::Result<ExitCode> {
    session
        .client
        .put(Path::new(&["agent", "reload"]), None)
        .await
        .context("the configuration was not reloaded")?;
    session.screen.line("Configuration reload triggered")?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn leave(session: &mut Session, _args: &LeaveArgs) -> anyhow::Result<ExitCode> {
    session.client.put(Path::new(&["agent", "leave"]), None).await?;
    session.screen.line("Graceful leave complete")?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn info(session: &mut Session, _args: &InfoArgs) -> anyhow::Result<ExitCode> {
    let own = session.client.get(Path::new(&["agent", "self"])).await?;
    if session.json() {
        session.screen.json(&own)?;
        return Ok(ExitCode::SUCCESS);
    }
    let member = |name: &str| own["Config"][name].clone();
    let mut sections = serde_json::Map::new();
    let mut build = serde_json::Map::new();
    for (name, key) in
        [("version", "Version"), ("node", "NodeName"), ("node_id", "NodeID"), ("datacenter", "Datacenter")]
    {
        build.insert(name.into(), member(key));
    }
    sections.insert("node".into(), Value::Object(build));
    if let Some(mesh) = own["Mesh"].as_object() {
        sections.insert("mesh".into(), Value::Object(mesh.clone()));
    }
    sections.extend(own["Stats"].as_object().cloned().unwrap_or_default());
    for (name, fields) in &sections {
        session.screen.line(&format!("{name}:"))?;
        for key in fields.as_object().into_iter().flat_map(serde_json::Map::keys) {
            session.screen.line(&format!("\t{key} = {}", super::output::field(fields, key)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn monitor(session: &mut Session, args: &MonitorArgs) -> anyhow::Result<ExitCode> {
    let path = Path::new(&["agent", "monitor"]).with("loglevel", &args.log_level);
    let path = if args.log_json { path.with("logjson", "true") } else { path };
    let Session { client, screen, .. } = session;
    let follow = client.follow(path, |bytes| -> anyhow::Result<()> { Ok(screen.raw(bytes)?) });
    tokio::select! {
        // Ctrl-C is how it ends.
        signal = tokio::signal::ctrl_c() => signal.context("cannot wait for Ctrl-C")?,
        ended = follow => match ended {
            Ok(()) => bail!("the agent at {} ended the stream of logs", session.client.address()),
            Err(error) => return Err(error),
        },
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn log_level(session: &mut Session, args: &LogLevelArgs) -> anyhow::Result<ExitCode> {
    let body = json!({ "Level": args.level });
    session.client.put(Path::new(&["agent", "log-level"]), Some(&body)).await?;
    session.screen.line(&format!("Log level set: {}", args.level))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn version(_args: &VersionArgs, format: Format) -> anyhow::Result<ExitCode> {
    let version = env!("CARGO_PKG_VERSION");
    let mut screen = Screen::stdout();
    match format {
        Format::Table => screen.line(&format!("Purlin v{version}"))?,
        Format::Json => screen.json(&json!({
            "Version": version, "HumanVersion": version, "Prerelease": "", "Revision": "", "BuildDate": "",
        }))?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn completion(args: &CompletionArgs) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "purlin", &mut script);
    Screen::stdout().raw(&script)?;
    Ok(ExitCode::SUCCESS)
}
