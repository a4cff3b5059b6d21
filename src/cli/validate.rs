//! `purlin validate`: everything that is wrong with a configuration, before it is used.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::help;
use super::output::Screen;
use crate::config::{ConfigErrors, Findings, inspect};

/// Say everything that is wrong with configuration files, service definitions and config entries
#[derive(Debug, Args)]
#[command(after_help = help::VALIDATE)]
pub(super) struct ValidateArgs {
    /// Files or directories, laid over each other as `purlin agent` does
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Say nothing where all is right
    #[arg(long)]
    quiet: bool,
}

pub(super) fn run(args: &ValidateArgs) -> anyhow::Result<ExitCode> {
    let Findings { errors, warnings } = inspect(&args.files);
    for warning in warnings {
        eprintln!("purlin: warning: {warning}");
    }
    if !errors.is_empty() {
        return Err(ConfigErrors(errors).into());
    }
    if !args.quiet {
        Screen::stdout().line("Configuration is valid!")?;
    }
    Ok(ExitCode::SUCCESS)
}
