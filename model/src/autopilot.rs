//! How the servers look after their own number: Consul's settings of autopilot, with its names and defaults.

use serde::{Deserialize, Serialize};

use crate::{Fault, Revision};

/// Longest span that a setting may be, in milliseconds.
const SPAN_MAX_MS: u64 = 30 * 86_400_000;
/// No server is dead that was silent for less, in milliseconds.
const DEAD_MIN_MS: u64 = 10_000;
/// Highest number of servers that `min_quorum` may ask for.
const MIN_QUORUM_MAX: u32 = 16;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutopilotConfig {
    /// Whether a failed server is taken out of the cluster.
    pub cleanup_dead_servers: bool,
    /// A server that the leader did not hear of for longer is not healthy.
    pub last_contact_threshold_ms: u64,
    /// A server whose log is further behind is not healthy.
    pub max_trailing_logs: u64,
    /// How long a server must be silent before it counts as dead where no other takes its place. Vault's name; Consul
    /// has no such setting.
    pub dead_server_last_contact_threshold_ms: u64,
    /// Dead servers stay once so few voters are left; zero: no such number.
    pub min_quorum: u32,
    /// How long a new server must be healthy before it gets its vote.
    pub server_stabilization_time_ms: u64,
    /// Zero until somebody wrote it.
    pub create_index: Revision,
    pub modify_index: Revision,
}

impl Default for AutopilotConfig {
    fn default() -> Self {
        Self {
            cleanup_dead_servers: true,
            last_contact_threshold_ms: 200,
            max_trailing_logs: 250,
            dead_server_last_contact_threshold_ms: 60_000,
            min_quorum: 0,
            server_stabilization_time_ms: 10_000,
            create_index: Revision(0),
            modify_index: Revision(0),
        }
    }
}

impl AutopilotConfig {
    /// Refuses what no cluster could work with.
    pub fn check(&self) -> Result<(), Fault> {
        if !(1..=SPAN_MAX_MS).contains(&self.last_contact_threshold_ms) {
            return Err(Fault::invalid("LastContactThreshold must be between 1ms and 720h"));
        }
        if !(DEAD_MIN_MS..=SPAN_MAX_MS).contains(&self.dead_server_last_contact_threshold_ms) {
            return Err(Fault::invalid("DeadServerLastContactThreshold must be between 10s and 720h"));
        }
        if self.server_stabilization_time_ms > SPAN_MAX_MS {
            return Err(Fault::invalid("ServerStabilizationTime must not be above 720h"));
        }
        if self.min_quorum > MIN_QUORUM_MAX {
            return Err(Fault::invalid(format!("MinQuorum must not be above {MIN_QUORUM_MAX}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_consuls_and_limits_hold_at_their_edge() {
        let base = AutopilotConfig::default();
        assert_eq!((base.last_contact_threshold_ms, base.max_trailing_logs), (200, 250));
        assert!(base.check().is_ok());
        let longest = AutopilotConfig {
            last_contact_threshold_ms: SPAN_MAX_MS,
            server_stabilization_time_ms: SPAN_MAX_MS,
            dead_server_last_contact_threshold_ms: DEAD_MIN_MS,
            min_quorum: MIN_QUORUM_MAX,
            ..base.clone()
        };
        assert!(longest.check().is_ok());
        for wrong in [
            AutopilotConfig { last_contact_threshold_ms: 0, ..base.clone() },
            AutopilotConfig { last_contact_threshold_ms: SPAN_MAX_MS + 1, ..base.clone() },
            AutopilotConfig { server_stabilization_time_ms: SPAN_MAX_MS + 1, ..base.clone() },
            AutopilotConfig { dead_server_last_contact_threshold_ms: DEAD_MIN_MS - 1, ..base.clone() },
            AutopilotConfig { dead_server_last_contact_threshold_ms: SPAN_MAX_MS + 1, ..base.clone() },
            AutopilotConfig { min_quorum: MIN_QUORUM_MAX + 1, ..base },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }
}
