//! `purlin connect ca`: the certificate authority of the mesh.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use purlin_model::limit;
use serde_json::Value;

use super::output::{Table, field};
use super::{Session, help};
use crate::client::Path;

/// Look at the certificate authority
#[derive(Debug, Subcommand)]
#[command(after_help = help::CONNECT)]
pub(super) enum ConnectVerb {
    /// The certificate authority of the mesh
    #[command(subcommand, after_help = help::CONNECT_CA)]
    Ca(CaVerb),
}

#[derive(Debug, Subcommand)]
pub(super) enum CaVerb {
    /// Show how certificates are made, as JSON
    #[command(after_help = help::CONNECT_CA_GET)]
    GetConfig,
    /// Set how certificates are made, from a JSON file, or from standard input with '-'
    #[command(after_help = help::CONNECT_CA_SET)]
    SetConfig {
        #[arg(long, value_name = "FILE")]
        config_file: PathBuf,
    },
    /// List the roots that hosts trust
    #[command(after_help = help::CONNECT_CA_ROOTS)]
    Roots,
}

pub(super) async fn run(session: &mut Session, verb: &ConnectVerb) -> anyhow::Result<ExitCode> {
    let ConnectVerb::Ca(verb) = verb;
    match verb {
        CaVerb::GetConfig => {
            let config = session.client.get(Path::new(&["connect", "ca", "configuration"])).await?;
            session.screen.json(&config)?;
        }
        CaVerb::SetConfig { config_file } => {
            let config = read_config(config_file)?;
            session.client.put(Path::new(&["connect", "ca", "configuration"]), Some(&config)).await?;
            session.screen.line("Configuration updated!")?;
        }
        CaVerb::Roots => {
            let answer = session.client.get(Path::new(&["connect", "ca", "roots"])).await?;
            if session.json() {
                session.screen.json(&answer)?;
                return Ok(ExitCode::SUCCESS);
            }
            let mut table = Table::new(&["Name", "Active", "Not Before", "Not After", "ID"]);
            for root in answer["Roots"].as_array().into_iter().flatten() {
                table.row(["Name", "Active", "NotBefore", "NotAfter", "ID"].map(|name| field(root, name)));
            }
            session.screen.table(&table)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn read_config(file: &std::path::Path) -> anyhow::Result<Value> {
    let place = file.display();
    let mut text = String::new();
    let input: Box<dyn Read> = if file.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).with_context(|| format!("cannot read {place}"))?)
    };
    let most = u64::try_from(limit::API_BODY_BYTES).unwrap_or(u64::MAX);
    input.take(most).read_to_string(&mut text).with_context(|| format!("cannot read {place}"))?;
    serde_json::from_str(&text).with_context(|| format!("{place} is not JSON"))
}
