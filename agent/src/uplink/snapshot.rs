//! Snapshots over the session's link: down whole, or not at all; up once, because a body cannot be sent twice.

use purlin_model::Fault;
use purlin_wire::rpc::{Consistency, Restoring, Saving, SnapshotRestore, SnapshotSave};
use tokio::time::Instant;

use super::{CALL_DEADLINE, LEADER_WAIT, Uplink, pause};

impl Uplink {
    pub async fn save_snapshot(&self, consistency: Consistency) -> Result<Saving, Fault> {
        let give_up = Instant::now() + LEADER_WAIT;
        loop {
            let link = self.link(give_up).await?;
            match Saving::open(link.as_ref(), &SnapshotSave { consistency }, CALL_DEADLINE * 3).await {
                Err(fault) if fault.may_retry() && Instant::now() < give_up => pause(link.as_ref()).await,
                answer => return answer,
            }
        }
    }

    pub async fn restore_snapshot(&self, bytes: Option<u64>) -> Result<Restoring, Fault> {
        let link = self.link(Instant::now() + LEADER_WAIT).await?;
        Restoring::open(link.as_ref(), &SnapshotRestore { bytes }).await
    }
}
