//! What a server tells the leader of the hosts whose sessions it holds, and how a host is probed through others.
//!
//! A roster is told whole once and in changes after that; count and sum of what it should have come to show the
//! leader whether it missed something. Servers say them to servers, and a server passes a probe on to an agent.

use purlin_model::NodeName;
use serde::{Deserialize, Serialize};

pub const ROSTER: &str = "roster";
pub const PROBE_VIA: &str = "probe-via";
pub const PROBE: &str = "probe";

/// Presences in one roster; a longer one goes on in the next.
pub const ROSTER_AT_ONCE: usize = 4_000;

/// `roster`, a server to the leader. Answer: `RosterTaken`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// Of this run of the server: another one knows nothing of what was told before.
    pub boot: uuid::Uuid,
    /// Counts the rosters of a run.
    pub number: u64,
    /// All of it, or its beginning; else what changed since the one before.
    pub whole: bool,
    pub changes: Vec<Presence>,
    /// Another one follows that goes on from here.
    #[serde(default)]
    pub more: bool,
    /// How many hosts are here when that is taken in, and the sum of their names (see [`name_sum`]).
    pub count: u64,
    pub sum: u64,
}

/// A host as one server sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    pub node: NodeName,
    pub contact: Contact,
    /// Since its last sign of life.
    #[serde(default)]
    pub silent_ms: u64,
    /// How often it shows that it lives.
    #[serde(default)]
    pub beat_ms: u64,
    /// Where it answers probes, `host:port`.
    #[serde(default)]
    pub probe: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Contact {
    /// Its session is open and it speaks.
    Here,
    /// Its session is open and it has not spoken for some beats.
    Silent,
    /// Its session ended without a goodbye.
    Broken,
    /// It said goodbye.
    Left,
    /// It is of no more interest to this server.
    Gone,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterTaken {
    /// What was told does not fit what is known: tell all of it.
    pub tell_all: bool,
    /// Sessions that each server would have if all had the same; zero where that is not known.
    #[serde(default)]
    pub fair_share: u64,
}

/// Of a set of host names, whatever their order: FNV-1a of each, added up.
pub fn name_sum<'a>(names: impl Iterator<Item = &'a NodeName>) -> u64 {
    let hash = |name: &NodeName| {
        name.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    };
    names.fold(0, |sum, name| sum.wrapping_add(hash(name)))
}

/// `probe-via`, the leader to the server that holds the session of `helper`. Answer: `Probed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeVia {
    pub helper: NodeName,
    pub probe: Probe,
}

/// `probe`, a server to an agent: whether that host answers you. Answer: `Probed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub node: NodeName,
    /// `host:port`.
    pub address: String,
    pub within_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// Of the run of the agent that answered.
    pub boot: uuid::Uuid,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_tells_sets_apart_and_knows_no_order() {
        let names: Vec<NodeName> = ["a", "b", "c"].map(|name| NodeName::new(name).unwrap()).into();
        let sum = name_sum(names.iter());
        assert_eq!(sum, name_sum(names.iter().rev()));
        assert_ne!(sum, name_sum(names[1..].iter()));
        assert_eq!(name_sum(std::iter::empty()), 0);
        assert_eq!(name_sum(names[..1].iter()), 0xaf63_dc4c_8601_ec8c, "every build must come to the same");
    }
}
