//! Hosts, instances and checks, and the indices that find them. Every change goes through `Draft` here, which keeps
//! the indices true and names the records that readers must look at again.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use purlin_model::check::{Check, Status};
use purlin_model::node::Node;
use purlin_model::service::{Instance, ServiceEntry};
use purlin_model::topic::Topic;
use purlin_model::{CheckId, InstanceId, NodeId, NodeName, ServiceKey};

use super::Draft;

#[derive(Debug, Clone, Default)]
pub(super) struct Catalog {
    pub(super) hosts: OrdMap<NodeName, Arc<Host>>,
    pub(super) by_id: OrdMap<NodeId, NodeName>,
    pub(super) services: OrdMap<ServiceKey, Arc<Members>>,
    /// Instances by the addresses that are their own.
    pub(super) at: OrdMap<IpAddr, OrdSet<(NodeName, InstanceId)>>,
}

/// A node with all that is registered on it.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub(super) node: Arc<Node>,
    pub(super) instances: OrdMap<InstanceId, Arc<Instance>>,
    pub(super) checks: OrdMap<CheckId, Arc<Check>>,
    /// The checks of each instance; under `None` those of the node itself.
    pub(super) checks_of: OrdMap<Option<InstanceId>, OrdSet<CheckId>>,
}

/// The instances of one service, and what its summary tells of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Members {
    pub(super) instances: OrdSet<(NodeName, InstanceId)>,
    pub(super) tags: OrdMap<String, u32>,
    pub(super) meshed: u32,
}

impl Host {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self { node, instances: OrdMap::new(), checks: OrdMap::new(), checks_of: OrdMap::new() }
    }

    /// Everything that discovery says of one instance.
    pub(super) fn entry(&self, id: &InstanceId) -> Option<ServiceEntry> {
        let instance = self.instances.get(id)?.clone();
        let ids = |key: &Option<InstanceId>| self.checks_of.get(key).into_iter().flat_map(|ids| ids.iter());
        let mut checks: Vec<Arc<Check>> =
            ids(&None).chain(ids(&Some(id.clone()))).filter_map(|id| self.checks.get(id).cloned()).collect();
        checks.sort_by(|a, b| a.id.cmp(&b.id));
        Some(ServiceEntry { node: self.node.clone(), instance, checks })
    }

    pub(super) fn insert_check(&mut self, check: Arc<Check>) {
        self.remove_check(&check.id.clone());
        self.checks_of.entry(check.service_id.clone()).or_default().insert(check.id.clone());
        self.checks.insert(check.id.clone(), check);
    }

    fn remove_check(&mut self, id: &CheckId) -> Option<Arc<Check>> {
        let old = self.checks.remove(id)?;
        if let Some(ids) = self.checks_of.get_mut(&old.service_id) {
            ids.remove(id);
            if ids.is_empty() {
                self.checks_of.remove(&old.service_id);
            }
        }
        Some(old)
    }
}

impl Members {
    fn count(&mut self, node: &NodeName, instance: &Instance) {
        self.instances.insert((node.clone(), instance.id.clone()));
        for tag in OrdSet::from(&instance.tags) {
            *self.tags.entry(tag).or_insert(0) += 1;
        }
        self.meshed += u32::from(instance.mesh.is_some());
    }

    fn discount(&mut self, node: &NodeName, instance: &Instance) {
        self.instances.remove(&(node.clone(), instance.id.clone()));
        for tag in OrdSet::from(&instance.tags) {
            if let Some(count) = self.tags.get_mut(&tag) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.tags.remove(&tag);
                }
            }
        }
        self.meshed = self.meshed.saturating_sub(u32::from(instance.mesh.is_some()));
    }

    /// What the summary shows, to see whether it changed.
    fn shown(&self) -> (usize, bool, OrdSet<String>) {
        (self.instances.len(), self.meshed > 0, self.tags.keys().cloned().collect())
    }
}

pub(super) fn entry_key(node: &NodeName, id: &InstanceId) -> String {
    format!("{node}/{id}")
}

pub(super) fn check_key(node: &NodeName, id: &CheckId) -> String {
    format!("{node}/{id}")
}

impl Catalog {
    pub(super) fn host(&self, name: &NodeName) -> Option<&Arc<Host>> {
        self.hosts.get(name)
    }

    pub(super) fn count_instance(&mut self, node: &NodeName, instance: &Instance) {
        Arc::make_mut(self.services.entry(instance.key()).or_default()).count(node, instance);
        for address in instance.own_addresses() {
            self.at.entry(address).or_default().insert((node.clone(), instance.id.clone()));
        }
    }

    fn discount_instance(&mut self, node: &NodeName, instance: &Instance) {
        let key = instance.key();
        if let Some(members) = self.services.get_mut(&key) {
            Arc::make_mut(members).discount(node, instance);
            if members.instances.is_empty() {
                self.services.remove(&key);
            }
        }
        let place = (node.clone(), instance.id.clone());
        for address in instance.own_addresses() {
            let Some(there) = self.at.get_mut(&address) else { continue };
            there.remove(&place);
            if there.is_empty() {
                self.at.remove(&address);
            }
        }
    }
}

impl Draft {
    pub(super) fn host(&self, name: &NodeName) -> Option<&Arc<Host>> {
        self.state.catalog.host(name)
    }

    fn host_mut(&mut self, name: &NodeName) -> Option<&mut Host> {
        self.state.catalog.hosts.get_mut(name).map(Arc::make_mut)
    }

    /// Puts a node in place of the one of its name; equal content changes nothing.
    pub(super) fn put_node(&mut self, mut node: Node) {
        let name = node.name.clone();
        let old = self.host(&name).map(|host| host.node.clone());
        node.create_index = old.as_ref().map_or(self.revision, |old| old.create_index);
        node.modify_index = self.revision;
        if old.as_ref().is_some_and(|old| old.same_content(&node)) {
            return;
        }
        if let Some(id) = old.as_ref().and_then(|old| old.id) {
            self.state.catalog.by_id.remove(&id);
        }
        if let Some(id) = node.id {
            self.state.catalog.by_id.insert(id, name.clone());
        }
        let node = Arc::new(node);
        match self.host_mut(&name) {
            Some(host) => host.node = node,
            None => {
                self.state.catalog.hosts.insert(name.clone(), Arc::new(Host::new(node)));
            }
        }
        self.touch(Topic::Nodes, name.as_str());
        self.touch(Topic::Node(name.clone()), "node");
        self.touch_entries_of(&name);
    }

    pub(super) fn drop_node(&mut self, name: &NodeName) {
        let Some(host) = self.host(name).cloned() else { return };
        self.end_sessions_of_node(name);
        for id in host.instances.keys() {
            self.drop_instance(name, id);
        }
        for id in host.checks.keys() {
            self.drop_check(name, id);
        }
        self.state.catalog.hosts.remove(name);
        if let Some(id) = host.node.id {
            self.state.catalog.by_id.remove(&id);
        }
        self.touch(Topic::Nodes, name.as_str());
        self.touch(Topic::Node(name.clone()), "node");
    }

    /// Every instance of a node is seen with the node and its checks.
    fn touch_entries_of(&mut self, name: &NodeName) {
        let Some(host) = self.host(name).cloned() else { return };
        for instance in host.instances.values() {
            self.touch(Topic::Service(instance.key()), entry_key(name, &instance.id));
        }
    }

    /// Puts an instance on a node that exists; equal content changes nothing.
    pub(super) fn put_instance(&mut self, node: &NodeName, mut instance: Instance) {
        let Some(host) = self.host(node) else { return };
        let old = host.instances.get(&instance.id).cloned();
        instance.create_index = old.as_ref().map_or(self.revision, |old| old.create_index);
        instance.modify_index = self.revision;
        if old.as_ref().is_some_and(|old| old.same_content(&instance)) {
            return;
        }
        let keys: OrdSet<ServiceKey> =
            old.iter().map(|old| old.key()).chain(std::iter::once(instance.key())).collect();
        let before = self.summaries(&keys);
        if let Some(old) = &old {
            self.state.catalog.discount_instance(node, old);
        }
        self.state.catalog.count_instance(node, &instance);
        self.touch_summaries(&keys, before);
        let (id, instance) = (instance.id.clone(), Arc::new(instance));
        if let Some(host) = self.host_mut(node) {
            host.instances.insert(id.clone(), instance.clone());
        }
        for key in keys {
            self.touch(Topic::Service(key), entry_key(node, &id));
        }
        self.touch(Topic::Node(node.clone()), format!("instance/{id}"));
        self.refresh_checks_of(node, &instance);
    }

    pub(super) fn drop_instance(&mut self, node: &NodeName, id: &InstanceId) -> bool {
        let Some(instance) = self.host(node).and_then(|host| host.instances.get(id).cloned()) else {
            return false;
        };
        for check in self.checks_of_instance(node, id) {
            self.drop_check(node, &check);
        }
        let keys = OrdSet::unit(instance.key());
        let before = self.summaries(&keys);
        self.state.catalog.discount_instance(node, &instance);
        self.touch_summaries(&keys, before);
        if let Some(host) = self.host_mut(node) {
            host.instances.remove(id);
        }
        self.touch(Topic::Service(instance.key()), entry_key(node, id));
        self.touch(Topic::Node(node.clone()), format!("instance/{id}"));
        true
    }

    pub(super) fn checks_of_instance(&self, node: &NodeName, id: &InstanceId) -> Vec<CheckId> {
        let of = |host: &Arc<Host>| host.checks_of.get(&Some(id.clone())).cloned();
        self.host(node).and_then(of).into_iter().flatten().collect()
    }

    /// A check repeats the name and tags of its instance, so it follows them.
    fn refresh_checks_of(&mut self, node: &NodeName, instance: &Instance) {
        for id in self.checks_of_instance(node, &instance.id) {
            let check = self.host(node).and_then(|host| host.checks.get(&id).cloned());
            if let Some(check) = check {
                let (service_name, service_tags) = (Some(instance.name.clone()), instance.tags.clone());
                self.put_check(Check { service_name, service_tags, ..(*check).clone() });
            }
        }
    }

    /// Puts a check on its node, which exists; equal content changes nothing.
    pub(super) fn put_check(&mut self, mut check: Check) {
        let node = check.node.clone();
        let Some(host) = self.host(&node) else { return };
        let old = host.checks.get(&check.id).cloned();
        check.create_index = old.as_ref().map_or(self.revision, |old| old.create_index);
        check.modify_index = self.revision;
        if old.as_ref().is_some_and(|old| old.same_content(&check)) {
            return;
        }
        if let Some(old) = &old {
            self.touch_check(old);
        }
        self.touch_check(&check);
        let ends = (check.status == Status::Critical).then(|| check.id.clone());
        if let Some(host) = self.host_mut(&node) {
            host.insert_check(Arc::new(check));
        }
        if let Some(id) = ends {
            self.end_sessions_of_check(&node, &id);
        }
    }

    pub(super) fn drop_check(&mut self, node: &NodeName, id: &CheckId) -> bool {
        let removed = self.host_mut(node).and_then(|host| host.remove_check(id));
        if let Some(check) = &removed {
            self.touch_check(check);
            self.end_sessions_of_check(node, id);
        }
        removed.is_some()
    }

    fn touch_check(&mut self, check: &Check) {
        let key = check_key(&check.node, &check.id);
        self.touch(Topic::Checks(None), key.clone());
        self.touch(Topic::Checks(Some(check.status)), key);
        self.touch(Topic::Node(check.node.clone()), format!("check/{}", check.id));
        let Some(id) = &check.service_id else {
            return self.touch_entries_of(&check.node.clone());
        };
        let instance = self.host(&check.node).and_then(|host| host.instances.get(id).cloned());
        if let Some(instance) = instance {
            self.touch(Topic::Service(instance.key()), entry_key(&check.node, id));
        }
    }

    fn summaries(&self, keys: &OrdSet<ServiceKey>) -> Vec<Option<(usize, bool, OrdSet<String>)>> {
        keys.iter().map(|key| self.state.catalog.services.get(key).map(|members| members.shown())).collect()
    }

    fn touch_summaries(
        &mut self,
        keys: &OrdSet<ServiceKey>,
        before: Vec<Option<(usize, bool, OrdSet<String>)>>,
    ) {
        let after = self.summaries(keys);
        for ((key, before), after) in keys.iter().zip(before).zip(after) {
            if before != after {
                self.touch(Topic::Services, key.to_string());
            }
        }
    }
}
