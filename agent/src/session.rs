//! What is known of the session to the servers; the uplink writes it, everybody else watches.

use purlin_model::Millis;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Phase {
    /// Started, and no try has ended yet.
    #[default]
    Connecting,
    Connected,
    /// The last try failed, or the session broke; tries go on.
    Offline,
}

/// State of the one session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionState {
    pub phase: Phase,
    /// Address of the server it is or was last with.
    pub server: Option<String>,
    /// Since when it is in this phase.
    pub since: Millis,
    /// Why it is offline.
    pub reason: Option<String>,
    /// Sessions so far, this one included.
    pub sessions: u64,
}

impl SessionState {
    pub fn is_connected(&self) -> bool {
        self.phase == Phase::Connected
    }
}
