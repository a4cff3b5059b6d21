//! Destinations: who may be called now, and if nobody, why.

use std::net::{IpAddr, SocketAddr};

use purlin_model::check::Status;
use purlin_model::config_entry::ProxyDefaults;
use purlin_model::node::{Locality, Node, NodeStatus};
use purlin_model::service::{Instance, Protocol, ServiceEntry, ServiceKind};
use purlin_model::topic::{Contents, Record, Topic};
use purlin_model::view::{Absence, Endpoint, Target, TargetKey};

use super::local::status;
use super::{Inputs, is_meshed, names};

/// Of one destination: what fits in a frame to the proxy. Of more, each host takes a part of its own.
const ENDPOINTS: usize = 6_000;

/// One instance of a destination, wherever it lives.
struct Candidate<'a> {
    node: &'a Node,
    instance: &'a Instance,
    status: Status,
    local: bool,
}

/// The destination as it can be called now.
pub(super) fn build(inputs: &Inputs<'_>, key: TargetKey, defaults: &ProxyDefaults) -> Target {
    let datacenter = key.datacenter.clone().unwrap_or_else(|| inputs.node.datacenter.clone());
    let identity = inputs.identity(&key.service, &datacenter);
    let declared = inputs.service_defaults(&key.service).protocol.or(defaults.protocol);
    if key.datacenter.is_some() || key.peer.is_some() {
        // Other datacenters and meshes have no topic here, so nothing of them can be known.
        return Target {
            key,
            protocol: declared,
            identity,
            endpoints: Vec::new(),
            absence: Some(Absence::Unknown),
        };
    }
    let contents = (inputs.topic)(&Topic::Service(key.service.clone()));
    let candidates = candidates(inputs, &key, contents.as_deref());
    let found = candidates.iter().filter_map(|candidate| endpoint(inputs, &key, candidate));
    let endpoints = at_most(ENDPOINTS, found.collect(), inputs.node);
    let absence = endpoints.is_empty().then(|| absence(&key, contents.is_some(), &candidates));
    let protocol = port_protocol(&key, &candidates).or(declared);
    Target { protocol, identity, endpoints, absence, key }
}

/// Those of this host, and of the others a choice that stays the same and differs from host to host.
fn at_most(most: usize, mut endpoints: Vec<Endpoint>, own: &Node) -> Vec<Endpoint> {
    if endpoints.len() <= most {
        return endpoints;
    }
    let rank = |endpoint: &Endpoint| {
        let mut hasher = crc32fast::Hasher::new();
        for part in [own.name.as_str(), endpoint.node.as_str(), endpoint.instance.as_str()] {
            hasher.update(part.as_bytes());
        }
        hasher.finalize()
    };
    endpoints.sort_by_cached_key(|endpoint| (!endpoint.local, rank(endpoint)));
    endpoints.truncate(most);
    endpoints.sort_by(|a, b| (!a.local, &a.node, &a.instance).cmp(&(!b.local, &b.node, &b.instance)));
    endpoints
}

/// Instances of other hosts as the catalog has them, those of this host as the registry has them.
fn candidates<'a>(
    inputs: &'a Inputs<'_>,
    key: &TargetKey,
    contents: Option<&'a Contents>,
) -> Vec<Candidate<'a>> {
    let own = inputs.local.services.values().map(|service| service.instance.as_ref());
    let own = own
        .filter(|instance| instance.name == key.service.name && instance.namespace == key.service.namespace);
    let mut candidates: Vec<Candidate<'_>> = own
        .map(|instance| Candidate {
            node: inputs.node,
            instance,
            status: status(inputs.local, &instance.id),
            local: true,
        })
        .collect();
    let entries = contents.into_iter().flat_map(|contents| contents.records.values());
    candidates.extend(entries.filter_map(|record| match record {
        Record::Entry(entry) if entry.node.name != inputs.node.name => Some(remote(entry)),
        _ => None,
    }));
    candidates
}

fn remote(entry: &ServiceEntry) -> Candidate<'_> {
    let status = match entry.node.status {
        NodeStatus::Alive => entry.status(),
        NodeStatus::Left | NodeStatus::Failed => Status::Critical,
    };
    Candidate { node: &entry.node, instance: &entry.instance, status, local: false }
}

fn endpoint(inputs: &Inputs<'_>, key: &TargetKey, candidate: &Candidate<'_>) -> Option<Endpoint> {
    let Candidate { node, instance, status, local } = candidate;
    let weight = match status {
        Status::Passing => instance.weights.passing,
        Status::Warning => instance.weights.warning,
        Status::Critical => return None,
    };
    if weight == 0 || !is_meshed(instance) || !has_port(instance, key.port_name.as_deref()) {
        return None;
    }
    let ip: IpAddr = node.address.parse().ok()?;
    let port = key.port_name.as_deref();
    let domain = inputs.trust_domain();
    Some(Endpoint {
        node: node.name.clone(),
        instance: instance.id.clone(),
        address: SocketAddr::new(ip, node.mesh_port?),
        server_name: names::instance(&instance.id, port, &key.service, &node.datacenter, domain),
        weight,
        locality: locality(instance, node),
        local: *local,
    })
}

fn locality(instance: &Instance, node: &Node) -> Option<Locality> {
    instance.locality.clone().or_else(|| node.locality.clone())
}

fn has_port(instance: &Instance, name: Option<&str>) -> bool {
    match name {
        Some(name) => instance.ports.iter().any(|named| named.name == name),
        None => true,
    }
}

/// A named port may speak something else than its service.
fn port_protocol(key: &TargetKey, candidates: &[Candidate<'_>]) -> Option<Protocol> {
    let name = key.port_name.as_deref();
    candidates.iter().flat_map(|candidate| &candidate.instance.ports).find_map(|port| {
        let asked = name.map_or(port.default, |name| port.name == name);
        port.protocol.filter(|_| asked)
    })
}

fn absence(key: &TargetKey, known: bool, candidates: &[Candidate<'_>]) -> Absence {
    let typical = |one: &&Candidate<'_>| one.instance.kind == ServiceKind::Typical;
    let mut fitting = candidates.iter().filter(typical).peekable();
    if fitting.peek().is_none() {
        return if known { Absence::Unknown } else { Absence::Pending };
    }
    let reachable = |one: &Candidate<'_>| is_meshed(one.instance) && one.node.mesh_port.is_some();
    if !fitting.any(reachable) {
        return Absence::NotInMesh;
    }
    let has_asked_port =
        |one: &Candidate<'_>| reachable(one) && has_port(one.instance, key.port_name.as_deref());
    if candidates.iter().any(has_asked_port) { Absence::Unhealthy } else { Absence::Unknown }
}
