//! Disk space that the log can count on, so that a disk which others fill up never stops a write half-way.
//!
//! The engine does not survive a failed write, so it must not meet one: blocks behind the end of its file are taken
//! from the file system beforehand, without changing the file's length. What is left of them says whether a write may
//! begin. When they cannot be had any more, the server takes no more writes from clients, and goes on with all else.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// Taken beforehand.
pub(crate) const RESERVE_BYTES: u64 = 16 * 1024 * 1024;
/// Topped up when so much of it was used.
const USED_BYTES: u64 = 2 * 1024 * 1024;
/// Below this the disk counts as full: clients' writes are refused.
const CLIENT_BYTES: u64 = 12 * 1024 * 1024;
/// The same where so little is free beside it: nothing else on this disk can grow, snapshots least of all.
const FREE_BYTES: u64 = 4 * 1024 * 1024;
/// Below this entries of the leader are refused; the rest is for votes and the like.
const FOLLOW_BYTES: u64 = 6 * 1024 * 1024;
/// What a write may take beside its bytes, and how many times those: entries are cut, sealed and put in segments.
const OVERHEAD_BYTES: u64 = 2 * 1024 * 1024;
const AMPLIFICATION: u64 = 3;
/// A write without entries: it may use all that there is.
const SMALL_BYTES: u64 = 16 * 1024;

const _: () = assert!(FOLLOW_BYTES < CLIENT_BYTES && CLIENT_BYTES + USED_BYTES < RESERVE_BYTES);

/// See the module.
pub(crate) struct Reserve {
    file: File,
    room: AtomicU64,
    full: AtomicBool,
    #[cfg(test)]
    deny: AtomicBool,
}

/// Whether the disk became full, or has room again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Full,
    Room,
}

impl Reserve {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let reserve = Self {
            file,
            room: AtomicU64::new(0),
            full: AtomicBool::new(false),
            #[cfg(test)]
            deny: AtomicBool::new(false),
        };
        reserve.top_up()?;
        Ok(reserve)
    }

    /// Takes what is missing; how much there is then.
    fn top_up(&self) -> io::Result<u64> {
        let (length, taken) = self.measure()?;
        let mut room = taken.saturating_sub(length);
        if room < RESERVE_BYTES - USED_BYTES {
            room = match self.take(length + RESERVE_BYTES) {
                Ok(()) => RESERVE_BYTES,
                Err(Errno::NOSPC | Errno::DQUOT) => {
                    let (length, taken) = self.measure()?;
                    taken.saturating_sub(length).min(RESERVE_BYTES)
                }
                // A file system without reservations: what is free now must do.
                Err(_) => free_bytes(&self.file)?.min(RESERVE_BYTES),
            };
        }
        self.room.store(room, Ordering::Relaxed);
        Ok(room)
    }

    fn measure(&self) -> io::Result<(u64, u64)> {
        let meta = self.file.metadata()?;
        #[cfg(test)]
        if self.deny.load(Ordering::Relaxed) {
            return Ok((meta.len(), meta.len()));
        }
        Ok((meta.len(), meta.blocks() * 512))
    }

    fn take(&self, upto: u64) -> rustix::io::Result<()> {
        #[cfg(test)]
        if self.deny.load(Ordering::Relaxed) {
            return Err(Errno::NOSPC);
        }
        rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, upto)
    }

    /// Looks again; what is new since the last look.
    pub(crate) fn look(&self) -> Option<Change> {
        let (room, free) = (self.top_up().unwrap_or(0), self.free());
        let was = self.full.load(Ordering::Relaxed);
        // There is room again only when all of it could be had, and more than what was missing.
        let is = if was {
            room < RESERVE_BYTES - USED_BYTES || free < 2 * FREE_BYTES
        } else {
            room < CLIENT_BYTES || free < FREE_BYTES
        };
        self.full.store(is, Ordering::Relaxed);
        match (was, is) {
            (false, true) => Some(Change::Full),
            (true, false) => Some(Change::Room),
            _ => None,
        }
    }

    /// Whether so many bytes of entries can be written now.
    pub(super) fn admits(&self, bytes: u64) -> bool {
        let room = self.top_up().unwrap_or(0);
        bytes <= SMALL_BYTES || room >= bytes * AMPLIFICATION + OVERHEAD_BYTES
    }

    /// Writes of clients are to be refused.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Entries of the leader are to be refused.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.room() < FOLLOW_BYTES
    }

    pub(crate) fn room(&self) -> u64 {
        self.room.load(Ordering::Relaxed)
    }

    /// What anybody could still have of this file system.
    pub(crate) fn free(&self) -> u64 {
        free_bytes(&self.file).unwrap_or(0)
    }

    /// As if others had taken all of the disk, what was reserved included; or given it back.
    #[cfg(test)]
    pub(super) fn deny(&self, deny: bool) {
        self.deny.store(deny, Ordering::Relaxed);
    }
}

/// Gives up what is reserved in a log that is closed, where the disk has less than that beside it.
pub(super) fn give_back_where_scarce(dir: &Path) {
    let given = File::options().write(true).open(dir.join("db")).and_then(|file| {
        if free_bytes(&file)? >= RESERVE_BYTES {
            return Ok(());
        }
        let length = file.metadata()?.len();
        file.set_len(length)
    });
    match given {
        // A log that is not there yet has reserved nothing.
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, "what the raft log has reserved cannot be given back");
        }
        _ => {}
    }
}

fn free_bytes(file: &File) -> io::Result<u64> {
    let disk = rustix::fs::fstatvfs(file)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// What is free where that directory lies.
pub(crate) fn free_in(dir: &Path) -> io::Result<u64> {
    free_bytes(&File::open(dir)?)
}
