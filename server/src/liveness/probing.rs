//! Whom to ask about a host that no server hears: a few others, drawn anew each time, agents before servers.

use std::time::{Duration, Instant};

use fastrand::Rng;
use purlin_model::NodeName;
use purlin_model::node::NodeStatus;

use super::Liveness;
use super::host::failed_after;

/// Others that are asked at once, as in SWIM.
const HELPERS: usize = 3;
/// For one to reach the host.
pub(crate) const PROBE_WITHIN: Duration = Duration::from_secs(1);
/// For all answers to be here.
pub(crate) const ROUND_WITHIN: Duration = Duration::from_millis(1_300);
/// Between two rounds about one host; two of them fit before it would be failed.
const ROUND_EVERY: Duration = Duration::from_millis(1_500);
/// Hosts that are asked about at once. If more fall silent together, it is hardly the hosts.
const ERRANDS: usize = 64;

/// A host that is to be probed, and through whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Errand {
    pub(crate) node: NodeName,
    /// Absent: it said none, or no server remembers.
    pub(crate) address: Option<String>,
    /// Each with the server that has its session.
    pub(crate) helpers: Vec<(NodeName, NodeName)>,
}

impl Liveness {
    /// Hosts that should be probed now.
    pub(crate) fn errands(&mut self, now: Instant, rng: &mut Rng) -> Vec<Errand> {
        let due: Vec<NodeName> = self.suspects(now).take(ERRANDS).cloned().collect();
        if due.is_empty() {
            return Vec::new();
        }
        let mut agents = Vec::new();
        let mut servers = Vec::new();
        for (name, host) in &self.hosts {
            let Some(by) = host.vouched_by() else { continue };
            let helpers = if self.servers.contains_key(name) { &mut servers } else { &mut agents };
            helpers.push((name.clone(), by.clone()));
        }
        let mut errands = Vec::with_capacity(due.len());
        for node in due {
            let mut helpers = draw(&mut agents, HELPERS, rng);
            helpers.extend(draw(&mut servers, HELPERS - helpers.len(), rng));
            let Some(host) = self.hosts.get_mut(&node).filter(|_| !helpers.is_empty()) else { continue };
            host.asked = Some(now);
            host.answers_by = Some(now + ROUND_WITHIN);
            errands.push(Errand { node, address: host.probe.clone(), helpers });
        }
        errands
    }

    fn suspects(&self, now: Instant) -> impl Iterator<Item = &NodeName> {
        let suspects = self.hosts.iter().filter(move |(_, host)| {
            let waits = host.heard > now || host.silent(now) >= failed_after(host.pace);
            let reason = host.broken || host.cut_off || host.is_suspect(now);
            let rested = host.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= ROUND_EVERY);
            let watched = host.status == NodeStatus::Alive && !host.is_vouched() && !host.said_goodbye;
            watched && reason && rested && !waits
        });
        suspects.map(|(name, _)| name)
    }
}

/// Some of them; those drawn stand first after it.
fn draw<T: Clone>(from: &mut [T], count: usize, rng: &mut Rng) -> Vec<T> {
    let count = count.min(from.len());
    for index in 0..count {
        from.swap(index, rng.usize(index..from.len()));
    }
    from[..count].to_vec()
}
