//! Files that are either the old one or the new one, never a half, and that know when they were damaged.
//!
//! A file is written under a temporary name, flushed to the disk, renamed, and its directory flushed. Mode 0600.
//! The binary form has a header: magic (8 bytes), version (u16), CRC-32 of the body (u32), length of the body (u64),
//! all big endian. The JSON form is `{"version": …, "crc32": …, "content": …}` with the CRC-32 of the compact content.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

const MAGIC: &[u8; 8] = b"PURLIN\r\n";
const HEADER_BYTES: usize = 22;
/// A larger file is not one of ours.
pub const FILE_BYTES: u64 = 1024 * 1024 * 1024;
/// A JSON file of ours is small.
const JSON_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{0} does not exist")]
    Missing(PathBuf),
    #[error("{path} is damaged ({why}); restore it from a backup, or remove it to start without it")]
    Corrupt { path: PathBuf, why: String },
    #[error("{path} has version {found}, this build reads up to {known}; use the newer build that wrote it")]
    Newer { path: PathBuf, found: u16, known: u16 },
    #[error("{path} may be read by others (mode {mode:o}); set it right with: chmod 600 {path}")]
    Exposed { path: PathBuf, mode: u32 },
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

impl FileError {
    fn corrupt(path: &Path, why: impl Into<String>) -> Self {
        Self::Corrupt { path: path.into(), why: why.into() }
    }

    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            ErrorKind::NotFound if action == "read" => Self::Missing(path),
            _ => Self::Io { action, path, source },
        }
    }

    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing(_))
    }
}

/// What lay in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub version: u16,
    pub body: Vec<u8>,
}

/// Replaces the file with that body. On the disk when this returns.
pub fn save(path: &Path, version: u16, body: &[u8]) -> Result<(), FileError> {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..10].copy_from_slice(&version.to_be_bytes());
    header[10..14].copy_from_slice(&crc32fast::hash(body).to_be_bytes());
    header[14..].copy_from_slice(&(body.len() as u64).to_be_bytes());
    replace(path, &[&header, body])
}

/// Reads what [`save`] wrote; refuses a version above `newest`.
pub fn load(path: &Path, newest: u16) -> Result<Loaded, FileError> {
    let mut bytes = read(path, FILE_BYTES)?;
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Err(FileError::corrupt(path, "it is too short"));
    };
    let (magic, rest) = header.split_at(8);
    if magic != MAGIC {
        return Err(FileError::corrupt(path, "it does not begin like a file of purlin"));
    }
    let version = u16::from_be_bytes([rest[0], rest[1]]);
    let crc = u32::from_be_bytes([rest[2], rest[3], rest[4], rest[5]]);
    let length = rest[6..].iter().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    if version > newest {
        return Err(FileError::Newer { path: path.into(), found: version, known: newest });
    }
    bytes.drain(..HEADER_BYTES);
    if bytes.len() as u64 != length {
        return Err(FileError::corrupt(path, format!("it has {} of {length} bytes", bytes.len())));
    }
    if crc32fast::hash(&bytes) != crc {
        return Err(FileError::corrupt(path, "its checksum does not match"));
    }
    Ok(Loaded { version, body: bytes })
}

#[derive(Serialize, Deserialize)]
struct JsonFile {
    version: u16,
    crc32: u32,
    content: Value,
}

/// As [`save`], in a form that people can read.
pub fn save_json<T: Serialize>(path: &Path, version: u16, content: &T) -> Result<(), FileError> {
    let unwritable =
        |e: serde_json::Error| FileError::Io { action: "encode", path: path.into(), source: e.into() };
    let content = serde_json::to_value(content).map_err(unwritable)?;
    let crc32 = crc32fast::hash(&serde_json::to_vec(&content).map_err(unwritable)?);
    let mut text = serde_json::to_vec_pretty(&JsonFile { version, crc32, content }).map_err(unwritable)?;
    text.push(b'\n');
    replace(path, &[&text])
}

/// Reads what [`save_json`] wrote; refuses a version above `newest`.
pub fn load_json<T: DeserializeOwned>(path: &Path, newest: u16) -> Result<T, FileError> {
    let text = read(path, JSON_BYTES)?;
    let damaged = |e: serde_json::Error| FileError::corrupt(path, e.to_string());
    let file: JsonFile = serde_json::from_slice(&text).map_err(damaged)?;
    if file.version > newest {
        return Err(FileError::Newer { path: path.into(), found: file.version, known: newest });
    }
    if crc32fast::hash(&serde_json::to_vec(&file.content).map_err(damaged)?) != file.crc32 {
        return Err(FileError::corrupt(
            path,
            "its checksum does not match; it was changed by hand or by a fault",
        ));
    }
    serde_json::from_value(file.content).map_err(damaged)
}

/// Replaces a file of a form of its own, such as PEM.
pub fn save_plain(path: &Path, content: &[u8]) -> Result<(), FileError> {
    replace(path, &[content])
}

/// Reads a file that holds a secret; refuses one that others may read.
pub fn load_secret(path: &Path) -> Result<Vec<u8>, FileError> {
    let metadata = fs::metadata(path).map_err(FileError::io("read", path))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::Exposed { path: path.into(), mode });
    }
    read(path, JSON_BYTES)
}

/// Reads a file of a form of its own.
pub fn load_plain(path: &Path) -> Result<Vec<u8>, FileError> {
    read(path, JSON_BYTES)
}

/// Removes a file for good; that it is not there is fine.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(FileError::io("remove", path)(error)),
        Ok(()) => sync_directory_of(path),
    }
}

/// Makes a directory that only its owner may enter, with its parents; closes one that is there to others.
pub fn private_directory(path: &Path) -> Result<(), FileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(FileError::io("create", path))?;
    let metadata = fs::metadata(path).map_err(FileError::io("look at", path))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(path, private).map_err(FileError::io("close to others the directory", path))?;
    }
    sync_directory_of(path)
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(FileError::io("read", path))?;
    let length = file.metadata().map_err(FileError::io("read", path))?.len();
    if length > limit {
        return Err(FileError::corrupt(path, format!("it has {length} bytes, more than {limit}")));
    }
    let mut bytes = Vec::new();
    // One more byte than allowed, so that a file that grows meanwhile is noticed too.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(FileError::io("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(FileError::corrupt(path, format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

fn replace(path: &Path, parts: &[&[u8]]) -> Result<(), FileError> {
    let temporary = temporary_name(path)?;
    let written = write_all(&temporary, parts).map_err(FileError::io("write", &temporary));
    let renamed = written.and_then(|()| fs::rename(&temporary, path).map_err(FileError::io("replace", path)));
    if renamed.is_err() {
        // The error is told; what is left behind would be overwritten by the next try anyway.
        let _ = fs::remove_file(&temporary);
    }
    renamed?;
    sync_directory_of(path)
}

fn write_all(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // One that lies there from a crash may have another mode.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()
}

/// Beside the file and always the same, so that a crash leaves at most one behind.
fn temporary_name(path: &Path) -> Result<PathBuf, FileError> {
    let name = path.file_name().ok_or_else(|| FileError::Io {
        action: "write",
        path: path.into(),
        source: ErrorKind::InvalidInput.into(),
    })?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(".new");
    Ok(path.with_file_name(temporary))
}

/// Without it a rename may be forgotten in a power cut.
fn sync_directory_of(path: &Path) -> Result<(), FileError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory).and_then(|opened| opened.sync_all()).map_err(FileError::io("flush", directory))
}

#[cfg(test)]
mod tests;
