//! Which topics a host follows for good: what its proxy, its registry and its session cannot do without.

use std::collections::BTreeSet;

use purlin_model::config_entry::ConfigKind;
use purlin_model::topic::Topic;
use purlin_model::{NodeName, limit};

use super::meshed;
use crate::registry::LocalState;

/// Left for what is asked for on demand.
const MOST: usize = limit::TOPICS_PER_SESSION - crate::mirror::WARM_TOPICS;

/// What to follow for good. The flag tells that there was more than a session can follow.
pub fn wanted_topics(node: &NodeName, local: &LocalState) -> (BTreeSet<Topic>, bool) {
    let config = |kind, name: &str| Topic::Config(kind, Some(name.to_owned()));
    let mut topics = BTreeSet::from([
        Topic::Mesh,
        Topic::Servers,
        Topic::Node(node.clone()),
        config(ConfigKind::ProxyDefaults, "global"),
        config(ConfigKind::ServiceIntentions, "*"),
    ]);
    for instance in meshed(local) {
        let name = instance.name.as_str();
        let mut add =
            vec![config(ConfigKind::ServiceIntentions, name), config(ConfigKind::ServiceDefaults, name)];
        for upstream in instance.mesh.iter().flat_map(|mesh| &mesh.upstreams) {
            let service = upstream.key();
            add.push(config(ConfigKind::ServiceDefaults, service.name.as_str()));
            // Not for the proxy: whoever asks on this host whether it may call gets the verdict without a server, too.
            add.push(config(ConfigKind::ServiceIntentions, service.name.as_str()));
            add.push(Topic::Service(service));
        }
        add.retain(|topic| !topics.contains(topic));
        if topics.len() + add.len() > MOST {
            return (topics, true);
        }
        topics.extend(add);
    }
    // What runs here is found here, by DNS and the API, after a start without servers too; one that does the mesh's TLS
    // itself asks for verdicts. What the proxy needs goes first.
    for instance in local.services.values().map(|service| &service.instance) {
        let policy = instance.native.then(|| config(ConfigKind::ServiceIntentions, instance.name.as_str()));
        for topic in policy.into_iter().chain([Topic::Service(instance.key())]) {
            if topics.len() >= MOST && !topics.contains(&topic) {
                return (topics, true);
            }
            topics.insert(topic);
        }
    }
    (topics, false)
}
