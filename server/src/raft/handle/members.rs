//! Who belongs to the cluster, and how that changes: by the leader, one change at a time, and never to a set of
//! voters of which no majority answers.
//!
//! A member is its node id. Two members that answer never share a name or an address: what is sent to one would be
//! answered, and counted, by the other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::metrics::RaftMetrics;
use openraft::{ChangeMembers, Instant};
use purlin_model::{Fault, FaultCode, Revision};

use super::{Machine, RaftHandle, elsewhere, no_leader};
use crate::raft::types::{ServerNode, TypeConfig};

/// How long a change may take: two entries on the disks of a majority.
const CHANGE_WAIT: Duration = Duration::from_secs(10);
/// How long another server may take to lead after it was told to.
const TRANSFER_WAIT: Duration = Duration::from_secs(5);
/// A member that answered the leader within this counts for a majority.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);
/// Members of a cluster, learners included: each is sent the whole log.
pub const MEMBERS_MAX: usize = 16;

/// A server that belongs to the cluster. What the leader alone knows is absent elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: u64,
    pub name: String,
    pub address: String,
    /// Votes and counts for a majority, whatever change is under way; else it only follows.
    pub voter: bool,
    pub leader: bool,
    /// Up to where its log is known to be the leader's.
    pub last_term: Option<u64>,
    pub last_index: Option<u64>,
    /// How long ago it was sent what it answered last.
    pub last_contact: Option<Duration>,
}

impl Member {
    /// Whether it counts for a majority now.
    pub fn answers(&self) -> bool {
        self.last_contact.is_some_and(|ago| ago <= ANSWERS_WITHIN)
    }
}

fn members_of(metrics: &RaftMetrics<TypeConfig>) -> Vec<Member> {
    let membership = metrics.membership_config.membership();
    // While the voters change, two sets must agree: who comes has its vote only when the new one stands alone.
    let votes = |id: &u64| membership.get_joint_config().iter().all(|set| set.contains(id));
    let leads = metrics.current_leader == Some(metrics.id);
    let member = |(id, node): (&u64, &ServerNode)| {
        let own = leads && *id == metrics.id;
        let matched = metrics.replication.as_ref().and_then(|all| *all.get(id)?);
        let heard = metrics.heartbeat.as_ref().and_then(|all| *all.get(id)?);
        Member {
            id: *id,
            name: node.name.clone(),
            address: node.address.clone(),
            voter: votes(id),
            leader: metrics.current_leader == Some(*id),
            last_term: if own { Some(metrics.current_term) } else { matched.map(|at| at.leader_id.term) },
            last_index: if own { metrics.last_log_index } else { matched.map(|at| at.index) },
            last_contact: if own { Some(Duration::ZERO) } else { heard.map(|heard| heard.elapsed()) },
        }
    };
    membership.nodes().map(member).collect()
}

/// Refuses a set of voters that could not agree on anything now.
fn can_agree(members: &[Member], voters: &BTreeSet<u64>, what: &str) -> Result<(), Fault> {
    if voters.is_empty() {
        return Err(Fault::conflict(format!("{what} would leave the cluster without a voter")));
    }
    let silent: Vec<&str> = members
        .iter()
        .filter(|member| voters.contains(&member.id) && !member.answers())
        .map(|member| member.name.as_str())
        .collect();
    if (voters.len() - silent.len()) * 2 > voters.len() {
        return Ok(());
    }
    Err(Fault::conflict(format!(
        "{what} would leave {} voters, of which {} ({}) do not answer: no majority could agree on anything. Bring \
         them back, or remove them first",
        voters.len(),
        silent.len(),
        silent.join(", ")
    )))
}

impl<M: Machine> RaftHandle<M> {
    /// Who belongs to the cluster as far as this server knows, in the order of their ids.
    pub fn members(&self) -> Vec<Member> {
        members_of(&self.inner.raft.metrics().borrow_watched())
    }

    /// Where in the log the members were changed last.
    pub fn membership_revision(&self) -> Revision {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        Revision(metrics.membership_config.log_id().map_or(0, |at| at.index))
    }

    /// A server that follows and has no vote yet. One that is known is left as it is, but for its address.
    ///
    /// Another member of its name is the same host with an empty disk, and one at its address that does not answer is
    /// gone: such a one is removed first, and the new one has to become a voter by itself.
    pub async fn add_learner(&self, id: u64, node: ServerNode) -> Result<(), Fault> {
        let _one = self.one_change().await?;
        let members = self.members();
        if let Some(known) = members.iter().find(|member| member.id == id) {
            return self.readdress(known, node).await;
        }
        for before in members.iter().filter(|m| m.name == node.name || m.address == node.address) {
            if before.name != node.name && before.answers() {
                return Err(taken(before));
            }
            self.remove_member(&self.members(), before.id).await?;
            tracing::info!(
                name = before.name,
                id = before.id,
                by = id,
                "server replaced by another of its place"
            );
        }
        if self.members().len() >= MEMBERS_MAX {
            return Err(Fault::new(
                FaultCode::TooLarge,
                format!(
                    "the cluster has {MEMBERS_MAX} servers already, which is the limit: remove one first"
                ),
            ));
        }
        tracing::info!(name = node.name, address = node.address, id, "server added, without a vote yet");
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(id, node)]))).await
    }

    /// Gives a server that follows its vote.
    pub async fn promote(&self, id: u64) -> Result<(), Fault> {
        let _one = self.one_change().await?;
        let members = self.members();
        let member = find(&members, id)?;
        if member.voter {
            return Ok(());
        }
        if !member.answers() {
            return Err(Fault::conflict(format!("server {} does not answer the leader", member.name)));
        }
        let mut voters = voters(&members);
        voters.insert(id);
        can_agree(&members, &voters, &format!("a vote for server {}", member.name))?;
        tracing::info!(name = member.name, id, "server gets its vote");
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await
    }

    /// One server takes the vote of another in a single change; the other is no member any more.
    pub async fn replace(&self, old: u64, new: u64) -> Result<(), Fault> {
        let _one = self.one_change().await?;
        let members = self.members();
        let (gone, next) = (find(&members, old)?, find(&members, new)?);
        self.not_ourselves(gone)?;
        let mut voters = voters(&members);
        voters.remove(&old);
        voters.insert(new);
        can_agree(&members, &voters, &format!("server {} in the place of {}", next.name, gone.name))?;
        tracing::info!(name = gone.name, id = old, by = next.name, "server replaced");
        let take = ChangeMembers::AddVoterIds(BTreeSet::from([new]));
        self.change(ChangeMembers::Batch(vec![leave(gone), take])).await
    }

    /// Takes a server out of the cluster, with its vote. Not the leader itself: it hands over first.
    pub async fn remove(&self, id: u64) -> Result<(), Fault> {
        let _one = self.one_change().await?;
        self.remove_member(&self.members(), id).await
    }

    /// A server is reached elsewhere from now on.
    pub async fn update_address(&self, id: u64, node: ServerNode) -> Result<(), Fault> {
        let _one = self.one_change().await?;
        let members = self.members();
        let known = find(&members, id)?;
        match members.iter().find(|m| m.id != id && m.address == node.address && m.answers()) {
            Some(other) => Err(taken(other)),
            None => self.readdress(known, node).await,
        }
    }

    /// Hands leadership to another voter, to the one whose log is the most complete if `to` says nothing, and waits
    /// until it leads. Answers who that is.
    pub async fn transfer(&self, to: Option<u64>) -> Result<Member, Fault> {
        let _one = self.one_change().await?;
        let members = self.members();
        let able = |member: &&Member| member.voter && member.id != self.inner.own && member.answers();
        let target = match to {
            Some(id) => find(&members, id)?,
            None => members.iter().filter(able).max_by_key(|member| member.last_index).ok_or_else(|| {
                Fault::conflict("there is no other voter that answers, so nobody could lead instead")
            })?,
        };
        if target.id == self.inner.own {
            return Ok(target.clone());
        }
        if !able(&target) {
            let why = if target.voter { "does not answer the leader" } else { "has no vote" };
            return Err(Fault::conflict(format!("server {} cannot lead: it {why}", target.name)));
        }
        let mut leadership = self.leadership();
        let asked = self.inner.raft.trigger().transfer_leader(target.id).await;
        asked.map_err(|error| self.stopped(&error))?;
        let id = target.id;
        let led = leadership.wait_for(|now| now.leader.as_ref().is_some_and(|leader| leader.id == id));
        match tokio::time::timeout(TRANSFER_WAIT, led).await {
            Ok(Ok(_)) => Ok(target.clone()),
            Ok(Err(_)) => Err(self.stopped(&"it ended")),
            Err(_) => Err(Fault::unavailable(format!(
                "server {} does not lead {} s after it was told to: see who does",
                target.name,
                TRANSFER_WAIT.as_secs()
            ))),
        }
    }

    /// Ends a change that a leader before this one left half done. Does nothing else.
    pub async fn settle_members(&self) -> Result<(), Fault> {
        self.one_change().await.map(|_| ())
    }

    async fn remove_member(&self, members: &[Member], id: u64) -> Result<(), Fault> {
        let gone = find(members, id)?;
        self.not_ourselves(gone)?;
        if gone.voter {
            let mut voters = voters(members);
            voters.remove(&id);
            can_agree(members, &voters, &format!("the removal of server {}", gone.name))?;
        }
        tracing::info!(name = gone.name, address = gone.address, id, "server removed from the cluster");
        self.change(leave(gone)).await
    }

    async fn readdress(&self, known: &Member, node: ServerNode) -> Result<(), Fault> {
        if known.name == node.name && known.address == node.address {
            return Ok(());
        }
        tracing::info!(name = node.name, was = known.address, is = node.address, "server has a new address");
        self.change(ChangeMembers::SetNodes(BTreeMap::from([(known.id, node)]))).await
    }

    fn not_ourselves(&self, gone: &Member) -> Result<(), Fault> {
        if gone.id != self.inner.own {
            return Ok(());
        }
        Err(Fault::conflict(format!(
            "server {} leads the cluster: transfer leadership to another server first",
            gone.name
        )))
    }

    /// The right to make a change. What a change before left half done is ended first.
    async fn one_change(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, Fault> {
        let one = tokio::time::timeout(CHANGE_WAIT, self.inner.changing.lock()).await;
        let one = one.map_err(|_| in_progress())?;
        self.leads()?;
        let half_done = {
            let metrics = self.inner.raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics.membership_config.membership().get_joint_config().len() > 1
        };
        if half_done {
            self.change(ChangeMembers::AddVoterIds(BTreeSet::new())).await?;
        }
        Ok(one)
    }

    fn leads(&self) -> Result<(), Fault> {
        match self.leader() {
            Some(leader) if leader.id == self.inner.own => Ok(()),
            Some(leader) => Err(elsewhere(&leader.name, &leader.address)),
            None => Err(no_leader()),
        }
    }

    async fn change(&self, change: ChangeMembers<u64, ServerNode>) -> Result<(), Fault> {
        let changed = Box::pin(self.inner.raft.change_membership(change, false));
        match tokio::time::timeout(CHANGE_WAIT, changed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(error))) => Err(self.refused(error)),
            Ok(Err(RaftError::Fatal(error))) => Err(self.stopped(&error)),
            Err(_) => Err(Fault::unavailable(format!(
                "no majority took the change of the cluster's members within {} s; it may still be carried out: look \
                 with `purlin operator raft list-peers`",
                CHANGE_WAIT.as_secs()
            ))),
        }
    }

    fn refused(&self, error: ClientWriteError<TypeConfig>) -> Fault {
        match error {
            ClientWriteError::ForwardToLeader(to) | ClientWriteError::LogEntryDiscarded(to) => {
                self.led_elsewhere(&to).err().unwrap_or_else(no_leader)
            }
            ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
            ) => in_progress(),
            error => Fault::internal(format!("the members of the cluster cannot be changed: {error}")),
        }
    }
}

fn taken(by: &Member) -> Fault {
    Fault::conflict(format!(
        "address {} is that of server {}, which answers there: give another address, or remove that server first",
        by.address, by.name
    ))
}

fn in_progress() -> Fault {
    Fault::new(FaultCode::Busy, "another change of the cluster's members is under way: try again in a moment")
}

fn voters(members: &[Member]) -> BTreeSet<u64> {
    members.iter().filter(|member| member.voter).map(|member| member.id).collect()
}

fn find(members: &[Member], id: u64) -> Result<&Member, Fault> {
    members.iter().find(|member| member.id == id).ok_or_else(|| {
        Fault::not_found(format!(
            "server {id} is no member of the cluster: see `purlin operator raft list-peers`"
        ))
    })
}

fn leave(member: &Member) -> ChangeMembers<u64, ServerNode> {
    let id = BTreeSet::from([member.id]);
    if member.voter { ChangeMembers::RemoveVoters(id) } else { ChangeMembers::RemoveNodes(id) }
}
