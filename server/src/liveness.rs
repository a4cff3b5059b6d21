//! Which hosts live: a pure machine that is fed what sessions do and says when a verdict changes.
//!
//! Silence is suspect and then fatal; saying goodbye is at once. Nobody is failed for what is not their fault: after a
//! start, after this server itself stood still, and when most hosts fall silent together (which is then more likely
//! our own network), hosts get time to come back. Time is given, never read.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use purlin_model::NodeName;
use purlin_model::node::NodeStatus;

/// How often an agent shows that it lives.
pub(crate) const BEAT: Duration = Duration::from_secs(1);
/// Silence that is reported but has no consequence yet.
pub(crate) const SUSPECT: Duration = Duration::from_secs(3);
/// Silence that fails a host: half a second below the five that are promised, for the verdict to reach everybody.
pub(crate) const FAILED: Duration = Duration::from_millis(4_500);
/// For hosts that were alive when this server began to watch.
pub(crate) const GRACE: Duration = Duration::from_secs(10);
/// The driver looks at least this often; a longer pause means that this server itself stood still.
pub(crate) const TICK: Duration = Duration::from_millis(250);
const STOOD_STILL: Duration = Duration::from_secs(2);
/// A verdict that was given and has not come true is given again.
const REPEAT: Duration = Duration::from_secs(2);
/// So many hosts at least, and more than half, silent together: our own network is suspected for so long.
const BULK: usize = 3;
const BULK_HOLD: Duration = Duration::from_secs(30);
/// Failures that are remembered, for how long, and how many of them are forgiven.
const FLAPS: usize = 16;
const FLAP_WINDOW: Duration = Duration::from_secs(60);
const FLAPS_FORGIVEN: usize = 2;
const FLAP_HOLD: Duration = Duration::from_secs(5);
const FLAP_HOLD_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(crate) struct Liveness {
    hosts: BTreeMap<NodeName, Host>,
    looked: Option<Instant>,
    /// Since when most hosts are silent.
    bulk_since: Option<Instant>,
}

#[derive(Debug)]
struct Host {
    /// What the catalog says.
    status: NodeStatus,
    /// Silence counts from here: the last beat, or later where grace was given.
    heard: Instant,
    /// Has a session, or had one since this server began to watch.
    met: bool,
    said_goodbye: bool,
    failures: VecDeque<Instant>,
    /// The first beat after a failure.
    back_since: Option<Instant>,
    given: Option<(NodeStatus, Instant)>,
}

impl Host {
    fn new(status: NodeStatus, heard: Instant) -> Self {
        Self {
            status,
            heard,
            met: false,
            said_goodbye: false,
            failures: VecDeque::new(),
            back_since: None,
            given: None,
        }
    }

    /// How long a host that failed again and again must hold out before it counts as back.
    fn hold(&self, now: Instant) -> Duration {
        let lately =
            self.failures.iter().filter(|at| now.saturating_duration_since(**at) < FLAP_WINDOW).count();
        let over = u32::try_from(lately.saturating_sub(FLAPS_FORGIVEN)).unwrap_or(u32::MAX);
        FLAP_HOLD.saturating_mul(over).min(FLAP_HOLD_MAX)
    }

    fn silent(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard)
    }

    fn wanted(&self, now: Instant, may_fail: bool) -> NodeStatus {
        if self.said_goodbye {
            return NodeStatus::Left;
        }
        if self.silent(now) >= FAILED {
            return match self.status {
                NodeStatus::Alive if may_fail => NodeStatus::Failed,
                other => other,
            };
        }
        let held_out =
            self.back_since.is_some_and(|since| now.saturating_duration_since(since) >= self.hold(now));
        if self.status != NodeStatus::Alive && held_out { NodeStatus::Alive } else { self.status }
    }
}

/// Figures for operators.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LivenessMetrics {
    pub(crate) watched: usize,
    pub(crate) suspected: usize,
    pub(crate) holding: bool,
}

impl Liveness {
    /// A session of that host opened or said something.
    pub(crate) fn beat(&mut self, node: &NodeName, now: Instant) {
        let host = self.hosts.entry(node.clone()).or_insert_with(|| Host::new(NodeStatus::Left, now));
        let was_silent = host.silent(now) >= FAILED;
        // Whoever speaks needs no grace any more.
        host.heard = now;
        host.met = true;
        host.said_goodbye = false;
        if host.status == NodeStatus::Alive {
            host.back_since = None;
        } else if was_silent || host.back_since.is_none() {
            host.back_since = Some(now);
        }
    }

    /// The host says goodbye.
    pub(crate) fn goodbye(&mut self, node: &NodeName) {
        if let Some(host) = self.hosts.get_mut(node) {
            host.said_goodbye = true;
            host.back_since = None;
        }
    }

    /// What the catalog says now of every member but this server's own host, which lives as long as we do.
    pub(crate) fn catalog<'a>(
        &mut self,
        members: impl Iterator<Item = (&'a NodeName, NodeStatus)>,
        now: Instant,
    ) {
        let mut known: BTreeMap<&NodeName, NodeStatus> = members.collect();
        self.hosts.retain(|name, _| known.contains_key(name));
        for (name, host) in &mut self.hosts {
            let Some(status) = known.remove(name) else { continue };
            if host.status != status {
                host.given = None;
                if status == NodeStatus::Alive && host.silent(now) >= FAILED {
                    // Somebody vouched for it, as when it joined: it has time to open its session.
                    host.heard = grace(now);
                }
            }
            host.status = status;
        }
        for (name, status) in known {
            self.hosts.insert(name.clone(), Host::new(status, grace(now)));
        }
    }

    /// This server begins to lead: what was heard before does not count, everybody has time to come.
    pub(crate) fn led(&mut self, now: Instant) {
        for host in self.hosts.values_mut() {
            host.heard = host.heard.max(grace(now));
            host.given = None;
        }
        self.looked = None;
    }

    /// Verdicts that are due: each should become the host's status in the catalog.
    pub(crate) fn verdicts(&mut self, now: Instant) -> Vec<(NodeName, NodeStatus)> {
        if self.looked.is_some_and(|looked| now.saturating_duration_since(looked) >= STOOD_STILL) {
            // What was said meanwhile waits in our sockets: it is read before anybody is judged.
            for host in self.hosts.values_mut() {
                host.heard = host.heard.max(now);
            }
        }
        self.looked = Some(now);
        let may_fail = self.may_fail(now);
        let mut due = Vec::new();
        for (name, host) in &mut self.hosts {
            let wanted = host.wanted(now, may_fail);
            if wanted == host.status {
                continue;
            }
            let again = host
                .given
                .is_some_and(|(given, at)| given == wanted && now.saturating_duration_since(at) < REPEAT);
            if again {
                continue;
            }
            if wanted == NodeStatus::Failed && host.given.is_none_or(|(given, _)| given != wanted) {
                host.failures.push_back(now);
                if host.failures.len() > FLAPS {
                    host.failures.pop_front();
                }
                host.back_since = None;
            }
            host.given = Some((wanted, now));
            due.push((name.clone(), wanted));
        }
        due
    }

    /// Whether silence is the host's own. When most fall silent together, it is held against nobody for a while.
    fn may_fail(&mut self, now: Instant) -> bool {
        let watched = self.hosts.values().filter(|host| host.met && host.status == NodeStatus::Alive);
        let (mut all, mut silent) = (0, 0);
        for host in watched {
            all += 1;
            silent += usize::from(host.silent(now) >= SUSPECT && !host.said_goodbye);
        }
        if silent < BULK || silent * 2 <= all {
            self.bulk_since = None;
            return true;
        }
        let since = *self.bulk_since.get_or_insert(now);
        now.saturating_duration_since(since) >= BULK_HOLD
    }

    pub(crate) fn metrics(&self, now: Instant) -> LivenessMetrics {
        let suspected = |host: &&Host| host.status == NodeStatus::Alive && host.silent(now) >= SUSPECT;
        LivenessMetrics {
            watched: self.hosts.len(),
            suspected: self.hosts.values().filter(suspected).count(),
            holding: self.bulk_since.is_some(),
        }
    }
}

/// As if heard so late that silence becomes fatal when the grace ends.
fn grace(now: Instant) -> Instant {
    now + (GRACE - FAILED)
}
