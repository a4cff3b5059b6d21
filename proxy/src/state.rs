//! A view in the form that traffic is moved by: parsed once when it comes, shared by all workers, never changed.
//!
//! Only the parts that differ are parsed again. A part that cannot be used is left out and said, so what depends on
//! it is refused: nothing here guesses.

mod build;
mod credential;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use purlin_model::identity::Identity;
use purlin_model::service::Protocol;
use purlin_model::view::{Dial, Listener, LocalInstance, Settings, Target, TargetKey};
use purlin_model::{InstanceId, ServiceKey};
use purlin_wire::tls::{Anchors, Revoked};

use crate::authorize::Guard;
pub(crate) use build::{Builder, Update};
pub(crate) use credential::LocalIdentity;

/// A whole view. Cloning is cheap; what did not change is the same object as in the one before.
#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) revision: u64,
    pub(crate) settings: Option<Arc<Settings>>,
    pub(crate) anchors: Option<Anchors>,
    pub(crate) revoked: Revoked,
    pub(crate) identities: Arc<HashMap<ServiceKey, Arc<LocalIdentity>>>,
    /// By the name that a client asks for.
    pub(crate) names: Arc<HashMap<String, Name>>,
    pub(crate) instances: Arc<HashMap<InstanceId, Vec<Arc<Destination>>>>,
    pub(crate) listeners: Arc<HashMap<SocketAddr, Arc<Listener>>>,
    pub(crate) targets: Arc<HashMap<TargetKey, Arc<Target>>>,
    pub(crate) guards: Arc<HashMap<ServiceKey, Arc<Guard>>>,
}

/// What changed from one state to the next, for those who must act on it.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Destinations whose policy is another one now.
    pub(crate) policies: HashSet<ServiceKey>,
    /// Some local instance came, went or changed.
    pub(crate) locals: bool,
    pub(crate) listeners: bool,
    /// Some certificates are no longer trusted.
    pub(crate) revoked: bool,
}

/// What a server name stands for.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    pub(crate) service: ServiceKey,
    /// One for an instance's own name, any number for a service's.
    pub(crate) destinations: Vec<Arc<Destination>>,
}

/// One port of one local instance: where requests from the mesh end.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) instance: Arc<LocalInstance>,
    pub(crate) port_name: Option<String>,
    /// As declared; absent: told by the client's side or the first bytes.
    pub(crate) protocol: Option<Protocol>,
    pub(crate) dial: Dial,
    /// Shared by all workers and kept over changes, for `max_connections`.
    load: Arc<AtomicU32>,
}

/// A place among an instance's connections, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicU32>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Destination {
    /// A place, unless the instance has all the connections it may have.
    pub(crate) fn place(&self) -> Option<Place> {
        let Some(limit) = self.instance.max_connections else {
            self.load.fetch_add(1, Ordering::Relaxed);
            return Some(Place(self.load.clone()));
        };
        let taken = self
            .load
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |load| (load < limit).then_some(load + 1));
        taken.is_ok().then(|| Place(self.load.clone()))
    }

    fn load(&self) -> u32 {
        self.load.load(Ordering::Relaxed)
    }
}

impl Name {
    /// The least loaded instance, a healthy one where there is one.
    pub(crate) fn choose(&self) -> Option<&Arc<Destination>> {
        self.destinations.iter().min_by_key(|one| (!one.instance.healthy, one.load()))
    }
}

impl State {
    /// The SPIFFE URI of a service of this mesh and datacenter.
    pub(crate) fn identity_of(&self, service: &ServiceKey) -> Option<String> {
        let settings = self.settings.as_ref()?;
        let identity = Identity::service(settings.trust_domain.clone(), settings.datacenter.clone(), service);
        Some(identity.to_string())
    }

    /// The local instance that a name of the mesh stands for.
    pub(crate) fn destination(&self, server_name: &str) -> Option<&Arc<Destination>> {
        self.names.get(server_name).and_then(Name::choose)
    }
}

#[cfg(test)]
mod tests;
