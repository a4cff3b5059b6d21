//! The power is cut while a writer acknowledges; afterwards all that it acknowledged must be there.
//!
//! The disk is an ext4 file system on a loop device, and the cut is its shutdown without a flush (`FS_IOC_SHUTDOWN`):
//! what was not synced is gone. The writer is this test program once more. The same cut with the sync left out must
//! lose something, or the test would not notice a log that is not durable. It takes root and loop devices; without
//! them it says so and passes, unless `PURLIN_TEST_NO_SKIP` is set.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt};
use openraft::vote::RaftLeaderId;
use tempfile::TempDir;

use super::{runtime, say};
use crate::raft::log::{DurableSled, LogStore};
use crate::raft::snapshot::SnapshotStore;
use crate::raft::types::{Entry, LeaderId, LogId, Payload, SnapshotMeta, StoredMembership, Vote};

const DIR: &str = "PURLIN_TEST_POWER_CUT_DIR";
const FORGET: &str = "PURLIN_TEST_POWER_CUT_FORGET_SYNC";
const WRITER: &str = "raft::tests::power_cut::writer";
/// `FS_IOC_SHUTDOWN` with `FS_SHUTDOWN_FLAGS_NOLOGFLUSH`. Perl is on every Debian and has `ioctl`.
const CUT: &str = r#"open(my $f, "<", $ARGV[0]) or die "open: $!"; my $how = pack("L", 2);
    ioctl($f, 0x8004587D, $how) or die "ioctl: $!";"#;

/// A small file system of its own.
pub(super) struct Disk {
    image: PathBuf,
    mount: PathBuf,
    _dir: TempDir,
}

impl Disk {
    /// Nothing, and a word why, where the machine does not let us.
    pub(super) fn new(mib: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let (image, mount) = (dir.path().join("image"), dir.path().join("disk"));
        std::fs::create_dir(&mount).unwrap();
        std::fs::File::create(&image).unwrap().set_len(mib * 1024 * 1024).unwrap();
        let made = run("mkfs.ext4", &["-q", "-F", &text(&image)]);
        let disk = Self { image, mount, _dir: dir };
        match made.and_then(|()| disk.mount()) {
            Ok(()) => Some(disk),
            Err(why) => {
                assert!(std::env::var_os("PURLIN_TEST_NO_SKIP").is_none(), "no disk for the test: {why}");
                // Not a macro: those are swallowed when a test passes.
                let word =
                    format!("SKIPPED, it takes root and loop devices to have a disk of one's own: {why}\n");
                std::io::stderr().write_all(word.as_bytes()).unwrap();
                None
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.mount
    }

    fn mount(&self) -> Result<(), String> {
        run("mount", &["-o", "loop", &text(&self.image), &text(&self.mount)])
    }

    fn cut(&self, file: &Path) {
        run("perl", &["-e", CUT, &text(file)]).unwrap();
    }

    /// Mounts a copy of what the disk holds: the file system that was shut down lives on, and would be found again
    /// under its own image, for as long as any other mount namespace of this machine has it.
    fn mount_again(&mut self) {
        run("umount", &[&text(&self.mount)]).unwrap();
        let copy = self.image.with_extension("copy");
        std::fs::copy(&self.image, &copy).unwrap();
        self.image = copy;
        self.mount().unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a test that failed may still have files open. Before it is mounted this fails, and may.
        let _ = run("umount", &["-l", &text(&self.mount)]);
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).env("LC_ALL", "C").output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// The highest of each kind that was acknowledged.
#[derive(Debug, Default, PartialEq, Eq)]
struct Acknowledged {
    entry: u64,
    vote: u64,
    snapshot: u64,
}

impl Acknowledged {
    fn take(&mut self, line: &str) {
        let Some((kind, number)) = line.split_once(' ') else { return };
        let Ok(number) = number.parse() else { return };
        match kind {
            "entry" => self.entry = number,
            "vote" => self.vote = number,
            "snapshot" => self.snapshot = number,
            _ => {}
        }
    }
}

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta { last_log_id: Some(at(index)), last_membership: StoredMembership::default() }
}

fn at(index: u64) -> LogId {
    LogId::new(LeaderId::new(1, 1), index)
}

/// Content that can be told from any other entry's, of sizes from one part to many.
fn said(index: u64) -> String {
    format!("{index}:{}", "x".repeat(usize::try_from(index * 37 % 6_000).unwrap()))
}

/// Writes until the disk fails, and says after each step what is durable.
async fn write(dir: &Path, forget_sync: bool) -> std::io::Result<()> {
    let db = DurableSled::open(&dir.join("raft"))?;
    if forget_sync {
        db.forget_sync();
    }
    let mut log = LogStore::over(db, 1).map_err(std::io::Error::other)?;
    let snapshots = SnapshotStore::open(&dir.join("snapshots"))?;
    let (mut next, mut step) = (0, 0);
    loop {
        let group = next..next + 1 + step * 7 % 24;
        let entries: Vec<Entry> = group
            .clone()
            .map(|index| Entry { log_id: at(index), payload: Payload::Normal(say(&said(index))) })
            .collect();
        next = group.end;
        log.blocking_append(entries).await.map_err(std::io::Error::other)?;
        acknowledge("entry", next - 1);
        step += 1;
        if step % 10 == 0 {
            log.save_vote(&Vote::new(step, 1)).await?;
            acknowledge("vote", step);
        }
        if step % 40 == 0 {
            snapshots
                .save(&meta(next - 1), |out| out.write_all(said(next - 1).as_bytes()))
                .map_err(std::io::Error::other)?;
            acknowledge("snapshot", next - 1);
            log.purge(at(next / 2)).await?;
        }
    }
}

fn acknowledge(kind: &str, number: u64) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{kind} {number}").and_then(|()| out.flush()).unwrap();
}

#[test]
#[ignore = "the power-cut test starts it as its writer"]
fn writer() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let written = runtime().block_on(write(Path::new(&dir), std::env::var_os(FORGET).is_some()));
    let _ = writeln!(std::io::stderr(), "writer ended: {written:?}");
}

fn start_writer(dir: &Path, forget_sync: bool) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", WRITER, "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(DIR, dir).stdout(Stdio::piped()).stderr(Stdio::null());
    if forget_sync {
        command.env(FORGET, "yes");
    }
    command.spawn().unwrap()
}

/// Writes, cuts after so many acknowledged steps, and says what is missing then.
fn cut_after(steps: usize, forget_sync: bool) -> Option<Result<Acknowledged, String>> {
    let mut disk = Disk::new(64)?;
    let mut child = start_writer(disk.path(), forget_sync);
    let mut acknowledged = Acknowledged::default();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for (step, line) in lines.enumerate() {
        acknowledged.take(&line.unwrap());
        if step == steps {
            disk.cut(&disk.path().join("raft/db"));
        }
    }
    // The writer has ended by itself: its disk fails.
    child.wait().unwrap();
    disk.mount_again();
    Some(missing(disk.path(), &acknowledged).map(|()| acknowledged))
}

fn missing(dir: &Path, acknowledged: &Acknowledged) -> Result<(), String> {
    let log = LogStore::open(&dir.join("raft"), 1).map_err(|error| error.to_string())?;
    runtime().block_on(check_log(log, acknowledged))?;
    let snapshots = SnapshotStore::open(&dir.join("snapshots")).map_err(|error| error.to_string())?;
    let (newest, damaged) = snapshots.newest().map_err(|error| error.to_string())?;
    if let Some(damaged) = damaged.first() {
        return Err(damaged.to_string());
    }
    let newest = newest.and_then(|snapshot| {
        let index = snapshot.meta.last_log_id?.index;
        (snapshot.snapshot[..] == *said(index).as_bytes()).then_some(index)
    });
    if newest.unwrap_or(0) < acknowledged.snapshot {
        return Err(format!("snapshot {} was acknowledged, {newest:?} is there", acknowledged.snapshot));
    }
    Ok(())
}

async fn check_log(mut log: LogStore, acknowledged: &Acknowledged) -> Result<(), String> {
    let state = log.get_log_state().await.map_err(|error| error.to_string())?;
    let last = state.last_log_id.map_or(0, |id| id.index);
    if last < acknowledged.entry {
        return Err(format!("entry {} was acknowledged, {last} is the last", acknowledged.entry));
    }
    let vote = log.read_vote().await.unwrap().map_or(0, |vote| vote.leader_id.term);
    if vote < acknowledged.vote {
        return Err(format!("vote {} was acknowledged, {vote} is there", acknowledged.vote));
    }
    let first = state.last_purged_log_id.map_or(0, |id| id.index + 1);
    let entries = log.try_get_log_entries(first..=last).await.map_err(|error| error.to_string())?;
    for (entry, index) in entries.iter().zip(first..) {
        let Payload::Normal(envelope) = &entry.payload else {
            return Err(format!("entry {index} is no command"));
        };
        if entry.log_id != at(index) || envelope.command != say(&said(index)).command {
            return Err(format!("entry {index} is another"));
        }
    }
    if entries.len() as u64 == last + 1 - first {
        Ok(())
    } else {
        Err(format!("only {} entries", entries.len()))
    }
}

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    for steps in [3, 20, 60, 150, 400, 900] {
        let Some(found) = cut_after(steps, false) else { return };
        let acknowledged = found.unwrap_or_else(|lost| panic!("after {steps} steps: {lost}"));
        assert!(acknowledged.entry > 0 && (steps < 60 || acknowledged.snapshot > 0), "{acknowledged:?}");
    }
}

#[test]
fn the_same_cut_without_the_sync_is_noticed() {
    let mut noticed = 0;
    for steps in [20, 150, 400] {
        let Some(found) = cut_after(steps, true) else { return };
        noticed += usize::from(found.is_err());
    }
    assert!(noticed > 0, "nothing was lost without a sync: the power cut does not cut");
}
