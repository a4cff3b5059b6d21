//! The disk under Raft: bounded in use, and when it is full that is said, lived with, and over by itself.
//!
//! A server whose disk is full refuses clients' writes in words; one that leads hands over to a server that can write.
//! The log is cut behind snapshots by what it weighs, too, so that large entries do not fill the disk.

use std::sync::{Arc, Weak};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use purlin_model::Fault;
use tokio::time::{MissedTickBehavior, interval};

use super::{Inner, RaftHandle};
use crate::raft::log::Change;
use crate::raft::machine::Machine;

/// How often the disk is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A leader whose disk is full tries again to hand over after so many looks, and after twice as many each time: where
/// all disks are full it helps nobody that they take turns.
const HAND_OVER_AFTER: u32 = 10;
const HAND_OVER_AFTER_MAX: u32 = 80;
/// How the refusal begins, by which it is known on its way through other servers.
const FULL: &str = "the storage of server ";
/// A snapshot is due after so many bytes of entries, however few they are.
const SNAPSHOT_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of entries kept behind a snapshot, and entries that are kept at least.
const KEEP_BYTES: u64 = 64 * 1024 * 1024;
const KEEP_LEAST: u64 = 512;

impl<M: Machine> RaftHandle<M> {
    /// Whether this server's disk is full, so that it takes no writes.
    pub fn is_full(&self) -> bool {
        self.inner.log.is_full()
    }

    pub(super) fn refuse_when_full(&self) -> Result<(), Fault> {
        if !self.is_full() {
            return Ok(());
        }
        Err(Fault::unavailable(format!(
            "{FULL}{} is full, so it takes no writes: free space on the disk of {}; it goes on by \
             itself then",
            self.inner.node.name,
            self.inner.snapshots.display()
        )))
    }
}

/// Whether a write was refused for want of space.
pub(crate) fn is_full(fault: &Fault) -> bool {
    fault.text.starts_with(FULL)
}

/// Looks at the disk for as long as the handle lives and Raft runs.
pub(super) async fn watch<M: Machine>(inner: Weak<Inner<M>>) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut turns = Turns::default();
    let mut bounds = Bounds::default();
    loop {
        looks.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        let gauge = inner.log.clone();
        let looked = tokio::task::spawn_blocking(move || gauge.look()).await;
        let Ok(Some(change)) = looked else { return };
        report(&inner, change);
        if inner.log.is_full() {
            if turns.is_due() {
                hand_over(&inner).await;
            }
        } else {
            turns = Turns::default();
            bounds.keep(&inner).await;
        }
    }
}

/// When a leader tries to hand over, counted in looks at a full disk.
#[derive(Default)]
struct Turns {
    left: u32,
    pause: u32,
}

impl Turns {
    fn is_due(&mut self) -> bool {
        if self.left > 0 {
            self.left -= 1;
            return false;
        }
        self.pause = (self.pause * 2).clamp(HAND_OVER_AFTER, HAND_OVER_AFTER_MAX);
        self.left = self.pause - 1;
        true
    }
}

fn report<M: Machine>(inner: &Arc<Inner<M>>, change: Option<Change>) {
    let dir = inner.snapshots.display();
    let (free, reserve) = (inner.log.free_bytes(), inner.log.room());
    match change {
        Some(Change::Full) => {
            tracing::error!(%dir, free, reserve, "storage is full: this server takes no writes until there is space");
        }
        Some(Change::Room) => tracing::info!(%dir, free, "storage has space again: this server takes writes"),
        None => {}
    }
}

/// To the voter that is furthest. It may be full as well, and hands on then.
async fn hand_over<M: Machine>(inner: &Arc<Inner<M>>) {
    if !inner.leadership.borrow().here {
        return;
    }
    let target = {
        let metrics = inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
        let replication = metrics.replication.clone().unwrap_or_default();
        let others = replication.into_iter().filter(|(id, _)| *id != inner.own && voters.contains(id));
        others.max_by_key(|(_, matched)| *matched).map(|(id, _)| id)
    };
    let Some(target) = target else { return };
    tracing::warn!(to = target, "storage is full: handing leadership to another server");
    if let Err(error) = inner.raft.trigger().transfer_leader(target).await {
        tracing::warn!(%error, "leadership was not handed over");
    }
}

/// What was seen of the log when it was cut last.
#[derive(Default)]
struct Bounds {
    /// The newest snapshot, and what had been appended when it was seen first.
    snapshot: u64,
    appended: u64,
    purged: u64,
}

impl Bounds {
    async fn keep<M: Machine>(&mut self, inner: &Arc<Inner<M>>) {
        let (entries, bytes) = inner.log.appended();
        let (snapshot, purged) = {
            let metrics = inner.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.snapshot.map_or(0, |id| id.index), metrics.purged.map_or(0, |id| id.index))
        };
        if snapshot != self.snapshot {
            (self.snapshot, self.appended) = (snapshot, bytes);
        }
        let trigger = inner.raft.trigger();
        let due = bytes.saturating_sub(self.appended) > SNAPSHOT_BYTES;
        if due {
            self.appended = bytes;
            // An error means that Raft ended, which the handle reports.
            let _ = trigger.snapshot().await;
        }
        let keep = KEEP_BYTES.checked_div(bytes / entries.max(1)).unwrap_or(u64::MAX).max(KEEP_LEAST);
        let upto = snapshot.saturating_sub(keep);
        if bytes > KEEP_BYTES && upto > purged.max(self.purged) {
            self.purged = upto;
            let _ = trigger.purge_log(upto).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_leader_hands_over_at_once_and_then_ever_more_rarely() {
        let mut turns = Turns::default();
        let due: Vec<u32> = (0..260).filter(|_| turns.is_due()).collect();
        assert_eq!(due, [0, 10, 30, 70, 150, 230]);
    }
}
