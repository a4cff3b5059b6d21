//! The one error that crosses process borders: what went wrong, whose side, and what the caller may be told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What kind of failure, in terms that every protocol of ours can map to its own codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FaultCode {
    /// The caller's input is wrong; repeating it will not help. HTTP 400.
    Invalid,
    /// Not allowed for this caller. HTTP 403.
    Forbidden,
    /// No such thing. HTTP 404.
    NotFound,
    /// In conflict with what is there. HTTP 409.
    Conflict,
    /// Larger than a limit. HTTP 413.
    TooLarge,
    /// Too many at once; try later. HTTP 429.
    Busy,
    /// No leader, no server, or a deadline passed; try again. HTTP 500, as Consul's `No cluster leader`.
    Unavailable,
    /// Ours. HTTP 500.
    Internal,
}

/// A failure with a text that is fit for the caller: what, where, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Fault {
    pub code: FaultCode,
    pub text: String,
    /// Of one who is busy: to be left alone for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_ms: Option<u64>,
}

impl Fault {
    pub fn new(code: FaultCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), retry_ms: None }
    }

    /// Too many at once: come back in `retry`.
    pub fn busy(what: &str, retry: Duration) -> Self {
        let retry_ms = u64::try_from(retry.as_millis()).unwrap_or(u64::MAX);
        let text = format!("{what}: busy, come back in {retry_ms} ms");
        Self { retry_ms: Some(retry_ms), ..Self::new(FaultCode::Busy, text) }
    }

    pub fn invalid(text: impl Into<String>) -> Self {
        Self::new(FaultCode::Invalid, text)
    }

    pub fn forbidden(text: impl Into<String>) -> Self {
        Self::new(FaultCode::Forbidden, text)
    }

    pub fn not_found(text: impl Into<String>) -> Self {
        Self::new(FaultCode::NotFound, text)
    }

    pub fn conflict(text: impl Into<String>) -> Self {
        Self::new(FaultCode::Conflict, text)
    }

    pub fn unavailable(text: impl Into<String>) -> Self {
        Self::new(FaultCode::Unavailable, text)
    }

    pub fn internal(text: impl Into<String>) -> Self {
        Self::new(FaultCode::Internal, text)
    }

    /// Whether the same call may succeed later without a change by the caller.
    pub fn may_retry(&self) -> bool {
        matches!(self.code, FaultCode::Busy | FaultCode::Unavailable)
    }
}
