//! Whatever is cut or flipped in a server's files: it starts with all that was acknowledged, or refuses and names them.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Ledger, runtime, say, start};

const SAID: usize = 40;
/// One byte in so many is flipped; the data file has tens of thousands that matter.
const EVERY: usize = 9_973;

/// A server that was stopped in order, and what it knew.
fn stopped(dir: &Path) -> Ledger {
    let runtime = runtime();
    runtime.block_on(async {
        let raft = start(dir).await.unwrap();
        raft.initialize_single().await.unwrap();
        raft.recovered().await.unwrap();
        for n in 0..SAID {
            raft.propose(say(&format!("text {n} {}", "x".repeat(n * 100)))).await.unwrap();
        }
        raft.raft().trigger().snapshot().await.unwrap();
        raft.raft().wait(None).metrics(|metrics| metrics.snapshot.is_some(), "a snapshot").await.unwrap();
        for n in SAID..SAID + 5 {
            raft.propose(say(&format!("text {n}"))).await.unwrap();
        }
        let state = Ledger::clone(&raft.applied().borrow().state);
        raft.shutdown().await;
        state
    })
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Starts on a damaged copy: all that was acknowledged, or a refusal that names a file or directory of it.
fn judge(good: &Path, knew: &Ledger, what: &str, damage: impl FnOnce(&Path)) -> bool {
    let dir = tempfile::tempdir().unwrap();
    copy(good, dir.path());
    damage(dir.path());
    let runtime = runtime();
    let told = runtime.block_on(async {
        let raft = match start(dir.path()).await {
            Ok(raft) => raft,
            Err(error) => return Err(error.to_string()),
        };
        let recovered = tokio::select! {
            recovered = raft.recovered() => recovered.map_err(|fault| fault.to_string()),
            why = raft.dead() => Err(why),
        };
        let state = Ledger::clone(&raft.applied().borrow().state);
        raft.shutdown().await;
        recovered.map(|()| state)
    });
    match told {
        Ok(state) => {
            assert_eq!(state, *knew, "{what}: something else was served");
            true
        }
        Err(why) => {
            let here = dir.path().display().to_string();
            assert!(why.contains(&here), "{what}: no file is named in {why:?}");
            false
        }
    }
}

#[test]
fn every_cut_and_flip_is_repaired_or_named_and_never_served() {
    let good = tempfile::tempdir().unwrap();
    let knew = stopped(good.path());
    assert_eq!(knew.said.len(), SAID + 5);
    assert!(judge(good.path(), &knew, "nothing", |_| ()));
    let (mut served, mut refused) = (0, 0);
    for file in files(good.path()) {
        let name = file.strip_prefix(good.path()).unwrap().to_owned();
        let bytes = fs::read(&file).unwrap();
        // What lies behind the last byte that is not zero was never written.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let step = if used > 4096 { EVERY } else { 29 };
        let flips = (0..used).step_by(step).map(|at| (at, true));
        let cuts = (0..used).step_by(step * 5).map(|at| (at, false));
        for (at, flip) in flips.chain(cuts) {
            let what = format!("{} {} at {at}", if flip { "flip of" } else { "cut of" }, name.display());
            let whole = judge(good.path(), &knew, &what, |dir| {
                let mut damaged = bytes.clone();
                if flip {
                    damaged[at] ^= 0x40
                } else {
                    damaged.truncate(at)
                }
                fs::write(dir.join(&name), damaged).unwrap();
            });
            *if whole { &mut served } else { &mut refused } += 1;
        }
    }
    assert!(served > 0 && refused > 0, "{served} served, {refused} refused");
}
