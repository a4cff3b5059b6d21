//! The hosts whose sessions this server holds: a pure machine that is fed what sessions do and tells what changed.
//!
//! Silence counts in beats of the host's own pace. What changed is told once; whoever tells it and is not believed
//! tells everything. Time is given, never read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use purlin_model::NodeName;
use purlin_wire::rpc::{Contact, Presence, ROSTER_AT_ONCE, Roster, name_sum};

use super::{BEAT, STOOD_STILL};

/// Sessions for each second of the time between two beats.
pub(crate) const SESSIONS_A_BEAT: usize = 2_000;
/// The slowest beat.
pub(crate) const BEAT_MAX: Duration = Duration::from_secs(10);
/// So many beats that did not come are silence.
pub(super) const SILENT_BEATS: u32 = 3;
/// A host without a session here is remembered for so long, so that a new leader knows where to have it probed.
const REMEMBERED: Duration = Duration::from_secs(600);
/// One that left is told of and forgotten, before it can come back elsewhere and a new leader hear both.
pub(super) const LEFT_REMEMBERED: Duration = Duration::from_secs(10);

/// Sessions of one server.
#[derive(Debug)]
pub(crate) struct Sessions {
    /// This server's host, which is here as long as the server is.
    own: NodeName,
    boot: uuid::Uuid,
    hosts: BTreeMap<NodeName, Held>,
    changed: BTreeSet<NodeName>,
    /// Of the last roster.
    number: u64,
    open: usize,
    looked: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    /// Sessions; two for a moment when the host changes from one to another.
    open: u32,
    contact: Contact,
    heard: Instant,
    pace: Duration,
    probe: Option<String>,
}

impl Held {
    fn new(heard: Instant) -> Self {
        Self { open: 0, contact: Contact::Here, heard, pace: BEAT, probe: None }
    }

    fn silent(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard)
    }
}

impl Sessions {
    pub(crate) fn new(own: NodeName, boot: uuid::Uuid, now: Instant) -> Self {
        let mut sessions = Self {
            own: own.clone(),
            boot,
            hosts: BTreeMap::new(),
            changed: BTreeSet::new(),
            number: 0,
            open: 0,
            looked: None,
        };
        sessions.hosts.insert(own.clone(), Held::new(now));
        sessions.changed.insert(own);
        sessions
    }

    pub(crate) fn opened(&mut self, node: &NodeName, probe: Option<String>, now: Instant) {
        self.wake(now);
        self.open += 1;
        let held = self.hosts.entry(node.clone()).or_insert_with(|| Held::new(now));
        let news = held.open == 0 || held.contact != Contact::Here || held.probe != probe;
        (held.open, held.heard, held.probe) = (held.open + 1, now, probe);
        held.contact = Contact::Here;
        if news {
            self.changed.insert(node.clone());
        }
    }

    pub(crate) fn beat(&mut self, node: &NodeName, now: Instant) {
        self.wake(now);
        let Some(held) = self.hosts.get_mut(node) else { return };
        held.heard = now;
        if held.contact == Contact::Silent {
            held.contact = Contact::Here;
            self.changed.insert(node.clone());
        }
    }

    /// The host was told to beat at this pace; what it owes counts from now.
    pub(crate) fn paced(&mut self, node: &NodeName, pace: Duration, now: Instant) {
        if let Some(held) = self.hosts.get_mut(node) {
            (held.pace, held.heard) = (pace, now);
            self.changed.insert(node.clone());
        }
    }

    pub(crate) fn goodbye(&mut self, node: &NodeName) {
        if let Some(held) = self.hosts.get_mut(node) {
            held.contact = Contact::Left;
            self.changed.insert(node.clone());
        }
    }

    pub(crate) fn closed(&mut self, node: &NodeName, now: Instant) {
        self.wake(now);
        self.open = self.open.saturating_sub(1);
        let Some(held) = self.hosts.get_mut(node) else { return };
        held.open = held.open.saturating_sub(1);
        if held.open == 0 && held.contact != Contact::Left && *node != self.own {
            held.contact = Contact::Broken;
            self.changed.insert(node.clone());
        }
    }

    /// Looks for silence; to be called often.
    pub(crate) fn look(&mut self, now: Instant) {
        self.wake(now);
        self.looked = Some(now);
        let mut gone = Vec::new();
        for (name, held) in &mut self.hosts {
            if *name == self.own {
                held.heard = now;
            }
            let silent = held.silent(now);
            if held.contact == Contact::Here && silent >= held.pace * SILENT_BEATS {
                held.contact = Contact::Silent;
                self.changed.insert(name.clone());
            }
            let remembered = if held.contact == Contact::Left { LEFT_REMEMBERED } else { REMEMBERED };
            if held.open == 0 && silent >= remembered && *name != self.own {
                gone.push(name.clone());
            }
        }
        for name in gone {
            self.hosts.remove(&name);
            self.changed.insert(name);
        }
    }

    /// After this server stood still, what was said meanwhile waits in its sockets and is read before anybody is judged.
    fn wake(&mut self, now: Instant) {
        if self.looked.is_some_and(|looked| now.saturating_duration_since(looked) >= STOOD_STILL) {
            for held in self.hosts.values_mut().filter(|held| held.open > 0) {
                held.heard = held.heard.max(now);
            }
            self.looked = Some(now);
        }
    }

    /// How often a host with a session here should beat.
    pub(crate) fn pace(&self) -> Duration {
        let beats = u32::try_from(self.open.div_ceil(SESSIONS_A_BEAT)).unwrap_or(u32::MAX);
        BEAT.saturating_mul(beats.max(1)).min(BEAT_MAX)
    }

    /// Sessions that are open.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    #[cfg(test)]
    pub(super) fn has(&self, node: &NodeName) -> bool {
        self.hosts.get(node).is_some_and(|held| held.open > 0)
    }

    pub(crate) fn has_news(&self) -> bool {
        !self.changed.is_empty()
    }

    /// All that is known here, in pieces; what is told next goes on from there.
    pub(crate) fn whole(&mut self, now: Instant) -> Vec<Roster> {
        self.changed.clear();
        let all: Vec<Presence> = self.hosts.iter().map(|(name, held)| presence(name, held, now)).collect();
        let pieces = all.chunks(ROSTER_AT_ONCE).map(<[Presence]>::to_vec).collect();
        self.rosters(pieces, true)
    }

    /// What changed since the last roster; one at least, for a sign of life.
    pub(crate) fn changes(&mut self, now: Instant) -> Vec<Roster> {
        let changed: Vec<NodeName> = std::mem::take(&mut self.changed).into_iter().collect();
        let told = |name: &NodeName| match self.hosts.get(name) {
            Some(held) => presence(name, held, now),
            None => {
                Presence { node: name.clone(), contact: Contact::Gone, silent_ms: 0, beat_ms: 0, probe: None }
            }
        };
        let mut pieces: Vec<Vec<Presence>> =
            changed.chunks(ROSTER_AT_ONCE).map(|chunk| chunk.iter().map(told).collect()).collect();
        if pieces.is_empty() {
            pieces.push(Vec::new());
        }
        self.rosters(pieces, false)
    }

    fn rosters(&mut self, pieces: Vec<Vec<Presence>>, whole: bool) -> Vec<Roster> {
        let here =
            || self.hosts.iter().filter(|(_, held)| held.contact == Contact::Here).map(|(name, _)| name);
        let (count, sum) = (here().count() as u64, name_sum(here()));
        let last = pieces.len() - 1;
        let mut rosters = Vec::with_capacity(pieces.len());
        for (index, changes) in pieces.into_iter().enumerate() {
            self.number += 1;
            let (boot, number) = (self.boot, self.number);
            let (whole, more) = (whole && index == 0, index < last);
            rosters.push(Roster { boot, number, whole, changes, more, count, sum });
        }
        rosters
    }
}

fn presence(name: &NodeName, held: &Held, now: Instant) -> Presence {
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    Presence {
        node: name.clone(),
        contact: held.contact,
        silent_ms: if held.contact == Contact::Here { 0 } else { millis(held.silent(now)) },
        beat_ms: millis(held.pace),
        probe: held.probe.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }

    fn sessions(now: Instant) -> Sessions {
        let mut sessions = Sessions::new(name("own"), uuid::Uuid::from_u128(1), now);
        sessions.whole(now);
        sessions
    }

    fn told(sessions: &mut Sessions, now: Instant) -> Vec<(String, Contact, u64)> {
        let changes = sessions.changes(now).into_iter().flat_map(|roster| roster.changes);
        changes.map(|one| (one.node.to_string(), one.contact, one.silent_ms)).collect()
    }

    #[test]
    fn what_changed_is_told_once_and_silence_is_counted_from_the_last_sign_of_life() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut sessions = sessions(start);
        sessions.opened(&name("a"), Some("a:8301".into()), at(0));
        assert_eq!(told(&mut sessions, at(0)), [("a".into(), Contact::Here, 0)]);
        sessions.beat(&name("a"), at(1_000));
        for ms in [1_250, 2_000, 3_000, 3_999] {
            sessions.look(at(ms));
        }
        assert_eq!(told(&mut sessions, at(3_999)), []);
        sessions.look(at(4_000));
        assert_eq!(told(&mut sessions, at(4_100)), [("a".into(), Contact::Silent, 3_100)]);
        sessions.beat(&name("a"), at(4_200));
        assert_eq!(told(&mut sessions, at(4_200)), [("a".into(), Contact::Here, 0)]);
        sessions.closed(&name("a"), at(4_900));
        assert_eq!(told(&mut sessions, at(4_900)), [("a".into(), Contact::Broken, 700)]);
    }

    #[test]
    fn a_host_that_opens_its_next_session_before_it_ends_the_last_is_not_broken() {
        let now = Instant::now();
        let mut sessions = sessions(now);
        sessions.opened(&name("a"), None, now);
        sessions.opened(&name("a"), None, now);
        sessions.changes(now);
        sessions.closed(&name("a"), now);
        assert!(!sessions.has_news());
        assert_eq!(sessions.open(), 1);
        sessions.goodbye(&name("a"));
        sessions.closed(&name("a"), now);
        assert_eq!(told(&mut sessions, now), [("a".into(), Contact::Left, 0)]);
    }

    #[test]
    fn the_own_host_is_here_whatever_its_agent_does_until_it_leaves() {
        let now = Instant::now();
        let mut sessions = sessions(now);
        sessions.opened(&name("own"), None, now);
        sessions.closed(&name("own"), now);
        sessions.look(now + STOOD_STILL / 2);
        let later = now + 10 * STOOD_STILL;
        sessions.look(later);
        sessions.changes(later);
        sessions.look(later + STOOD_STILL / 2);
        assert!(!sessions.has_news());
        sessions.goodbye(&name("own"));
        assert_eq!(told(&mut sessions, later), [("own".into(), Contact::Left, 0)]);
    }

    #[test]
    fn a_server_that_stood_still_tells_of_no_silence() {
        let start = Instant::now();
        let mut sessions = sessions(start);
        sessions.opened(&name("a"), None, start);
        sessions.opened(&name("b"), None, start);
        sessions.look(start);
        sessions.changes(start);
        let woken = start + Duration::from_secs(60);
        // The end of a session may be noticed before anything else.
        sessions.closed(&name("b"), woken);
        sessions.look(woken);
        assert_eq!(told(&mut sessions, woken), [("b".into(), Contact::Broken, 0)]);
    }

    #[test]
    fn above_two_thousand_sessions_hosts_beat_slower_and_silence_takes_longer() {
        let start = Instant::now();
        let mut sessions = sessions(start);
        for n in 0..SESSIONS_A_BEAT {
            sessions.opened(&name(&format!("h{n}")), None, start);
        }
        assert_eq!(sessions.pace(), BEAT);
        sessions.opened(&name("one-more"), None, start);
        assert_eq!(sessions.pace(), 2 * BEAT);
        sessions.paced(&name("h0"), 2 * BEAT, start);
        sessions.changes(start);
        sessions.look(start + 3 * BEAT);
        let silent = told(&mut sessions, start + 3 * BEAT);
        assert_eq!(silent.len(), SESSIONS_A_BEAT, "all but the one that was told, and our own host");
        sessions.open = usize::MAX;
        assert_eq!(sessions.pace(), BEAT_MAX);
    }

    #[test]
    fn a_long_roster_goes_in_pieces_that_follow_each_other() {
        let start = Instant::now();
        let mut sessions = sessions(start);
        for n in 0..ROSTER_AT_ONCE {
            sessions.opened(&name(&format!("h{n}")), None, start);
        }
        let pieces = sessions.whole(start);
        let said: Vec<_> = pieces.iter().map(|one| (one.whole, one.more, one.changes.len())).collect();
        assert_eq!(said, [(true, true, ROSTER_AT_ONCE), (false, false, 1)]);
        assert_eq!(pieces[1].number, pieces[0].number + 1);
        assert_eq!(pieces[1].count, ROSTER_AT_ONCE as u64 + 1);
        let next = sessions.changes(start);
        assert_eq!((next[0].number, next[0].changes.len()), (pieces[1].number + 1, 0));
    }

    #[test]
    fn who_is_long_gone_is_forgotten_and_that_is_told() {
        let start = Instant::now();
        let mut sessions = sessions(start);
        sessions.opened(&name("a"), None, start);
        sessions.closed(&name("a"), start);
        sessions.look(start);
        sessions.changes(start);
        let mut now = start;
        while now < start + REMEMBERED {
            now += STOOD_STILL / 2;
            sessions.look(now);
        }
        assert_eq!(told(&mut sessions, now), [("a".into(), Contact::Gone, 0)]);
        assert_eq!(sessions.hosts.len(), 1);
    }
}
