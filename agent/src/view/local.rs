//! Instances of this host as the proxy takes calls for them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use purlin_model::InstanceId;
use purlin_model::check::{Status, aggregate};
use purlin_model::config_entry::ProxyDefaults;
use purlin_model::service::{Instance, Mesh, Protocol};
use purlin_model::view::{Dial, LocalInstance, LocalPort};

use super::{CONNECT_TIMEOUT_MS, Inputs, names, parse_ip};
use crate::registry::LocalState;

/// What the proxy must know of one instance; none if it takes no calls.
pub(super) fn instance(
    inputs: &Inputs<'_>,
    instance: &Instance,
    defaults: &ProxyDefaults,
) -> Option<LocalInstance> {
    let mesh = instance.mesh.as_ref()?;
    let key = instance.key();
    let service = inputs.service_defaults(&key);
    let protocol = service.protocol.or(defaults.protocol);
    let ports = ports(inputs, instance, mesh, protocol);
    if ports.is_empty() {
        return None;
    }
    Some(LocalInstance {
        id: instance.id.clone(),
        service: key,
        ports,
        healthy: status(inputs.local, &instance.id) != Status::Critical,
        protocol,
        connect_timeout_ms: service.local_connect_timeout_ms.unwrap_or(CONNECT_TIMEOUT_MS),
        request_timeout_ms: service.local_request_timeout_ms,
        max_connections: service.max_inbound_connections.filter(|max| *max > 0),
    })
}

/// Health of an instance of this host, from its own checks: newer than the catalog's.
pub(super) fn status(local: &LocalState, id: &InstanceId) -> Status {
    aggregate(local.node_checks().chain(local.checks_of(id)))
}

fn ports(
    inputs: &Inputs<'_>,
    instance: &Instance,
    mesh: &Mesh,
    protocol: Option<Protocol>,
) -> Vec<LocalPort> {
    let (key, dc, domain) = (instance.key(), &inputs.node.datacenter, inputs.trust_domain());
    let port = |name: Option<&str>, protocol, dial| LocalPort {
        server_name: names::instance(&instance.id, name, &key, dc, domain),
        service_server_name: names::service(name, &key, dc, domain),
        name: name.map(str::to_owned),
        protocol,
        dial,
    };
    let ip = dial_ip(inputs, instance, mesh);
    let default = instance.ports.iter().find(|named| named.default);
    let mut ports = Vec::with_capacity(1 + instance.ports.len());
    if let Some(dial) = default_dial(instance, mesh, default.map(|named| named.port), ip) {
        ports.push(port(None, default.and_then(|named| named.protocol).or(protocol), dial));
    }
    for named in &instance.ports {
        let dial = Dial::Tcp(SocketAddr::new(ip, named.port));
        ports.push(port(Some(&named.name), named.protocol.or(protocol), dial));
    }
    ports
}

/// Where a call for the default port goes.
fn default_dial(instance: &Instance, mesh: &Mesh, named: Option<u16>, ip: IpAddr) -> Option<Dial> {
    let socket = mesh.local_socket_path.as_deref().unwrap_or(&instance.socket_path);
    if !socket.is_empty() {
        return Some(Dial::Unix(socket.to_owned()));
    }
    let port = mesh.local_port.filter(|port| *port > 0).or(named).unwrap_or(instance.port);
    (port > 0).then(|| Dial::Tcp(SocketAddr::new(ip, port)))
}

/// The address at which the application listens: as it was told, else one that can only be on this host.
fn dial_ip(inputs: &Inputs<'_>, instance: &Instance, mesh: &Mesh) -> IpAddr {
    let told = mesh.local_address.as_deref().filter(|text| !text.is_empty()).and_then(parse_ip);
    if let Some(ip) = told {
        return reachable(ip);
    }
    let own = instance
        .address
        .parse::<IpAddr>()
        .ok()
        .filter(|ip| ip.is_loopback() || ip.is_unspecified() || inputs.own_addresses.contains(ip));
    reachable(own.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)))
}

/// One that listens everywhere is reached on loopback.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) if v4.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(v6) if v6.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        other => other,
    }
}
