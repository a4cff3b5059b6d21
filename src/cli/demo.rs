//! `purlin demo`: the main job on one machine.

use std::process::ExitCode;

use clap::Args;

use super::{Format, help};
use crate::config::Log;

/// Start a mesh with three small services on this machine and show what it does
#[derive(Debug, Args)]
#[command(after_help = help::DEMO)]
pub(super) struct DemoArgs {
    /// Exit after the tour, with 0 only if every step did what it says
    #[arg(long)]
    once: bool,
    /// What the parts of the mesh log, on standard error
    #[arg(long, env = "PURLIN_LOG_LEVEL", value_name = "LEVEL", default_value = "error", value_parser = crate::config::parse_log_filter)]
    log_level: String,
}

pub(super) fn run(args: &DemoArgs, format: Format) -> anyhow::Result<ExitCode> {
    let log = Log { filter: args.log_level.clone(), json: false };
    crate::demo::run(&crate::demo::Options { once: args.once, json: format == Format::Json, log })
}
