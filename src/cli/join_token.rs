//! `purlin join-token`: what lets hosts into the mesh.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::output::{Table, field};
use super::{Session, help};
use crate::client::Path;

/// Make, list and revoke the tokens by which hosts join
#[derive(Debug, Subcommand)]
#[command(after_help = help::JOIN_TOKEN)]
pub(super) enum JoinTokenVerb {
    Create(CreateArgs),
    /// List the tokens, without their secrets
    #[command(after_help = help::JOIN_TOKEN_LIST)]
    List,
    /// Revoke a token; hosts that joined with it stay
    #[command(after_help = help::JOIN_TOKEN_REVOKE)]
    Revoke {
        /// As `purlin join-token list` shows it
        id: String,
    },
}

/// Print a new token, and nothing else
#[derive(Debug, Args)]
#[command(after_help = help::JOIN_TOKEN_CREATE)]
pub(super) struct CreateArgs {
    /// What hosts may join as
    #[arg(long, value_enum, default_value_t = Role::Agent)]
    role: Role,
    /// How long hosts may join with it
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = duration)]
    ttl: String,
    /// How many hosts may join with it
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    Agent,
    Server,
}

fn duration(text: &str) -> Result<String, String> {
    purlin_model::duration::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

pub(super) async fn run(session: &mut Session, verb: &JoinTokenVerb) -> anyhow::Result<ExitCode> {
    match verb {
        JoinTokenVerb::Create(args) => create(session, args).await,
        JoinTokenVerb::List => list(session).await,
        JoinTokenVerb::Revoke { id } => {
            session.client.delete(Path::new(&["join-token", id])).await?;
            session.screen.line(&format!("Join token revoked: {id}"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn create(session: &mut Session, args: &CreateArgs) -> anyhow::Result<ExitCode> {
    let role = match args.role {
        Role::Agent => "agent",
        Role::Server => "server",
    };
    let body = json!({ "Role": role, "TTL": args.ttl, "Uses": args.uses });
    let answer = session.client.put(Path::new(&["join-token"]), Some(&body)).await?;
    if session.json() {
        session.screen.json(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(token) = answer["Token"].as_str() else { bail!("the agent's answer has no token") };
    session.screen.line(token)?;
    Ok(ExitCode::SUCCESS)
}

async fn list(session: &mut Session) -> anyhow::Result<ExitCode> {
    let tokens = session.client.get(Path::new(&["join-token"])).await?;
    if session.json() {
        session.screen.json(&tokens)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["ID", "Role", "Uses Left", "Uses", "Created", "Expires"]);
    for token in tokens.as_array().into_iter().flatten() {
        let expires = match token["Expired"].as_bool() {
            Some(true) => "expired".to_owned(),
            _ => field(token, "Expires"),
        };
        let cell = |name: &str| field(token, name);
        table.row([cell("ID"), cell("Role"), cell("UsesLeft"), cell("Uses"), cell("Created"), expires]);
    }
    session.screen.table(&table)?;
    Ok(ExitCode::SUCCESS)
}
