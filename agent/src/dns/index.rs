//! Lookups that a topic's own keys do not serve: names without regard to case, and nodes by address.
//!
//! Built once for each state of a topic, by whoever asks first.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use purlin_model::node::{Node, NodeStatus};
use purlin_model::topic::{Contents, Record};
use purlin_model::{NodeName, ServiceName};

#[derive(Debug, Default)]
pub(super) struct Index {
    services: Cached<HashMap<String, ServiceName>>,
    nodes: Cached<Nodes>,
}

#[derive(Debug, Default)]
pub(super) struct Nodes {
    by_name: HashMap<String, String>,
    by_address: HashMap<IpAddr, NodeName>,
}

/// Something computed from the contents of a topic.
#[derive(Debug)]
struct Cached<T>(Mutex<Option<(Arc<Contents>, Arc<T>)>>);

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Cached<T> {
    fn get(&self, contents: &Arc<Contents>, compute: impl FnOnce(&Contents) -> T) -> Arc<T> {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, value)) = &*cached
            && Arc::ptr_eq(of, contents)
        {
            return value.clone();
        }
        let value = Arc::new(compute(contents));
        *cached = Some((contents.clone(), value.clone()));
        value
    }
}

impl Index {
    /// The service whose name is `lower` but for case; `contents` is the topic of all services.
    pub(super) fn service(&self, contents: &Arc<Contents>, lower: &str) -> Option<ServiceName> {
        let compute = |contents: &Contents| {
            let names = contents.records.values().filter_map(|record| match record {
                Record::ServiceSummary(summary) if summary.namespace.as_str() == "default" => {
                    Some(summary.name.clone())
                }
                _ => None,
            });
            names.map(|name| (name.as_str().to_ascii_lowercase(), name)).collect()
        };
        self.services.get(contents, compute).get(lower).cloned()
    }

    /// The node whose name is `lower` but for case; `contents` is the topic of all nodes.
    pub(super) fn node<'a>(&self, contents: &'a Arc<Contents>, lower: &str) -> Option<&'a Node> {
        let nodes = self.nodes.get(contents, Nodes::of);
        match contents.records.get(nodes.by_name.get(lower)?)? {
            Record::Node(node) => Some(node),
            _ => None,
        }
    }

    /// The node of that address.
    pub(super) fn node_at(&self, contents: &Arc<Contents>, address: IpAddr) -> Option<NodeName> {
        self.nodes.get(contents, Nodes::of).by_address.get(&address).cloned()
    }
}

impl Nodes {
    fn of(contents: &Contents) -> Self {
        let mut nodes = Self::default();
        for (key, record) in &contents.records {
            let Record::Node(node) = record else { continue };
            // Its address may be another's by now.
            if node.status == NodeStatus::Left {
                continue;
            }
            nodes.by_name.insert(node.name.as_str().to_ascii_lowercase(), key.clone());
            let tagged = node.tagged_addresses.values().map(String::as_str);
            for address in tagged.chain([node.address.as_str()]).filter_map(|text| text.parse().ok()) {
                nodes.by_address.insert(address, node.name.clone());
            }
        }
        nodes
    }
}
