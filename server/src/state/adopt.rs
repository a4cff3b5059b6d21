//! What becomes of a running mesh when the state of a snapshot takes its place.
//!
//! The snapshot gives what operators and services wrote: catalog, configuration, intentions, and every table that is
//! not named here. What makes the running mesh *this* mesh stays as it is: its trust domain, roots and sealed root
//! key, its servers and their intermediates, who its members are and which certificates count no more, its join
//! tokens, and what became of the last requests. A host that is alive speaks for itself: what it runs is what it said
//! last, not what it ran when the snapshot was made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use purlin_model::node::{Node, NodeRole, NodeStatus};
use purlin_model::{Millis, NodeId, NodeName, Revision};

use super::State;
use super::catalog::Host;
use super::codec::{StoredHost, index, store};
use super::node::alive_check;
use super::restore::Restoring;
use super::touch::Touches;

impl State {
    /// `self` is the running state, already told which history it goes on as; everything changed at `revision`.
    pub(super) fn adopt(&self, mut restored: Self, revision: Revision, at: Millis) -> Self {
        let hosts = self.hosts_after(&restored);
        restored.catalog = index(hosts);
        restored.applied = revision;
        restored.mesh = self.mesh.clone();
        restored.certificates = self.certificates.clone();
        restored.tokens = self.tokens.clone();
        restored.requests = self.requests.clone();
        restored.history = self.history.clone();
        restored.restoring = Restoring::default();
        restored.touches = Touches::all_at(revision);
        restored.settle_members(revision, at)
    }

    fn hosts_after(&self, restored: &Self) -> Vec<StoredHost> {
        let mut hosts: BTreeMap<NodeName, StoredHost> = BTreeMap::new();
        let mut ids: BTreeSet<NodeId> = BTreeSet::new();
        for (name, host) in self.catalog.hosts.iter().filter(|(_, host)| is_member(&host.node)) {
            let before = restored.catalog.hosts.get(name);
            ids.extend(host.node.id);
            hosts.insert(name.clone(), member_after(host, before.map(|host| &**host)));
        }
        for (name, host) in &restored.catalog.hosts {
            let known = hosts.contains_key(name) || host.node.id.is_some_and(|id| ids.contains(&id));
            // A server of the snapshot that does not run here is nobody's server any more.
            if !known && host.node.role != NodeRole::Server {
                hosts.insert(name.clone(), store(host));
            }
        }
        hosts.into_values().collect()
    }

    /// Members of the snapshot whom this mesh does not know are not alive here, whatever the snapshot says.
    fn settle_members(self, revision: Revision, at: Millis) -> Self {
        let known = |name: &NodeName| self.certificates.has(name) || self.mesh.servers.contains_key(name);
        let strangers: Vec<Node> = self
            .catalog
            .hosts
            .values()
            .filter(|host| is_member(&host.node) && host.node.status == NodeStatus::Alive)
            .filter(|host| !known(&host.node.name))
            .map(|host| Node { status: NodeStatus::Failed, ..(*host.node).clone() })
            .collect();
        let mut draft = self.draft(revision, at);
        for node in strangers {
            // It cannot fail: the check's id is a constant.
            let _ = draft.put_member(node);
        }
        draft.state
    }
}

fn is_member(node: &Node) -> bool {
    node.role != NodeRole::External && node.id.is_some()
}

/// A member of the running mesh: as it is, unless it is down and the snapshot knows what it ran.
fn member_after(running: &Host, before: Option<&Host>) -> StoredHost {
    let before = before.filter(|before| before.node.id == running.node.id);
    match before {
        Some(before) if running.node.status != NodeStatus::Alive => {
            let mut stored = store(before);
            stored.node = running.node.clone();
            if let Ok(alive) = alive_check(&running.node) {
                stored.checks.retain(|check| check.id != alive.id);
                stored.checks.push(Arc::new(alive));
            }
            stored
        }
        _ => store(running),
    }
}
