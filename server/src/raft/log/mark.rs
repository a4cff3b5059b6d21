//! How far the log was once on the disk, kept in a file beside it.
//!
//! The engine takes what it cannot read for the torn end of a write that nobody was told of, and drops it with all
//! that follows. After a power cut that is right; after damage it would forget what was acknowledged without a word.
//! A log that ends before its mark is therefore refused. The mark may lag behind the log, never the other way round:
//! it is written after the entries, and lowered before any are taken away.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use purlin_wire::file::{self, FileError};
use serde::{Deserialize, Serialize};

const FILE: &str = "mark";
const VERSION: u16 = 1;
/// Writing marks takes at most one part in so many of the time, a smaller one while others wait for the disk.
const SHARE_IDLE: u32 = 20;
const SHARE_BUSY: u32 = 100;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Reached {
    /// The last index.
    last: Option<u64>,
    /// Of the vote.
    term: u64,
}

pub(super) struct Mark {
    path: PathBuf,
    written: Reached,
    reached: Reached,
    /// When it was written last, and how long that took.
    write: Option<(Instant, Duration)>,
    /// That it cannot be written was said.
    failing: bool,
}

impl Mark {
    /// Reads what lies in `dir`, and refuses a log that ends before it.
    pub(super) fn open(dir: &Path, last: Option<u64>, term: u64) -> io::Result<Self> {
        let path = dir.join(FILE);
        let written = match file::load(&path, VERSION) {
            Ok(loaded) => rmp_serde::from_slice(&loaded.body)
                .map_err(|why| FileError::Corrupt { path: path.clone(), why: why.to_string() })
                .map_err(io::Error::other)?,
            // Of a build that kept none, or the directory is new.
            Err(FileError::Missing(_)) => Reached::default(),
            Err(error) => return Err(io::Error::other(error)),
        };
        if last < written.last || term < written.term {
            return Err(damaged(dir, &path, last, written));
        }
        Ok(Self { path, written, reached: Reached { last, term }, write: None, failing: false })
    }

    /// Entries up to here are on the disk.
    pub(super) fn reached(&mut self, last: u64) {
        self.reached.last = self.reached.last.max(Some(last));
    }

    /// A vote of that term is on the disk.
    pub(super) fn voted(&mut self, term: u64) {
        self.reached.term = self.reached.term.max(term);
    }

    /// Entries from here on go away.
    pub(super) fn lower(&mut self, from: u64) -> io::Result<()> {
        let below = from.checked_sub(1);
        self.reached.last = self.reached.last.min(below);
        if self.written.last <= below {
            return Ok(());
        }
        let lowered = self.write();
        if lowered.is_err() && std::fs::remove_file(&self.path).is_ok() {
            // No mark claims nothing, and needs no room on a full disk.
            self.written = Reached::default();
            return Ok(());
        }
        lowered
    }

    /// Writes it down if there is news and the last time is long enough ago.
    pub(super) fn write_if_due(&mut self, idle: bool) {
        let share = if idle { SHARE_IDLE } else { SHARE_BUSY };
        let is_due = self.write.is_none_or(|(at, took)| at.elapsed() >= took * share);
        if is_due {
            self.write_or_warn();
        }
    }

    pub(super) fn write_or_warn(&mut self) {
        if self.reached == self.written {
            return;
        }
        match self.write() {
            Ok(()) => self.failing = false,
            Err(error) if !std::mem::replace(&mut self.failing, true) => {
                tracing::warn!(%error, "how far the raft log reaches is not written down, damage to its end could go unseen");
            }
            Err(error) => tracing::debug!(%error, "how far the raft log reaches is still not written down"),
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let begun = Instant::now();
        let body = rmp_serde::to_vec_named(&self.reached).map_err(io::Error::other)?;
        let saved = file::save(&self.path, VERSION, &body);
        // One that fails is not tried again at once either.
        self.write = Some((Instant::now(), begun.elapsed()));
        saved.map_err(io::Error::other)?;
        self.written = self.reached;
        Ok(())
    }
}

fn damaged(dir: &Path, path: &Path, last: Option<u64>, mark: Reached) -> io::Error {
    let shown = |index: Option<u64>| index.map_or_else(|| "nothing".to_owned(), |index| index.to_string());
    let text = format!(
        "the raft log in {} is damaged: it was on the disk up to entry {} and now holds up to {}, so acknowledged \
         writes are lost; restore the whole data_dir from a backup, or, to go on without them, remove {}",
        dir.display(),
        shown(mark.last),
        shown(last),
        path.display()
    );
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_ends_before_its_mark_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut mark = Mark::open(dir.path(), None, 0).unwrap();
        mark.reached(7);
        mark.voted(2);
        mark.write_if_due(true);
        assert!(Mark::open(dir.path(), Some(7), 2).is_ok());
        assert!(Mark::open(dir.path(), Some(9), 3).is_ok());
        let text = Mark::open(dir.path(), Some(6), 2).err().unwrap().to_string();
        assert!(text.contains("up to entry 7") && text.contains("holds up to 6"), "{text}");
        assert!(Mark::open(dir.path(), None, 2).is_err());
        assert!(Mark::open(dir.path(), Some(7), 1).is_err());
    }

    #[test]
    fn what_is_taken_away_lowers_the_mark_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut mark = Mark::open(dir.path(), None, 0).unwrap();
        mark.reached(7);
        mark.write_or_warn();
        mark.lower(5).unwrap();
        assert!(Mark::open(dir.path(), Some(4), 0).is_ok());
        mark.lower(0).unwrap();
        assert!(Mark::open(dir.path(), None, 0).is_ok());
    }

    #[test]
    fn a_damaged_mark_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), b"nonsense").unwrap();
        let text = Mark::open(dir.path(), None, 0).err().unwrap().to_string();
        assert!(text.contains("mark") && text.contains("damaged"), "{text}");
    }
}
