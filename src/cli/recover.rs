//! `purlin operator recover`: one survivor of a lost majority becomes a mesh of one server, offline.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use purlin_server::recover::{Survey, look};
use serde_json::json;

use super::help;
use super::output::{Format, Screen};

/// Make a stopped server a mesh of its own, after the majority of its servers was lost for good
#[derive(Debug, Args)]
#[command(after_help = help::OPERATOR_RECOVER)]
pub(super) struct RecoverArgs {
    /// The data_dir of the server, which must be stopped
    #[arg(long, env = "PURLIN_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// Do it without asking
    #[arg(long, short = 'y')]
    yes: bool,
}

pub(super) fn run(args: &RecoverArgs, format: Format) -> anyhow::Result<ExitCode> {
    let survey = look(&args.data_dir)?;
    let warning = warning(&survey, args);
    if !args.yes {
        eprintln!("{warning}");
        if !io::stdin().is_terminal() {
            bail!("nothing was changed: run it again with --yes to do it");
        }
        eprint!("Type the name of the server, {}, to go on: ", survey.node());
        io::stderr().flush()?;
        let mut typed = String::new();
        io::stdin().lock().read_line(&mut typed)?;
        if typed.trim() != survey.node() {
            bail!("nothing was changed");
        }
    }
    let (node, found) = (survey.node().to_owned(), survey.found().clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let history = runtime.block_on(survey.recover())?;
    let mut screen = Screen::stdout();
    if format == Format::Json {
        screen.json(&json!({
            "Node": node, "History": history.to_string(), "LastIndex": found.last, "LastTerm": found.term,
            "CommittedIndex": found.committed,
            "LostServers": found.members.iter().map(|(name, _)| name).filter(|name| **name != node).collect::<Vec<_>>(),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for line in [
        format!("Recovered server {node} as the only one of its mesh, up to log entry {}", found.last),
        format!("New history: {history}"),
        "Start it without --bootstrap and without --join".to_owned(),
        "Other servers: empty their data_dir, then join them again with `purlin join-token create --role server`".to_owned(),
    ] {
        screen.line(&line)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn warning(survey: &Survey, args: &RecoverArgs) -> String {
    let found = survey.found();
    let others: Vec<String> = found
        .members
        .iter()
        .filter(|(name, _)| name != survey.node())
        .map(|(name, address)| format!("{name} at {address}"))
        .collect();
    let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
    format!(
        "Server {node} in {dir} becomes the only server of its mesh.\n\
         \x20 Its log goes to entry {last} of term {term}; that a majority had it is known up to {committed}.\n\
         \x20 Other servers, which are given up: {others}.\n\
         LOST is every write that others acknowledged and this disk does not have. What this disk has counts as\n\
         written, though it may never have been acknowledged. The others must not start again with their old data.\n\
         Make sure that none of them runs, and copy the data_dir first.{alone}",
        node = survey.node(),
        dir = args.data_dir.display(),
        last = found.last,
        term = found.term,
        committed = found.committed,
        alone = if found.alone { "\nIt is the only one already: it needs no recovery to start." } else { "" },
    )
}
