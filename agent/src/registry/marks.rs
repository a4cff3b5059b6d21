//! What checks last said and until when that counts: the part of the registry that changes all the time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use purlin_model::check::{Check, CheckDefinition, Probe, Status};
use purlin_model::{CheckId, InstanceId};
use tokio::time::Instant;

use super::LocalState;

#[derive(Debug, Default)]
pub(super) struct Marks(BTreeMap<CheckId, Mark>);

#[derive(Debug, Clone)]
pub(super) struct Mark {
    pub(super) status: Status,
    pub(super) output: String,
    /// Since when the status is critical without a break.
    critical_since: Option<Instant>,
    /// For TTL checks: when silence becomes critical. Absent when it has already.
    pub(super) deadline: Option<Instant>,
    /// Of the probe; empty while the mark was read from disk and no definition has claimed it.
    kind: &'static str,
}

impl Marks {
    /// The mark of that check, made from its definition if there is none yet. A check that changed keeps its status
    /// until it has run again, unless it became a check of another kind.
    pub(super) fn of(&mut self, id: &CheckId, definition: &CheckDefinition) -> &Mark {
        let kind = definition.probe.kind();
        let fresh = || {
            let now = Instant::now();
            let critical_since = (definition.initial == Status::Critical).then_some(now);
            let deadline = ttl(definition).map(|ttl| now + ttl);
            Mark { status: definition.initial, output: String::new(), critical_since, deadline, kind }
        };
        let mark = self.0.entry(id.clone()).or_insert_with(fresh);
        if mark.kind.is_empty() {
            mark.kind = kind;
            let longest = ttl(definition).map(|ttl| Instant::now() + ttl);
            // One that was of another kind has no deadline of its own: it is given the time to report once.
            let from = mark.deadline.or(longest.filter(|_| mark.status != Status::Critical));
            mark.deadline = from.and_then(|left| longest.map(|longest| left.min(longest)));
        } else if mark.kind != kind {
            *mark = fresh();
        }
        mark
    }

    /// What the last run left, before definitions are known: `left` is what remains of a TTL.
    pub(super) fn restore(&mut self, id: CheckId, status: Status, output: String, left: Option<Duration>) {
        let now = Instant::now();
        let critical_since = (status == Status::Critical).then_some(now);
        let deadline = left.map(|left| now + left);
        self.0.insert(id, Mark { status, output, critical_since, deadline, kind: "" });
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&CheckId) -> bool) {
        self.0.retain(|id, mark| keep(id) || mark.kind.is_empty());
    }

    pub(super) fn set(&mut self, id: &CheckId, status: Status, output: &str, now: Instant) {
        let Some(mark) = self.0.get_mut(id) else { return };
        mark.status = status;
        output.clone_into(&mut mark.output);
        mark.critical_since = match status {
            Status::Critical => mark.critical_since.or(Some(now)),
            Status::Passing | Status::Warning => None,
        };
    }

    pub(super) fn beat(&mut self, id: &CheckId, deadline: Instant) {
        if let Some(mark) = self.0.get_mut(id) {
            mark.deadline = Some(deadline);
        }
    }

    /// TTL checks that were silent for too long; each is told once.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<CheckId> {
        let claimed = self.0.iter_mut().filter(|(_, mark)| !mark.kind.is_empty());
        let expired = claimed.filter(|(_, mark)| mark.deadline.is_some_and(|at| at <= now));
        expired
            .map(|(id, mark)| {
                mark.deadline = None;
                id.clone()
            })
            .collect()
    }

    /// Services that were critical for too long, and the next moment at which anything of this module falls due.
    pub(super) fn deadlines(&self, state: &LocalState, now: Instant) -> (Vec<InstanceId>, Option<Instant>) {
        let mut due = BTreeSet::new();
        let mut next: Option<Instant> = None;
        let mut consider = |at: Instant| next = Some(next.map_or(at, |other| other.min(at)));
        for (id, mark) in self.0.iter().filter(|(_, mark)| !mark.kind.is_empty()) {
            if let Some(at) = mark.deadline {
                consider(at);
            }
            let Some(definition) = state.checks.get(id).and_then(|local| local.definition.as_ref()) else {
                continue;
            };
            let (Some(after), Some(since)) =
                (definition.deregister_critical_service_after, mark.critical_since)
            else {
                continue;
            };
            let Some(service) = &definition.service_id else { continue };
            if since + after <= now {
                due.insert(service.clone());
            } else {
                consider(since + after);
            }
        }
        (due.into_iter().collect(), next)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&CheckId, &Mark)> {
        self.0.iter()
    }
}

fn ttl(definition: &CheckDefinition) -> Option<Duration> {
    match definition.probe {
        Probe::Ttl { ttl } => Some(ttl),
        _ => None,
    }
}

pub(super) fn expired_output(check: &Check) -> String {
    match check.output.as_str() {
        "" => "TTL expired".to_owned(),
        last => format!("TTL expired (last output before timeout follows): {last}"),
    }
}

/// At most `max` bytes of `text`, cut between characters.
pub(super) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}
