//! Where an instance is reached, as DNS tells it. Pure.

use std::net::IpAddr;

use purlin_model::check::Status;
use purlin_model::node::Node;
use purlin_model::service::{Instance, ServiceEntry};

const LAN_V4: &str = "lan_ipv4";
const LAN_V6: &str = "lan_ipv6";

/// A place of a service: who, and at which port.
pub(super) struct Endpoint<'a> {
    pub(super) host: Host<'a>,
    pub(super) port: u16,
    pub(super) weight: u16,
}

/// What has addresses: a node, or an instance with one of its own.
pub(super) struct Host<'a> {
    pub(super) node: &'a Node,
    /// Its addresses are the node's, so the node's name stands for them.
    pub(super) is_node: bool,
    primary: &'a str,
    tagged: [Option<&'a str>; 2],
}

impl<'a> Host<'a> {
    pub(super) fn of_node(node: &'a Node) -> Self {
        let tagged = [LAN_V4, LAN_V6].map(|tag| node.tagged_addresses.get(tag).map(String::as_str));
        Self { node, is_node: true, primary: &node.address, tagged }
    }

    fn of_instance(node: &'a Node, instance: &'a Instance) -> Self {
        if instance.address.is_empty() || instance.address == node.address {
            return Self::of_node(node);
        }
        let tagged =
            [LAN_V4, LAN_V6].map(|tag| instance.tagged_addresses.get(tag).map(|own| own.address.as_str()));
        Self { node, is_node: false, primary: &instance.address, tagged }
    }

    /// The name in place of an address, where that is what was registered.
    pub(super) fn name(&self) -> Option<&'a str> {
        (self.primary.parse::<IpAddr>().is_err() && !self.primary.is_empty()).then_some(self.primary)
    }

    /// At most one of each family, the one that was registered first.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = Vec::with_capacity(2);
        for text in [Some(self.primary), self.tagged[0], self.tagged[1]].into_iter().flatten() {
            let Ok(address) = text.parse::<IpAddr>() else { continue };
            if !addresses.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
                addresses.push(address);
            }
        }
        addresses
    }
}

/// The instance itself.
pub(super) fn ordinary(entry: &ServiceEntry) -> Endpoint<'_> {
    let weights = entry.instance.weights;
    let weight = if entry.status() == Status::Passing { weights.passing } else { weights.warning };
    Endpoint { host: Host::of_instance(&entry.node, &entry.instance), port: port(&entry.instance), weight }
}

/// Where the mesh takes connections for the instance: its host's proxy, or itself if it does the mesh's TLS.
pub(super) fn through_mesh(entry: &ServiceEntry) -> Option<Endpoint<'_>> {
    let direct = ordinary(entry);
    if entry.instance.native {
        return Some(direct);
    }
    let port = entry.node.mesh_port.filter(|_| entry.instance.mesh.is_some())?;
    Some(Endpoint { host: Host::of_node(&entry.node), port, ..direct })
}

fn port(instance: &Instance) -> u16 {
    let default = || instance.ports.iter().find(|port| port.default).or_else(|| instance.ports.first());
    match instance.port {
        0 => default().map_or(0, |port| port.port),
        port => port,
    }
}
