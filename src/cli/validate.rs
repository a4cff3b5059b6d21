//! `purlin validate`: everything that is wrong with a configuration, before it is used.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::help;
use super::output::Screen;
use crate::config::{ConfigErrors, Mode, Overrides, Sources, config_entry_of};

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
    let mut errors = Vec::new();
    // A file with a `Kind` is a config entry, which stands for itself.
    let mut settings = Vec::new();
    let mut entries = 0;
    for path in &args.files {
        match config_entry_of(path) {
            None => settings.push(path.clone()),
            Some(Ok(_)) => entries += 1,
            Some(Err(ConfigErrors(found))) => errors.extend(found),
        }
    }
    if !settings.is_empty() || entries == 0 {
        let sources = Sources { paths: settings, overrides: Overrides::default(), mode: Mode::Validate };
        match sources.load() {
            Ok((_, warnings)) => {
                for warning in warnings {
                    eprintln!("purlin: warning: {warning}");
                }
            }
            Err(ConfigErrors(found)) => errors.extend(found),
        }
    }
    if !errors.is_empty() {
        return Err(ConfigErrors(errors).into());
    }
    if !args.quiet {
        Screen::stdout().line("Configuration is valid!")?;
    }
    Ok(ExitCode::SUCCESS)
}
