//! One leader a ballot, and one log under it.
//!
//! A ballot is a term and a node: openraft's votes are ordered by both, so two servers may lead in one numeric term,
//! one after the other, as if these were two terms. So what must hold is that a ballot is one life of its node, and
//! that an entry, which is named by ballot and place, is the same whoever sends it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Mutex;

use crate::raft::CallKind;
use crate::raft::codec::{self, Ballot};
use crate::raft::message::Append;

/// Who speaks: a server, and which of its lives.
pub(in crate::raft::tests::sim) type Speaker = (u64, u64);

/// Of an entry: term, node and place.
type Name = (u64, u64, u64);

#[derive(Default)]
pub(super) struct Leaders {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By term and node.
    leaders: BTreeMap<(u64, u64), Speaker>,
    /// What an entry is, and what comes before it.
    entries: BTreeMap<Name, (u64, Option<Name>)>,
}

impl Leaders {
    pub(super) fn heard(&self, from: Speaker, kind: CallKind, body: &[u8]) -> Result<(), String> {
        if kind != CallKind::Append {
            return Ok(());
        }
        let append: Append = codec::read(body).map_err(|error| format!("an unreadable append: {error}"))?;
        let mut inner = self.inner.lock().unwrap();
        inner.led(from, append.vote)?;
        let mut before = append.previous.map(|at| (at.term, at.node, at.index));
        for bytes in &append.entries {
            let entry = codec::read_entry(bytes).map_err(|error| error.to_string())?;
            let at = entry.log_id;
            let name = (at.leader_id.term, at.leader_id.node_id, at.index);
            inner.sent(name, bytes, before)?;
            before = Some(name);
        }
        Ok(())
    }
}

impl Inner {
    fn led(&mut self, from: Speaker, vote: Ballot) -> Result<(), String> {
        if vote.node != from.0 {
            return Err(format!("server {} speaks in the name of {}", from.0, vote.node));
        }
        let leader = *self.leaders.entry((vote.term, vote.node)).or_insert(from);
        if leader == from {
            return Ok(());
        }
        let (term, node) = (vote.term, vote.node);
        Err(format!("server {node} leads in term {term} in its lives {} and {}", leader.1, from.1))
    }

    fn sent(&mut self, name: Name, bytes: &[u8], before: Option<Name>) -> Result<(), String> {
        let mut hasher = DefaultHasher::new();
        hasher.write(bytes);
        let this = (hasher.finish(), before);
        let known = *self.entries.entry(name).or_insert(this);
        if known == this {
            return Ok(());
        }
        let (term, node, index) = name;
        Err(format!("entry {index} of term {term} and node {node} is two things, or follows two"))
    }
}
