//! Making one server a cluster of its own, offline, after the majority was lost for good.
//!
//! Everything that its disk holds is applied, also what was never agreed on: nobody can tell any more what the others
//! had. The result is a snapshot of which this server is the only member, at the end of its log, which then begins
//! anew behind it. Cut short, it can be done again.

use openraft::storage::RaftLogStorage;

use super::RaftOptions;
use super::codec::understood;
use super::handle::{StartError, open};
use super::log::LogStore;
use super::machine::{Machine, Replayed};
use super::snapshot::SnapshotStore;
use super::types::{LogId, Membership, ServerNode, SnapshotMeta, StoredMembership};

/// What a stopped server's disk holds, all of it applied.
pub(crate) struct Survivor<M> {
    pub(crate) state: M,
    pub(crate) found: Found,
    last: LogId,
    options: RaftOptions,
    snapshots: SnapshotStore,
    log: LogStore,
}

/// The same, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub term: u64,
    /// The last entry of the log.
    pub last: u64,
    /// Up to here a majority was known to have it.
    pub committed: u64,
    /// The members, as this server knew them last: name and address.
    pub members: Vec<(String, String)>,
    /// Whether this server is the only one already.
    pub alone: bool,
}

/// Opens and applies what is there. Blocks on the disk, and changes nothing.
pub(crate) fn survey<M: Machine>(options: RaftOptions, empty: M) -> Result<Survivor<M>, StartError> {
    let (snapshots, loaded, log) = open(&options, empty)?;
    let mut replayed = Replayed::from(loaded);
    let (_, end) = log.bounds();
    let first = replayed.last().map_or(0, |last| last.index + 1);
    for entry in log.read_all(first) {
        let entry = entry.map_err(|error| StartError::Log(error.to_string()))?;
        if let openraft::EntryPayload::Normal(envelope) = &entry.payload {
            understood(envelope).map_err(|error| StartError::Log(error.to_string()))?;
        }
        replayed.apply(entry).map_err(|error| StartError::Log(error.to_string()))?;
    }
    let Some(last) = replayed.last().filter(|last| Some(last.index) >= end) else {
        let dir = options.dir.display().to_string();
        return Err(StartError::Log(format!("there is nothing of a server in {dir}")));
    };
    let membership = replayed.membership().membership();
    let voters: Vec<u64> = membership.voter_ids().collect();
    let found = Found {
        term: last.leader_id.term,
        last: last.index,
        committed: log.committed().unwrap_or(0),
        members: membership.nodes().map(|(_, node)| (node.name.clone(), node.address.clone())).collect(),
        alone: voters == [options.node_id],
    };
    Ok(Survivor { state: replayed.into_state(), found, last, options, snapshots, log })
}

impl<M: Machine> Survivor<M> {
    /// Where peers will reach it.
    pub(crate) fn set_address(&mut self, address: String) {
        self.options.address = address;
    }

    /// Writes `state` down as all that there is, with this server as the only member.
    pub(crate) async fn take_over(mut self, state: M) -> Result<(), StartError> {
        let options = &self.options;
        let own = ServerNode { name: options.name.clone(), address: options.address.clone() };
        let membership = Membership::new(
            vec![std::collections::BTreeSet::from([options.node_id])],
            std::collections::BTreeMap::from([(options.node_id, own)]),
        );
        let membership = membership.map_err(|error| StartError::Raft(error.to_string()))?;
        let meta = SnapshotMeta {
            last_log_id: Some(self.last),
            last_membership: StoredMembership::new(Some(self.last), membership),
        };
        self.snapshots.save(&meta, |out| state.encode_into(out))?;
        let failed = |error: std::io::Error| StartError::Log(error.to_string());
        self.log.save_committed(Some(self.last)).await.map_err(failed)?;
        self.log.purge(self.last).await.map_err(failed)?;
        // Dropping the log waits until that is on the disk.
        drop(self.log);
        Ok(())
    }
}
