//! The log's storage engine: sled, made durable. The only file that names it.
//!
//! On Linux sled's own flush leaves the file's size and extents in memory, so that a power cut loses everything it
//! acknowledged. Hence one write path, `commit`: apply the batch, flush, then fdatasync. Values carry a checksum over
//! key and value that is verified on every read. Values must stay small: sled puts a leaf above 128 KiB (up to some
//! 18 values) into a file of its own and never syncs that; `VALUE_BYTES` keeps every leaf below it.

mod mark;
mod reserve;
mod store;
mod tail;
mod writer;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reserve::Reserve;
pub(crate) use reserve::{Change, free_in};
pub(crate) use store::{LogGauge, LogOpenError, LogStore};

/// Largest value that `Batch::put` takes.
pub(crate) const VALUE_BYTES: usize = 4 * 1024;
/// sled's page cache. The newest entries are cached by us; sled's is for its index.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// How long a locked store is waited for, how often it is tried, and how sled words it.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(10);
const LOCKED: &str = "could not acquire lock";
/// A leaf splits above 16 values; one more batch of links may lie on it before that.
const _: () = assert!((VALUE_BYTES + 64) * 24 < 512 * 1024 / 4);

/// Changes that become durable together or not at all.
#[derive(Default)]
pub(crate) struct Batch {
    inner: sled::Batch,
    changes: usize,
}

impl Batch {
    /// Values above `VALUE_BYTES` must have been cut by the caller; one that was not is refused by `commit`.
    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) {
        debug_assert!(value.len() <= VALUE_BYTES, "a value of {} bytes", value.len());
        let mut sealed = Vec::with_capacity(value.len() + 4);
        sealed.extend_from_slice(&checksum(key, value).to_le_bytes());
        sealed.extend_from_slice(value);
        self.inner.insert(key, sealed);
        self.changes += 1;
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        self.inner.remove(key);
        self.changes += 1;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes == 0
    }
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

pub(crate) struct DurableSled {
    db: sled::Db,
    /// sled's data file, opened a second time: fdatasync works on the file, whoever wrote it.
    file: File,
    dir: PathBuf,
    reserve: Reserve,
    syncs: AtomicU64,
    #[cfg(test)]
    forget_sync: std::sync::atomic::AtomicBool,
    #[cfg(test)]
    hold: std::sync::Mutex<Option<std::sync::mpsc::Receiver<()>>>,
}

impl DurableSled {
    /// Opens or creates the store in `dir`, and makes the directory itself durable.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        create_private(dir).map_err(|e| explain(dir, "create the directory", &e))?;
        // The engine needs some space to open, and one that met a full disk while it opened is not to be trusted.
        reserve::give_back_where_scarce(dir);
        let db = open_unlocked(dir)?;
        let open = |name: &str| File::open(dir.join(name)).map_err(|e| explain(dir, "open", &e));
        let store = Self {
            db,
            file: open("db")?,
            dir: dir.to_owned(),
            reserve: Reserve::open(&dir.join("db")).map_err(|e| explain(dir, "reserve space for", &e))?,
            syncs: AtomicU64::new(0),
            #[cfg(test)]
            forget_sync: std::sync::atomic::AtomicBool::new(false),
            #[cfg(test)]
            hold: std::sync::Mutex::default(),
        };
        guarded(dir, "flush", || store.db.flush())?;
        let settle = || -> io::Result<()> {
            for name in ["db", "conf"] {
                fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o600))?;
            }
            store.file.sync_all()?;
            open("conf")?.sync_all()?;
            open("blobs")?.sync_all()?;
            File::open(dir)?.sync_all()?;
            match dir.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
                _ => Ok(()),
            }
        };
        settle().map_err(|e| explain(dir, "make the directory durable", &e))?;
        Ok(store)
    }

    /// The only write path: what `batch` says is on the disk when this returns.
    pub(crate) fn commit(&self, batch: Batch) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        #[cfg(test)]
        if let Some(release) = self.hold.lock().unwrap().take() {
            let _ = release.recv();
        }
        guarded(&self.dir, "write", || {
            self.db.apply_batch(batch.inner)?;
            self.db.flush()
        })?;
        #[cfg(test)]
        if self.forget_sync.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.file.sync_data().map_err(|e| explain(&self.dir, "sync", &e))?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match guarded(&self.dir, "read", || self.db.get(key))? {
            Some(sealed) => self.unseal(key, &sealed).map(Some),
            None => Ok(None),
        }
    }

    /// Calls `each` with the pairs of `from..to` in order until it answers `false`.
    pub(crate) fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        mut each: impl FnMut(&[u8], Vec<u8>) -> bool,
    ) -> io::Result<()> {
        let mut pairs = self.db.range(from..to);
        while let Some((key, sealed)) = guarded(&self.dir, "read", || pairs.next().transpose())? {
            if !each(&key, self.unseal(&key, &sealed)?) {
                break;
            }
        }
        Ok(())
    }

    /// Up to `limit` keys of `from..to`, without reading what they hold.
    pub(crate) fn keys(&self, from: &[u8], to: &[u8], limit: usize) -> io::Result<Vec<Vec<u8>>> {
        guarded(&self.dir, "read", || {
            self.db.range(from..to).keys().take(limit).map(|key| key.map(|key| key.to_vec())).collect()
        })
    }

    /// The last key of `from..to`.
    pub(crate) fn last_key(&self, from: &[u8], to: &[u8]) -> io::Result<Option<Vec<u8>>> {
        guarded(&self.dir, "read", || {
            self.db.range(from..to).keys().next_back().map(|key| key.map(|key| key.to_vec())).transpose()
        })
    }

    fn unseal(&self, key: &[u8], sealed: &[u8]) -> io::Result<Vec<u8>> {
        let stored = sealed.split_first_chunk::<4>();
        match stored {
            Some((sum, value)) if checksum(key, value) == u32::from_le_bytes(*sum) => Ok(value.to_vec()),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "corrupt value in {}: the checksum of key {} is wrong; stop this server, remove its data \
                     directory and let it join again, or restore a backup",
                    self.file_path().display(),
                    name_of(key),
                ),
            )),
        }
    }

    /// The disk space that it can count on.
    pub(crate) fn reserve(&self) -> &Reserve {
        &self.reserve
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether what `commit` wrote may be relied on.
    fn is_durable(&self) -> bool {
        #[cfg(test)]
        if self.forget_sync.load(Ordering::Relaxed) {
            return false;
        }
        true
    }

    pub(crate) fn file_path(&self) -> PathBuf {
        self.dir.join("db")
    }

    /// Bytes in the data file.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |meta| meta.len())
    }

    /// How many times the data file was synced after a write.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Leaves out the sync that makes writes durable, to prove that the power-cut test would notice.
    #[cfg(test)]
    pub(crate) fn forget_sync(&self) {
        self.forget_sync.store(true, Ordering::Relaxed);
    }

    /// The next write waits until what this returns is dropped.
    #[cfg(test)]
    pub(crate) fn hold_next_write(&self) -> std::sync::mpsc::Sender<()> {
        let (hold, release) = std::sync::mpsc::channel();
        *self.hold.lock().unwrap() = Some(release);
        hold
    }

    /// Overwrites a stored value without sealing it, as a bad disk would.
    #[cfg(test)]
    pub(crate) fn damage(&self, key: &[u8]) {
        let mut sealed = self.db.get(key).unwrap().unwrap().to_vec();
        *sealed.last_mut().unwrap() ^= 1;
        self.db.insert(key, sealed).unwrap();
    }
}

/// sled's threads may keep the lock for a moment after its last handle was dropped, as after a quick restart in one
/// process: a locked store is tried again for a while.
fn open_unlocked(dir: &Path) -> io::Result<sled::Db> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        let opened = guarded(dir, "open", || {
            sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).flush_every_ms(None).open()
        });
        match opened {
            Err(error) if error.to_string().contains(LOCKED) => {
                if Instant::now() > deadline {
                    let text = format!("{error}; another process uses this data directory, stop it first");
                    return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
                }
                std::thread::sleep(LOCK_RETRY);
            }
            opened => return opened,
        }
    }
}

/// Makes `dir` and its parents, readable by its owner alone.
fn create_private(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

/// Keys are short and mostly text; entries carry their index as a number.
fn name_of(key: &[u8]) -> String {
    match store::index_of(key) {
        Some(index) => format!("{index} (log entry)"),
        None => String::from_utf8_lossy(key).into_owned(),
    }
}

/// Runs something of sled's. It reports most disk errors by value but some by panic, after which it is unusable:
/// both become an error here, and the caller stops using it.
fn guarded<T>(dir: &Path, what: &str, run: impl FnOnce() -> sled::Result<T>) -> io::Result<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error))) => Err(explain(dir, what, &error)),
        Ok(Err(error)) => Err(explain(dir, what, &io::Error::other(error.to_string()))),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no reason given");
            Err(explain(dir, what, &io::Error::other(format!("the storage engine failed: {text}"))))
        }
    }
}

fn explain(dir: &Path, what: &str, error: &io::Error) -> io::Error {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull => ": the disk is full, free some space and start the server again",
        io::ErrorKind::PermissionDenied => ": give the user of this process access",
        io::ErrorKind::ReadOnlyFilesystem => ": mount the file system read-write",
        _ => "",
    };
    io::Error::new(error.kind(), format!("cannot {what} the raft log in {}: {error}{hint}", dir.display()))
}
