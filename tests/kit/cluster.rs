//! Several servers, each with a vote, on hosts of their own.

use std::time::Duration;

use serde_json::Value;

use super::host::Lab;
use super::mesh::Agent;
use super::wait::until;

/// As long as a server may take to be heard, on a machine that has other things to do.
pub const PATIENT: Duration = Duration::from_secs(90);

/// A server that joins the mesh of another.
pub fn join_server(lab: &Lab, host: usize, by: &Agent, config: &str) -> Agent {
    let token = by.purlin(&["join-token", "create", "--role", "server"]);
    let server = Agent::start(lab.host(host), "server", config, &["--join", token.trim()]);
    server.await_ready();
    server
}

/// Servers on the first hosts of a lab.
pub fn servers(lab: &Lab, count: usize, config: &str) -> Vec<Agent> {
    let mut servers = vec![Agent::server(lab.host(1), config)];
    for host in 2..=count {
        let joined = join_server(lab, host, &servers[0], config);
        servers.push(joined);
    }
    // In the log of each: else those that are left of them could be one too few for the voters of before.
    for server in &servers {
        until("it knows all voters", PATIENT, || {
            let found = server.get("/v1/operator/raft/configuration?stale")?;
            if voters(&found) == count { Ok(()) } else { Err(found.to_string()) }
        });
    }
    servers
}

fn voters(configuration: &Value) -> usize {
    configuration["Servers"].as_array().into_iter().flatten().filter(|one| one["Voter"] == true).count()
}

pub fn peers(server: &Agent) -> Result<Vec<Value>, String> {
    let found = server.get("/v1/operator/raft/configuration")?;
    Ok(found["Servers"].as_array().cloned().unwrap_or_default())
}

/// Until so many servers have a vote.
#[track_caller]
pub fn await_voters(server: &Agent, count: usize) {
    until(&format!("{count} servers vote"), PATIENT, || {
        let found = peers(server)?;
        let voters = found.iter().filter(|one| one["Voter"] == true).count();
        if voters == count { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

/// Which of them leads, by its place in the list; asked of whoever answers.
pub fn leader(servers: &[Agent]) -> Result<usize, String> {
    for server in servers {
        let Ok(Value::String(address)) = server.get("/v1/status/leader") else { continue };
        if let Some(at) = servers.iter().position(|one| address == format!("{}:8300", one.host.ip)) {
            return Ok(at);
        }
    }
    Err("nobody says who leads".into())
}
