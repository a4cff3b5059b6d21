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
    let leader = servers.into_iter().find(|server| server.leader).map(|server| server.address);
    Ok(Answer::json(leader.unwrap_or_default().into()))
}

/// `GET status/peers`
pub(super) async fn peers(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let servers = servers(api, request).await?;
    let addresses: Vec<String> = servers.into_iter().filter(|one| one.voter).map(|one| one.address).collect();
    Ok(Answer::json(json!(addresses)))
}

async fn servers(api: &Api, request: &Request) -> Result<Vec<ServerInfo>, Failure> {
    let ([contents], _) = followed(api, request, [Topic::Servers]).await?;
    Ok(servers_in(&contents))
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
