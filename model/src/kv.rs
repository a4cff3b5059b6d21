//! The key-value tree: what lies below a key, how it is changed, and how it is asked for. Keys are text; a tree is
//! all keys that begin with a prefix, wherever it ends.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::blob::Blob;
use crate::fault::{Fault, FaultCode};
use crate::session::SessionId;
use crate::{Revision, limit};

/// A key, or the beginning of keys. Cheap to clone.
pub type Key = Arc<str>;

/// What is stored below a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvEntry {
    pub key: Key,
    pub value: Blob,
    /// A number that the client keeps beside the value; nobody here reads it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub flags: u64,
    /// How often the key was acquired by a session that did not hold it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lock_index: u64,
    /// The session that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    pub create_index: Revision,
    pub modify_index: Revision,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A value to be put below a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvPut {
    pub key: Key,
    pub value: Blob,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub flags: u64,
}

/// One change of the tree. Where its condition is not met, nothing changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvWrite {
    Set(KvPut),
    /// Only if the key was last changed at that revision; zero: only if it is not there.
    Cas(KvPut, Revision),
    /// Only if the session holds the key, or nobody does.
    Lock(KvPut, SessionId),
    /// Only if the session holds the key.
    Unlock(KvPut, SessionId),
    Delete(Key),
    /// Only if the key was last changed at that revision, or is not there.
    DeleteCas(Key, Revision),
    DeleteTree(Key),
}

impl KvWrite {
    /// The key, or the beginning of those that it is about.
    pub fn key(&self) -> &Key {
        match self {
            Self::Set(put) | Self::Cas(put, _) | Self::Lock(put, _) | Self::Unlock(put, _) => &put.key,
            Self::Delete(key) | Self::DeleteCas(key, _) | Self::DeleteTree(key) => key,
        }
    }

    /// That it can be stored at all.
    pub fn check(&self) -> Result<(), Fault> {
        let value = match self {
            Self::Set(put) | Self::Cas(put, _) | Self::Lock(put, _) | Self::Unlock(put, _) => {
                Some(&put.value)
            }
            Self::Delete(_) | Self::DeleteCas(..) | Self::DeleteTree(_) => None,
        };
        match self {
            Self::DeleteTree(prefix) => check_prefix(prefix)?,
            _ => check_key(self.key())?,
        }
        match value.map(|value| value.len()).filter(|bytes| *bytes > limit::KV_VALUE_BYTES) {
            None => Ok(()),
            Some(bytes) => Err(Fault::new(
                FaultCode::TooLarge,
                format!(
                    "Value for key {:?} is too large ({bytes} > {} bytes)",
                    self.key(),
                    limit::KV_VALUE_BYTES
                ),
            )),
        }
    }
}

/// That a text can be a key.
pub fn check_key(key: &str) -> Result<(), Fault> {
    if key.is_empty() {
        return Err(Fault::invalid("Missing key name"));
    }
    check_prefix(key)
}

/// As `check_key`, but the empty one stands for all.
pub fn check_prefix(key: &str) -> Result<(), Fault> {
    if key.starts_with('/') {
        return Err(Fault::invalid("Invalid key. Key must not begin with a '/'"));
    }
    if key.len() > limit::KV_KEY_BYTES {
        let text = format!("the key has {} bytes, at most {} are allowed", key.len(), limit::KV_KEY_BYTES);
        return Err(Fault::invalid(text));
    }
    Ok(())
}

/// What of the tree is to be read, or waited for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum KvTopic {
    /// One key.
    Key(Key),
    /// All below a prefix, with their values.
    Tree(Key),
    /// The keys below a prefix without their values; where there is a separator, what follows its first one behind
    /// the prefix is folded away.
    Keys { prefix: Key, separator: Key },
}

impl KvTopic {
    /// Which keys it is about: that one, or (second) all that begin so.
    pub fn span(&self) -> (&Key, bool) {
        match self {
            Self::Key(key) => (key, false),
            Self::Tree(prefix) | Self::Keys { prefix, .. } => (prefix, true),
        }
    }
}

impl fmt::Display for KvTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "kv/{key}"),
            Self::Tree(prefix) => write!(f, "kv/{prefix}*"),
            Self::Keys { prefix, .. } => write!(f, "keys/{prefix}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, bytes: usize) -> KvWrite {
        KvWrite::Set(KvPut { key: key.into(), value: vec![b'x'; bytes].into(), flags: 0 })
    }

    #[test]
    fn keys_and_values_have_limits() {
        assert_eq!(put("a", limit::KV_VALUE_BYTES).check(), Ok(()));
        let code = |write: KvWrite| write.check().map_err(|fault| fault.code);
        assert_eq!(code(put("a", limit::KV_VALUE_BYTES + 1)), Err(FaultCode::TooLarge));
        assert_eq!(code(put(&"k".repeat(limit::KV_KEY_BYTES), 0)), Ok(()));
        assert_eq!(code(put(&"k".repeat(limit::KV_KEY_BYTES + 1), 0)), Err(FaultCode::Invalid));
        assert_eq!(code(put("/a", 0)), Err(FaultCode::Invalid));
        assert_eq!(code(put("", 0)), Err(FaultCode::Invalid));
        assert_eq!(code(KvWrite::Delete("".into())), Err(FaultCode::Invalid));
        assert_eq!(code(KvWrite::DeleteTree("".into())), Ok(()));
    }
}
