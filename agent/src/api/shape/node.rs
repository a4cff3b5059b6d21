//! Nodes: of the catalog, and as members.

use std::collections::BTreeMap;
use std::net::IpAddr;

use purlin_model::node::{Locality, Node, NodeRole, NodeStatus};
use serde_json::{Map, Value, json};

/// As `catalog/nodes` and `health/service` show it.
pub(in crate::api) fn node(node: &Node) -> Value {
    let mut shape = json!({
        "ID": id(node),
        "Node": node.name.as_str(),
        "Address": node.address,
        "Datacenter": node.datacenter.as_str(),
        "TaggedAddresses": tagged_addresses(node),
        "Meta": node.meta,
        "CreateIndex": node.create_index.0,
        "ModifyIndex": node.modify_index.0,
    });
    if let (Some(place), Some(fields)) = (&node.locality, shape.as_object_mut()) {
        fields.insert("Locality".into(), locality(place));
    }
    shape
}

pub(in crate::api) fn id(node: &Node) -> String {
    node.id.map(|id| id.to_string()).unwrap_or_default()
}

pub(in crate::api) fn locality(place: &Locality) -> Value {
    json!({"Region": place.region, "Zone": place.zone})
}

/// What was said, and for hosts of ours what Consul's agents say of themselves: `lan`, `wan` and those by family.
pub(in crate::api) fn tagged_addresses(node: &Node) -> BTreeMap<String, String> {
    let mut tagged = node.tagged_addresses.clone();
    if node.role == NodeRole::External {
        return tagged;
    }
    let family = match node.address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => Some("ipv4"),
        Ok(IpAddr::V6(_)) => Some("ipv6"),
        Err(_) => None,
    };
    for network in ["lan", "wan"] {
        tagged.entry(network.into()).or_insert_with(|| node.address.clone());
        if let Some(family) = family {
            tagged.entry(format!("{network}_{family}")).or_insert_with(|| node.address.clone());
        }
    }
    tagged
}

/// As `agent/members` shows it. `port` is where the host talks to others; Consul's serf port has no counterpart.
pub(in crate::api) fn member(node: &Node, port: u16) -> Value {
    let role = if node.role == NodeRole::Server { "consul" } else { "node" };
    let mut tags = Map::new();
    for (name, value) in [
        ("role", role.to_owned()),
        ("dc", node.datacenter.to_string()),
        ("id", id(node)),
        ("build", node.version.clone()),
        ("vsn", "2".to_owned()),
        ("segment", String::new()),
    ] {
        tags.insert(name.into(), value.into());
    }
    if node.role == NodeRole::Server {
        tags.insert("port".into(), port.to_string().into());
    }
    json!({
        "Name": node.name.as_str(),
        "Addr": node.address,
        "Port": port,
        "Tags": tags,
        "Status": status(node.status),
        "ProtocolMin": 1,
        "ProtocolMax": 5,
        "ProtocolCur": 2,
        "DelegateMin": 2,
        "DelegateMax": 5,
        "DelegateCur": 4,
    })
}

/// Serf's numbers: 1 alive, 3 left, 4 failed.
fn status(status: NodeStatus) -> u8 {
    match status {
        NodeStatus::Alive => 1,
        NodeStatus::Left => 3,
        NodeStatus::Failed => 4,
    }
}
