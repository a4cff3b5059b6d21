//! `/v1/status`: who leads, and who is asked. Addresses are where servers take calls.

use purlin_model::topic::{Record, ServerInfo, Topic};
use serde_json::json;

use super::Api;
use super::answer::{Answer, Failure};
use super::read::followed;
use super::request::Request;

/// `GET status/leader`: empty when there is none.
pub(super) async fn leader(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let servers = servers(api, request).await?;
    let leader = servers.into_iter().find(|server| server.leads).map(|server| server.address);
    Ok(Answer::json(leader.unwrap_or_default().into()))
}

/// `GET status/peers`
pub(super) async fn peers(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let servers = servers(api, request).await?;
    let addresses: Vec<String> = servers.into_iter().filter(|one| one.votes).map(|one| one.address).collect();
    Ok(Answer::json(json!(addresses)))
}

struct Server {
    address: String,
    leads: bool,
    votes: bool,
}

/// As the server that this agent talks to sees its cluster now. Without one: as was last told.
async fn servers(api: &Api, request: &Request) -> Result<Vec<Server>, Failure> {
    if api.core.session().is_connected()
        && let Ok(members) = api.core.members(true).await
    {
        let servers = members.servers.into_iter();
        return Ok(servers
            .map(|one| Server { address: one.address, leads: one.leader, votes: one.voter })
            .collect());
    }
    let ([contents], _) = followed(api, request, [Topic::Servers]).await?;
    let servers = servers_in(&contents).into_iter();
    Ok(servers.map(|one| Server { address: one.address, leads: one.leader, votes: one.voter }).collect())
}

pub(super) fn servers_in(contents: &purlin_model::topic::Contents) -> Vec<ServerInfo> {
    let records = contents.records.values();
    records
        .filter_map(|record| match record {
            Record::Server(server) => Some(server.clone()),
            _ => None,
        })
        .collect()
}
