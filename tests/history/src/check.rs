//! From a history to one problem a key, made small before it is searched.
//!
//! An operation without an answer may take effect at any time from its call on, which is what makes histories hard.
//! Where every value is written once, a value that somebody saw tells that it took effect, and before when; one that
//! nobody saw can do no more than hide the value before it, and all such are alike.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::search::{self, Effect, Found, Step};
use crate::{Answer, Op, Operation};

/// Why a history is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// No order explains it.
    NotLinearizable {
        key: String,
        /// The longest explanation found, and the value after it.
        explained: Vec<Operation>,
        value: Option<u64>,
        /// What would have had to come next: none of them fits.
        stuck: Vec<Operation>,
    },
    /// The search was given up. Fewer operations without an answer, or unique values, make it easier.
    TooHard { key: String, operations: usize },
}

/// Of a long explanation, its end.
const SHOWN: usize = 12;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooHard { key, operations } => {
                write!(f, "cannot tell whether the {operations} operations on key {key:?} are linearizable")
            }
            Self::NotLinearizable { key, explained, value, stuck } => {
                let value = value.map_or("absent".to_owned(), |value| value.to_string());
                let hidden = explained.len().saturating_sub(SHOWN);
                writeln!(f, "key {key:?} is not linearizable: {} operations fit", explained.len())?;
                if hidden > 0 {
                    writeln!(f, "  ... {hidden} before")?;
                }
                for operation in explained.iter().skip(hidden) {
                    writeln!(f, "  {operation}")?;
                }
                writeln!(f, "then the value is {value}, and none of these can be next")?;
                for operation in stuck {
                    writeln!(f, "  {operation}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for Broken {}

pub(crate) fn check(operations: &[Operation]) -> Result<(), Broken> {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        keys.entry(&operation.key).or_default().push(operation);
    }
    keys.into_iter().try_for_each(|(key, operations)| check_key(key, &operations))
}

fn check_key(key: &str, operations: &[&Operation]) -> Result<(), Broken> {
    let steps = steps(operations);
    let all = |at: &[usize]| at.iter().map(|at| operations[*at].clone()).collect();
    match search::search(&steps) {
        Found::Order => Ok(()),
        Found::GaveUp => Err(Broken::TooHard { key: key.to_owned(), operations: operations.len() }),
        Found::Nothing { explained, value, stuck } => Err(Broken::NotLinearizable {
            key: key.to_owned(),
            explained: all(&explained),
            value,
            stuck: all(&stuck),
        }),
    }
}

/// What was seen of one key.
struct Seen {
    /// Every value has one writer.
    unique: bool,
    /// When each value was first known to have been there: the earliest answer that shows it.
    first: BTreeMap<u64, u64>,
    /// Values that matter to a compare-and-set without an answer.
    wanted: BTreeSet<u64>,
}

impl Seen {
    fn of(operations: &[&Operation]) -> Self {
        let mut seen = Self { unique: true, first: BTreeMap::new(), wanted: BTreeSet::new() };
        let mut written = BTreeSet::new();
        for operation in operations {
            let (shown, new) = match (operation.op, operation.answered) {
                (Op::Read, Some((at, Answer::Value(Some(value))))) => (Some((value, at)), None),
                (Op::Cas { expected: Some(old), new }, Some((at, Answer::Swapped(true)))) => {
                    (Some((old, at)), Some(new))
                }
                (Op::Write(new) | Op::Cas { new, .. }, _) => (None, Some(new)),
                _ => (None, None),
            };
            if let Some((value, at)) = shown {
                let first = seen.first.entry(value).or_insert(at);
                *first = at.min(*first);
            }
            if let Some(new) = new {
                seen.unique &= written.insert(new);
            }
        }
        seen.follow_swaps(operations);
        seen
    }

    /// A compare-and-set without an answer whose value was seen had itself seen the one before.
    fn follow_swaps(&mut self, operations: &[&Operation]) {
        let swaps = operations.iter().filter(|one| one.answered.is_none()).filter_map(|one| match one.op {
            Op::Cas { expected: Some(old), new } => Some((old, new)),
            _ => None,
        });
        let swaps: BTreeMap<u64, u64> = swaps.map(|(old, new)| (new, old)).collect();
        self.wanted = swaps.values().copied().collect();
        for (mut value, at) in self.first.clone() {
            while let Some(old) = swaps.get(&value) {
                let first = self.first.entry(*old).or_insert(u64::MAX);
                if *first <= at {
                    break;
                }
                (*first, value) = (at, *old);
            }
        }
    }
}

/// One step an operation, without those that cannot matter.
fn steps(operations: &[&Operation]) -> Vec<Step> {
    let seen = Seen::of(operations);
    let shown = |new: u64| if seen.unique { seen.first.get(&new).copied() } else { None };
    let mut steps = Vec::with_capacity(operations.len());
    for (at, operation) in operations.iter().enumerate() {
        let effect = match (operation.op, operation.answered) {
            (Op::Read, Some((_, Answer::Value(value)))) => Effect::Is(value),
            // Who was told nothing tells nothing.
            (Op::Read, _) => continue,
            (Op::Write(new), None) if seen.unique && shown(new).is_none() && !seen.wanted.contains(&new) => {
                Effect::Hide
            }
            (Op::Write(new), _) => Effect::Set(Some(new)),
            (Op::Delete, _) => Effect::Set(None),
            (Op::Cas { expected, .. }, Some((_, Answer::Swapped(false)))) => Effect::IsNot(expected),
            (Op::Cas { expected, new }, _) => Effect::Swap { expected, new },
        };
        let until = match (operation.op, operation.answered) {
            (_, Some((until, _))) => Some(until),
            (Op::Write(new) | Op::Cas { new, .. }, None) => shown(new),
            _ => None,
        };
        steps.push(Step { at, effect, from: operation.called, until });
    }
    steps
}
