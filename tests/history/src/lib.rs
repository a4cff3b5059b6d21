//! Histories of concurrent clients, and a check that they are linearizable: for the simulation and for the lab.
//!
//! Every key is a register of its own, absent at first, with read, write, compare-and-set and delete. A client takes a
//! [`Ticket`] before it asks and turns it in with the answer; one that is dropped means that nobody knows whether the
//! operation was carried out, or ever will be. Times are places in one count, so no clock is trusted.
//!
//! Write each value once: [`History::check`] answers whatever the values are, but it is quick when they are unique.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod check;
mod search;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use check::Broken;

/// Operations that one history takes; what comes after is a mistake of the test.
pub const OPERATIONS_MAX: usize = 1_000_000;

/// What a client asks of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    Read,
    Write(u64),
    /// Puts `new` if what is there is what this client saw as `expected`; `None` is "absent".
    Cas {
        expected: Option<u64>,
        new: u64,
    },
    Delete,
}

/// What it was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// To a read: what was there.
    Value(Option<u64>),
    /// To a write or a delete: it was carried out.
    Done,
    /// To a compare-and-set: whether it was carried out.
    Swapped(bool),
}

/// One operation from its call to its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub client: u32,
    pub key: String,
    pub op: Op,
    /// When it was asked: before this it cannot have been carried out.
    pub called: u64,
    /// When it was answered, and what; without an answer it may be carried out at any time, or never.
    pub answered: Option<(u64, Answer)>,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |value: Option<u64>| value.map_or("absent".to_owned(), |value| value.to_string());
        write!(f, "client {} ", self.client)?;
        match self.op {
            Op::Read => f.write_str("read")?,
            Op::Write(value) => write!(f, "wrote {value}")?,
            Op::Cas { expected, new } => write!(f, "swapped {} for {new}", show(expected))?,
            Op::Delete => f.write_str("deleted")?,
        }
        match self.answered {
            Some((at, Answer::Value(value))) => write!(f, " -> {} [{}, {at}]", show(value), self.called),
            Some((at, Answer::Done)) => write!(f, " -> done [{}, {at}]", self.called),
            Some((at, Answer::Swapped(done))) => {
                write!(f, " -> {} [{}, {at}]", if done { "done" } else { "refused" }, self.called)
            }
            None => write!(f, " -> no answer [{}, ]", self.called),
        }
    }
}

/// What clients did, in the order in which they began it. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct History {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    now: u64,
    operations: Vec<Operation>,
    /// Places of operations that are known not to have been carried out.
    refused: BTreeSet<usize>,
}

impl Inner {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }
}

/// An operation that was begun. Dropped without a word, its fate is unknown.
#[derive(Debug)]
#[must_use = "an operation that is not answered counts as one whose fate is unknown"]
pub struct Ticket {
    history: History,
    at: usize,
}

impl History {
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A client that panicked elsewhere has left every operation whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Call it before the request leaves.
    pub fn begin(&self, client: u32, key: &str, op: Op) -> Ticket {
        let mut inner = self.lock();
        let (at, called) = (inner.operations.len(), inner.tick());
        assert!(at < OPERATIONS_MAX, "a history of more than {OPERATIONS_MAX} operations");
        inner.operations.push(Operation { client, key: key.to_owned(), op, called, answered: None });
        drop(inner);
        Ticket { history: self.clone(), at }
    }

    /// All but what is known not to have been carried out.
    pub fn operations(&self) -> Vec<Operation> {
        let inner = self.lock();
        let operations = inner.operations.iter().enumerate();
        operations.filter(|(at, _)| !inner.refused.contains(at)).map(|(_, one)| one.clone()).collect()
    }

    /// Whether, for every key, there is an order of the operations that a single register would have answered so, and
    /// that agrees with who was answered before whom asked.
    pub fn check(&self) -> Result<(), Broken> {
        check::check(&self.operations())
    }
}

impl Ticket {
    /// Call it after the answer has come.
    pub fn answer(self, answer: Answer) {
        let mut inner = self.history.lock();
        let now = inner.tick();
        if let Some(operation) = inner.operations.get_mut(self.at) {
            let fits = match operation.op {
                Op::Read => matches!(answer, Answer::Value(_)),
                Op::Write(_) | Op::Delete => matches!(answer, Answer::Done),
                Op::Cas { .. } => matches!(answer, Answer::Swapped(_)),
            };
            assert!(fits, "{answer:?} is no answer to {:?}", operation.op);
            operation.answered = Some((now, answer));
        }
    }

    /// It is certain that the operation was not carried out and never will be, as when nothing was sent.
    pub fn refuse(self) {
        let at = self.at;
        self.history.lock().refused.insert(at);
    }
}
