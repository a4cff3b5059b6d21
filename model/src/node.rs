//! Hosts, as the catalog knows them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Datacenter, NodeId, NodeName, Revision};

/// Region and zone of a host; empty where nobody said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locality {
    #[serde(default)]
    pub region: String,
    #[serde(default)]
    pub zone: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeRole {
    Server,
    Agent,
    /// Registered through the catalog API; nobody of ours runs there.
    #[default]
    External,
}

/// What the servers believe of a host. An external node is always alive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeStatus {
    #[default]
    Alive,
    /// It said goodbye.
    Left,
    /// Its session broke and nobody could reach it.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Absent only for external nodes.
    #[serde(default)]
    pub id: Option<NodeId>,
    pub name: NodeName,
    #[serde(default)]
    pub datacenter: Datacenter,
    /// IPv4, IPv6 or (external nodes) a DNS name.
    pub address: String,
    #[serde(default)]
    pub tagged_addresses: BTreeMap<String, String>,
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
    #[serde(default)]
    pub locality: Option<Locality>,
    /// Where this host's proxy takes mesh connections (on `address`); absent when it runs none.
    #[serde(default)]
    pub mesh_port: Option<u16>,
    #[serde(default)]
    pub role: NodeRole,
    #[serde(default)]
    pub status: NodeStatus,
    /// Of the software: `0.1.0`.
    #[serde(default)]
    pub version: String,
    #[serde(default)]
    pub create_index: Revision,
    #[serde(default)]
    pub modify_index: Revision,
}

impl Node {
    /// Same but for the revisions, which only the state machine writes.
    pub fn same_content(&self, other: &Self) -> bool {
        let at = |node: &Self| Self { create_index: Revision(0), modify_index: Revision(0), ..node.clone() };
        at(self) == at(other)
    }
}
