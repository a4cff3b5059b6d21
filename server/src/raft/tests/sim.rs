//! The simulation: servers, clients and agents in one thread of virtual time, with every fault that a seed deals out.
//!
//! What runs is the product's: Raft, its messages, the state, the hub. Replaced are the disk (which forgets what was
//! not synced), the network, and the clock. Each seed is a process of its own, into which `still.c` is preloaded, so
//! that nothing random comes from anywhere but the seed: the same seed gives the same events, each at the same time.
//!
//! `make sim SEEDS=10000` runs many, `make sim SEED=7` replays one and tells what happens, `BUG=...` puts a bug back.

mod agent;
mod client;
mod disk;
mod faults;
mod invariant;
mod net;
mod processes;
mod server;
mod world;

use std::sync::atomic::{AtomicBool, Ordering};

use processes::{SEED, Seeds};
use world::World;

/// Seeds that every run of the tests tries.
const SEEDS: u64 = 24;
/// Seeds that an old bug may hide from.
const HIDES: u64 = 100;

/// What the name of an invariant follows that does not hold.
const BROKEN: &str = "broken: ";

/// Set in the process of a seed.
static HERE: AtomicBool = AtomicBool::new(false);

/// Whether this process is a simulation, in which nothing may happen on other threads.
pub(crate) fn is_here() -> bool {
    HERE.load(Ordering::Relaxed)
}

/// Bugs that other systems had, put back on purpose to see that they are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    /// The log says that entries are durable before they are.
    AckBeforeSync,
    /// A vote is kept in memory only.
    ForgottenVote,
    /// A server that thinks it leads answers reads without asking anybody.
    ReadWithoutBarrier,
    /// A session resumes from what it had without looking for what changed since.
    ResumeBlindly,
}

impl Bug {
    const ALL: [Self; 4] =
        [Self::AckBeforeSync, Self::ForgottenVote, Self::ReadWithoutBarrier, Self::ResumeBlindly];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| bug.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::AckBeforeSync => "ack-before-sync",
            Self::ForgottenVote => "forgotten-vote",
            Self::ReadWithoutBarrier => "read-without-barrier",
            Self::ResumeBlindly => "resume-blindly",
        }
    }

    /// The invariants that it breaks.
    fn breaks(self) -> &'static [&'static str] {
        match self {
            // What one server has forgotten is missed by a client, or another entry is put in its place.
            Self::AckBeforeSync => &["acknowledged", "prefix", "linearizable"],
            // Raft itself does not go on as a leader whose vote is older than its log.
            Self::ForgottenVote => &["running", "leaders"],
            Self::ReadWithoutBarrier => &["linearizable"],
            Self::ResumeBlindly => &["views"],
        }
    }
}

#[test]
fn seeds_pass() {
    let seeds = Seeds::from_environment(SEEDS);
    let failed = seeds.run();
    assert!(failed.is_empty(), "{} of {} seeds failed\n{}", failed.len(), seeds.count(), failed.join("\n"));
}

#[test]
fn a_seed_is_the_same_every_time() {
    for seed in [3, 14] {
        let (first, second) = (processes::one(seed, None), processes::one(seed, None));
        assert_eq!(first, second, "seed {seed} went another way");
        assert!(first.is_ok_and(|told| told.contains("trace ")), "seed {seed}");
    }
}

#[test]
fn an_old_bug_is_found() {
    for bug in Bug::ALL {
        // Others may be broken on the way, or Raft may notice that something is wrong.
        let named = |told: &str| bug.breaks().iter().any(|name| told.contains(&format!("{BROKEN}{name}: ")));
        let found = Seeds::with_bug(bug, HIDES).first_failure(named);
        let told = found.unwrap_or_else(|| panic!("{} was not found by {HIDES} seeds", bug.name()));
        let replay = format!("BUG={}", bug.name());
        assert!(told.contains("make sim SEED=") && told.contains(&replay), "{told}");
        println!("{told}");
    }
}

/// One seed, in a process that was made for it.
#[test]
#[ignore = "the tests above start it"]
fn one_seed() {
    let Some(seed) = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()) else { return };
    let bug = std::env::var(processes::BUG).ok().and_then(|name| Bug::named(&name));
    HERE.store(true, Ordering::Relaxed);
    // A fresh thread, because what a thread has already drawn does not follow from the seed.
    let ran = std::thread::spawn(move || World::run(seed, bug)).join();
    match ran {
        Ok(Ok(told)) => println!("seed {seed}: {told}"),
        Ok(Err(why)) => panic!("{}", processes::failure(seed, bug, &format!("{BROKEN}{why}"))),
        Err(_) => panic!("{}", processes::failure(seed, bug, "a panic, see above")),
    }
}
