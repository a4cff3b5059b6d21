//! `snapshot-save` and `snapshot-restore`: the whole state as a file, down and up.
//!
//! A snapshot that comes up is kept beside the others until it is whole, then verified and understood; only then does
//! it enter the log, in pieces, and one command makes it the state on every server at once.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use bytes::Bytes;
use purlin_model::command::{Actor, Command, Outcome, RequestId};
use purlin_model::history::{Restore, RestoreStep};
use purlin_model::{Fault, FaultCode, HistoryId};
use purlin_wire::frame::{self, FrameError};
use purlin_wire::link::{ReadHalf, Stream, WriteHalf};
use purlin_wire::rpc::{
    self, CHUNK_BYTES, Call, Chunk, Reply, SNAPSHOT_RESTORE, SNAPSHOT_SAVE, SnapshotRestore,
    SnapshotRestored, SnapshotSave, SnapshotSaved, next_chunk, send_chunk,
};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::authorize::{Access, Resource, authorize};
use super::{Conversation, Service};
use crate::raft::{Export, Verified};
use crate::state::{RESTORE_BYTES, State};

/// Chunks that were read or encoded but not yet sent.
const AHEAD: usize = 4;
/// The file around the state is small.
const FILE_BYTES: u64 = RESTORE_BYTES + 2 * 1024 * 1024;
/// Of the state in one command.
const PIECE_BYTES: usize = 256 * 1024;
const _: () = assert!(PIECE_BYTES + 4096 < purlin_model::limit::COMMAND_BYTES);

impl Conversation {
    pub(super) async fn save_snapshot(&self, mut stream: Stream, call: &Call) -> Result<(), FrameError> {
        let begun = tokio::select! {
            begun = Box::pin(self.begin_save(call)) => begun,
            () = rpc::cancelled(&mut stream.read) => return Ok(()),
        };
        self.count(SNAPSHOT_SAVE, begun.as_ref().err());
        let (saved, export) = match begun {
            Ok(begun) => begun,
            Err(fault) => return rpc::reply::<SnapshotSaved>(&mut stream, &Err(fault)).await,
        };
        frame::write(&mut stream.write, &Reply::Ok(saved)).await?;
        send_file(&mut stream.write, export).await?;
        stream.write.shutdown().await?;
        Ok(())
    }

    async fn begin_save(&self, call: &Call) -> Result<(SnapshotSaved, Export<State>), Fault> {
        let save: SnapshotSave = Self::decode(call)?;
        let service = &self.service;
        authorize(&service.hub.state(), &self.caller, &Resource::Membership, Access::Read)?;
        service.read_barrier(save.consistency).await?;
        let export = service.raft.export();
        let measured = tokio::task::spawn_blocking(move || export.length().map(|bytes| (bytes, export)));
        let (bytes, export) =
            measured.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        let saved = SnapshotSaved {
            revision: export.state.applied(),
            bytes,
            known_leader: service.raft.leader().is_some(),
            last_contact_ms: u64::try_from(service.raft.last_contact().as_millis()).unwrap_or(u64::MAX),
        };
        Ok((saved, export))
    }

    pub(super) async fn restore_snapshot(&self, mut stream: Stream, call: &Call) -> Result<(), FrameError> {
        let restored = Box::pin(self.restore(&mut stream.read, call)).await;
        self.count(SNAPSHOT_RESTORE, restored.as_ref().err());
        rpc::reply(&mut stream, &restored).await
    }

    async fn restore(&self, read: &mut ReadHalf, call: &Call) -> Result<SnapshotRestored, Fault> {
        let restore: SnapshotRestore = Self::decode(call)?;
        authorize(&self.service.hub.state(), &self.caller, &Resource::Membership, Access::Write)?;
        if restore.bytes.is_some_and(|bytes| bytes > FILE_BYTES) {
            return Err(too_large());
        }
        let service = &self.service;
        let _one = service.restoring.try_lock().map_err(|_| {
            Fault::new(
                FaultCode::Busy,
                "another snapshot is being restored on this server: wait until it is done",
            )
        })?;
        let upload = Upload::new(service);
        receive(read, &upload).await?;
        let actor = Actor { node: self.caller.node().cloned(), uid: None, accessor: None };
        take_in(service, &upload, actor).await
    }
}

/// Encodes the file beside the runtime and sends it, a few chunks ahead of the receiver.
async fn send_file(write: &mut WriteHalf, export: Export<State>) -> Result<(), FrameError> {
    struct Pieces(mpsc::Sender<Bytes>);
    impl Write for Pieces {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let part = bytes.get(..CHUNK_BYTES.min(bytes.len())).unwrap_or_default();
            self.0.blocking_send(Bytes::copy_from_slice(part)).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(part.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (pieces, mut ready) = mpsc::channel(AHEAD);
    let encoding = tokio::task::spawn_blocking(move || export.write(&mut Pieces(pieces)));
    while let Some(bytes) = ready.recv().await {
        send_chunk(write, &Chunk { bytes: bytes.to_vec(), last: false }).await?;
    }
    encoding.await.map_err(io::Error::other)??;
    send_chunk(write, &Chunk { bytes: Vec::new(), last: true }).await
}

/// A file that is gone when this is dropped.
struct Upload {
    path: PathBuf,
}

impl Upload {
    fn new(service: &Service) -> Self {
        let name = format!("restore-{}.tmp", uuid::Uuid::new_v4().simple());
        Self { path: service.raft.snapshot_dir().join(name) }
    }

    fn failed(&self, what: &str, error: &io::Error) -> Fault {
        let code = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FaultCode::Unavailable,
            _ => FaultCode::Internal,
        };
        Fault::new(code, format!("cannot {what} the snapshot to restore in {}: {error}", self.path.display()))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Often it never was.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn receive(read: &mut ReadHalf, upload: &Upload) -> Result<(), Fault> {
    let mut options = tokio::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(&upload.path).await.map_err(|error| upload.failed("keep", &error))?;
    let mut bytes = 0;
    loop {
        let chunk = next_chunk(read).await.map_err(|error| {
            Fault::unavailable(format!("the snapshot did not arrive whole, nothing was changed: {error}"))
        })?;
        bytes += chunk.bytes.len() as u64;
        if bytes > FILE_BYTES {
            return Err(too_large());
        }
        file.write_all(&chunk.bytes).await.map_err(|error| upload.failed("keep", &error))?;
        if chunk.last {
            return file.flush().await.map_err(|error| upload.failed("keep", &error));
        }
    }
}

/// What was understood of a snapshot before anything was changed.
struct Understood {
    verified: Verified,
    state: State,
}

fn understand(upload: &Upload) -> Result<Understood, Fault> {
    let refuse = |why: String| Fault::invalid(format!("the snapshot is refused, nothing was changed: {why}"));
    let file = upload.path.display().to_string();
    let verified = Verified::open(&upload.path)
        .map_err(|error| refuse(error.to_string().replace(&format!(" {file}"), "")))?;
    if verified.state_bytes > RESTORE_BYTES {
        return Err(too_large());
    }
    let mut input = verified.state().map_err(|error| upload.failed("read", &error))?;
    let state = State::decode_from(&mut input).map_err(|error| refuse(error.to_string()))?;
    drop(input);
    Ok(Understood { verified, state })
}

async fn take_in(service: &Service, upload: &Upload, actor: Actor) -> Result<SnapshotRestored, Fault> {
    let path = Upload { path: upload.path.clone() };
    let understood = tokio::task::spawn_blocking(move || {
        let understood = understand(&path);
        // Its owner removes it.
        std::mem::forget(path);
        understood
    });
    let Understood { verified, state } = understood.await.map_err(|error| failed(&error))??;
    let steps = Steps { service, actor, id: uuid::Uuid::new_v4() };
    let entered = Box::pin(steps.enter(verified)).await;
    let outcome = match entered {
        Ok(outcome) => outcome,
        Err(fault) => {
            // What it left behind is forgotten with the next attempt, if not now.
            let _ = steps.step(RestoreStep::Abort).await;
            return Err(fault);
        }
    };
    let notes = notes(service, &state);
    tracing::warn!(
        revision = outcome.revision.0,
        history = ?service.hub.state().history().map(|history| history.to_string()),
        "the state was replaced by a snapshot of revision {}", state.applied().0
    );
    Ok(SnapshotRestored { revision: outcome.revision, notes })
}

struct Steps<'a> {
    service: &'a Service,
    actor: Actor,
    id: uuid::Uuid,
}

impl Steps<'_> {
    async fn step(&self, step: RestoreStep) -> Result<Outcome, Fault> {
        let command = Command::Restore(Restore { id: self.id, step });
        let request = RequestId(uuid::Uuid::new_v4());
        let outcome = self.service.propose(request, self.actor.clone(), command).await?;
        outcome.result.clone()?;
        Ok(outcome)
    }

    async fn enter(&self, verified: Verified) -> Result<Outcome, Fault> {
        let (bytes, crc32) = (verified.state_bytes, verified.state_crc32);
        self.step(RestoreStep::Begin { bytes, crc32 }).await?;
        let (pieces, mut ready) = mpsc::channel(AHEAD);
        let reading = tokio::task::spawn_blocking(move || read_pieces(&verified, &pieces));
        let mut offset = 0;
        while let Some(bytes) = ready.recv().await {
            let next = offset + bytes.len() as u64;
            self.step(RestoreStep::Piece { offset, bytes: bytes.into() }).await?;
            offset = next;
        }
        reading.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        self.step(RestoreStep::Commit { history: HistoryId(uuid::Uuid::new_v4()) }).await
    }
}

fn read_pieces(verified: &Verified, pieces: &mpsc::Sender<Vec<u8>>) -> io::Result<()> {
    let mut input = verified.state()?;
    loop {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        input.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
        if piece.is_empty() || pieces.blocking_send(piece).is_err() {
            return Ok(());
        }
    }
}

/// What an operator should know of a snapshot that is not of this mesh.
fn notes(service: &Service, restored: &State) -> Vec<String> {
    match restored.mesh_info().map(|mesh| &mesh.trust_domain) {
        Some(domain) if *domain != service.trust_domain => vec![format!(
            "the snapshot is of the mesh {domain}, whose root key no server here can open: this mesh keeps its own root \
             and trust domain {}, and hosts of the other one must join it with a join token",
            service.trust_domain
        )],
        _ => Vec::new(),
    }
}

fn too_large() -> Fault {
    Fault::new(FaultCode::TooLarge, format!("the snapshot is over the limit of {RESTORE_BYTES} bytes"))
}

fn failed(error: &dyn std::fmt::Display) -> Fault {
    Fault::internal(format!("the snapshot failed inside the server: {error}"))
}
