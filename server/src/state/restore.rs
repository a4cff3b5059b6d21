//! Taking in a snapshot of the state through the log: pieces, then one command by which they become the state.
//!
//! Every server gets the same pieces and makes the same of them. Until the commit nothing that anybody reads has
//! changed, and an attempt that stopped half-way is forgotten.

use std::io::{self, Read};
use std::time::Duration;

use imbl::Vector;
use purlin_model::command::Done;
use purlin_model::history::{Restore, RestoreStep};
use purlin_model::{Blob, Fault, FaultCode, HistoryId, Millis, Revision};
use serde::{Deserialize, Serialize};

use super::{Draft, State};

/// A state that is restored may take so many bytes.
pub(crate) const RESTORE_BYTES: u64 = 1024 * 1024 * 1024;
/// After so long without a further piece an attempt is forgotten.
const STALE: Duration = Duration::from_secs(600);

/// What came so far.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Restoring(Option<Attempt>);

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Attempt {
    id: uuid::Uuid,
    bytes: u64,
    crc32: u32,
    /// When the last step came.
    at: Millis,
    have: u64,
    pieces: Vector<Blob>,
}

impl Restoring {
    pub(super) fn is_idle(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn forget_stale(&mut self, now: Millis) {
        if self.0.as_ref().is_some_and(|attempt| now.since(attempt.at) > STALE) {
            self.0 = None;
        }
    }

    fn attempt(&mut self, id: uuid::Uuid) -> Result<&mut Attempt, Fault> {
        self.0.as_mut().filter(|attempt| attempt.id == id).ok_or_else(|| {
            Fault::conflict(
                "this restore was given up, or another one began since: restore the snapshot again",
            )
        })
    }
}

impl Draft {
    pub(super) fn restore(&mut self, restore: &Restore) -> Result<Done, Fault> {
        let id = restore.id;
        match &restore.step {
            RestoreStep::Begin { bytes, crc32 } => self.begin_restore(id, *bytes, *crc32),
            RestoreStep::Piece { offset, bytes } => self.add_piece(id, *offset, bytes.clone()),
            RestoreStep::Commit { history } => self.commit_restore(id, *history),
            RestoreStep::Abort => {
                if self.state.restoring.attempt(id).is_ok() {
                    self.state.restoring = Restoring::default();
                }
                Ok(Done::Yes)
            }
        }
    }

    fn begin_restore(&mut self, id: uuid::Uuid, bytes: u64, crc32: u32) -> Result<Done, Fault> {
        self.mesh()?;
        if bytes > RESTORE_BYTES {
            let text = format!("a state of {bytes} bytes is over the limit of {RESTORE_BYTES} for a restore");
            return Err(Fault::new(FaultCode::TooLarge, text));
        }
        let attempt = Attempt { id, bytes, crc32, at: self.at, have: 0, pieces: Vector::new() };
        self.state.restoring = Restoring(Some(attempt));
        Ok(Done::Yes)
    }

    fn add_piece(&mut self, id: uuid::Uuid, offset: u64, bytes: Blob) -> Result<Done, Fault> {
        let at = self.at;
        let attempt = self.state.restoring.attempt(id)?;
        let have = attempt.have + bytes.len() as u64;
        if offset != attempt.have || bytes.is_empty() || have > attempt.bytes {
            return Err(Fault::conflict(
                "a piece of the snapshot does not fit what came before: restore it again",
            ));
        }
        (attempt.have, attempt.at) = (have, at);
        attempt.pieces.push_back(bytes);
        Ok(Done::Yes)
    }

    fn commit_restore(&mut self, id: uuid::Uuid, history: HistoryId) -> Result<Done, Fault> {
        let attempt = self.state.restoring.attempt(id)?.clone();
        if attempt.have != attempt.bytes || crc32(&attempt.pieces) != attempt.crc32 {
            return Err(Fault::conflict("the snapshot did not arrive whole: restore it again"));
        }
        let restored = State::decode_from(&mut Pieces { rest: attempt.pieces, taken: 0 })
            .map_err(|why| Fault::invalid(format!("the state in the snapshot cannot be taken in: {why}")))?;
        let least = Revision(restored.applied.0.saturating_add(1));
        let revision = self.state.history.begin(history, self.revision, least);
        self.state = self.state.adopt(restored, revision, self.at);
        (self.revision, self.all) = (revision, true);
        Ok(Done::Yes)
    }
}

fn crc32(pieces: &Vector<Blob>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    pieces.iter().for_each(|piece| hasher.update(piece));
    hasher.finalize()
}

/// Pieces read one after the other.
struct Pieces {
    rest: Vector<Blob>,
    /// Of the first one.
    taken: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(piece) = self.rest.front() else { return Ok(0) };
        let read = piece.get(self.taken..).unwrap_or_default().read(buffer)?;
        self.taken += read;
        if self.taken >= piece.len() {
            self.rest.pop_front();
            self.taken = 0;
        }
        Ok(read)
    }
}
