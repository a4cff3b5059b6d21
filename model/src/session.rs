//! Sessions: what holds locks, for as long as its host, its checks and its heartbeat are well.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{CheckId, Fault, NodeName, Revision, duration, limit};

/// Bounds of a session's time to live (Consul's figures).
pub const TTL_MIN: Duration = Duration::from_secs(10);
pub const TTL_MAX: Duration = Duration::from_secs(86_400);
/// A lock is given back so long after its session ended; a longer wish counts as this one.
pub const LOCK_DELAY_MAX: Duration = Duration::from_secs(60);
pub const LOCK_DELAY_DEFAULT: Duration = Duration::from_secs(15);

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

/// What becomes of the keys that a session holds when it ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Behavior {
    #[default]
    Release,
    Delete,
}

impl Behavior {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Delete => "delete",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "release" => Some(Self::Release),
            "delete" => Some(Self::Delete),
            _ => None,
        }
    }
}

/// A session as the mesh knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub id: SessionId,
    #[serde(default)]
    pub name: String,
    /// It ends when this host is gone from the catalog.
    pub node: NodeName,
    pub lock_delay: Duration,
    #[serde(default)]
    pub behavior: Behavior,
    /// As its maker wrote it (`10s`); empty: it needs no renewal.
    #[serde(default)]
    pub ttl: String,
    /// It ends when one of these, on its host, turns critical or goes away.
    #[serde(default)]
    pub node_checks: Vec<CheckId>,
    #[serde(default)]
    pub service_checks: Vec<CheckId>,
    #[serde(default)]
    pub create_index: Revision,
    #[serde(default)]
    pub modify_index: Revision,
}

impl Session {
    /// How long it lives without being renewed; `None`: for as long as its host and its checks are well.
    pub fn ttl(&self) -> Option<Duration> {
        duration::parse(&self.ttl).ok().filter(|ttl| !ttl.is_zero())
    }

    /// That it may be made, as far as that can be told from itself.
    pub fn check(&self) -> Result<(), Fault> {
        if self.id.as_str().is_empty() || self.id.as_str().len() > limit::SESSION_ID_BYTES {
            return Err(Fault::invalid(format!("a session id has 1 to {} bytes", limit::SESSION_ID_BYTES)));
        }
        if self.name.len() > limit::CHECK_NAME_BYTES {
            return Err(Fault::invalid(format!(
                "the name of a session has at most {} bytes",
                limit::CHECK_NAME_BYTES
            )));
        }
        if self.node_checks.len() + self.service_checks.len() > limit::SESSION_CHECKS {
            return Err(Fault::invalid(format!(
                "a session is bound to {} checks at most",
                limit::SESSION_CHECKS
            )));
        }
        if self.ttl.is_empty() {
            return Ok(());
        }
        let ttl = duration::parse(&self.ttl)
            .map_err(|why| Fault::invalid(format!("Session TTL '{}' invalid: {why}", self.ttl)))?;
        if !ttl.is_zero() && !(TTL_MIN..=TTL_MAX).contains(&ttl) {
            return Err(Fault::invalid(format!(
                "Invalid Session TTL '{}', must be between [{}={}]",
                self.ttl,
                duration::format(TTL_MIN),
                duration::format(TTL_MAX)
            )));
        }
        Ok(())
    }
}

/// What is done to sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionWrite {
    Create(Session),
    /// Its keys are let go in the same step.
    Destroy(SessionId),
    /// A heartbeat. It starts a timer of the leader and has no place in the log; where one is, it changes nothing.
    Renew(SessionId),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(ttl: &str) -> Session {
        Session {
            id: SessionId::new("s"),
            name: String::new(),
            node: NodeName::new("host-1").unwrap(),
            lock_delay: LOCK_DELAY_DEFAULT,
            behavior: Behavior::Release,
            ttl: ttl.into(),
            node_checks: Vec::new(),
            service_checks: Vec::new(),
            create_index: Revision(0),
            modify_index: Revision(0),
        }
    }

    #[test]
    fn a_time_to_live_is_between_ten_seconds_and_a_day() {
        for ttl in ["", "0s", "10s", "1m30s", "24h"] {
            assert_eq!(session(ttl).check(), Ok(()), "{ttl}");
        }
        for ttl in ["9s", "24h1s", "10", "soon", "-10s"] {
            assert!(session(ttl).check().is_err(), "{ttl}");
        }
        assert_eq!(session("15s").ttl(), Some(Duration::from_secs(15)));
        assert_eq!((session("").ttl(), session("0s").ttl()), (None, None));
    }

    #[test]
    fn what_names_it_and_what_it_is_bound_to_is_bounded() {
        let named = |id: usize, name: usize, checks: usize| {
            let checks = vec![CheckId::new("c").unwrap(); checks];
            let id = SessionId::new(&"i".repeat(id));
            Session { id, name: "n".repeat(name), node_checks: checks, ..session("") }.check().is_ok()
        };
        assert!(named(limit::SESSION_ID_BYTES, limit::CHECK_NAME_BYTES, limit::SESSION_CHECKS));
        assert!(!named(0, 0, 0) && !named(limit::SESSION_ID_BYTES + 1, 0, 0));
        assert!(!named(1, limit::CHECK_NAME_BYTES + 1, 0) && !named(1, 0, limit::SESSION_CHECKS + 1));
    }
}
