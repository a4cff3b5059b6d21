//! When sessions run out: a pure machine that is fed heartbeats and what the state has, and says which are due.
//!
//! Only the leader has timers, and a new leader starts all of them anew: nobody loses a session because servers
//! changed. A session lives for twice its time to live, as in Consul. Time is given, never read.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use purlin_model::SessionId;

/// How often the driver looks.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A session that is due and still there is told again after this.
const REPEAT: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(crate) struct Expiry {
    timers: HashMap<SessionId, Timer>,
}

#[derive(Debug)]
struct Timer {
    ends: Instant,
    /// Told, so that no heartbeat saves it any more.
    is_due: bool,
    /// The look that saw it last.
    seen: bool,
}

impl Expiry {
    /// This server begins to lead.
    pub(crate) fn led(&mut self) {
        self.timers.clear();
    }

    /// A heartbeat. False: the session has run out already.
    pub(crate) fn renew(&mut self, id: &SessionId, ttl: Duration, now: Instant) -> bool {
        let timer = self.timers.entry(id.clone()).or_insert_with(|| Timer::new(ttl, now));
        if !timer.is_due {
            timer.ends = now + 2 * ttl;
        }
        !timer.is_due
    }

    /// Those that have run out, of all that there are now with a time to live.
    pub(crate) fn due<'a>(
        &mut self,
        sessions: impl Iterator<Item = (&'a SessionId, Duration)>,
        now: Instant,
    ) -> Vec<SessionId> {
        let mut due = Vec::new();
        for (id, ttl) in sessions {
            if !self.timers.contains_key(id) {
                self.timers.insert(id.clone(), Timer::new(ttl, now));
            }
            let Some(timer) = self.timers.get_mut(id) else { continue };
            timer.seen = true;
            if now >= timer.ends {
                timer.is_due = true;
                timer.ends = now + REPEAT;
                due.push(id.clone());
            }
        }
        self.timers.retain(|_, timer| std::mem::take(&mut timer.seen));
        due
    }

    pub(crate) fn len(&self) -> usize {
        self.timers.len()
    }
}

impl Timer {
    fn new(ttl: Duration, now: Instant) -> Self {
        Self { ends: now + 2 * ttl, is_due: false, seen: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn due(expiry: &mut Expiry, ids: &[&SessionId], now: Instant) -> Vec<String> {
        let due = expiry.due(ids.iter().map(|id| (*id, TTL)), now);
        due.into_iter().map(|id| id.to_string()).collect()
    }

    #[test]
    fn a_session_runs_out_after_twice_its_time_unless_it_is_renewed() {
        let (start, a, b) = (Instant::now(), SessionId::new("a"), SessionId::new("b"));
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut expiry = Expiry::default();
        assert!(due(&mut expiry, &[&a, &b], start).is_empty());
        assert!(expiry.renew(&b, TTL, at(15)));
        assert!(due(&mut expiry, &[&a, &b], at(19)).is_empty());
        assert_eq!(due(&mut expiry, &[&a, &b], at(20)), ["a"]);
        assert!(!expiry.renew(&a, TTL, at(20)), "too late");
        assert!(due(&mut expiry, &[&a, &b], at(21)).is_empty());
        assert_eq!(due(&mut expiry, &[&a, &b], at(22)), ["a"], "it is still there, so it is told again");
        assert!(due(&mut expiry, &[&b], at(34)).is_empty());
        assert_eq!(expiry.len(), 1);
        assert_eq!(due(&mut expiry, &[&b], at(35)), ["b"]);
    }

    #[test]
    fn a_new_leader_gives_every_session_its_whole_time() {
        let (start, a) = (Instant::now(), SessionId::new("a"));
        let mut expiry = Expiry::default();
        assert!(due(&mut expiry, &[&a], start).is_empty());
        expiry.led();
        let later = start + 2 * TTL;
        assert!(due(&mut expiry, &[&a], later).is_empty());
        assert_eq!(due(&mut expiry, &[&a], later + 2 * TTL), ["a"]);
    }
}
