//! `/v1/operator`: the servers as a cluster: who belongs to it, who leads, how it looks after itself.

use std::time::Duration;

use http::StatusCode;
use purlin_model::autopilot::AutopilotConfig;
use purlin_model::command::{Command, Done};
use purlin_model::definition::reader::{Problems, Table};
use purlin_model::node::NodeStatus;
use purlin_model::{FaultCode, NodeId, Revision, duration};
use purlin_wire::rpc::{Members, Operate, Peer, ServerState};
use serde_json::{Map, Value, json};

use super::Api;
use super::answer::{Answer, Failure};
use super::members::write;
use super::request::Request;
use super::shape;

/// The one version of Raft's protocol, which Consul's answers name.
const PROTOCOL: &str = "3";

async fn members(api: &Api, request: &Request) -> Result<Members, Failure> {
    Ok(api.core.members(request.query.has("stale")).await?)
}

/// `GET operator/raft/configuration?stale`
pub(super) async fn configuration(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let members = members(api, request).await?;
    let server = |server: &ServerState| {
        json!({
            "ID": id_of(server),
            "Node": server.name,
            "Address": server.address,
            "Leader": server.leader,
            "ProtocolVersion": PROTOCOL,
            "Voter": server.voter,
            "LastIndex": server.last_index.unwrap_or(0),
        })
    };
    let servers: Vec<Value> = members.servers.iter().map(server).collect();
    Ok(Answer::json(json!({"Servers": servers, "Index": members.index})))
}

/// `DELETE operator/raft/peer?id=` or `?address=`
pub(super) async fn remove_peer(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let peer = match (request.query.filled("id"), request.query.filled("address")) {
        (Some(_), Some(_)) => return Err(Failure::invalid("Must specify only one of ?id or ?address")),
        (Some(id), None) => peer(id)?,
        (None, Some(address)) => Peer::Address(address.to_owned()),
        (None, None) => {
            let text =
                "Must specify either ?id with the server's ID or ?address with IP:port of peer to remove";
            return Err(Failure::invalid(text));
        }
    };
    operate(api, Operate::RemovePeer(peer)).await?;
    Ok(Answer::empty())
}

/// `POST operator/raft/peer?id=&address=`: a server that joined the mesh becomes a member of the cluster. Purlin's own.
pub(super) async fn add_peer(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let id = request
        .query
        .filled("id")
        .ok_or_else(|| Failure::invalid("Must specify ?id with the server's ID"))?;
    let Peer::Id(id) = peer(id)? else {
        return Err(Failure::invalid(format!("{id:?} is not the id of a node: it is a UUID")));
    };
    let address = request.query.filled("address").map(str::to_owned);
    let name = operate(api, Operate::AddPeer { id, address }).await?;
    Ok(Answer::json(json!({"Success": true, "Node": name})))
}

/// `POST operator/raft/transfer-leader?id=`
pub(super) async fn transfer_leader(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let to = request.query.filled("id").map(peer).transpose()?;
    let name = operate(api, Operate::TransferLeader(to)).await?;
    Ok(Answer::json(json!({"Success": true, "Node": name})))
}

/// The name of the server that it was done to. Consul answers 500 where 404 and 409 would say more.
async fn operate(api: &Api, what: Operate) -> Result<String, Failure> {
    let done = api.core.operate(what).await;
    let done = done.map_err(|fault| match fault.code {
        FaultCode::NotFound | FaultCode::Conflict => {
            Failure::new(StatusCode::INTERNAL_SERVER_ERROR, fault.text)
        }
        _ => fault.into(),
    });
    done.map(|done| done.name)
}

fn peer(text: &str) -> Result<Peer, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(Peer::Id(NodeId(id)));
    }
    // As `raft/configuration` shows a server that the catalog does not know.
    match u64::from_str_radix(text, 16) {
        Ok(id) if text.len() == 16 => Ok(Peer::RaftId(id)),
        _ => Err(Failure::invalid(format!(
            "{text:?} is not the id of a server: see \"purlin operator raft list-peers\""
        ))),
    }
}

fn id_of(server: &ServerState) -> String {
    server.id.map_or_else(|| format!("{:016x}", server.raft_id), |id| id.to_string())
}

/// `GET operator/autopilot/configuration`
pub(super) async fn get_autopilot(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let config = members(api, request).await?.autopilot;
    Ok(Answer::json(json!({
        "CleanupDeadServers": config.cleanup_dead_servers,
        "LastContactThreshold": span(config.last_contact_threshold_ms),
        "MaxTrailingLogs": config.max_trailing_logs,
        "MinQuorum": config.min_quorum,
        "ServerStabilizationTime": span(config.server_stabilization_time_ms),
        "RedundancyZoneTag": "",
        "DisableUpgradeMigration": false,
        "UpgradeVersionTag": "",
        "DeadServerLastContactThreshold": span(config.dead_server_last_contact_threshold_ms),
        "CreateIndex": config.create_index.0,
        "ModifyIndex": config.modify_index.0,
    })))
}

/// `PUT operator/autopilot/configuration?cas=`: `true`, or `false` for an index that does not match.
pub(super) async fn put_autopilot(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let cas = request.query.get("cas").map(|text| {
        let refused = |error| Failure::invalid(format!("Error parsing cas value: {text:?}: {error}"));
        text.parse().map(Revision).map_err(refused)
    });
    let cas = cas.transpose()?;
    let config = parse(&request.json()?)?;
    let done = write(api, request, Command::PutAutopilot { config, cas }).await?;
    Ok(Answer::json((done != Done::CasFailed).into()))
}

/// What is not said is as it is by default, as in Consul.
fn parse(body: &Value) -> Result<AutopilotConfig, Failure> {
    let problems = Problems::default();
    let base = AutopilotConfig::default();
    let read = Table::open(body, "autopilot configuration", &problems).map(|table| {
        let millis = |key, default| match (table.value(key), table.span(key)) {
            (None, _) => default,
            (Some(_), span) => u64::try_from(span.unwrap_or_default().as_millis()).unwrap_or(u64::MAX),
        };
        let config = AutopilotConfig {
            cleanup_dead_servers: table.flag("CleanupDeadServers").unwrap_or(base.cleanup_dead_servers),
            last_contact_threshold_ms: millis("LastContactThreshold", base.last_contact_threshold_ms),
            max_trailing_logs: table
                .number("MaxTrailingLogs", 0..=u64::MAX)
                .unwrap_or(base.max_trailing_logs),
            dead_server_last_contact_threshold_ms: millis(
                "DeadServerLastContactThreshold",
                base.dead_server_last_contact_threshold_ms,
            ),
            min_quorum: table
                .number("MinQuorum", 0..=u64::from(u32::MAX))
                .and_then(|number| u32::try_from(number).ok())
                .unwrap_or(base.min_quorum),
            server_stabilization_time_ms: millis(
                "ServerStabilizationTime",
                base.server_stabilization_time_ms,
            ),
            ..base
        };
        table.ignore(&["CreateIndex", "ModifyIndex"]);
        // Consul Enterprise has these.
        table.unsupported(&["RedundancyZoneTag", "DisableUpgradeMigration", "UpgradeVersionTag"]);
        table.finish();
        config
    });
    let (faults, _) = problems.into_parts();
    let config = read.filter(|_| faults.is_empty()).ok_or_else(|| Failure::from(faults))?;
    config.check()?;
    Ok(config)
}

fn span(millis: u64) -> String {
    duration::format(Duration::from_millis(millis))
}

/// `GET operator/autopilot/health`: 429 where a server is not healthy.
pub(super) async fn health(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let members = members(api, request).await?;
    let status = if members.healthy { StatusCode::OK } else { StatusCode::TOO_MANY_REQUESTS };
    let server = |server: &ServerState| {
        json!({
            "ID": id_of(server),
            "Name": server.name,
            "Address": server.address,
            "SerfStatus": status_name(server),
            "Version": server.version,
            "Leader": server.leader,
            "LastContact": last_contact(server),
            "LastTerm": server.last_term.unwrap_or(0),
            "LastIndex": server.last_index.unwrap_or(0),
            "Healthy": server.healthy,
            "Voter": server.voter,
            "StableSince": shape::instant(server.stable_since.unwrap_or_default()),
        })
    };
    let servers: Vec<Value> = members.servers.iter().map(server).collect();
    let shape = json!({
        "Healthy": members.healthy,
        "FailureTolerance": members.failure_tolerance,
        "Servers": servers,
    });
    Ok(Answer::json(shape).status(status))
}

/// `GET operator/autopilot/state`
pub(super) async fn state(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let members = members(api, request).await?;
    let kind = |server: &ServerState| if server.voter { "voter" } else { "non-voter" };
    let server = |server: &ServerState| {
        json!({
            "ID": id_of(server),
            "Name": server.name,
            "Address": server.address,
            "NodeStatus": status_name(server),
            "Version": server.version,
            "LastContact": last_contact(server),
            "LastTerm": server.last_term.unwrap_or(0),
            "LastIndex": server.last_index.unwrap_or(0),
            "Healthy": server.healthy,
            "StableSince": shape::instant(server.stable_since.unwrap_or_default()),
            "ReadReplica": false,
            "Status": if server.leader { "leader" } else { kind(server) },
            "NodeType": "voter",
            "Meta": {},
        })
    };
    let servers: Map<String, Value> = members.servers.iter().map(|one| (id_of(one), server(one))).collect();
    let voters: Vec<String> = members.servers.iter().filter(|one| one.voter).map(id_of).collect();
    let leader = members.servers.iter().find(|one| one.leader).map(id_of).unwrap_or_default();
    Ok(Answer::json(json!({
        "Healthy": members.healthy,
        "FailureTolerance": members.failure_tolerance,
        "OptimisticFailureTolerance": members.failure_tolerance,
        "Servers": servers,
        "Leader": leader,
        "Voters": voters,
    })))
}

fn status_name(server: &ServerState) -> &'static str {
    match server.status {
        NodeStatus::Alive => "alive",
        NodeStatus::Left => "left",
        NodeStatus::Failed => "failed",
    }
}

/// Only the leader knows.
fn last_contact(server: &ServerState) -> String {
    match server.last_contact_us {
        Some(micros) => duration::format(Duration::from_micros(micros)),
        None => "0s".into(),
    }
}

/// `GET operator/usage`
pub(super) async fn usage(api: &Api, _request: &Request) -> Result<Answer, Failure> {
    let usage = api.core.usage().await?;
    let of_datacenter = json!({
        "Nodes": usage.nodes,
        "Services": usage.services,
        "ServiceInstances": usage.instances,
        "ConnectServiceInstances": {
            "api-gateway": 0,
            "connect-native": usage.native,
            "connect-proxy": usage.meshed,
            "ingress-gateway": 0,
            "mesh-gateway": 0,
            "terminating-gateway": 0,
        },
        "BillableServiceInstances": usage.instances,
    });
    let datacenter = api.core.config().datacenter.to_string();
    let index = usage.index.max(1);
    let shape = json!({
        "Usage": {datacenter: of_datacenter},
        "Index": index,
        "LastContact": 0,
        "KnownLeader": true,
        "ConsistencyLevel": "leader",
        "NotModified": false,
        "Backend": 0,
        "ResultsFilteredByACLs": false,
    });
    Ok(Answer::json(shape).header("x-consul-index", index.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_of_autopilot_is_as_in_consul() {
        assert_eq!(parse(&json!({})), Ok(AutopilotConfig::default()));
        let body = json!({
            "CleanupDeadServers": false, "LastContactThreshold": "500ms", "MaxTrailingLogs": 0,
            "MinQuorum": 3, "ServerStabilizationTime": 0, "CreateIndex": 4, "ModifyIndex": 4,
            "RedundancyZoneTag": "", "DisableUpgradeMigration": false, "UpgradeVersionTag": "",
        });
        let config = parse(&body).unwrap();
        assert_eq!((config.cleanup_dead_servers, config.max_trailing_logs, config.min_quorum), (false, 0, 3));
        assert_eq!((config.last_contact_threshold_ms, config.server_stabilization_time_ms), (500, 0));
        // Go's JSON has nanoseconds.
        let nanos = parse(&json!({"ServerStabilizationTime": 2_000_000_000_u64})).unwrap();
        assert_eq!(nanos.server_stabilization_time_ms, 2_000);
    }

    #[test]
    fn a_configuration_that_is_not_meant_is_refused() {
        for body in [
            json!({"CleanupDeadServer": true}),
            json!({"LastContactThreshold": "soon"}),
            json!({"LastContactThreshold": 0}),
            json!({"MinQuorum": 17}),
            json!({"RedundancyZoneTag": "zone"}),
            json!([]),
        ] {
            assert!(parse(&body).is_err(), "{body}");
        }
    }

    #[test]
    fn servers_are_named_by_the_ids_that_are_shown() {
        let id = "11111111-2222-3333-4444-555555555555";
        assert_eq!(peer(id), Ok(Peer::Id(NodeId(id.parse().unwrap()))));
        assert_eq!(peer("00000000000000ff"), Ok(Peer::RaftId(255)));
        for text in ["ff", "server-1", "10.0.0.1:8300"] {
            assert!(peer(text).is_err(), "{text}");
        }
    }
}
