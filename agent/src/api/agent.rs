//! `/v1/agent`: the agent itself, and what its operator has it do.

use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use purlin_model::node::NodeRole;
use serde_json::{Value, json};

use super::answer::{Answer, Content, Failure};
use super::request::Request;
use super::shape;
use super::{Api, LogRequest};

/// `GET agent/self`
pub(super) async fn me(api: &Api, _request: &Request) -> Result<Answer, Failure> {
    let config = api.core.config();
    let node = config.node();
    let local = api.core.registry().local();
    let session = api.core.session();
    let server = config.role == NodeRole::Server;
    let mesh = api.core.mesh();
    Ok(Answer::json(json!({
        "Config": {
            "Datacenter": config.datacenter.as_str(),
            "PrimaryDatacenter": config.datacenter.as_str(),
            "NodeName": config.node_name.as_str(),
            "NodeID": config.node_id.to_string(),
            "Revision": "",
            "Server": server,
            "Version": config.version,
            "BuildDate": "",
        },
        "DebugConfig": debug_config(api),
        "Coord": {"Vec": vec![0.0; 8], "Error": 1.5, "Adjustment": 0.0, "Height": 0.00001},
        "Member": shape::node::member(&node, own_port(api)),
        "Stats": {
            "agent": {
                "services": local.services.len().to_string(),
                "checks": local.checks.len().to_string(),
                "sync": format!("{:?}", api.core.sync_state()),
            },
            "consul": {"server": server.to_string(), "known_servers": session.server.iter().count().to_string()},
            "session": {
                "phase": format!("{:?}", session.phase).to_lowercase(),
                "server": session.server.unwrap_or_default(),
                "since": shape::instant(session.since),
                "reason": session.reason.unwrap_or_default(),
                "sessions": session.sessions.to_string(),
            },
        },
        "Meta": config.meta,
        "Mesh": mesh.map(|mesh| json!({
            "TrustDomain": mesh.trust_domain.0,
            "DefaultIntentionPolicy": mesh.default_intention.as_str(),
            "LeafCertTTL": purlin_model::duration::format(std::time::Duration::from_millis(mesh.leaf_ttl_ms)),
        })),
    })))
}

/// What is configured, without anything secret.
fn debug_config(api: &Api) -> Value {
    let config = api.core.config();
    json!({
        "Datacenter": config.datacenter.as_str(),
        "NodeName": config.node_name.as_str(),
        "NodeID": config.node_id.to_string(),
        "ServerMode": config.role == NodeRole::Server,
        "BindAddr": config.bind.to_string(),
        "AdvertiseAddrLAN": config.advertise.to_string(),
        "DNSDomain": format!("{}.", config.domain),
        "DNSAltDomain": config.alt_domain.as_ref().map(|domain| format!("{domain}.")).unwrap_or_default(),
        "DNSRecursors": config.dns.recursors.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "DNSAddrs": config.dns.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "HTTPAddrs": config.http.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "MeshPort": config.ports.mesh,
        "ServerPort": config.ports.server,
        "DataDir": config.data_dir.as_ref().map(|dir| dir.display().to_string()),
        "EnableRemoteScriptChecks": config.checks.enable_script_checks,
        "EnableLocalScriptChecks": config.checks.enable_local_script_checks,
        "ConnectEnabled": true,
        "ACLsEnabled": false,
    })
}

/// Where this host takes calls of others: of servers and agents, else of proxies.
pub(super) fn own_port(api: &Api) -> u16 {
    let ports = &api.core.config().ports;
    ports.server.or(ports.mesh).unwrap_or_default()
}

/// `GET agent/version`
pub(super) async fn version(api: &Api, _request: &Request) -> Result<Answer, Failure> {
    let version = &api.core.config().version;
    Ok(Answer::json(json!({"SHA": "", "BuildDate": "", "HumanVersion": version, "FIPS": ""})))
}

/// `PUT agent/reload`
pub(super) async fn reload(api: &Api, _request: &Request) -> Result<Answer, Failure> {
    api.core.reload().await?;
    Ok(Answer::empty())
}

/// `PUT agent/leave`
pub(super) async fn leave(api: &Api, _request: &Request) -> Result<Answer, Failure> {
    api.core.leave().await?;
    Ok(Answer::empty())
}

/// `PUT agent/join/:address`: there is no gossip to join.
pub(super) async fn join(_api: &Api, _request: &Request) -> Result<Answer, Failure> {
    Err(Failure::invalid(
        "a running agent is a member already; a new host joins with a token: create one with \"purlin join-token \
         create\" and run \"purlin agent --join TOKEN\" there",
    ))
}

/// `PUT agent/maintenance?enable=…&reason=…`
pub(super) async fn maintenance(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let reason = maintenance_reason(request)?;
    api.core.registry().set_node_maintenance(reason).await?;
    Ok(super::agent_service::synced(api).await)
}

/// The reason when maintenance begins, nothing when it ends.
pub(super) fn maintenance_reason(request: &Request) -> Result<Option<String>, Failure> {
    let value = request.query.filled("enable").ok_or_else(|| Failure::invalid("Missing value for enable"))?;
    let enable = request
        .query
        .flag("enable")
        .map_err(|_| Failure::invalid(format!("Invalid value for enable: {value:?}")))?;
    Ok(enable.then(|| request.query.get("reason").unwrap_or_default().to_owned()))
}

/// `PUT agent/log-level`: body `{"Level": "info,purlin_proxy=debug"}` or `?level=`. Purlin's own.
pub(super) async fn log_level(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let level = match request.query.filled("level") {
        Some(level) => level.to_owned(),
        None => {
            let body = request.json_or_empty()?;
            let field = body.as_object().and_then(|fields| {
                fields
                    .iter()
                    .find(|(name, _)| name.eq_ignore_ascii_case("level"))
                    .and_then(|(_, value)| value.as_str())
            });
            field
                .ok_or_else(|| {
                    Failure::invalid("Missing Level, such as \"debug\" or \"info,purlin_proxy=debug\"")
                })?
                .to_owned()
        }
    };
    api.core.set_log_filter(&level)?;
    Ok(Answer::empty())
}

/// `GET agent/monitor?loglevel=…&logjson`: log lines until the client goes away.
pub(super) async fn monitor(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let Some(tap) = &api.logs else {
        let text = "the logs of this agent cannot be followed over the API: read them where it writes them, as with \
                    \"journalctl -u purlin-agent -f\"";
        return Err(Failure::new(StatusCode::NOT_IMPLEMENTED, text));
    };
    let level = request.query.filled("loglevel").unwrap_or("info").to_lowercase();
    if !matches!(level.as_str(), "trace" | "debug" | "info" | "warn" | "error" | "err") {
        return Err(Failure::invalid(format!("Unknown log level: {level}")));
    }
    let level = if level == "err" { "error".to_owned() } else { level };
    let wanted = LogRequest { level, json: request.query.flag("logjson")? };
    let lines = (tap.0)(&wanted).map_err(|why| Failure::new(StatusCode::TOO_MANY_REQUESTS, why))?;
    let frames = stream::unfold(lines, |mut lines| async move {
        let mut line = lines.recv().await?;
        if !line.ends_with('\n') {
            line.push('\n');
        }
        Some((Ok(Frame::data(Bytes::from(line))), lines))
    });
    let mut answer = Answer::empty();
    answer.content = Content::Stream(BodyExt::boxed_unsync(StreamBody::new(frames)));
    Ok(answer)
}

/// `GET agent/proxy`: what this host's proxy applied. Purlin's own.
pub(super) async fn proxy(api: &Api, _request: &Request) -> Result<Answer, Failure> {
    let state = api.core.proxy();
    let failed: Vec<Value> = state
        .failed_listeners
        .iter()
        .map(|(listener, why)| json!({"Listener": listener, "Error": why}))
        .collect();
    Ok(Answer::json(json!({
        "Connected": state.connected,
        "Version": state.version,
        "PID": state.pid,
        "ViewRevision": api.core.view().revision,
        "AppliedRevision": state.applied,
        "FailedListeners": failed,
        "Reason": state.reason,
    })))
}
