use proptest::prelude::{Strategy, any};
use proptest::{prop_assert, prop_assert_eq, proptest};

use crate::{Answer, Broken, History, Op, Operation, check};

/// `(client, operation, called, answered)` on one key.
fn operation(client: u32, op: Op, called: u64, answered: Option<(u64, Answer)>) -> Operation {
    Operation { client, key: "key".into(), op, called, answered }
}

fn wrote(value: u64, called: u64, answered: u64) -> Operation {
    operation(1, Op::Write(value), called, Some((answered, Answer::Done)))
}

fn read(value: Option<u64>, called: u64, answered: u64) -> Operation {
    operation(2, Op::Read, called, Some((answered, Answer::Value(value))))
}

fn swapped(expected: Option<u64>, new: u64, done: bool, called: u64, answered: u64) -> Operation {
    operation(3, Op::Cas { expected, new }, called, Some((answered, Answer::Swapped(done))))
}

fn lost(op: Op, called: u64) -> Operation {
    operation(4, op, called, None)
}

fn is_fine(operations: &[Operation]) -> bool {
    match check::check(operations) {
        Ok(()) => true,
        Err(Broken::NotLinearizable { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn what_one_register_would_do_is_accepted() {
    assert!(is_fine(&[]));
    assert!(is_fine(&[read(None, 1, 2)]));
    assert!(is_fine(&[wrote(1, 1, 2), read(Some(1), 3, 4), wrote(2, 5, 6), read(Some(2), 7, 8)]));
    // Two at the same time may come in any order, and a read beside a write may see either.
    assert!(is_fine(&[wrote(1, 1, 4), wrote(2, 2, 3), read(Some(1), 5, 6)]));
    assert!(is_fine(&[wrote(1, 1, 4), wrote(2, 2, 3), read(Some(2), 5, 6)]));
    assert!(is_fine(&[wrote(1, 1, 2), wrote(2, 3, 8), read(Some(1), 4, 5), read(Some(2), 6, 7)]));
    assert!(is_fine(&[
        swapped(None, 1, true, 1, 2),
        swapped(None, 2, false, 3, 4),
        swapped(Some(1), 3, true, 5, 6)
    ]));
    let deleted = operation(1, Op::Delete, 3, Some((4, Answer::Done)));
    assert!(is_fine(&[wrote(1, 1, 2), deleted, read(None, 5, 6)]));
}

#[test]
fn a_write_whose_fate_is_unknown_may_have_happened_late_or_never() {
    assert!(is_fine(&[wrote(1, 1, 2), lost(Op::Write(2), 3), read(Some(1), 4, 5), read(Some(2), 6, 7)]));
    assert!(is_fine(&[wrote(1, 1, 2), lost(Op::Write(2), 3), read(Some(1), 4, 5)]));
    assert!(is_fine(&[wrote(1, 1, 2), lost(Op::Delete, 3), read(Some(1), 4, 5), read(None, 6, 7)]));
    let swap = lost(Op::Cas { expected: Some(1), new: 2 }, 3);
    assert!(is_fine(&[wrote(1, 1, 2), swap.clone(), read(Some(2), 4, 5)]));
    // What nobody ever saw can still be in the way of a compare-and-set.
    assert!(is_fine(&[wrote(1, 1, 2), lost(Op::Write(2), 3), swapped(Some(1), 3, false, 4, 5)]));
    assert!(is_fine(&[wrote(1, 1, 2), swap, swapped(Some(1), 3, false, 4, 5)]));
    // But not before it was asked for, and not twice.
    assert!(!is_fine(&[wrote(1, 1, 2), read(Some(2), 3, 4), lost(Op::Write(2), 5)]));
    let back = [read(Some(2), 4, 5), read(Some(1), 6, 7)];
    assert!(!is_fine(&[wrote(1, 1, 2), lost(Op::Write(2), 3), back[0].clone(), back[1].clone()]));
    assert!(!is_fine(&[wrote(1, 1, 2), swapped(Some(1), 3, false, 3, 4), lost(Op::Write(2), 5)]));
}

#[test]
fn lies_are_refused() {
    // Stale reads, lost writes, values out of nothing.
    assert!(!is_fine(&[wrote(1, 1, 2), wrote(2, 3, 4), read(Some(1), 5, 6)]));
    assert!(!is_fine(&[wrote(1, 1, 2), read(None, 3, 4)]));
    assert!(!is_fine(&[read(Some(7), 1, 2)]));
    // Two readers see two concurrent writes in different orders.
    assert!(!is_fine(&[
        wrote(1, 1, 10),
        wrote(2, 2, 11),
        read(Some(1), 3, 4),
        read(Some(2), 5, 6),
        read(Some(1), 7, 8)
    ]));
    // A read goes back although both are beside the write.
    assert!(!is_fine(&[wrote(1, 1, 2), wrote(2, 3, 12), read(Some(2), 4, 5), read(Some(1), 6, 7)]));
    // Two swaps of the same value, a swap of what is not there, and one that was refused for no reason.
    assert!(!is_fine(&[wrote(1, 1, 2), swapped(Some(1), 2, true, 3, 6), swapped(Some(1), 3, true, 4, 5)]));
    assert!(!is_fine(&[wrote(1, 1, 2), swapped(None, 2, true, 3, 4)]));
    assert!(!is_fine(&[wrote(1, 1, 2), swapped(Some(1), 2, false, 3, 4)]));
    let deleted = operation(1, Op::Delete, 3, Some((4, Answer::Done)));
    assert!(!is_fine(&[wrote(1, 1, 2), deleted, read(Some(1), 5, 6)]));
}

#[test]
fn keys_are_apart_and_a_refusal_tells_which_one_broke() {
    let history = History::new();
    history.begin(1, "good", Op::Write(1)).answer(Answer::Done);
    history.begin(1, "bad", Op::Write(2)).answer(Answer::Done);
    history.begin(2, "good", Op::Read).answer(Answer::Value(Some(1)));
    history.check().unwrap();
    history.begin(2, "bad", Op::Cas { expected: None, new: 3 }).refuse();
    history.check().unwrap();
    history.begin(2, "bad", Op::Read).answer(Answer::Value(None));
    let Err(Broken::NotLinearizable { key, explained, value, stuck }) = history.check() else { panic!() };
    assert_eq!((key.as_str(), explained.len(), value, stuck.len()), ("bad", 1, Some(2), 1));
    let text = history.check().unwrap_err().to_string();
    assert!(text.contains("client 1 wrote 2 -> done [3, 4]"), "{text}");
    assert!(text.contains("then the value is 2") && text.contains("client 2 read -> absent"), "{text}");
}

#[test]
fn the_order_of_calls_and_answers_is_recorded() {
    let history = History::new();
    let first = history.begin(1, "key", Op::Write(1));
    let second = history.begin(2, "key", Op::Read);
    first.answer(Answer::Done);
    second.answer(Answer::Value(None));
    drop(history.begin(3, "key", Op::Write(2)));
    let times: Vec<_> =
        history.operations().iter().map(|one| (one.called, one.answered.map(|(at, _)| at))).collect();
    assert_eq!(times, [(1, Some(3)), (2, Some(4)), (5, None)]);
    history.check().unwrap();
}

/// All orders of all choices of those without an answer: slow, short, and clearly right.
fn by_brute_force(operations: &[Operation]) -> bool {
    fn go(left: &[Operation], value: Option<u64>) -> bool {
        if left.iter().all(|one| one.answered.is_none()) {
            return true;
        }
        (0..left.len()).any(|at| {
            let one = &left[at];
            let too_early = left.iter().any(|other| other.answered.is_some_and(|(end, _)| end < one.called));
            let after = match (one.op, one.answered.map(|(_, answer)| answer)) {
                (Op::Read, Some(Answer::Value(seen))) => (seen == value).then_some(value),
                (Op::Read, _) => Some(value),
                (Op::Write(new), _) => Some(Some(new)),
                (Op::Delete, _) => Some(None),
                (Op::Cas { expected, .. }, Some(Answer::Swapped(false))) => {
                    (expected != value).then_some(value)
                }
                (Op::Cas { expected, new }, _) => (expected == value).then_some(Some(new)),
            };
            let rest: Vec<Operation> = [&left[..at], &left[at + 1..]].concat();
            !too_early && after.is_some_and(|value| go(&rest, value))
        })
    }
    go(operations, None)
}

/// Histories of a few operations at random times; with unique values every writer has its own.
fn any_history() -> impl Strategy<Value = Vec<Operation>> {
    let value = 0..3_u64;
    let one = (0..5_u8, value.clone(), value, any::<bool>(), 0..4_u8, (0..20_u64, 1..10_u64));
    (proptest::collection::vec(one, 0..7), any::<bool>()).prop_map(|(all, unique)| {
        let own = |at: usize, value: u64| if unique { at as u64 } else { value };
        let mut history = Vec::new();
        for (at, (kind, value, other, flag, fate, (from, length))) in all.into_iter().enumerate() {
            let seen = (value > 0).then_some(if unique { other + value } else { other });
            let (op, answer) = match kind {
                0 | 1 => (Op::Write(own(at, value)), Answer::Done),
                2 => (Op::Delete, Answer::Done),
                3 => (Op::Cas { expected: seen, new: own(at, value) }, Answer::Swapped(flag)),
                _ => (Op::Read, Answer::Value(seen)),
            };
            // Twice as many places as times, so that no two are equal.
            let called = from * 16 + at as u64 * 2;
            let answered = (fate > 0).then_some(((from + length) * 16 + at as u64 * 2 + 1, answer));
            history.push(operation(at as u32, op, called, answered));
        }
        history
    })
}

/// What clients of a true register see when each operation takes effect somewhere between call and answer.
fn true_history(choices: &[(u8, u8, u8, u8)]) -> Vec<Operation> {
    let (mut value, mut now) = (None, 0);
    let mut seen = [None; 4];
    // Per client: its operation, whether it took effect, and its answer.
    let mut pending: [Option<(Op, u64, Option<Answer>)>; 4] = [None; 4];
    let mut history = Vec::new();
    for (next, (client, kind, _, fate)) in choices.iter().enumerate() {
        let client = usize::from(client % 4);
        now += 1;
        match &mut pending[client] {
            slot @ None => {
                let new = next as u64;
                let op = match kind % 4 {
                    0 => Op::Write(new),
                    1 => Op::Cas { expected: seen[client], new },
                    2 if kind % 8 == 2 => Op::Delete,
                    _ => Op::Read,
                };
                *slot = Some((op, now, None));
            }
            Some((op, _, done @ None)) => {
                *done = Some(match *op {
                    Op::Read => Answer::Value(value),
                    Op::Write(new) => {
                        value = Some(new);
                        Answer::Done
                    }
                    Op::Delete => {
                        value = None;
                        Answer::Done
                    }
                    Op::Cas { expected, new } => {
                        let swaps = expected == value;
                        value = if swaps { Some(new) } else { value };
                        Answer::Swapped(swaps)
                    }
                });
            }
            Some((op, called, Some(answer))) => {
                if let Answer::Value(value) = answer {
                    seen[client] = *value;
                }
                // One in eight answers is lost.
                let answered = (fate % 8 > 0).then_some((now, *answer));
                history.push(operation(client as u32, *op, *called, answered));
                pending[client] = None;
            }
        }
    }
    for (client, open) in pending.iter().enumerate() {
        history.extend(open.iter().map(|(op, called, _)| operation(client as u32, *op, *called, None)));
    }
    history
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(4_000))]

    #[test]
    fn it_agrees_with_trying_everything(history in any_history()) {
        prop_assert_eq!(is_fine(&history), by_brute_force(&history));
    }
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

    #[test]
    fn true_histories_are_accepted_and_forged_ones_are_not(
        choices in proptest::collection::vec(any::<(u8, u8, u8, u8)>(), 1..1_200),
        forge in any::<proptest::sample::Index>(),
    ) {
        let mut history = true_history(&choices);
        prop_assert!(is_fine(&history));
        // A read that saw what had been overwritten before it asked.
        let last = history.iter().filter_map(|one| Some(one.answered?.0)).max().unwrap_or(0);
        let value = 1_000_000 + forge.index(9) as u64;
        history.push(wrote(value, last + 1, last + 2));
        history.push(wrote(2_000_000, last + 3, last + 4));
        prop_assert!(is_fine(&history));
        history.push(read(Some(value), last + 5, last + 6));
        prop_assert!(!is_fine(&history));
    }
}
