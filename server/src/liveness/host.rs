//! One host as the leader sees it: who vouches for it, since when nobody does, and what follows from that.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use purlin_model::NodeName;
use purlin_model::node::NodeStatus;
use purlin_wire::rpc::Presence;

use super::sessions::{BEAT_MAX, LEFT_REMEMBERED, SILENT_BEATS};
use super::{BEAT, GRACE, REPEAT, grace};

/// Failures that are remembered, for how long, and how many of them are forgiven.
const FLAPS: usize = 16;
const FLAP_WINDOW: Duration = Duration::from_secs(60);
const FLAPS_FORGIVEN: usize = 2;
const FLAP_HOLD: Duration = Duration::from_secs(5);
const FLAP_HOLD_MAX: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Host {
    /// What the catalog says.
    pub(super) status: NodeStatus,
    /// Silence counts from here: the last sign of life, or later where grace was given. Without meaning while a server
    /// vouches for it.
    pub(super) heard: Instant,
    /// Servers that have its session.
    vouching: BTreeSet<NodeName>,
    /// Was vouched for since this server began to watch.
    pub(super) met: bool,
    pub(super) said_goodbye: bool,
    left_at: Option<Instant>,
    /// How often it shows that it lives.
    pub(super) pace: Duration,
    /// Where it answers probes.
    pub(super) probe: Option<String>,
    /// Its last session broke, which is reason to have it probed before it is silent for long.
    pub(super) broken: bool,
    /// Others reached it since the last server lost it.
    pub(super) cut_off: bool,
    /// When others were asked last to probe it, and until when their answers are waited for.
    pub(super) asked: Option<Instant>,
    pub(super) answers_by: Option<Instant>,
    failures: VecDeque<Instant>,
    /// Since when it is here again after a failure.
    back_since: Option<Instant>,
    given: Option<(NodeStatus, Instant)>,
}

/// Silence that is reported but has no consequence yet.
pub(super) fn suspect_after(pace: Duration) -> Duration {
    pace * SILENT_BEATS
}

/// Silence that fails a host: at a beat a second half a second below the five that are promised, for the verdict to
/// reach everybody.
pub(super) fn failed_after(pace: Duration) -> Duration {
    pace * 9 / 2
}

impl Host {
    pub(super) fn new(status: NodeStatus, heard: Instant) -> Self {
        Self {
            status,
            heard,
            vouching: BTreeSet::new(),
            met: false,
            said_goodbye: false,
            left_at: None,
            pace: BEAT,
            probe: None,
            broken: false,
            cut_off: false,
            asked: None,
            answers_by: None,
            failures: VecDeque::new(),
            back_since: None,
            given: None,
        }
    }

    pub(super) fn is_vouched(&self) -> bool {
        !self.vouching.is_empty()
    }

    pub(super) fn vouched_by(&self) -> Option<&NodeName> {
        self.vouching.first()
    }

    pub(super) fn take_address(&mut self, presence: &Presence) {
        if presence.probe.is_some() {
            self.probe.clone_from(&presence.probe);
        }
        if presence.beat_ms > 0 {
            self.pace = Duration::from_millis(presence.beat_ms).clamp(BEAT, BEAT_MAX);
        }
    }

    /// A server has its session. What is `old` does not take back a goodbye, which another may not have heard yet.
    pub(super) fn vouch(&mut self, server: &NodeName, old: bool, now: Instant) {
        if old && self.left_lately(now) {
            return;
        }
        let was_silent = !self.is_vouched() && self.silent(now) >= failed_after(self.pace);
        self.vouching.insert(server.clone());
        // Whoever speaks needs no grace any more.
        self.heard = now;
        (self.met, self.said_goodbye) = (true, false);
        (self.broken, self.cut_off, self.answers_by) = (false, false, None);
        if self.status == NodeStatus::Alive {
            self.back_since = None;
        } else if was_silent {
            self.back_since = Some(now);
        }
    }

    /// A server has its session no more. If it was the last, silence counts from `heard`.
    pub(super) fn unvouch(&mut self, server: &NodeName, heard: Instant) {
        if self.vouching.remove(server) && self.vouching.is_empty() {
            self.heard = heard;
            if self.status != NodeStatus::Alive {
                self.back_since = None;
            }
        }
    }

    pub(super) fn left_lately(&self, now: Instant) -> bool {
        let lately = |at: Instant| now.saturating_duration_since(at) < LEFT_REMEMBERED;
        self.said_goodbye && self.left_at.is_some_and(lately)
    }

    pub(super) fn leave(&mut self, now: Instant) {
        self.vouching.clear();
        (self.said_goodbye, self.broken, self.cut_off) = (true, false, false);
        self.left_at = Some(now);
        self.back_since = None;
    }

    pub(super) fn reached(&mut self, now: Instant) {
        if self.is_vouched() || self.said_goodbye || self.status != NodeStatus::Alive {
            return;
        }
        self.heard = self.heard.max(now);
        self.answers_by = None;
        self.cut_off = true;
    }

    pub(super) fn take_status(&mut self, status: NodeStatus, now: Instant) {
        if self.status != status {
            self.given = None;
            if status == NodeStatus::Alive && self.silent(now) >= failed_after(self.pace) {
                // Somebody vouched for it, as when it joined: it has time to open its session.
                self.heard = grace(now, GRACE);
            }
            if status != NodeStatus::Alive {
                self.cut_off = false;
            }
        }
        self.status = status;
    }

    pub(super) fn silent(&self, now: Instant) -> Duration {
        if self.is_vouched() { Duration::ZERO } else { now.saturating_duration_since(self.heard) }
    }

    pub(super) fn is_suspect(&self, now: Instant) -> bool {
        self.silent(now) >= suspect_after(self.pace)
    }

    pub(super) fn wanted(&mut self, now: Instant, may_fail: bool) -> NodeStatus {
        if self.said_goodbye {
            return NodeStatus::Left;
        }
        if self.silent(now) >= failed_after(self.pace) {
            let is_asked = self.answers_by.is_some_and(|until| now < until);
            return match self.status {
                NodeStatus::Alive if may_fail && !is_asked => NodeStatus::Failed,
                other => other,
            };
        }
        if self.status == NodeStatus::Alive || !self.is_vouched() {
            return self.status;
        }
        let since = *self.back_since.get_or_insert(now);
        let held_out = now.saturating_duration_since(since) >= self.hold(now);
        if held_out { NodeStatus::Alive } else { self.status }
    }

    /// How long a host that failed again and again must hold out before it counts as back.
    fn hold(&self, now: Instant) -> Duration {
        let lately =
            self.failures.iter().filter(|at| now.saturating_duration_since(**at) < FLAP_WINDOW).count();
        let over = u32::try_from(lately.saturating_sub(FLAPS_FORGIVEN)).unwrap_or(u32::MAX);
        FLAP_HOLD.saturating_mul(over).min(FLAP_HOLD_MAX)
    }

    /// Notes the verdict; false if it was given a moment ago.
    pub(super) fn give(&mut self, wanted: NodeStatus, now: Instant) -> bool {
        let again = self
            .given
            .is_some_and(|(given, at)| given == wanted && now.saturating_duration_since(at) < REPEAT);
        if again {
            return false;
        }
        if wanted == NodeStatus::Failed && self.given.is_none_or(|(given, _)| given != wanted) {
            self.failures.push_back(now);
            if self.failures.len() > FLAPS {
                self.failures.pop_front();
            }
            self.back_since = None;
        }
        self.given = Some((wanted, now));
        true
    }
}
