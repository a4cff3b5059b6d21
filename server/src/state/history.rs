//! Which history this state is of, and how its revisions follow from positions in the log.
//!
//! A snapshot of another cluster may be ahead of this log, and what a lost majority had acknowledged may have been
//! ahead of a survivor's. Revisions go on above both: a revision is the position in the log and a distance that only
//! grows.

use imbl::Vector;
use purlin_model::node::{Node, NodeRole};
use purlin_model::{HistoryId, Millis, NodeName, Revision};
use serde::{Deserialize, Serialize};

use super::State;
use super::touch::Touches;

/// Recoveries that are remembered, so that a server from before one of them is known for what it is.
const RECOVERIES: usize = 64;
/// How far a recovered mesh goes on above what its survivor knows: more than agents can have been told by others.
const LEAP: u64 = 1_000_000;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct History {
    id: Option<HistoryId>,
    /// What revisions are ahead of the log.
    ahead: u64,
    /// What `purlin operator recover` began, oldest first.
    #[serde(default, skip_serializing_if = "Vector::is_empty")]
    recoveries: Vector<HistoryId>,
}

impl History {
    pub(super) fn is_first(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn revision(&self, index: Revision) -> Revision {
        Revision(index.0.saturating_add(self.ahead))
    }

    /// Goes on as another history whose next revision is at least `least`, being at `now`; answers that revision.
    pub(super) fn begin(&mut self, id: HistoryId, now: Revision, least: Revision) -> Revision {
        self.id = Some(id);
        self.ahead = self.ahead.saturating_add(least.0.saturating_sub(now.0));
        now.max(least)
    }
}

impl State {
    /// What the entry at that position of the log is called.
    pub(crate) fn revision_at(&self, index: Revision) -> Revision {
        self.history.revision(index)
    }

    /// Whoever holds records of another history must take everything anew.
    pub(crate) fn history(&self) -> Option<HistoryId> {
        self.history.id
    }

    /// The recoveries that this state came through, oldest first.
    pub(crate) fn recoveries(&self) -> Vec<HistoryId> {
        self.history.recoveries.iter().copied().collect()
    }

    /// What a survivor goes on from when the majority is given up: it is the only server then, and the others are as
    /// hosts that were removed.
    pub(crate) fn recovered(mut self, id: HistoryId, own: &NodeName, at: Millis) -> Self {
        let next = Revision(self.applied.0.saturating_add(1));
        let leap = Revision(next.0.saturating_add(LEAP));
        let revision = self.history.begin(id, next, leap);
        self.history.recoveries.push_back(id);
        while self.history.recoveries.len() > RECOVERIES {
            self.history.recoveries.pop_front();
        }
        let is_other = |node: &Node| node.role == NodeRole::Server && node.name != *own;
        let others: Vec<NodeName> = self
            .members()
            .map(|(name, _)| name.clone())
            .filter(|name| self.node(name).is_some_and(is_other))
            .collect();
        let mut draft = self.draft(revision, at);
        others.iter().for_each(|name| draft.forget_member(name));
        draft.state.touches = Touches::all_at(revision);
        draft.state
    }
}
