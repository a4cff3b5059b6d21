//! The leader's hands of autopilot: shows it the members, does what it says, and keeps what everybody is told of the
//! servers true.

use std::sync::Arc;
use std::time::{Duration, Instant};

use purlin_model::command::Command;
use purlin_model::node::NodeStatus;
use purlin_model::{Fault, NodeId, NodeName};
use purlin_wire::rpc::{Members, ServerState};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{Autopilot, Step};
use crate::raft::{Member, raft_id};
use crate::rpc::Service;
use crate::state::State;

/// How often the members are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// After a step that failed.
const PAUSE: Duration = Duration::from_secs(2);
/// The level from which on what is told of the servers is a command of its own.
const TELLS_FROM: u16 = 2;

/// Watches the servers while this one leads. Never ends.
pub(crate) async fn watch_servers(service: Arc<Service>) {
    let mut leadership = service.raft.leadership();
    loop {
        if leadership.wait_for(|now| now.here).await.is_err() {
            return std::future::pending().await;
        }
        let lost = async {
            // An error means that Raft ended, which the handle reports.
            let _ = leadership.wait_for(|now| !now.here).await;
        };
        tokio::select! { () = lost => {}, () = fly(&service) => {} }
        service.stands().clear();
    }
}

async fn fly(service: &Service) {
    let mut pilot = Autopilot::new(Instant::now());
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    if let Err(fault) = service.raft.settle_members().await {
        tracing::warn!(%fault, "a change of the cluster's members that was left half done is not ended yet");
    }
    loop {
        looks.tick().await;
        let (members, state) = (service.raft.members(), service.hub.state());
        let (config, now) = (state.autopilot(), Instant::now());
        pilot.observe(&members, &config, now);
        service.stands().clone_from(pilot.stands());
        let left: Vec<u64> = members.iter().filter(|one| has_left(&state, one)).map(|one| one.id).collect();
        if let Some(step) = pilot.step(&members, &left, &config, now)
            && let Err(fault) = take(service, step).await
        {
            tracing::warn!(?step, %fault, "the servers of the cluster stay as they are, will try again");
            sleep(PAUSE).await;
        }
        if let Err(fault) = tell(service).await {
            tracing::warn!(%fault, "what is told of the servers is not true yet, will try again");
            sleep(PAUSE).await;
        }
    }
}

async fn take(service: &Service, step: Step) -> Result<(), Fault> {
    match step {
        Step::Promote(id) => service.raft.promote(id).await,
        Step::Replace(old, new) => service.raft.replace(old, new).await,
        Step::Remove(id) => service.raft.remove(id).await,
    }
}

/// What everybody is told of the servers, made true: who leads, who has a vote, who is gone.
async fn tell(service: &Service) -> Result<(), Fault> {
    let (members, state) = (service.raft.members(), service.hub.state());
    if state.level() < TELLS_FROM {
        return Ok(());
    }
    let of = |name: &NodeName| members.iter().find(|member| member.name == name.as_str());
    let gone: Vec<NodeName> =
        state.servers().map(|server| server.node.clone()).filter(|node| of(node).is_none()).collect();
    for node in gone {
        tracing::info!(%node, "server is no member of the cluster any more");
        service.propose_own(Command::ForgetServer { node }).await?.result?;
    }
    let differs = state.servers().any(|server| {
        of(&server.node).is_some_and(|member| (member.leader, member.voter) != (server.leader, server.voter))
    });
    if differs {
        let voters = members.iter().filter(|member| member.voter);
        let voters = voters.filter_map(|member| NodeName::new(&member.name).ok()).collect();
        service.propose_own(Command::PutVoters { leader: service.node.clone(), voters }).await?.result?;
    }
    Ok(())
}

fn has_left(state: &State, member: &Member) -> bool {
    let node = NodeName::new(&member.name).ok().and_then(|name| state.node(&name));
    node.is_none_or(|node| {
        let another = node.id.is_some_and(|id| raft_id(id) != member.id);
        another || node.status == NodeStatus::Left
    })
}

/// The id of a member's host, if the catalog knows the host.
fn host_of<'a>(state: &'a State, member: &Member) -> Option<(NodeId, &'a purlin_model::node::Node)> {
    let node = state.node(&NodeName::new(&member.name).ok()?)?;
    let id = node.id.filter(|id| raft_id(*id) == member.id)?;
    Some((id, node))
}

/// The cluster as this server sees it, which is whole where it leads.
pub(crate) fn health(service: &Service) -> Members {
    let (members, state) = (service.raft.members(), service.hub.state());
    let stands = service.stands().clone();
    let (now, clock) = (Instant::now(), service.now());
    let server = |member: &Member| {
        let host = host_of(&state, member);
        let stand = stands.get(&member.id);
        let heard = member.answers() || member.leader;
        let silent = member.last_contact.or(stand.map(|stand| now.duration_since(stand.heard)));
        let status = host.map_or(NodeStatus::Left, |(_, node)| node.status);
        ServerState {
            id: host.map(|(id, _)| id),
            raft_id: member.id,
            name: member.name.clone(),
            address: member.address.clone(),
            leader: member.leader,
            voter: member.voter,
            // Who answers the leader lives, whatever else is known of its host.
            status: if heard { NodeStatus::Alive } else { status },
            version: host.map(|(_, node)| node.version.clone()).unwrap_or_default(),
            last_contact_us: silent.map(|ago| u64::try_from(ago.as_micros()).unwrap_or(u64::MAX)),
            last_term: member.last_term,
            last_index: member.last_index,
            healthy: stand.is_some_and(|stand| stand.healthy),
            stable_since: stand.map(|stand| clock.minus(now.duration_since(stand.since))),
        }
    };
    let servers: Vec<ServerState> = members.iter().map(server).collect();
    let voters = servers.iter().filter(|server| server.voter).count();
    let well = servers.iter().filter(|server| server.voter && server.healthy).count();
    let tolerance = well.saturating_sub(voters / 2 + 1);
    Members {
        index: service.raft.membership_revision().0,
        healthy: !servers.is_empty() && servers.iter().all(|server| server.healthy),
        failure_tolerance: u32::try_from(tolerance).unwrap_or(u32::MAX),
        servers,
        autopilot: state.autopilot(),
    }
}
