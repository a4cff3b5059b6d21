//! Sessions: what holds locks, for as long as its host, its checks and its heartbeat are well.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Names a session: a UUID as text where we make it, but whatever a client says where it asks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub Arc<str>);

impl SessionId {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
