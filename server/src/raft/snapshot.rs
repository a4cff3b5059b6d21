//! Snapshots as files: the state at one position of the log, whole and checked, or not there at all.
//!
//! A file is written under a temporary name, synced, renamed, and its directory synced. The last two are kept, so
//! that a damaged one can be passed over as long as the log reaches back to the one before. Layout, little endian:
//! `PURLSNAP`, version (1 byte), length of the head (4), head, length of the state (8), state, CRC32 of all before.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::codec::{self, SnapshotHead};
use super::types::{Snapshot, SnapshotMeta};

const MAGIC: &[u8; 8] = b"PURLSNAP";
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 1024 * 1024;
/// Snapshots kept.
const KEEP: usize = 2;

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
}

impl SnapshotStore {
    pub(crate) fn open(dir: &Path) -> Result<Self, SnapshotError> {
        let fail = |what| move |source| SnapshotError::Io { what, file: dir.display().to_string(), source };
        fs::create_dir_all(dir).map_err(fail("create the directory of"))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
            .map_err(fail("protect the directory of"))?;
        let store = Self { dir: dir.to_owned() };
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

    /// Makes a snapshot durable, then forgets those before the last two.
    pub(crate) fn save(&self, meta: &SnapshotMeta, state: &[u8]) -> Result<(), SnapshotError> {
        let name = file_name(meta);
        let (path, temporary) = (self.dir.join(&name), self.dir.join(format!("{name}.tmp")));
        let fail = |what| {
            let file = path.display().to_string();
            move |source| SnapshotError::Io { what, file, source }
        };
        let head =
            codec::write(&SnapshotHead::from(meta)).map_err(io::Error::from).map_err(fail("encode"))?;
        let write = || -> io::Result<()> {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            write_image(&mut file, &head, state)?;
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

fn write_image(file: &mut File, head: &[u8], state: &[u8]) -> io::Result<()> {
    let head_bytes = u32::try_from(head.len()).map_err(io::Error::other)?;
    let mut start = Vec::with_capacity(head.len() + 32);
    start.extend_from_slice(MAGIC);
    start.push(VERSION);
    start.extend_from_slice(&head_bytes.to_le_bytes());
    start.extend_from_slice(head);
    start.extend_from_slice(&(state.len() as u64).to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&start);
    hasher.update(state);
    file.write_all(&start)?;
    file.write_all(state)?;
    file.write_all(&hasher.finalize().to_le_bytes())
}

fn load(path: &Path) -> Result<Snapshot, SnapshotError> {
    let file = path.display().to_string();
    let bytes = match fs::read(path) {
        Ok(bytes) => Bytes::from(bytes),
        Err(source) => return Err(SnapshotError::Io { what: "read", file, source }),
    };
    let corrupt = |why: &str| SnapshotError::Corrupt { file: file.clone(), why: why.to_owned() };
    let Some((content, sum)) = bytes.split_last_chunk::<4>() else { return Err(corrupt("it is too short")) };
    let rest = content.strip_prefix(MAGIC).ok_or_else(|| corrupt("it does not begin as a snapshot"))?;
    if crc32fast::hash(content) != u32::from_le_bytes(*sum) {
        return Err(corrupt("its checksum is wrong"));
    }
    let (version, rest) = rest.split_first().ok_or_else(|| corrupt("it is too short"))?;
    if *version != VERSION {
        return Err(SnapshotError::Version { file, found: *version });
    }
    let (head, state) = split(rest).ok_or_else(|| corrupt("its lengths do not fit"))?;
    let unreadable = |error: codec::CodecError| match error {
        codec::CodecError::Format { found } => SnapshotError::Version { file: file.clone(), found },
        error => corrupt(&error.to_string()),
    };
    let head: SnapshotHead = codec::read(head).map_err(unreadable)?;
    let meta = SnapshotMeta::try_from(head).map_err(unreadable)?;
    Ok(Snapshot { meta, snapshot: bytes.slice_ref(state) })
}

/// Head and state of what follows the version.
fn split(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok().filter(|length| *length <= HEAD_BYTES)?;
    let (head, rest) = rest.split_at_checked(length)?;
    let (length, state) = rest.split_first_chunk::<8>()?;
    (u64::from_le_bytes(*length) == state.len() as u64).then_some((head, state))
}
