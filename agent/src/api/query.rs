//! `/v1/query`: prepared queries, kept by the servers and carried out here, from this agent's own view.

use std::net::IpAddr;
use std::sync::Arc;

use purlin_model::command::Command;
use purlin_model::node::Node;
use purlin_model::query::{self, PreparedQuery};
use purlin_model::topic::{Contents, Record, Topic};
use purlin_model::{Fault, ServiceKey, ServiceName};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Api;
use super::answer::{Answer, Failure};
use super::lookup::{Line, Want, lines_of, put_first};
use super::members::write;
use super::read::{Source, asked, filtered, now};
use super::request::{Peer, Request};
use super::shape::service::SIDECAR;
use super::shape::{self, schema};

/// `GET query`
pub(super) async fn list(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let ([contents], source) = asked(api, request, [Topic::Queries(None)]).await?;
    let shapes = queries(&contents).map(shape::query::query).collect();
    Ok(source.json(filtered(request, schema::query, shapes)?.into()))
}

/// `POST query`: answers with the id.
pub(super) async fn create(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let body = request.json()?;
    let named = body.as_object().into_iter().flatten().any(|(key, value)| {
        key.eq_ignore_ascii_case("ID") && value.as_str().is_some_and(|text| !text.is_empty())
    });
    if named {
        return Err(Failure::invalid("ID must be empty when creating a new prepared query"));
    }
    let query = PreparedQuery { id: Uuid::new_v4(), ..shape::query::parse(&body)? };
    let id = query.id;
    write(api, request, Command::PutQuery { query, create: true }).await?;
    Ok(Answer::json(json!({"ID": id.to_string()})))
}

/// `GET query/:id`: a list of one.
pub(super) async fn get(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let Some(id) = id(request) else { return Err(not_found()) };
    let ([contents], source) = asked(api, request, [Topic::Queries(Some(id))]).await?;
    let shapes: Vec<Value> = queries(&contents).map(shape::query::query).collect();
    match shapes.is_empty() {
        false => Ok(source.json(shapes.into())),
        true => Ok(source.mark(not_found().into_answer())),
    }
}

/// `PUT query/:id`: the whole query, the id in the path being the one that counts.
pub(super) async fn update(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let id = known_id(request)?;
    let query = PreparedQuery { id, ..shape::query::parse(&request.json_or_empty()?)? };
    write(api, request, Command::PutQuery { query, create: false }).await?;
    Ok(Answer::empty())
}

/// `DELETE query/:id`
pub(super) async fn delete(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let id = known_id(request)?;
    write(api, request, Command::DeleteQuery { id }).await?;
    Ok(Answer::empty())
}

/// `GET query/:id-or-name/explain`: the query that it means, filled in.
pub(super) async fn explain(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let (query, source) = resolved(api, request).await?;
    Ok(source.json(json!({"Query": shape::query::query(&query)})))
}

/// `GET query/:id-or-name/execute?limit=…&near=…&connect=…`
pub(super) async fn execute(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let limit: i64 = match request.query.filled("limit") {
        None => 0,
        Some(text) => {
            text.parse().map_err(|_| Failure::invalid(format!("Bad limit: {text:?} is no whole number")))?
        }
    };
    let connect = request.query.flag("connect")?;
    let (query, source) = resolved(api, request).await?;
    let mut found = instances(api, request, &query, connect || query.service.connect).await?;
    fastrand::shuffle(&mut found);
    let near = request.query.filled("near").unwrap_or(&query.service.near);
    if let Some(node) = near_node(api, request, near).await? {
        put_first(&mut found, &node, |line| &line.entry.node.name);
    }
    if let Some(limit) = usize::try_from(limit).ok().filter(|limit| *limit > 0) {
        found.truncate(limit);
    }
    let nodes: Vec<Value> =
        found.iter().map(|line| shape::service::entry(&line.entry, &line.shown)).collect();
    // There is one datacenter, so nothing was tried elsewhere when nothing is here.
    Ok(source.json(json!({
        "Service": query.service.service,
        "Nodes": nodes,
        "DNS": shape::query::dns(&query),
        "Datacenter": api.core.config().datacenter.as_str(),
        "PeerName": "",
        "Failovers": 0,
    })))
}

async fn resolved(api: &Api, request: &Request) -> Result<(PreparedQuery, Source), Failure> {
    let ([contents], source) = now(api, request, [Topic::Queries(None)]).await?;
    let found = query::resolve(queries(&contents), request.parameter(0))?;
    Ok((found.ok_or_else(not_found)?, source))
}

/// The instances that a query finds. What cannot be a name is the name of nothing.
async fn instances(
    api: &Api,
    request: &Request,
    query: &PreparedQuery,
    connect: bool,
) -> Result<Vec<Line>, Failure> {
    let wanted = query.service.service.as_str();
    let (name, want) = match wanted.strip_suffix(SIDECAR) {
        Some(behind) if !connect => (behind, Want::Proxies),
        _ => (wanted, if connect { Want::Connect } else { Want::Named }),
    };
    let Ok(name) = ServiceName::new(name) else { return Ok(Vec::new()) };
    let ([contents], _) = now(api, request, [Topic::Service(ServiceKey::new(name))]).await?;
    Ok(lines_of(&contents, want, |entry| query.service.finds(entry)))
}

/// The node that `near` means: this one, that of the asker's address, or the one of that name.
async fn near_node(api: &Api, request: &Request, near: &str) -> Result<Option<String>, Failure> {
    let own = api.core.config().node_name.to_string();
    match (near, request.peer) {
        ("", _) => Ok(None),
        ("_agent", _) | ("_ip", Peer::Unix { .. }) => Ok(Some(own)),
        ("_ip", Peer::Tcp(from)) if from.ip().to_canonical().is_loopback() => Ok(Some(own)),
        ("_ip", Peer::Tcp(from)) => {
            let ([nodes], _) = now(api, request, [Topic::Nodes]).await?;
            let at = |node: &&Node| {
                node.address.parse::<IpAddr>().is_ok_and(|address| address == from.ip().to_canonical())
            };
            let mut nodes = nodes.records.values().filter_map(|record| match record {
                Record::Node(node) => Some(node),
                _ => None,
            });
            Ok(nodes.find(at).map(|node| node.name.to_string()))
        }
        (name, _) => Ok(Some(name.to_owned())),
    }
}

fn queries(contents: &Arc<Contents>) -> impl Iterator<Item = &PreparedQuery> {
    contents.records.values().filter_map(|record| match record {
        Record::Query(query) => Some(query),
        _ => None,
    })
}

/// The id in the path. What cannot be one is the id of nothing.
fn id(request: &Request) -> Option<Uuid> {
    Uuid::try_parse(request.parameter(0)).ok()
}

fn known_id(request: &Request) -> Result<Uuid, Failure> {
    let missing = || {
        let text = format!("Cannot modify non-existent prepared query: '{}'", request.parameter(0));
        Failure::from(Fault::not_found(text))
    };
    id(request).ok_or_else(missing)
}

fn not_found() -> Failure {
    Failure::not_found("Query not found")
}
