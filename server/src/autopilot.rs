//! Looks after the number of servers: judges who is healthy, gives votes to those that have caught up, and takes the
//! dead out. A machine without clock or I/O: it is shown the members and answers what to do next.
//!
//! A server is told by its id. Before it gets a vote it must be healthy for a while, but for two cases: a mesh with
//! fewer than three voters is in a hurry, and a leader that has not watched for so long cannot know.

mod drive;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use purlin_model::autopilot::AutopilotConfig;

use crate::raft::Member;

pub(crate) use drive::{health, watch_servers};

/// With fewer voters nothing may fail, so a server that has caught up gets its vote at once.
const FEW_VOTERS: usize = 3;
/// A pause of the leader or of a server that is shorter does not make the server unhealthy.
const GRACE: Duration = Duration::from_secs(1);
/// A voter that was silent for so long gives its vote to a healthy server that waits for one.
const REPLACED_AFTER: Duration = Duration::from_secs(5);

/// What is to be done, one thing at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Promote(u64),
    /// The second takes the vote of the first.
    Replace(u64, u64),
    Remove(u64),
}

/// How a server stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stand {
    pub(crate) healthy: bool,
    /// Since when it is, or is not.
    pub(crate) since: Instant,
    /// When it was last within the limits, or first seen.
    good: Instant,
    /// When the leader last heard of it, or first saw it.
    heard: Instant,
}

#[derive(Debug)]
pub(crate) struct Autopilot {
    /// When this server began to lead.
    began: Instant,
    stands: BTreeMap<u64, Stand>,
}

impl Autopilot {
    pub(crate) fn new(now: Instant) -> Self {
        Self { began: now, stands: BTreeMap::new() }
    }

    pub(crate) fn stands(&self) -> &BTreeMap<u64, Stand> {
        &self.stands
    }

    /// Takes in what the leader sees now.
    pub(crate) fn observe(&mut self, members: &[Member], config: &AutopilotConfig, now: Instant) {
        self.stands.retain(|id, _| members.iter().any(|member| member.id == *id));
        let newest = members.iter().filter(|m| m.leader).find_map(|m| m.last_index).unwrap_or(0);
        for member in members {
            let good = within(member, newest, config);
            let fresh = Stand { healthy: good, since: now, good: now, heard: now };
            let stand = self.stands.entry(member.id).or_insert(fresh);
            if let Some(heard) = member.last_contact.and_then(|ago| now.checked_sub(ago)) {
                stand.heard = stand.heard.max(heard);
            }
            if good {
                stand.good = now;
            }
            let healthy = good || (stand.healthy && now.duration_since(stand.good) < GRACE);
            if healthy != stand.healthy {
                (stand.healthy, stand.since) = (healthy, now);
            }
        }
    }

    /// What to do next, if anything. `left` are those that said goodbye.
    pub(crate) fn step(
        &self,
        members: &[Member],
        left: &[u64],
        config: &AutopilotConfig,
        now: Instant,
    ) -> Option<Step> {
        let voters = members.iter().filter(|member| member.voter).count();
        let next =
            members.iter().find(|member| !member.voter && self.deserves_a_vote(member, voters, config, now));
        let silent = |member: &Member| {
            let stand = self.stands.get(&member.id);
            stand.map_or(Duration::ZERO, |stand| now.duration_since(stand.heard))
        };
        // One that left may come back, and is heard before it is known to live.
        let after = |member: &Member, after: Duration| if left.contains(&member.id) { GRACE } else { after };
        let gone = |member: &Member, most: Duration| !member.leader && silent(member) >= after(member, most);
        if config.cleanup_dead_servers {
            let dead_after = Duration::from_millis(config.dead_server_last_contact_threshold_ms);
            let longest = |after| members.iter().filter(move |m| gone(m, after)).max_by_key(|m| silent(m));
            if let (Some(next), Some(old)) = (next, longest(REPLACED_AFTER).filter(|old| old.voter)) {
                return Some(Step::Replace(old.id, next.id));
            }
            let learner = members.iter().find(|member| !member.voter && gone(member, dead_after));
            if let Some(learner) = learner {
                return Some(Step::Remove(learner.id));
            }
            let dead: Vec<&Member> = members.iter().filter(|m| m.voter && gone(m, dead_after)).collect();
            let rest = voters - dead.len();
            let minority = dead.len() <= voters.saturating_sub(1) / 2;
            let enough = rest >= usize::try_from(config.min_quorum).unwrap_or(usize::MAX);
            if let Some(dead) = dead.first().filter(|_| minority && enough) {
                return Some(Step::Remove(dead.id));
            }
        }
        // Whether it takes the place of one that is just not heard is known soon.
        let unheard = |member: &Member| !near(member, config) && silent(member) < REPLACED_AFTER;
        let undecided = config.cleanup_dead_servers && members.iter().any(|m| m.voter && unheard(m));
        next.filter(|_| !undecided).map(|member| Step::Promote(member.id))
    }

    fn deserves_a_vote(
        &self,
        member: &Member,
        voters: usize,
        config: &AutopilotConfig,
        now: Instant,
    ) -> bool {
        let Some(stand) = self.stands.get(&member.id).filter(|stand| stand.healthy) else { return false };
        let stable = Duration::from_millis(config.server_stabilization_time_ms);
        // Consul's tenth more: the first looks after an election are not the best.
        let known_long = now.duration_since(self.began) > stable + stable / 10;
        voters < FEW_VOTERS || !known_long || now.duration_since(stand.since) >= stable
    }
}

fn near(member: &Member, config: &AutopilotConfig) -> bool {
    let threshold = Duration::from_millis(config.last_contact_threshold_ms);
    member.last_contact.is_some_and(|ago| ago <= threshold)
}

fn within(member: &Member, newest: u64, config: &AutopilotConfig) -> bool {
    let behind = member.last_index.map_or(u64::MAX, |index| newest.saturating_sub(index));
    near(member, config) && behind <= config.max_trailing_logs
}
