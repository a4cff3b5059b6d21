//! The table of config entries and what one entry means for another.

use std::sync::Arc;

use imbl::OrdMap;
use purlin_model::config_entry::{ConfigBody, ConfigEntry, ConfigKind};
use purlin_model::intention::Rule;
use purlin_model::service::Protocol;
use purlin_model::{Fault, Namespace};
use serde::{Deserialize, Serialize};

/// The one name of proxy-defaults.
pub(super) const GLOBAL: &str = "global";

/// By kind and key; the key is the name, with its namespace before it where that is not the default.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Entries(OrdMap<(ConfigKind, String), Arc<ConfigEntry>>);

pub(super) fn entry_key(namespace: &Namespace, name: &str) -> String {
    if *namespace == Namespace::default() { name.into() } else { format!("{namespace}/{name}") }
}

impl Entries {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&self, kind: ConfigKind, key: &str) -> Option<&Arc<ConfigEntry>> {
        self.0.get(&(kind, key.to_owned()))
    }

    pub(super) fn of_kind(&self, kind: ConfigKind) -> impl Iterator<Item = (&String, &Arc<ConfigEntry>)> {
        let first = (kind, String::new());
        self.0
            .range(first..)
            .take_while(move |((of, _), _)| *of == kind)
            .map(|((_, key), entry)| (key, entry))
    }

    pub(super) fn insert(&mut self, key: String, entry: ConfigEntry) {
        self.0.insert((entry.kind(), key), Arc::new(entry));
    }

    pub(super) fn remove(&mut self, kind: ConfigKind, key: &str) -> bool {
        self.0.remove(&(kind, key.to_owned())).is_some()
    }

    /// The protocol that is declared for a service: its own, else that of all.
    pub(super) fn protocol(&self, key: &str) -> Option<Protocol> {
        let own = self.get(ConfigKind::ServiceDefaults, key).and_then(|entry| match &entry.body {
            ConfigBody::ServiceDefaults(defaults) => defaults.protocol,
            _ => None,
        });
        own.or_else(|| {
            self.get(ConfigKind::ProxyDefaults, GLOBAL).and_then(|entry| match &entry.body {
                ConfigBody::ProxyDefaults(defaults) => defaults.protocol,
                _ => None,
            })
        })
    }

    /// L7 permissions are kept only where requests can be told apart: an intention that cannot be enforced is none.
    pub(super) fn check_permissions(&self) -> Result<(), Fault> {
        for (key, entry) in self.of_kind(ConfigKind::ServiceIntentions) {
            let ConfigBody::ServiceIntentions(intentions) = &entry.body else { continue };
            if !intentions.sources.iter().any(|source| matches!(source.rule, Rule::L7(_))) {
                continue;
            }
            let protocol = self.protocol(key);
            if protocol.is_some_and(Protocol::is_http_like) {
                continue;
            }
            let declared = protocol.map_or("none is declared".into(), |p| format!("it is {}", p.as_str()));
            return Err(Fault::invalid(format!(
                "intentions of {key} have L7 permissions, which need protocol http, http2 or grpc, but {declared}: set \
                 protocol in service-defaults of {key} or in proxy-defaults"
            )));
        }
        Ok(())
    }
}
