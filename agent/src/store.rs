//! Caches of this agent on disk: what makes it go on where it left off, and what it can do without if it is lost.
//!
//! One file each, written whole. The body is MessagePack with named fields, so fields may come and go; the version is
//! raised when an older build could not read it rightly.

use std::path::{Path, PathBuf};

use purlin_wire::file::{self, FileError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;

/// Writes `content` in place of what was there. Blocks.
pub fn save<T: Serialize>(path: &Path, version: u16, content: &T) -> Result<(), FileError> {
    let body = rmp_serde::to_vec_named(content).map_err(|error| FileError::Io {
        action: "encode",
        path: path.into(),
        source: std::io::Error::other(error.to_string()),
    })?;
    file::save(path, version, &body)
}

/// As [`save`], away from the runtime's threads; a failure is logged, because a cache can be done without.
pub async fn save_or_warn<T: Serialize + Send + 'static>(path: PathBuf, version: u16, content: T) {
    let saved = tokio::task::spawn_blocking(move || save(&path, version, &content)).await;
    match saved {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!("what is known here is not saved, a restart would begin without it: {error}"),
        Err(error) => warn!("what is known here is not saved, a restart would begin without it: {error}"),
    }
}

/// What lies in the file; nothing if it was never written or cannot be used, which is logged. Blocks.
pub fn load_or_warn<T: DeserializeOwned>(path: &Path, newest: u16) -> Option<T> {
    unless_missing(load(path, newest))
}

/// As [`load_or_warn`], for private keys: those that others could read are not used again.
pub fn load_keys_or_warn<T: DeserializeOwned>(path: &Path, newest: u16) -> Option<T> {
    unless_missing(file::load_secret(path).and_then(|_| load(path, newest)))
}

fn unless_missing<T>(loaded: Result<T, FileError>) -> Option<T> {
    match loaded {
        Ok(content) => Some(content),
        Err(FileError::Missing(_)) => None,
        Err(error) => {
            warn!("this host starts without what it knew before: {error}");
            None
        }
    }
}

fn load<T: DeserializeOwned>(path: &Path, newest: u16) -> Result<T, FileError> {
    let loaded = file::load(path, newest)?;
    rmp_serde::from_slice(&loaded.body)
        .map_err(|error| FileError::Corrupt { path: path.into(), why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn what_was_saved_comes_back_and_damage_is_no_panic() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        assert_eq!(load_or_warn::<BTreeMap<String, u32>>(&path, 1), None);
        let content = BTreeMap::from([("a".to_owned(), 1_u32)]);
        save(&path, 1, &content).unwrap();
        assert_eq!(load_or_warn(&path, 1), Some(content));
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(&path, open).unwrap();
        assert_eq!(load_keys_or_warn::<BTreeMap<String, u32>>(&path, 1), None);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(load_or_warn::<BTreeMap<String, u32>>(&path, 1), None);
    }
}
