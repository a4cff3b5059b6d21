//! `purlin connect ca`: the certificate authority of the mesh.

use std::process::ExitCode;

use clap::Subcommand;

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
