//! The view that this host's proxy gets: built from the registry, the followed topics and the credentials, and from
//! nothing else. Pure, so that the same inputs give the same view after a restart without servers.
//!
//! What is not known is left out or denied, never guessed: no policy means deny, no credential means no identity.

mod local;
mod target;
mod topics;

pub mod driver;
pub mod names;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use purlin_model::config_entry::{ConfigBody, ConfigKind, ProxyDefaults, ServiceDefaults};
use purlin_model::identity::{Identity, TrustDomain};
use purlin_model::intention::{Action, Intention, Policy};
use purlin_model::node::Node;
use purlin_model::service::{Instance, ServiceKind, Upstream};
use purlin_model::topic::{Contents, MeshInfo, Record, Topic};
use purlin_model::view::{Credential, Listener, Part, PartKey, Settings, TargetKey};
use purlin_model::{Datacenter, ServiceKey};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::registry::LocalState;

pub use topics::wanted_topics;

/// Where nobody said how long to wait for a connection.
const CONNECT_TIMEOUT_MS: u64 = 5_000;
/// Where nobody said how long a silent client is waited for.
const DETECTION_TIMEOUT_MS: u64 = 100;

/// Everything a view is made from.
pub struct Inputs<'a> {
    /// This host, as it announces itself.
    pub node: &'a Node,
    /// Where its proxy takes mesh connections.
    pub inbound: &'a [SocketAddr],
    /// What this host says of that, over what the mesh says.
    pub detection_timeout: Option<Duration>,
    /// Addresses that are this host's own, beside loopback.
    pub own_addresses: &'a [IpAddr],
    pub mesh: &'a MeshInfo,
    pub local: &'a LocalState,
    pub credentials: &'a BTreeMap<ServiceKey, Arc<Credential>>,
    /// What is known of a topic.
    pub topic: &'a dyn Fn(&Topic) -> Option<Arc<Contents>>,
}

/// The parts, and what was left out and why, for the log.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Built {
    pub parts: BTreeMap<PartKey, Part>,
    pub skipped: Vec<String>,
}

/// Builds the view.
pub fn build(inputs: &Inputs<'_>) -> Built {
    let mut built = Built::default();
    let defaults = inputs.proxy_defaults();
    built.parts.insert(PartKey::Settings, Part::Settings(inputs.settings(&defaults)));
    for instance in meshed(inputs.local) {
        let key = instance.key();
        if let Some(credential) = inputs.credentials.get(&key) {
            built
                .parts
                .insert(PartKey::Credential(key.clone()), Part::Credential(Credential::clone(credential)));
        }
        let policy = PartKey::Policy(key.clone());
        built.parts.entry(policy).or_insert_with(|| Part::Policy(inputs.policy(&key)));
        if let Some(local) = local::instance(inputs, instance, &defaults) {
            built.parts.insert(PartKey::Local(instance.id.clone()), Part::Local(local));
        }
        for upstream in instance.mesh.iter().flat_map(|mesh| &mesh.upstreams) {
            inputs.add_upstream(&mut built, instance, upstream, &defaults);
        }
    }
    built
}

/// Instances of this host whose traffic the proxy carries. One that does the mesh's TLS itself is not among them.
pub fn meshed(local: &LocalState) -> impl Iterator<Item = &Instance> {
    local.services.values().map(|service| service.instance.as_ref()).filter(|instance| is_meshed(instance))
}

/// Whether a proxy stands before that instance.
fn is_meshed(instance: &Instance) -> bool {
    instance.mesh.is_some() && !instance.native && instance.kind == ServiceKind::Typical
}

/// A destination as this host names it; its own datacenter is not spelled out.
pub(crate) fn target_key(upstream: &Upstream, own: &Datacenter) -> TargetKey {
    TargetKey {
        service: upstream.key(),
        datacenter: upstream.datacenter.clone().filter(|datacenter| datacenter != own),
        peer: upstream.peer.clone(),
        port_name: upstream.port_name.clone(),
    }
}

impl Inputs<'_> {
    fn trust_domain(&self) -> &TrustDomain {
        &self.mesh.trust_domain
    }

    fn settings(&self, defaults: &ProxyDefaults) -> Settings {
        let own_timeout = self.detection_timeout.and_then(|span| u64::try_from(span.as_millis()).ok());
        Settings {
            node: self.node.name.clone(),
            datacenter: self.node.datacenter.clone(),
            trust_domain: self.mesh.trust_domain.clone(),
            inbound: self.inbound.to_vec(),
            roots: root_certificates(self.mesh),
            revoked: self.mesh.distrust.revoked.clone(),
            detection_timeout_ms: own_timeout
                .or(defaults.detection_timeout_ms)
                .unwrap_or(DETECTION_TIMEOUT_MS),
            locality: self.node.locality.clone(),
        }
    }

    /// All that can concern calls of that service. As long as one half is not known, nobody is let in.
    fn policy(&self, key: &ServiceKey) -> Policy {
        let of = |name: &str| (self.topic)(&Topic::Config(ConfigKind::ServiceIntentions, Some(name.into())));
        let (Some(exact), Some(wildcard)) = (of(key.name.as_str()), of("*")) else {
            return Policy::new(key.clone(), Action::Deny, Vec::new());
        };
        let intentions = intentions_of(&exact, key).chain(intentions_of(&wildcard, key)).collect();
        Policy::new(key.clone(), self.mesh.default_intention, intentions)
    }

    fn add_upstream(
        &self,
        built: &mut Built,
        instance: &Instance,
        upstream: &Upstream,
        defaults: &ProxyDefaults,
    ) {
        let Some(ip) = parse_ip(&upstream.local_bind_address) else {
            let address = &upstream.local_bind_address;
            built.skipped.push(format!(
                "upstream {} of {} has no listener: local_bind_address {address:?} is not an IP address",
                upstream.name, instance.id
            ));
            return;
        };
        let bind = SocketAddr::new(ip, upstream.local_bind_port);
        let target = target_key(upstream, &self.node.datacenter);
        let listener = Listener {
            bind,
            network_namespace: instance
                .mesh
                .as_ref()
                .and_then(|mesh| mesh.selector.network_namespace.clone()),
            source: instance.key(),
            source_instance: instance.id.clone(),
            target: target.clone(),
            connect_timeout_ms: upstream.connect_timeout_ms.unwrap_or(CONNECT_TIMEOUT_MS),
        };
        match built.parts.get(&PartKey::Listener(bind)) {
            Some(Part::Listener(holder)) => built.skipped.push(format!(
                "upstream {} of {} has no listener: {bind} is held by upstream {} of {}, choose another port",
                upstream.name, instance.id, holder.target, holder.source_instance
            )),
            _ => {
                built.parts.insert(PartKey::Listener(bind), Part::Listener(listener));
                let key = PartKey::Target(target.clone());
                built.parts.entry(key).or_insert_with(|| Part::Target(target::build(self, target, defaults)));
            }
        }
    }

    fn proxy_defaults(&self) -> ProxyDefaults {
        let topic = Topic::Config(ConfigKind::ProxyDefaults, Some("global".into()));
        match (self.topic)(&topic).as_deref().and_then(first_config) {
            Some(ConfigBody::ProxyDefaults(defaults)) => defaults,
            _ => ProxyDefaults::default(),
        }
    }

    fn service_defaults(&self, key: &ServiceKey) -> ServiceDefaults {
        let topic = Topic::Config(ConfigKind::ServiceDefaults, Some(key.name.to_string()));
        match (self.topic)(&topic).as_deref().and_then(first_config) {
            Some(ConfigBody::ServiceDefaults(defaults)) => defaults,
            _ => ServiceDefaults::default(),
        }
    }

    fn identity(&self, key: &ServiceKey, datacenter: &Datacenter) -> String {
        Identity::service(self.trust_domain().clone(), datacenter.clone(), key).to_string()
    }
}

/// Roots to trust, DER. One that cannot be read is left out: it could prove nobody.
pub(crate) fn root_certificates(mesh: &MeshInfo) -> Vec<Vec<u8>> {
    let roots = mesh.roots.iter().flat_map(|root| CertificateDer::pem_slice_iter(root.pem.as_bytes()));
    roots.filter_map(|root| Some(root.ok()?.to_vec())).collect()
}

fn first_config(contents: &Contents) -> Option<ConfigBody> {
    contents.records.values().find_map(|record| match record {
        Record::Config(entry) => Some(entry.body.clone()),
        _ => None,
    })
}

/// The intentions of one entry's topic that can concern calls of `key`.
fn intentions_of(contents: &Contents, key: &ServiceKey) -> impl Iterator<Item = Intention> {
    contents
        .records
        .values()
        .filter_map(|record| match record {
            Record::Config(entry) if entry.namespace == key.namespace => Some(entry),
            _ => None,
        })
        .filter_map(|entry| match &entry.body {
            ConfigBody::ServiceIntentions(body) => Some((entry.destination()?, body)),
            _ => None,
        })
        .filter(|(destination, _)| destination.matches(&key.name))
        .flat_map(|(destination, body)| {
            body.sources.iter().map(move |one| Intention {
                source: one.source.clone(),
                source_namespace: one.source_namespace.clone(),
                destination: destination.clone(),
                rule: one.rule.clone(),
            })
        })
}

/// An IP address, or the one name that means one everywhere.
fn parse_ip(text: &str) -> Option<IpAddr> {
    match text {
        "" | "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        text => text.trim_start_matches('[').trim_end_matches(']').parse().ok(),
    }
}
