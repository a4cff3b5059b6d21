//! From parts of a view to the next state, touching what changed and nothing else.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use purlin_model::view::{Listener, LocalInstance, Part, PartKey, Settings, Target, View};
use purlin_model::{InstanceId, Millis, ServiceKey};
use purlin_wire::tls::{self, Anchors};

use super::credential::Trust;
use super::{Changes, Destination, LocalIdentity, Name, State};
use crate::authorize::Guard;

/// The last view as it came, and the state made of it.
#[derive(Default)]
pub(crate) struct Builder {
    view: View,
    state: State,
    trust: Option<Trust>,
}

/// Parts that came in one or more frames and take effect together.
#[derive(Debug, Default)]
pub(crate) struct Update {
    pub(crate) revision: u64,
    pub(crate) reset: bool,
    pub(crate) set: BTreeMap<PartKey, Part>,
    pub(crate) removed: BTreeSet<PartKey>,
}

impl Builder {
    pub(crate) fn revision(&self) -> u64 {
        self.view.revision
    }

    pub(crate) fn parts(&self) -> usize {
        self.view.parts.len()
    }

    pub(crate) fn state(&self) -> State {
        self.state.clone()
    }

    /// When each certificate that is in use expires.
    pub(crate) fn certificates(&self) -> BTreeMap<String, Millis> {
        self.state.identities.iter().map(|(service, one)| (service.to_string(), one.not_after)).collect()
    }

    /// Takes the update in whole. The texts name parts that cannot be used.
    pub(crate) fn apply(&mut self, update: Update) -> (Changes, Vec<String>) {
        let changed = self.merge(update);
        let mut changes = Changes::default();
        let mut problems = Vec::new();
        let before = self.state.revoked.clone();
        let trust_changed = changed.contains(&PartKey::Settings) && self.take_settings(&mut problems);
        changes.revoked = self.state.revoked != before;
        let mut credentials: BTreeSet<ServiceKey> = BTreeSet::new();
        for key in &changed {
            match key {
                PartKey::Settings => {}
                PartKey::Credential(service) => drop(credentials.insert(service.clone())),
                PartKey::Local(id) => {
                    self.take_local(id);
                    changes.locals = true;
                }
                PartKey::Listener(bind) => {
                    let part = self.view.parts.get(key).and_then(as_listener);
                    replace(&mut self.state.listeners, *bind, part);
                    changes.listeners = true;
                }
                PartKey::Target(target) => {
                    let part = self.view.parts.get(key).and_then(as_target);
                    replace(&mut self.state.targets, target.clone(), part);
                }
                PartKey::Policy(service) => {
                    let guard = self.view.parts.get(key).and_then(as_guard);
                    replace(&mut self.state.guards, service.clone(), guard);
                    changes.policies.insert(service.clone());
                }
            }
        }
        if trust_changed {
            credentials = self.credentials();
        }
        for service in credentials {
            self.take_credential(&service, &mut problems);
        }
        if changes.locals {
            self.name_instances();
            self.spare_gone_services(&mut changes.policies);
        }
        (changes, problems)
    }

    /// The keys whose parts are different now.
    fn merge(&mut self, update: Update) -> Vec<PartKey> {
        let mut changed: HashSet<PartKey> = HashSet::new();
        self.view.revision = update.revision;
        self.state.revision = update.revision;
        let mut removed = update.removed;
        if update.reset {
            removed.extend(self.view.parts.keys().filter(|key| !update.set.contains_key(key)).cloned());
        }
        for key in removed {
            if self.view.parts.remove(&key).is_some() {
                changed.insert(key);
            }
        }
        for (key, part) in update.set {
            if self.view.parts.get(&key) != Some(&part) {
                self.view.parts.insert(key.clone(), part);
                changed.insert(key);
            }
        }
        let mut changed: Vec<_> = changed.into_iter().collect();
        changed.sort();
        changed
    }

    /// Whether whom we trust is different now.
    fn take_settings(&mut self, problems: &mut Vec<String>) -> bool {
        let new = self.view.settings().cloned();
        let old = self.state.settings.take();
        let same = |a: &Settings, b: &Settings| {
            a.roots == b.roots && a.trust_domain == b.trust_domain && a.revoked == b.revoked
        };
        let trust_changed = match (&old, &new) {
            (Some(old), Some(new)) => !same(old, new),
            (None, None) => false,
            _ => true,
        };
        if trust_changed {
            self.trust = new.as_ref().and_then(|settings| {
                let roots: Vec<_> = settings.roots.iter().cloned().map(Into::into).collect();
                let store = tls::root_store(&roots)
                    .map_err(|error| problems.push(format!("roots of {}: {error}", settings.trust_domain)))
                    .ok()?;
                let revoked = settings.revoked.iter().filter_map(|text| tls::fingerprint_of_hex(text));
                self.state.revoked = Arc::new(revoked.collect());
                let anchors = Anchors::new(store, self.state.revoked.clone());
                Some(Trust { domain: settings.trust_domain.clone(), anchors })
            });
            self.state.anchors = self.trust.as_ref().map(|trust| trust.anchors.clone());
        }
        self.state.settings = new.map(Arc::new);
        trust_changed
    }

    fn credentials(&self) -> BTreeSet<ServiceKey> {
        let in_view = self.view.parts.keys().filter_map(|key| match key {
            PartKey::Credential(service) => Some(service.clone()),
            _ => None,
        });
        in_view.chain(self.state.identities.keys().cloned()).collect()
    }

    /// One that cannot be used leaves the old one in force, which is better than none.
    fn take_credential(&mut self, service: &ServiceKey, problems: &mut Vec<String>) {
        let part = self.view.parts.get(&PartKey::Credential(service.clone()));
        let (Some(Part::Credential(credential)), Some(trust)) = (part, &self.trust) else {
            return replace(&mut self.state.identities, service.clone(), None);
        };
        let roots = self.state.settings.as_ref().map_or(&[][..], |settings| &settings.roots[..]);
        match LocalIdentity::new(credential, roots, trust) {
            Ok(identity) => {
                replace(&mut self.state.identities, service.clone(), Some(Arc::new(identity)));
            }
            Err(error) => problems.push(format!("certificate of {service}: {error}")),
        }
    }

    fn take_local(&mut self, id: &InstanceId) {
        let old = self.state.instances.get(id).cloned().unwrap_or_default();
        let part = self.view.parts.get(&PartKey::Local(id.clone()));
        let new = match part {
            Some(Part::Local(instance)) => Some(destinations(&Arc::new(instance.clone()), &old)),
            _ => None,
        };
        replace(&mut self.state.instances, id.clone(), new);
    }

    fn name_instances(&mut self) {
        let mut names: HashMap<String, Name> = HashMap::new();
        for destination in self.state.instances.values().flatten() {
            let instance = &destination.instance;
            let port = instance.ports.iter().find(|port| port.name == destination.port_name);
            for name in port.iter().flat_map(|port| [&port.server_name, &port.service_server_name]) {
                let entry = names
                    .entry(name.clone())
                    .or_insert_with(|| Name { service: instance.service.clone(), destinations: Vec::new() });
                entry.destinations.push(destination.clone());
            }
        }
        self.state.names = Arc::new(names);
    }

    /// With its last instance a service's policy goes too. That is a farewell, not a prohibition: what is under way
    /// may end by itself.
    fn spare_gone_services(&self, policies: &mut HashSet<ServiceKey>) {
        policies.retain(|service| {
            let has_policy = self.state.guards.contains_key(service);
            has_policy || self.state.instances.values().flatten().any(|one| one.instance.service == *service)
        });
    }
}

fn destinations(instance: &Arc<LocalInstance>, old: &[Arc<Destination>]) -> Vec<Arc<Destination>> {
    let ports = instance.ports.iter();
    ports
        .map(|port| {
            let before = old.iter().find(|one| one.port_name == port.name);
            Arc::new(Destination {
                instance: instance.clone(),
                port_name: port.name.clone(),
                protocol: port.protocol.or(instance.protocol),
                dial: port.dial.clone(),
                load: before.map_or_else(|| Arc::new(AtomicU32::new(0)), |before| before.load.clone()),
            })
        })
        .collect()
}

fn as_listener(part: &Part) -> Option<Arc<Listener>> {
    match part {
        Part::Listener(listener) => Some(Arc::new(listener.clone())),
        _ => None,
    }
}

fn as_target(part: &Part) -> Option<Arc<Target>> {
    match part {
        Part::Target(target) => Some(Arc::new(target.clone())),
        _ => None,
    }
}

fn as_guard(part: &Part) -> Option<Arc<Guard>> {
    match part {
        Part::Policy(policy) => Some(Arc::new(Guard::new(policy))),
        _ => None,
    }
}

fn replace<K: Eq + Hash + Clone, V: Clone>(map: &mut Arc<HashMap<K, V>>, key: K, value: Option<V>) {
    let map = Arc::make_mut(map);
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}
