//! `/v1/catalog`, the reading half: datacenters, nodes, services and what runs where.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use purlin_model::node::Node;
use purlin_model::topic::{Contents, Record, ServiceSummary, Topic};
use purlin_model::{NodeName, Revision};
use purlin_wire::rpc::{Ask, Consistency};
use serde_json::{Map, Value, json};

use super::Api;
use super::answer::{Answer, Failure};
use super::lookup::{Want, is_listed, lines, near, nodes as nodes_of};
use super::read::{Source, asked, filter_of, filtered, followed};
use super::request::Request;
use super::shape::service::{SIDECAR, Shown};
use super::shape::{self, schema};

/// Nodes that one `?node-meta` question about services reads at a time.
const AT_ONCE: usize = 16;

/// `GET catalog/datacenters`
pub(super) async fn datacenters(api: &Api, _request: &Request) -> Result<Answer, Failure> {
    Ok(Answer::json(json!([api.core.config().datacenter.as_str()])))
}

/// `GET catalog/nodes`
pub(super) async fn nodes(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let ([contents], source) = asked(api, request, [Topic::Nodes]).await?;
    let mut nodes = nodes_of(request, &contents);
    near(api, request, &mut nodes, |node| &node.name);
    let shapes = nodes.into_iter().map(shape::node::node).collect();
    Ok(source.json(filtered(request, schema::node, shapes)?.into()))
}

/// `GET catalog/services`: a map of names to tags.
pub(super) async fn services(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let (tags, source) = if request.query.has("node-meta") {
        services_on_nodes(api, request).await?
    } else {
        let ([contents], source) = asked(api, request, [Topic::Services]).await?;
        let summaries = contents.records.values().filter_map(|record| match record {
            Record::ServiceSummary(summary) => Some(summary),
            _ => None,
        });
        (all_services(summaries), source)
    };
    let filter = filter_of(request, schema::service_summary)?;
    let kept = tags.into_iter().filter(|(name, tags)| {
        filter.as_ref().is_none_or(|filter| filter.keeps(&json!({"ServiceName": name, "ServiceTags": tags})))
    });
    let map: Map<String, Value> = kept.map(|(name, tags)| (name, tags.into())).collect();
    Ok(source.json(Value::Object(map)))
}

/// Every service with its tags, and the proxies of those in the mesh.
pub(super) fn all_services<'a>(
    summaries: impl Iterator<Item = &'a ServiceSummary>,
) -> BTreeMap<String, Vec<String>> {
    let mut services = BTreeMap::new();
    for summary in summaries {
        services.insert(summary.name.to_string(), summary.tags.clone());
        if summary.in_mesh {
            services.insert(format!("{}{SIDECAR}", summary.name), summary.tags.clone());
        }
    }
    services
}

/// The services that run on the nodes which `?node-meta` names.
async fn services_on_nodes(
    api: &Api,
    request: &Request,
) -> Result<(BTreeMap<String, Vec<String>>, Source), Failure> {
    let ([contents, _], source) = asked(api, request, [Topic::Nodes, Topic::Services]).await?;
    let wanted: Vec<NodeName> =
        nodes_of(request, &contents).into_iter().map(|node| node.name.clone()).collect();
    let asks = wanted.into_iter().map(|name| {
        let ask = Ask {
            topic: Topic::Node(name),
            consistency: source.server.unwrap_or(Consistency::Stale),
            after: Revision(0),
            wait_ms: 0,
        };
        api.core.ask(ask)
    });
    let answers: Vec<_> = stream::iter(asks).buffered(AT_ONCE).try_collect().await?;
    let mut services: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (contents, _) in &answers {
        let (node, instances) = node_and_services(contents);
        let mesh_port = node.and_then(|node| node.mesh_port);
        for shown in instances.iter().flat_map(|instance| Shown::both(instance, mesh_port)) {
            let tags = services.entry(shown.name()).or_default();
            tags.extend(shown.instance.tags.iter().cloned());
            tags.sort();
            tags.dedup();
        }
    }
    Ok((services, source))
}

/// `GET catalog/service/:service`
pub(super) async fn service(api: &Api, request: &Request) -> Result<Answer, Failure> {
    instances(api, request, Want::Named).await
}

/// `GET catalog/connect/:service`
pub(super) async fn connect(api: &Api, request: &Request) -> Result<Answer, Failure> {
    instances(api, request, Want::Connect).await
}

async fn instances(api: &Api, request: &Request, want: Want) -> Result<Answer, Failure> {
    let (lines, source) = lines(api, request, want).await?;
    let shapes = lines.iter().map(|line| shape::service::catalog(&line.entry.node, &line.shown)).collect();
    Ok(source.json(filtered(request, schema::catalog_service, shapes)?.into()))
}

/// `GET catalog/node/:node`: services as a map by id; an unknown node is `null`, as in Consul.
pub(super) async fn node(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let (contents, source) = one_node(api, request).await?;
    let (Some(node), instances) = node_and_services(&contents) else {
        return Ok(source.json(Value::Null));
    };
    let filter = filter_of(request, schema::service)?;
    let mut services = Map::new();
    for shown in instances.iter().flat_map(|instance| Shown::both(instance, node.mesh_port)) {
        let shape = shape::service::service(&shown);
        if filter.as_ref().is_none_or(|filter| filter.keeps(&shape)) {
            services.insert(shown.id(), shape);
        }
    }
    Ok(source.json(json!({"Node": shape::node::node(node), "Services": services})))
}

/// `GET catalog/node-services/:node`: services as a list.
pub(super) async fn node_services(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let (contents, source) = one_node(api, request).await?;
    let (node, instances) = node_and_services(&contents);
    let mesh_port = node.and_then(|node| node.mesh_port);
    let services = instances
        .iter()
        .flat_map(|instance| Shown::both(instance, mesh_port))
        .map(|shown| shape::service::service(&shown))
        .collect();
    let services = filtered(request, schema::service, services)?;
    Ok(source.json(json!({"Node": node.map(shape::node::node), "Services": services})))
}

/// The node that the path names, by its name or its id.
async fn one_node(api: &Api, request: &Request) -> Result<(Arc<Contents>, Source), Failure> {
    let asked_for = request.parameter(0);
    let name = NodeName::new(asked_for)
        .map_err(|error| Failure::invalid(format!("Missing or invalid node name: {error}")))?;
    let topic = Topic::Node(name.clone());
    let ([contents], source) = if name == api.core.config().node_name {
        followed(api, request, [topic]).await?
    } else {
        asked(api, request, [topic]).await?
    };
    let is_id = contents.records.is_empty() && asked_for.parse::<uuid::Uuid>().is_ok();
    let Some(by_id) = (if is_id { node_by_id(api, request, asked_for).await? } else { None }) else {
        return Ok((contents, source));
    };
    let ([contents], source) = asked(api, request, [Topic::Node(by_id)]).await?;
    Ok((contents, source))
}

async fn node_by_id(api: &Api, request: &Request, id: &str) -> Result<Option<NodeName>, Failure> {
    let ([nodes], _) = asked(api, request, [Topic::Nodes]).await?;
    Ok(nodes.records.values().find_map(|record| match record {
        Record::Node(node) if shape::node::id(node).eq_ignore_ascii_case(id) => Some(node.name.clone()),
        _ => None,
    }))
}

fn node_and_services(contents: &Contents) -> (Option<&Node>, Vec<Arc<purlin_model::service::Instance>>) {
    let mut node = None;
    let mut instances = Vec::new();
    for record in contents.records.values() {
        match record {
            Record::Node(found) => node = Some(found).filter(|found| is_listed(found)),
            Record::Instance(instance) => instances.push(Arc::new(instance.clone())),
            _ => {}
        }
    }
    (node, instances)
}
