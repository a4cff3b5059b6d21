//! What this host counts and measures, as Prometheus text: its own, its server's if one runs here, and its proxy's.
//!
//! Nothing is global: each agent has a registry of its own, and its parts register their figures there once.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::core::{Core, SyncState};

mod optional;

use optional::OptionalSeconds;

/// How long a scrape waits for the proxy.
const PROXY_ANSWER: Duration = Duration::from_secs(2);
/// What ends an exposition; there must be one end only.
const END: &str = "# EOF\n";

const STABILITY: &str = "static_stability";
const STABILITY_HELP: &str =
    "How long services go on if no server can be reached: until the first leaf certificate expires";

/// Another part of this process that has figures of its own, such as a server.
#[derive(Clone)]
pub struct Source(pub Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>);

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

/// Cheap to clone; all clones count into the same registry.
#[derive(Clone)]
pub struct Metrics(Arc<Shared>);

struct Shared {
    registry: Mutex<Registry>,
    sources: Vec<Source>,
    own: Own,
}

type Seconds = Gauge<f64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ServiceLabel {
    pub(crate) service: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ResultLabel {
    pub(crate) result: &'static str,
}

/// The agent core's figures.
#[derive(Debug, Clone, Default)]
pub(crate) struct Own {
    pub(crate) session_connected: Gauge,
    pub(crate) sessions: Counter,
    pub(crate) session_failures: Counter,
    /// Empty while nothing has a certificate: then none can run out.
    pub(crate) static_stability: Stability,
    pub(crate) leaf_expiry: Family<ServiceLabel, Seconds>,
    pub(crate) leaf_signings: Family<ResultLabel, Counter>,
    /// Empty where the server of this host renews it.
    pub(crate) node_certificate_expiry: NodeExpiry,
    pub(crate) sync_healthy: Gauge,
    pub(crate) sync_rounds: Family<ResultLabel, Counter>,
    pub(crate) topics: Gauge,
    pub(crate) topics_pinned: Gauge,
    pub(crate) mirror_revision: Gauge,
    pub(crate) view_revision: Gauge,
    pub(crate) proxy_connected: Gauge,
    pub(crate) proxy_revision: Gauge,
    pub(crate) proxy_starts: Counter,
    pub(crate) failed_listeners: Gauge,
}

/// The gauge under its name.
#[derive(Debug, Clone)]
pub(crate) struct Stability(pub(crate) OptionalSeconds);

impl Default for Stability {
    fn default() -> Self {
        Self(OptionalSeconds::new(STABILITY, STABILITY_HELP))
    }
}

/// The gauge under its name.
#[derive(Debug, Clone)]
pub(crate) struct NodeExpiry(pub(crate) OptionalSeconds);

impl Default for NodeExpiry {
    fn default() -> Self {
        Self(OptionalSeconds::new(
            "node_certificate_expiry",
            "How long the certificate of this host is still valid",
        ))
    }
}

impl Metrics {
    /// A registry with the agent's own figures; `sources` are appended to each answer.
    pub fn new(sources: Vec<Source>) -> Self {
        let own = Own::default();
        let mut registry = Registry::with_prefix("purlin_agent");
        own.register(&mut registry);
        Self(Arc::new(Shared { registry: Mutex::new(registry), sources, own }))
    }

    /// Lets a part of the agent register its figures; their names get the prefix `purlin_agent_`.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.0.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn own(&self) -> &Own {
        &self.0.own
    }

    fn encode(&self) -> String {
        let mut text = String::new();
        let registry = self.0.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

impl Own {
    fn register(&self, to: &mut Registry) {
        to.register(
            "session_connected",
            "1 while a session to a server is open",
            self.session_connected.clone(),
        );
        to.register("sessions", "Sessions to servers that were opened", self.sessions.clone());
        to.register("session_failures", "Tries to reach a server that failed", self.session_failures.clone());
        to.register_collector(Box::new(self.static_stability.0.clone()));
        let help = "How long the leaf certificate of a service is still valid";
        to.register_with_unit("leaf_expiry", help, Unit::Seconds, self.leaf_expiry.clone());
        to.register("leaf_signings", "Leaf certificates asked for, by result", self.leaf_signings.clone());
        to.register_collector(Box::new(self.node_certificate_expiry.0.clone()));
        let help = "1 if the catalog has what this host registered, as far as is known";
        to.register("sync_healthy", help, self.sync_healthy.clone());
        to.register(
            "sync_rounds",
            "Comparisons of registry and catalog, by result",
            self.sync_rounds.clone(),
        );
        to.register("topics", "Topics of the servers that are kept here", self.topics.clone());
        to.register("topics_pinned", "Of these, those followed for good", self.topics_pinned.clone());
        to.register("mirror_revision", "Revision as of which all topics are", self.mirror_revision.clone());
        to.register(
            "view_revision",
            "Revision of the proxy's view as built here",
            self.view_revision.clone(),
        );
        to.register(
            "proxy_connected",
            "1 while the proxy of this host is connected",
            self.proxy_connected.clone(),
        );
        to.register(
            "proxy_revision",
            "Revision of the view that the proxy applied",
            self.proxy_revision.clone(),
        );
        to.register("proxy_starts", "Proxy processes that this agent started", self.proxy_starts.clone());
        to.register(
            "failed_listeners",
            "Listeners that the proxy could not open",
            self.failed_listeners.clone(),
        );
    }
}

/// Everything that this host measures.
pub(crate) async fn text(core: &Core) -> String {
    refresh(core);
    let metrics = core.metrics();
    let mut text = metrics.encode();
    for source in &metrics.0.sources {
        append(&mut text, &(source.0)().await);
    }
    if let Some(proxy) = core.0.proxy.scrape(PROXY_ANSWER).await {
        append(&mut text, &proxy);
    }
    text
}

/// Sets the gauges that are read off the state when somebody asks.
fn refresh(core: &Core) {
    let own = core.metrics().own();
    let inner = &core.0;
    let session = core.session();
    own.session_connected.set(i64::from(session.is_connected()));
    own.sync_healthy.set(i64::from(core.sync_state() == SyncState::Synced));
    let (topics, pinned) = inner.mirror.counts();
    own.topics.set(as_gauge(topics as u64));
    own.topics_pinned.set(as_gauge(pinned as u64));
    own.mirror_revision.set(as_gauge(inner.mirror.progress().0));
    own.view_revision.set(as_gauge(core.view().revision));
    let proxy = core.proxy();
    own.proxy_connected.set(i64::from(proxy.connected));
    own.proxy_revision.set(as_gauge(proxy.applied));
    own.failed_listeners.set(as_gauge(proxy.failed_listeners.len() as u64));
    inner.workloads.measure(own, core.config().clock.now());
}

fn as_gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Joins two expositions into one.
fn append(text: &mut String, more: &str) {
    if text.ends_with(END) {
        text.truncate(text.len() - END.len());
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(more);
    if !text.ends_with(END) {
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(END);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_expositions_have_one_end() {
        let mut text = Metrics::new(Vec::new()).encode();
        assert!(text.contains("purlin_agent_session_connected 0"), "{text}");
        append(&mut text, "purlin_proxy_requests_total 1\n# EOF\n");
        append(&mut text, "purlin_server_writes_total 1");
        assert_eq!(text.matches("# EOF").count(), 1);
        assert!(text.ends_with("purlin_server_writes_total 1\n# EOF\n"));
    }
}
