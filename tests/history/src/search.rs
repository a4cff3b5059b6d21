//! The search for an order: Wing and Gong's, which tries what may come first, with a memory of where it has been.
//!
//! Two ways to the same set of done steps and the same value have the same future, so each such place is looked at
//! once; one that has used more of the steps without an end can do no more than one that has used fewer. Such a step
//! is only taken right before one that needs it. The search keeps its own stack and has a limit.

use std::collections::{BTreeSet, HashMap};

/// Places that are looked at before the search is given up.
const PLACES_MAX: usize = 500_000;

/// What a step does to the register, or says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Is(Option<u64>),
    IsNot(Option<u64>),
    Set(Option<u64>),
    Swap {
        expected: Option<u64>,
        new: u64,
    },
    /// Puts something that nobody ever sees.
    Hide,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// Place of its operation in the history.
    pub at: usize,
    pub effect: Effect,
    pub from: u64,
    /// It was done by then; absent: at any time, or never.
    pub until: Option<u64>,
}

pub(crate) enum Found {
    Order,
    Nothing { explained: Vec<usize>, value: Option<u64>, stuck: Vec<usize> },
    GaveUp,
}

/// What is in the register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Register {
    Holds(Option<u64>),
    Hidden,
}

impl Register {
    fn after(self, effect: Effect) -> Option<Self> {
        match effect {
            Effect::Is(value) => (self == Self::Holds(value)).then_some(self),
            Effect::IsNot(value) => (self != Self::Holds(value)).then_some(self),
            Effect::Set(value) => Some(Self::Holds(value)),
            Effect::Swap { expected, new } => {
                (self == Self::Holds(expected)).then_some(Self::Holds(Some(new)))
            }
            Effect::Hide => Some(Self::Hidden),
        }
    }

    fn value(self) -> Option<u64> {
        match self {
            Self::Holds(value) => value,
            Self::Hidden => None,
        }
    }
}

/// Where the search is: which steps are done, and what is in the register.
#[derive(Debug, Clone)]
struct Place {
    spot: Spot,
    /// Done steps that had no end.
    open: BTreeSet<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Spot {
    /// All steps with an end before this one are done.
    low: usize,
    /// Done ones from there on.
    beyond: BTreeSet<usize>,
    register: Register,
    /// The last step had no end: the next one must be why it was taken.
    lent: bool,
}

/// Where the search has been: for each spot, the smallest sets of steps without an end that were used on the way.
#[derive(Default)]
struct Been {
    spots: HashMap<Spot, Vec<BTreeSet<usize>>>,
    places: usize,
}

impl Been {
    /// False if it was there before, with no less at hand.
    fn enter(&mut self, place: &Place) -> bool {
        let known = self.spots.entry(place.spot.clone()).or_default();
        if known.iter().any(|used| used.is_subset(&place.open)) {
            return false;
        }
        known.retain(|used| !place.open.is_subset(used));
        known.push(place.open.clone());
        self.places += 1;
        true
    }
}

struct Problem {
    /// Steps with an end, in the order of their calls.
    ended: Vec<(Step, u64)>,
    /// For each of them, and for none, the earliest end from there on.
    earliest: Vec<u64>,
    /// Steps without one, in the order of their calls.
    open: Vec<Step>,
}

pub(crate) fn search(steps: &[Step]) -> Found {
    let problem = Problem::new(steps);
    let spot = Spot { low: 0, beyond: BTreeSet::new(), register: Register::Holds(None), lent: false };
    let start = Place { spot, open: BTreeSet::new() };
    let mut been = Been::default();
    been.enter(&start);
    // Each level: the place, and the steps that may still be tried there, the last one first.
    let mut path = vec![(start.clone(), problem.next(&start))];
    let mut order: Vec<usize> = Vec::new();
    let mut best = (order.clone(), start);
    while let Some((place, choices)) = path.last_mut() {
        if problem.is_done(place) {
            return Found::Order;
        }
        let Some((at, next)) = choices.pop() else {
            path.pop();
            order.pop();
            continue;
        };
        if !been.enter(&next) {
            continue;
        }
        if been.places > PLACES_MAX {
            return Found::GaveUp;
        }
        order.push(at);
        if order.len() > best.0.len() {
            best = (order.clone(), next.clone());
        }
        let choices = problem.next(&next);
        path.push((next, choices));
    }
    let (explained, place) = best;
    let stuck = problem.possible(&place.spot).map(|(index, _)| problem.ended[index].0.at).collect();
    Found::Nothing { explained, value: place.spot.register.value(), stuck }
}

impl Problem {
    fn new(steps: &[Step]) -> Self {
        let mut ended: Vec<(Step, u64)> =
            steps.iter().filter_map(|step| step.until.map(|until| (*step, until))).collect();
        ended.sort_by_key(|(step, _)| step.from);
        let mut earliest = vec![u64::MAX; ended.len() + 1];
        for index in (0..ended.len()).rev() {
            earliest[index] = ended[index].1.min(earliest[index + 1]);
        }
        let mut open: Vec<Step> = steps.iter().filter(|step| step.until.is_none()).copied().collect();
        open.sort_by_key(|step| step.from);
        Self { ended, earliest, open }
    }

    fn is_done(&self, place: &Place) -> bool {
        place.spot.low == self.ended.len()
    }

    /// Before this every step that is to come must have begun.
    fn horizon(&self, spot: &Spot) -> u64 {
        let mut horizon = u64::MAX;
        let after = spot.beyond.last().map_or(spot.low, |last| last + 1);
        for index in (spot.low..after).filter(|index| !spot.beyond.contains(index)) {
            horizon = horizon.min(self.ended[index].1);
        }
        horizon.min(self.earliest[after])
    }

    /// Steps with an end that no other one has to precede.
    fn possible<'a>(&'a self, spot: &'a Spot) -> impl Iterator<Item = (usize, Step)> + 'a {
        let horizon = self.horizon(spot);
        let begun = self.ended[spot.low..].iter().take_while(move |(step, _)| step.from < horizon);
        let begun = begun.enumerate().map(move |(offset, (step, _))| (spot.low + offset, *step));
        begun.filter(|(index, _)| !spot.beyond.contains(index))
    }

    /// What may come next and where it leads. The last one is the most promising.
    fn next(&self, place: &Place) -> Vec<(usize, Place)> {
        let mut choices = self.lend(place);
        let spot = &place.spot;
        let ended: Vec<_> = self.possible(spot).collect();
        for (index, step) in ended.into_iter().rev() {
            if spot.lent && matches!(step.effect, Effect::Set(_)) {
                continue;
            }
            let Some(register) = spot.register.after(step.effect) else { continue };
            let mut next = Place { spot: Spot { register, lent: false, ..spot.clone() }, ..place.clone() };
            next.spot.beyond.insert(index);
            while next.spot.beyond.remove(&next.spot.low) {
                next.spot.low += 1;
            }
            // What only looks can always come first: nothing else needs to be tried.
            if matches!(step.effect, Effect::Is(_) | Effect::IsNot(_)) {
                return vec![(step.at, next)];
            }
            choices.push((step.at, next));
        }
        choices
    }

    /// The steps without an end that change the register now.
    fn lend(&self, place: &Place) -> Vec<(usize, Place)> {
        let (spot, horizon) = (&place.spot, self.horizon(&place.spot));
        let mut choices: Vec<(usize, Place)> = Vec::new();
        let mut tried: Vec<Effect> = Vec::new();
        for (index, step) in self.open.iter().enumerate() {
            // Of those that do the same the first one called can stand in for any other.
            if step.from >= horizon || place.open.contains(&index) || tried.contains(&step.effect) {
                continue;
            }
            tried.push(step.effect);
            if spot.lent && !matches!(step.effect, Effect::Swap { .. }) {
                continue;
            }
            if let Some(register) = spot.register.after(step.effect).filter(|new| *new != spot.register) {
                let mut next = Place { spot: Spot { register, lent: true, ..spot.clone() }, ..place.clone() };
                next.open.insert(index);
                choices.push((step.at, next));
            }
        }
        choices
    }
}
