//! What an agent and the proxy of its host say to each other, over a Unix socket (or in memory in one process).
//!
//! The proxy listens, the agent connects: so an agent that comes back adopts the proxy that kept running.

use purlin_model::view::{Part, PartKey};
use serde::{Deserialize, Serialize};

use crate::frame::Vocabulary;

/// Agent to proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToProxy {
    /// First frame.
    Hello { version: String, protocol: u16 },
    /// Parts of a view. `reset`: forget all others. `last`: now swap it in.
    View { revision: u64, reset: bool, set: Vec<(PartKey, Part)>, removed: Vec<PartKey>, last: bool },
    /// Asks for metrics; answered by `Metrics` with the same number.
    Scrape { id: u64 },
    /// A filter for logs, as `purlin monitor` takes it.
    LogLevel { filter: String },
    /// Finish what is under way, at most so long, then exit.
    Drain { deadline_ms: u64 },
}

/// Proxy to agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromProxy {
    /// First frame.
    Hello { version: String, protocol: u16, pid: u32, has_revision: u64 },
    /// The view of that revision is in force; listeners that could not be opened, with the reason.
    Applied { revision: u64, failed_listeners: Vec<(String, String)> },
    /// Prometheus text.
    Metrics { id: u64, text: String },
}

impl Vocabulary for ToProxy {
    const VARIANTS: &'static [&'static str] = &["Hello", "View", "Scrape", "LogLevel", "Drain"];
}

impl Vocabulary for FromProxy {
    const VARIANTS: &'static [&'static str] = &["Hello", "Applied", "Metrics"];
}

pub const PROTOCOL: u16 = 1;
