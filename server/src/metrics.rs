//! What operators see of a server, in Prometheus' text form. Every bound of this crate has its figure here.

use std::sync::atomic::AtomicU64;
use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use purlin_wire::quic::QuicServer;

use crate::rpc::Service;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    /// `ok`, or the kind of the fault.
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

/// Counters that live as long as the server; everything else is looked up when it is asked for.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    calls: Family<CallLabels, Counter>,
    signed: Family<KindLabels, Counter>,
    verdicts: Family<KindLabels, Counter>,
    probes: Family<ResultLabels, Counter>,
    refused: Family<ReasonLabels, Counter>,
    sessions: Gauge,
}

/// Counts a session as long as it is held.
pub(crate) struct CountedSession(Gauge);

impl Drop for CountedSession {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    pub(crate) fn call(&self, method: &'static str, fault: Option<&'static str>) {
        self.calls.get_or_create(&CallLabels { method, result: fault.unwrap_or("ok") }).inc();
    }

    pub(crate) fn signed(&self, kind: &'static str) {
        self.signed.get_or_create(&KindLabels { kind }).inc();
    }

    /// Somebody was turned away at the door or in the middle of a word.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(crate) fn verdict(&self, kind: &'static str) {
        self.verdicts.get_or_create(&KindLabels { kind }).inc();
    }

    pub(crate) fn probe(&self, reached: bool) {
        let result = if reached { "reached" } else { "unreached" };
        self.probes.get_or_create(&ResultLabels { result }).inc();
    }

    pub(crate) fn session(&self) -> CountedSession {
        self.sessions.inc();
        CountedSession(self.sessions.clone())
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("rpc_calls", "Calls answered, by method and result", self.calls.clone());
        registry.register("certificates_signed", "Certificates signed, by kind", self.signed.clone());
        registry.register(
            "host_verdicts",
            "Changes of the status of hosts, by status",
            self.verdicts.clone(),
        );
        registry.register(
            "host_probes",
            "Rounds of probes of hosts that no server hears, by result",
            self.probes.clone(),
        );
        let help = "Links, calls and frames refused, by reason";
        registry.register("refused", help, self.refused.clone());
        registry.register("sessions", "Sessions of hosts that are open", self.sessions.clone());
    }
}

/// A figure as it is now.
fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge = Gauge::<u64, AtomicU64>::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

/// The text of everything, without the mark of its end, so that it can stand beside that of others.
pub(crate) fn text(service: &Service, quic: &QuicServer) -> String {
    let mut registry = Registry::with_prefix("purlin_server");
    service.metrics.register(&mut registry);
    of_raft(service, &mut registry);
    let hub = service.hub.metrics();
    gauge(&mut registry, "connections", "QUIC connections that are open", quic.connections() as u64);
    let handshakes: Counter = Counter::default();
    handshakes.inc_by(quic.refused());
    registry.register("handshakes_refused", "Handshakes refused: no certificate of this mesh", handshakes);
    gauge(&mut registry, "feed_followers", "Sessions and queries that follow topics", hub.followers as u64);
    gauge(&mut registry, "feed_topics", "Topics that somebody follows", hub.topics as u64);
    gauge(&mut registry, "feed_ring_keys", "Changes kept for those who come back", hub.ring_keys as u64);
    gauge(&mut registry, "feed_frame_bytes", "Encoded changes kept to be shared", hub.frame_bytes as u64);
    let hosts = service.liveness().metrics(Instant::now());
    gauge(&mut registry, "hosts_watched", "Hosts whose sessions are watched", hosts.watched as u64);
    gauge(
        &mut registry,
        "hosts_suspected",
        "Hosts that are silent but not failed yet",
        hosts.suspected as u64,
    );
    gauge(
        &mut registry,
        "hosts_cut_off",
        "Hosts that no server hears and that other hosts reach",
        hosts.cut_off as u64,
    );
    gauge(
        &mut registry,
        "rosters",
        "Servers whose sessions this server knows, while it leads",
        hosts.reporters as u64,
    );
    let beat = service.sessions().pace();
    gauge(&mut registry, "heartbeat_milliseconds", "How often hosts show that they live", millis(beat));
    gauge(
        &mut registry,
        "sessions_fair_share",
        "Sessions that each server would have if all had the same, 0 where that is not known",
        service.touch.fair_share(),
    );
    registry.register(
        "propagation_seconds",
        "From applying a change to the last session that follows it, one change at a time",
        service.hub.propagation(),
    );
    let holding = u64::from(hosts.holding);
    gauge(&mut registry, "hosts_verdicts_held", "1 while most hosts are silent and none is failed", holding);
    let state = service.hub.state();
    let level = u64::from(state.level());
    gauge(&mut registry, "mesh_level", "Newest form of command that all servers understand", level);
    let recoveries = state.recoveries().len() as u64;
    gauge(&mut registry, "recoveries", "Times that a lost majority of servers was given up", recoveries);
    let state = state.sizes();
    gauge(&mut registry, "state_nodes", "Nodes in the catalog", state.nodes as u64);
    gauge(&mut registry, "state_services", "Services in the catalog", state.services as u64);
    gauge(&mut registry, "state_queries", "Prepared queries", state.queries as u64);
    gauge(&mut registry, "state_requests", "Requests remembered to answer repeats", state.requests as u64);
    gauge(&mut registry, "state_topics", "Topics whose revision is known exactly", state.topics as u64);
    gauge(&mut registry, "state_kv_keys", "Keys of the key-value tree", state.kv_keys as u64);
    gauge(&mut registry, "state_kv_bytes", "Bytes of its keys and values", state.kv_bytes as u64);
    gauge(&mut registry, "state_sessions", "Sessions that can hold locks", state.sessions as u64);
    gauge(&mut registry, "state_lock_delays", "Keys that cannot be locked yet", state.lock_delays as u64);
    let timers = service.expiry().len() as u64;
    gauge(&mut registry, "session_timers", "Sessions whose time is watched here", timers);
    let graves = state.kv_graves as u64;
    gauge(&mut registry, "state_kv_deleted_keys", "Deleted keys whose index is known exactly", graves);
    of_authority(service, &mut registry);
    let mut text = String::new();
    if encode_registry(&mut text, &registry).is_err() {
        tracing::error!("metrics cannot be written");
    }
    text
}

fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn of_authority(service: &Service, registry: &mut Registry) {
    let intermediate = service.issuer.intermediate();
    let can_sign = u64::from(intermediate.is_some());
    gauge(registry, "can_sign", "1 once this server signs certificates by itself", can_sign);
    let left = intermediate.map(|own| own.not_after().since(service.now())).unwrap_or_default();
    gauge(registry, "intermediate_seconds_left", "Life left of the signing certificate", left.as_secs());
    let state = service.hub.state();
    let Some(mesh) = state.mesh_info() else { return };
    gauge(registry, "roots", "Root certificates that hosts trust", mesh.roots.len() as u64);
    let (retiring, revoked) = (mesh.distrust.retiring.len() as u64, mesh.distrust.revoked.len() as u64);
    gauge(registry, "certificates_retiring", "Of removed servers, to be revoked once replaced", retiring);
    gauge(registry, "certificates_revoked", "Of removed servers, trusted by nobody", revoked);
}

fn of_raft(service: &Service, registry: &mut Registry) {
    let raft = service.raft.metrics();
    gauge(registry, "raft_term", "Raft term", raft.term);
    gauge(registry, "raft_leading", "1 while this server leads", u64::from(raft.leading));
    gauge(registry, "raft_voters", "Voting servers", raft.voters as u64);
    gauge(registry, "raft_last_log", "Newest entry of the log", raft.last_log);
    gauge(registry, "raft_committed", "Newest entry that a majority has", raft.committed);
    gauge(registry, "raft_applied", "Newest entry applied to the state", raft.applied);
    gauge(registry, "raft_snapshot", "Entry up to which there is a snapshot", raft.snapshot);
    gauge(registry, "raft_purged", "Entry up to which the log was cleared", raft.purged);
    gauge(registry, "raft_log_bytes", "Bytes of the log on disk", raft.log_bytes);
    gauge(registry, "raft_syncs", "Times the log was synced since start", raft.syncs);
    gauge(registry, "raft_proposals", "Commands proposed since start", raft.proposals);
    gauge(
        registry,
        "raft_storage_full",
        "1 while the disk is full and no writes are taken",
        u64::from(raft.full),
    );
    gauge(registry, "raft_reserve_bytes", "Bytes of the disk kept for the log", raft.reserve_bytes);
    gauge(registry, "raft_disk_free_bytes", "Bytes of the disk that are free", raft.free_bytes);
    gauge(registry, "raft_snapshot_bytes", "Bytes of snapshots on disk", raft.snapshot_bytes);
    gauge(registry, "raft_in_flight_bytes", "Bytes of commands on their way", raft.in_flight_bytes);
}
