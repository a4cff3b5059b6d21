//! Snapshots as files: the state at one position of the log, whole and checked, or not there at all.
//!
//! A file is written under a temporary name, synced, renamed, and its directory synced. The last two are kept, so
//! that a damaged one can be passed over as long as the log reaches back to the one before. What `purlin snapshot save`
//! writes is the same kind of file, with nothing in its head of who the members were.

mod image;

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::codec::{self, SnapshotHead};
use super::log::free_in;
use super::machine::Machine;
use super::types::{Snapshot, SnapshotMeta};
use image::{Refused, VERSION};

/// Snapshots kept.
const KEEP: usize = 2;
/// Should stay free beside a new one.
const SPARE_BYTES: u64 = 4 * 1024 * 1024;
/// After one that could not be written.
const RETRY: Duration = Duration::from_secs(30);

/// Why a snapshot file cannot be used. Each names the file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("cannot {what} snapshot {file}: {source}")]
    Io { what: &'static str, file: String, source: io::Error },
    #[error("snapshot {file} is corrupt: {why}")]
    Corrupt { file: String, why: String },
    #[error("this build does not understand snapshot {file} ({why}): start the build that wrote it")]
    NotUnderstood { file: String, why: String },
    #[error(
        "snapshot {file} is of version {found}, this build knows {VERSION}: start the newer build that wrote it"
    )]
    Version { file: String, found: u8 },
}

impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> Self {
        let kind = match &error {
            SnapshotError::Io { source, .. } => source.kind(),
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}

/// The directory of snapshots of one server. Every method blocks on the disk.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotStore {
    dir: PathBuf,
    /// When one could not be written.
    failed: Arc<Mutex<Option<Instant>>>,
}

impl SnapshotStore {
    pub(crate) fn open(dir: &Path) -> Result<Self, SnapshotError> {
        let fail = |what| move |source| SnapshotError::Io { what, file: dir.display().to_string(), source };
        fs::create_dir_all(dir).map_err(fail("create the directory of"))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
            .map_err(fail("protect the directory of"))?;
        let store = Self { dir: dir.to_owned(), failed: Arc::default() };
        for entry in fs::read_dir(dir).map_err(fail("list"))? {
            let path = entry.map_err(fail("list"))?.path();
            // What a crash left half-written was never a snapshot.
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(&path).map_err(fail("clean up after a"))?;
            }
        }
        store.sync_dir()?;
        Ok(store)
    }

    /// Makes a snapshot durable, then forgets those before the last two. `state` writes what is in it.
    pub(crate) fn save(
        &self,
        meta: &SnapshotMeta,
        state: impl Fn(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), SnapshotError> {
        let name = file_name(meta);
        let (path, temporary) = (self.dir.join(&name), self.dir.join(format!("{name}.tmp")));
        let fail = |what| {
            let file = path.display().to_string();
            move |source| SnapshotError::Io { what, file, source }
        };
        let head =
            codec::write(&SnapshotHead::from(meta)).map_err(io::Error::from).map_err(fail("encode"))?;
        let write = || -> io::Result<()> {
            let file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            image::write(&file, &head, &state)?;
            file.sync_all()
        };
        if let Err(error) = write() {
            // A full disk should not stay full of what is of no use.
            let _ = fs::remove_file(&temporary);
            return Err(fail("write")(error));
        }
        fs::rename(&temporary, &path).map_err(fail("put in place"))?;
        self.sync_dir()?;
        self.prune();
        Ok(())
    }

    /// Whether one may be tried, as far as can be told beforehand.
    pub(crate) fn may_build(&self) -> Result<(), String> {
        let failed = *self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.is_some_and(|at| at.elapsed() < RETRY) {
            return Err(format!("the last one failed less than {} s ago", RETRY.as_secs()));
        }
        let newest = self.files().unwrap_or_default().into_iter().next();
        let last = newest.and_then(|path| fs::metadata(path).ok()).map_or(0, |meta| meta.len());
        let need = last.saturating_mul(2).saturating_add(SPARE_BYTES);
        match free_in(&self.dir) {
            Ok(free) if free < need => Err(format!("{free} bytes are free on its disk, {need} should be")),
            _ => Ok(()),
        }
    }

    /// One could not be written: there is no use in trying again at once.
    pub(crate) fn failed(&self) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// The newest readable snapshot. Damaged ones are set aside under another name and reported.
    pub(crate) fn newest(&self) -> Result<(Option<Snapshot>, Vec<SnapshotError>), SnapshotError> {
        let mut damaged = Vec::new();
        for path in self.files()? {
            match load(&path) {
                Ok(snapshot) => return Ok((Some(snapshot), damaged)),
                Err(error @ SnapshotError::Corrupt { .. }) => {
                    tracing::error!(%error, "snapshot passed over");
                    self.set_aside(&path);
                    damaged.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok((None, damaged))
    }

    /// The snapshot is whole, but this build cannot read the state in it.
    pub(crate) fn not_understood(&self, meta: &SnapshotMeta, why: String) -> SnapshotError {
        SnapshotError::NotUnderstood { file: self.dir.join(file_name(meta)).display().to_string(), why }
    }

    /// Names sort by position: newest first.
    fn files(&self) -> Result<Vec<PathBuf>, SnapshotError> {
        let fail = |source| SnapshotError::Io { what: "list", file: self.dir.display().to_string(), source };
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if path.extension().is_some_and(|extension| extension == "snap") {
                files.push(path);
            }
        }
        files.sort_unstable_by(|a, b| b.cmp(a));
        Ok(files)
    }

    fn set_aside(&self, path: &Path) {
        if let Err(error) = fs::rename(path, path.with_extension("corrupt")) {
            tracing::warn!(%error, file = %path.display(), "corrupt snapshot could not be renamed");
        }
    }

    /// An old snapshot that cannot be removed does no harm but its size.
    fn prune(&self) {
        let files = self.files().unwrap_or_default();
        for path in files.iter().skip(KEEP) {
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(%error, file = %path.display(), "old snapshot could not be removed");
            }
        }
    }

    fn sync_dir(&self) -> Result<(), SnapshotError> {
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(|source| SnapshotError::Io {
            what: "make durable the directory of",
            file: self.dir.display().to_string(),
            source,
        })
    }
}

fn file_name(meta: &SnapshotMeta) -> String {
    match meta.last_log_id {
        Some(id) => format!("{:020}-{:020}-{:016x}.snap", id.index, id.leader_id.term, id.leader_id.node_id),
        None => "empty.snap".into(),
    }
}

/// A state and what is said of it, to be written wherever it shall go.
pub(crate) struct Export<M> {
    pub(crate) state: Arc<M>,
    pub(crate) head: SnapshotHead,
}

impl<M: Machine> Export<M> {
    /// The whole file's length. Encodes it once for that, so that nothing needs to be kept meanwhile.
    pub(crate) fn length(&self) -> io::Result<u64> {
        let head = codec::write(&self.head)?;
        let state = image::count(&|out: &mut dyn Write| self.state.encode_into(out))?;
        Ok(image::length(&head, state))
    }

    /// Writes the file from front to end. Equal states give equal bytes, so `length` holds.
    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let head = codec::write(&self.head)?;
        let state = |out: &mut dyn Write| self.state.encode_into(out);
        image::write_forward(out, &head, image::count(&state)?, &state)
    }
}

/// A snapshot file that was read to its end and is whole; the state in it is not yet understood.
pub(crate) struct Verified {
    pub(crate) head: SnapshotHead,
    /// Of the whole file.
    pub(crate) bytes: u64,
    pub(crate) state_bytes: u64,
    pub(crate) state_crc32: u32,
    file: File,
    state_at: u64,
}

impl Verified {
    /// Reads the file once, in bounded memory.
    pub(crate) fn open(path: &Path) -> Result<Self, SnapshotError> {
        let name = path.display().to_string();
        let file = match File::open(path) {
            Ok(file) => file,
            Err(source) => return Err(SnapshotError::Io { what: "read", file: name, source }),
        };
        let found = match image::verify(&file) {
            Ok(found) => found,
            Err(Refused::Io(source)) => return Err(SnapshotError::Io { what: "read", file: name, source }),
            Err(Refused::Corrupt(why)) => {
                return Err(SnapshotError::Corrupt { file: name, why: why.to_owned() });
            }
            Err(Refused::Version(found)) => return Err(SnapshotError::Version { file: name, found }),
        };
        let head = read_head(&name, &found.head)?;
        let image::Found { bytes, state_at, state_bytes, state_crc32, .. } = found;
        Ok(Self { head, bytes, state_bytes, state_crc32, file, state_at })
    }

    /// Of the form of the file.
    pub(crate) fn version(&self) -> u8 {
        VERSION
    }

    /// The bytes of the state.
    pub(crate) fn state(&self) -> io::Result<impl Read + use<'_>> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.state_at))?;
        Ok(io::BufReader::with_capacity(256 * 1024, file.take(self.state_bytes)))
    }
}

fn read_head(file: &str, head: &[u8]) -> Result<SnapshotHead, SnapshotError> {
    codec::read(head).map_err(|error| match error {
        codec::CodecError::Format { found } => SnapshotError::Version { file: file.to_owned(), found },
        error => SnapshotError::Corrupt { file: file.to_owned(), why: error.to_string() },
    })
}

fn load(path: &Path) -> Result<Snapshot, SnapshotError> {
    let file = path.display().to_string();
    let verified = Verified::open(path)?;
    let mut state = Vec::with_capacity(usize::try_from(verified.state_bytes).unwrap_or(0));
    let read = verified.state().and_then(|mut input| input.read_to_end(&mut state));
    read.map_err(|source| SnapshotError::Io { what: "read", file: file.clone(), source })?;
    let meta = SnapshotMeta::try_from(verified.head)
        .map_err(|error| SnapshotError::Corrupt { file, why: error.to_string() })?;
    Ok(Snapshot { meta, snapshot: Bytes::from(state) })
}
