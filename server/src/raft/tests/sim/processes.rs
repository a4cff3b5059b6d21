//! One process a seed, a few at a time, and what they told.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::Bug;

pub(super) const SEED: &str = "SIM_SEED";
pub(super) const BUG: &str = "SIM_BUG";
pub(super) const TELL: &str = "SIM_TELL";
const CHILD: &str = "raft::tests::sim::one_seed";
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Unless `AT_ONCE` says otherwise.
const AT_ONCE: u64 = 2;
/// Failures after which no further seed is begun.
const ENOUGH: usize = 5;

fn asked(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|text| text.trim().to_owned())
}

fn number(name: &str) -> Option<u64> {
    let text = asked(name)?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is to be a number, not {text:?}")))
}

/// Which seeds to try, and with which bug.
pub(super) struct Seeds {
    first: u64,
    count: u64,
    bug: Option<Bug>,
}

impl Seeds {
    /// `SEED` replays one, `SEEDS` tries so many from `FROM` on.
    pub(super) fn from_environment(count: u64) -> Self {
        let bug =
            asked("BUG").map(|name| Bug::named(&name).unwrap_or_else(|| panic!("there is no BUG={name}")));
        match number("SEED") {
            Some(seed) => Self { first: seed, count: 1, bug },
            None => Self { first: number("FROM").unwrap_or(0), count: number("SEEDS").unwrap_or(count), bug },
        }
    }

    pub(super) fn with_bug(bug: Bug, count: u64) -> Self {
        Self { first: 0, count, bug: Some(bug) }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// What the seeds that failed told.
    pub(super) fn run(&self) -> Vec<String> {
        self.try_until(ENOUGH, |_| true)
    }

    /// The first failure that is such a one.
    pub(super) fn first_failure(&self, is_such: impl Fn(&str) -> bool + Sync) -> Option<String> {
        self.try_until(1, is_such).into_iter().next()
    }

    fn try_until(&self, enough: usize, is_such: impl Fn(&str) -> bool + Sync) -> Vec<String> {
        let (next, failed) = (AtomicU64::new(self.first), Mutex::new(Vec::new()));
        let progress = Progress::new(self);
        let work = || {
            while failed.lock().unwrap().len() < enough {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= self.first + self.count {
                    return;
                }
                let ran = run(seed, self.bug, self.count == 1);
                progress.tell(&ran);
                match ran {
                    Ok(told) if self.count == 1 => println!("{told}"),
                    Err(told) if is_such(&told) => failed.lock().unwrap().push(told),
                    _ => {}
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..number("AT_ONCE").unwrap_or(AT_ONCE) {
                scope.spawn(work);
            }
        });
        failed.into_inner().unwrap()
    }
}

/// Tells now and then how far it is.
struct Progress {
    count: u64,
    inner: Mutex<Told>,
}

struct Told {
    done: u64,
    failed: u64,
    began: Instant,
    last: Instant,
}

impl Progress {
    fn new(seeds: &Seeds) -> Self {
        let now = Instant::now();
        Self { count: seeds.count, inner: Mutex::new(Told { done: 0, failed: 0, began: now, last: now }) }
    }

    fn tell(&self, ran: &Result<String, String>) {
        let mut told = self.inner.lock().unwrap();
        told.done += 1;
        told.failed += u64::from(ran.is_err());
        if told.last.elapsed() >= TELL_EVERY {
            told.last = Instant::now();
            let seconds = told.began.elapsed().as_secs();
            eprintln!("{} of {} seeds, {} failed, {seconds} s", told.done, self.count, told.failed);
        }
    }
}

/// Runs a seed: what it told of itself, or of its failure.
pub(super) fn one(seed: u64, bug: Option<Bug>) -> Result<String, String> {
    run(seed, bug, false)
}

/// With all events, if it is to tell them.
fn run(seed: u64, bug: Option<Bug>, tells: bool) -> Result<String, String> {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", CHILD, "--ignored", "--nocapture", "--test-threads=1"]);
    child.env(SEED, seed.to_string()).env(BUG, bug.map_or("", Bug::name)).env("LD_PRELOAD", still());
    child.env("RUST_BACKTRACE", "0");
    // What the process leaves behind goes with this.
    let dir = tempfile::tempdir().unwrap();
    child.env("TMPDIR", dir.path());
    if tells {
        child.env(TELL, "yes");
    }
    let output = child.stdin(Stdio::null()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        let told = out.lines().find(|line| line.contains(&format!("seed {seed}: ")));
        let story: String = err.lines().map(|line| format!("{line}\n")).collect();
        return told
            .map(|told| format!("{story}{told}"))
            .ok_or_else(|| format!("seed {seed} told nothing: {out}"));
    }
    Err(format!("{err}\n{}", out.lines().filter(|line| line.contains("panicked")).collect::<String>()))
}

/// How a failure is told: what broke, and what to type to see it again.
pub(super) fn failure(seed: u64, bug: Option<Bug>, why: &str) -> String {
    let bug = bug.map_or(String::new(), |bug| format!(" BUG={}", bug.name()));
    format!("{why}\nreplay it: make sim SEED={seed}{bug}\n")
}

/// The library that makes a process follow its seed, built on first use.
fn still() -> &'static Path {
    static STILL: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, library) = STILL.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/raft/tests/still.c");
        let library = dir.path().join("still.so");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let built =
            Command::new(compiler).args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
        assert!(built.unwrap().success(), "the C compiler that builds the product builds this too");
        (dir, library)
    });
    library
}
