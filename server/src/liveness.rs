//! Which hosts live: the leader's pure machine, fed with the rosters of all servers, that says when a verdict changes.
//!
//! A host lives as long as a server that is itself heard of says that it has its session. Silence is suspect, has the
//! host probed through others, and is fatal in the end; saying goodbye is at once. Nobody is failed for what is not
//! their fault: after a change of leader, when the server that knew them is gone, after this server itself stood
//! still, and when most hosts fall silent together (which is then more likely our own network), hosts get time to come
//! back. Time is given, never read.

mod host;
mod probing;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use purlin_model::NodeName;
use purlin_model::node::NodeStatus;
use purlin_wire::rpc::{Contact, Presence, Roster, RosterTaken, name_sum};

use host::Host;
pub(crate) use probing::{Errand, PROBE_WITHIN, ROUND_WITHIN};
pub(crate) use sessions::Sessions;

/// How often an agent shows that it lives, and a server that it is in touch with the leader.
pub(crate) const BEAT: Duration = Duration::from_secs(1);
/// For hosts that were alive when this server began to watch, or whose server is gone.
const GRACE: Duration = Duration::from_secs(10);
/// So many more hosts get a second more, and nobody gets more than this: they come back one after the other.
const GRACE_HOSTS_A_SECOND: usize = 100;
const GRACE_MAX: Duration = Duration::from_secs(60);
/// A server that is not heard of for so long vouches for nobody.
const SERVER_STALE: Duration = Duration::from_secs(3);
/// The driver looks at least this often; a longer pause means that this server itself stood still.
pub(crate) const TICK: Duration = Duration::from_millis(250);
const STOOD_STILL: Duration = Duration::from_secs(2);
/// A verdict that was given and has not come true is given again.
const REPEAT: Duration = Duration::from_secs(2);
/// So many hosts at least, and more than half, silent together: our own network is suspected for so long.
const BULK: usize = 3;
const BULK_HOLD: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(crate) struct Liveness {
    hosts: BTreeMap<NodeName, Host>,
    servers: BTreeMap<NodeName, Reporter>,
    looked: Option<Instant>,
    /// Since when most hosts are silent.
    bulk_since: Option<Instant>,
}

/// A server, as its rosters show it.
#[derive(Debug)]
struct Reporter {
    boot: uuid::Uuid,
    number: u64,
    heard: Instant,
    here: BTreeSet<NodeName>,
    /// What it says counts; else it was not heard of for too long, or what it said does not fit.
    fits: bool,
}

/// Figures for operators.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LivenessMetrics {
    pub(crate) watched: usize,
    pub(crate) suspected: usize,
    /// Without a session and reached by others.
    pub(crate) cut_off: usize,
    /// Servers whose rosters are current.
    pub(crate) reporters: usize,
    pub(crate) holding: bool,
}

impl Liveness {
    /// Takes in what a server tells of its sessions.
    pub(crate) fn roster(&mut self, server: &NodeName, roster: Roster, now: Instant) -> RosterTaken {
        let known = self.servers.get_mut(server);
        let follows = known.as_ref().is_some_and(|known| {
            known.fits && known.boot == roster.boot && known.number + 1 == roster.number
        });
        if !roster.whole && !follows {
            if let Some(known) = known {
                known.heard = now;
                known.fits = false;
            }
            self.drop_vouches(server, now, Duration::ZERO);
            return RosterTaken { tell_all: true, fair_share: 0 };
        }
        if roster.whole {
            self.drop_vouches(server, now, Duration::ZERO);
            let (boot, here) = (roster.boot, BTreeSet::new());
            self.servers.insert(
                server.clone(),
                Reporter { boot, number: roster.number, heard: now, here, fits: true },
            );
        }
        for presence in &roster.changes {
            self.presence(server, presence, roster.whole, now);
        }
        let Some(reporter) = self.servers.get_mut(server) else { return RosterTaken::default() };
        (reporter.number, reporter.heard) = (roster.number, now);
        let same = reporter.here.len() as u64 == roster.count && name_sum(reporter.here.iter()) == roster.sum;
        reporter.fits = roster.more || same;
        RosterTaken { tell_all: !reporter.fits, fair_share: self.fair_share() }
    }

    fn presence(&mut self, server: &NodeName, presence: &Presence, whole: bool, now: Instant) {
        let node = &presence.node;
        let Some(reporter) = self.servers.get_mut(server) else { return };
        match presence.contact {
            Contact::Here => reporter.here.insert(node.clone()),
            _ => reporter.here.remove(node),
        };
        // One that the catalog does not know yet may have joined a moment ago.
        let host = self.hosts.entry(node.clone()).or_insert_with(|| Host::new(NodeStatus::Left, now));
        host.take_address(presence);
        let silent = Duration::from_millis(presence.silent_ms);
        let heard = now.checked_sub(silent).unwrap_or(now);
        match presence.contact {
            Contact::Here => host.vouch(server, whole, now),
            Contact::Silent | Contact::Gone => host.unvouch(server, heard),
            Contact::Broken => {
                host.unvouch(server, heard);
                host.broken = !host.is_vouched();
            }
            Contact::Left => host.leave(now),
        }
    }

    /// A server vouches for nobody any more; `grace` is on top of now.
    fn drop_vouches(&mut self, server: &NodeName, now: Instant, grace: Duration) {
        let Some(reporter) = self.servers.get_mut(server) else { return };
        let heard = reporter.heard;
        for node in std::mem::take(&mut reporter.here) {
            if let Some(host) = self.hosts.get_mut(&node) {
                // It lived as long as it was heard of itself.
                host.unvouch(server, if node == *server { heard } else { now + grace });
            }
        }
    }

    /// Sessions that each server would have if all had the same.
    fn fair_share(&self) -> u64 {
        let fitting = self.servers.values().filter(|server| server.fits);
        let (count, sessions) = fitting.fold((0, 0), |(n, sum), server| (n + 1, sum + server.here.len()));
        sessions.div_ceil(count.max(1)) as u64
    }

    /// The host was reached through another one.
    pub(crate) fn reached(&mut self, node: &NodeName, now: Instant) {
        if let Some(host) = self.hosts.get_mut(node) {
            host.reached(now);
        }
    }

    /// What the catalog says now of every member.
    pub(crate) fn catalog<'a>(
        &mut self,
        members: impl Iterator<Item = (&'a NodeName, NodeStatus)>,
        now: Instant,
    ) {
        let mut known: BTreeMap<&NodeName, NodeStatus> = members.collect();
        self.hosts.retain(|name, _| known.contains_key(name));
        for (name, host) in &mut self.hosts {
            if let Some(status) = known.remove(name) {
                host.take_status(status, now);
            }
        }
        let heard = grace(now, grace_of(known.len()));
        for (name, status) in known {
            let mut host = Host::new(status, heard);
            for (server, reporter) in &self.servers {
                if reporter.here.contains(name) {
                    host.vouch(server, true, now);
                }
            }
            self.hosts.insert(name.clone(), host);
        }
    }

    /// This server begins to lead: what was heard before does not count, and whoever the catalog names has time to come.
    pub(crate) fn led(&mut self) {
        *self = Self::default();
    }

    /// Verdicts that are due: each should become the host's status in the catalog.
    pub(crate) fn verdicts(&mut self, now: Instant) -> Vec<(NodeName, NodeStatus)> {
        if self.looked.is_some_and(|looked| now.saturating_duration_since(looked) >= STOOD_STILL) {
            // What was said meanwhile waits in our sockets: it is read before anybody is judged.
            self.hosts.values_mut().for_each(|host| host.heard = host.heard.max(now));
            self.servers.values_mut().for_each(|server| server.heard = server.heard.max(now));
        }
        self.looked = Some(now);
        self.give_up_servers(now);
        self.take_back_goodbyes(now);
        let may_fail = self.may_fail(now);
        let mut due = Vec::new();
        for (name, host) in &mut self.hosts {
            let wanted = host.wanted(now, may_fail);
            if wanted != host.status && host.give(wanted, now) {
                due.push((name.clone(), wanted));
            }
        }
        due
    }

    /// One that left and is still with a server a while later has come back.
    fn take_back_goodbyes(&mut self, now: Instant) {
        for (name, host) in &mut self.hosts {
            if !host.said_goodbye || host.left_lately(now) {
                continue;
            }
            let back = self.servers.iter().find(|(_, server)| server.fits && server.here.contains(name));
            if let Some((server, _)) = back {
                host.vouch(server, false, now);
            }
        }
    }

    /// Hosts of a server that is not heard of any more have time to open a session elsewhere.
    fn give_up_servers(&mut self, now: Instant) {
        let stale = |server: &Reporter| now.saturating_duration_since(server.heard) >= SERVER_STALE;
        let given_up: Vec<NodeName> = self
            .servers
            .iter()
            .filter(|(_, server)| server.fits && stale(server))
            .map(|(name, _)| name.clone())
            .collect();
        for name in given_up {
            let Some(server) = self.servers.get_mut(&name) else { continue };
            server.fits = false;
            let hosts = server.here.len();
            tracing::warn!(server = %name, hosts, "a server is not heard of, its hosts have time to find another");
            let beat = self.hosts.get(&name).map_or(BEAT, |host| host.pace);
            self.drop_vouches(&name, now, grace_of(hosts).saturating_sub(host::failed_after(beat)));
        }
        // One that is gone for good is not in the catalog either.
        self.servers.retain(|name, server| {
            server.fits
                || now.saturating_duration_since(server.heard) < GRACE_MAX
                || self.hosts.contains_key(name)
        });
    }

    /// Whether silence is the host's own. When most fall silent together, it is held against nobody for a while.
    fn may_fail(&mut self, now: Instant) -> bool {
        let watched = self.hosts.values().filter(|host| host.met && host.status == NodeStatus::Alive);
        let (mut all, mut silent) = (0, 0);
        for host in watched {
            all += 1;
            silent += usize::from(host.is_suspect(now) && !host.said_goodbye);
        }
        if silent < BULK || silent * 2 <= all {
            self.bulk_since = None;
            return true;
        }
        let since = *self.bulk_since.get_or_insert(now);
        now.saturating_duration_since(since) >= BULK_HOLD
    }

    pub(crate) fn metrics(&self, now: Instant) -> LivenessMetrics {
        let alive = || self.hosts.values().filter(|host| host.status == NodeStatus::Alive);
        LivenessMetrics {
            watched: self.hosts.len(),
            suspected: alive().filter(|host| host.is_suspect(now) || host.cut_off).count(),
            cut_off: alive().filter(|host| host.cut_off).count(),
            reporters: self.servers.values().filter(|server| server.fits).count(),
            holding: self.bulk_since.is_some(),
        }
    }

    /// Hosts that no server hears and that others reach.
    pub(crate) fn cut_off(&self) -> impl Iterator<Item = &NodeName> {
        self.hosts.iter().filter(|(_, host)| host.cut_off).map(|(name, _)| name)
    }
}

fn grace_of(hosts: usize) -> Duration {
    let more = u64::try_from(hosts / GRACE_HOSTS_A_SECOND).unwrap_or(u64::MAX);
    GRACE.saturating_add(Duration::from_secs(more)).min(GRACE_MAX)
}

/// As if heard so late that silence becomes fatal when the grace ends.
fn grace(now: Instant, span: Duration) -> Instant {
    now + span.saturating_sub(host::failed_after(BEAT))
}
