//! `snapshot-save` and `snapshot-restore`: a snapshot file in chunks, down to whoever keeps it or up to be taken in.

use std::time::Duration;

use bytes::Bytes;
use purlin_model::{Fault, Revision, limit};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::call::{receive, send, within};
use super::{Call, Consistency, Reply, bytes_field};
use crate::frame::{self, FrameError};
use crate::link::{Link, ReadHalf, Stream, WriteHalf};

pub const SNAPSHOT_SAVE: &str = "snapshot-save";
pub const SNAPSHOT_RESTORE: &str = "snapshot-restore";
/// Bytes of the file in one frame.
pub const CHUNK_BYTES: usize = 256 * 1024;
/// For one chunk to be sent or to come.
const CHUNK_WITHIN: Duration = Duration::from_secs(30);
/// For the answer to a whole file: it is verified, goes through the log and is applied.
const RESTORED_WITHIN: Duration = Duration::from_secs(600);

const _: () = assert!(CHUNK_BYTES * 2 < limit::FRAME_BYTES);

/// `snapshot-save`. Answer: `SnapshotSaved`, then `Chunk`s.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSave {
    #[serde(default)]
    pub consistency: Consistency,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSaved {
    /// Of the newest change that is in it.
    pub revision: Revision,
    /// Of the file.
    pub bytes: u64,
    pub known_leader: bool,
    pub last_contact_ms: u64,
}

/// `snapshot-restore`: followed by `Chunk`s. Answer: `SnapshotRestored`, or why not, at any time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRestore {
    /// Of the file, where it is known beforehand.
    #[serde(default)]
    pub bytes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRestored {
    pub revision: Revision,
    /// What whoever restored it should know, a line each.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A part of the file. Without the last one the file is not whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    #[serde(with = "bytes_field")]
    pub bytes: Vec<u8>,
    #[serde(default)]
    pub last: bool,
}

/// A snapshot that comes down.
pub struct Saving {
    pub saved: SnapshotSaved,
    read: ReadHalf,
    /// Kept, because its end is how the answerer would see that nobody listens any more.
    _write: WriteHalf,
    done: bool,
    remote: String,
}

impl Saving {
    pub async fn open(link: &dyn Link, save: &SnapshotSave, deadline: Duration) -> Result<Self, Fault> {
        let call = Call::new(SNAPSHOT_SAVE, save)?;
        let (saved, stream) = within(link, SNAPSHOT_SAVE, deadline, async {
            let mut stream = send(link, &call).await?;
            let saved: SnapshotSaved = receive(link, SNAPSHOT_SAVE, &mut stream.read).await??;
            Ok((saved, stream))
        })
        .await?;
        Ok(Self { saved, read: stream.read, _write: stream.write, done: false, remote: link.remote() })
    }

    /// The next bytes; none: it is whole.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        if self.done {
            return Ok(None);
        }
        let chunk = next_chunk(&mut self.read).await.map_err(|error| {
            Fault::unavailable(format!("the snapshot of {} broke off: {error}", self.remote))
        })?;
        self.done = chunk.last;
        Ok(Some(Bytes::from(chunk.bytes)).filter(|bytes| !(self.done && bytes.is_empty())))
    }
}

/// A snapshot that goes up.
pub struct Restoring {
    stream: Stream,
    remote: String,
}

impl Restoring {
    pub async fn open(link: &dyn Link, restore: &SnapshotRestore) -> Result<Self, Fault> {
        let call = Call::new(SNAPSHOT_RESTORE, restore)?;
        let stream = within(link, SNAPSHOT_RESTORE, CHUNK_WITHIN, send(link, &call)).await?;
        Ok(Self { stream, remote: link.remote() })
    }

    /// Sends bytes, however many. A refusal that came meanwhile is the error.
    pub async fn send(&mut self, mut bytes: Bytes) -> Result<(), Fault> {
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(CHUNK_BYTES));
            self.chunk(&Chunk { bytes: part.to_vec(), last: false }).await?;
        }
        Ok(())
    }

    /// Says that this was all, and waits until it has become the state.
    pub async fn finish(mut self) -> Result<SnapshotRestored, Fault> {
        self.chunk(&Chunk { bytes: Vec::new(), last: true }).await?;
        self.answer(RESTORED_WITHIN).await?
    }

    async fn chunk(&mut self, chunk: &Chunk) -> Result<(), Fault> {
        let sent = timeout(CHUNK_WITHIN, frame::write(&mut self.stream.write, chunk)).await;
        let why = match sent {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it took nothing for {} s", CHUNK_WITHIN.as_secs()),
        };
        // Who takes no more has mostly said why.
        match self.answer(Duration::from_secs(1)).await {
            Ok(Err(fault)) => Err(fault),
            _ => Err(Fault::unavailable(format!("sending the snapshot to {} failed: {why}", self.remote))),
        }
    }

    async fn answer(&mut self, deadline: Duration) -> Result<Reply<SnapshotRestored>, Fault> {
        let broken =
            |why: String| Fault::unavailable(format!("{SNAPSHOT_RESTORE} at {}: {why}", self.remote));
        match timeout(deadline, frame::read(&mut self.stream.read, limit::FRAME_BYTES)).await {
            Ok(Ok(Some(reply))) => Ok(reply),
            Ok(Ok(None)) => Err(broken("the stream ended before an answer".into())),
            Ok(Err(error)) => Err(broken(error.to_string())),
            Err(_) => Err(broken(format!("no answer within {} s", deadline.as_secs()))),
        }
    }
}

/// The next chunk of a stream, on either side.
pub async fn next_chunk(read: &mut ReadHalf) -> Result<Chunk, FrameError> {
    let chunk = timeout(CHUNK_WITHIN, frame::read(read, limit::FRAME_BYTES)).await;
    let chunk = chunk.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    chunk.ok_or(FrameError::Truncated)
}

/// Sends a chunk, as whoever answers `snapshot-save`.
pub async fn send_chunk(write: &mut WriteHalf, chunk: &Chunk) -> Result<(), FrameError> {
    let sent = timeout(CHUNK_WITHIN, frame::write(write, chunk)).await;
    sent.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
}
