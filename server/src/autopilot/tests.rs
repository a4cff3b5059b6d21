//! Votes are given and taken by rules; the clock is given.

use super::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn member(id: u64, voter: bool) -> Member {
    Member {
        id,
        name: format!("server-{id}"),
        address: format!("10.0.0.{id}:8300"),
        voter,
        leader: id == 1,
        last_term: Some(1),
        last_index: Some(1_000),
        last_contact: Some(if id == 1 { Duration::ZERO } else { MS(50) }),
    }
}

/// A leader that watches a cluster, in steps of 100 ms.
struct Watch {
    pilot: Autopilot,
    members: Vec<Member>,
    config: AutopilotConfig,
    now: Instant,
    left: Vec<u64>,
}

impl Watch {
    fn new(voters: u64, learners: u64) -> Self {
        let now = Instant::now() + Duration::from_secs(1_000_000);
        let members = (1..=voters + learners).map(|id| member(id, id <= voters)).collect();
        Self {
            pilot: Autopilot::new(now),
            members,
            config: AutopilotConfig::default(),
            now,
            left: Vec::new(),
        }
    }

    /// As `new`, of a leader that has watched for long.
    fn settled(voters: u64) -> Self {
        let mut watch = Self::new(voters, 0);
        assert_eq!(watch.pass(20_000), None);
        watch
    }

    fn silence(&mut self, id: u64) {
        self.member(id).last_contact = None;
    }

    fn member(&mut self, id: u64) -> &mut Member {
        self.members.iter_mut().find(|member| member.id == id).unwrap()
    }

    fn look(&mut self) -> Option<Step> {
        self.pilot.observe(&self.members, &self.config, self.now);
        self.pilot.step(&self.members, &self.left, &self.config, self.now)
    }

    /// Until there is something to do, at most for so many milliseconds.
    fn pass(&mut self, most: u64) -> Option<Step> {
        for _ in 0..most / 100 {
            if let Some(step) = self.look() {
                return Some(step);
            }
            self.now += MS(100);
        }
        None
    }
}

#[test]
fn the_first_servers_get_their_vote_at_once_and_further_ones_after_a_while() {
    let mut watch = Watch::new(1, 1);
    assert_eq!(watch.look(), Some(Step::Promote(2)));

    let mut watch = Watch::settled(3);
    watch.members.push(member(4, false));
    let joined = watch.now;
    assert_eq!(watch.pass(60_000), Some(Step::Promote(4)));
    assert_eq!(watch.now - joined, MS(10_000));

    // A new leader does not know how long; after eleven seconds it does.
    let mut watch = Watch::new(3, 1);
    assert_eq!(watch.look(), Some(Step::Promote(4)));
}

#[test]
fn who_is_silent_or_behind_gets_no_vote() {
    let mut watch = Watch::new(1, 1);
    watch.silence(2);
    assert_eq!(watch.pass(5_000), None);
    watch.member(2).last_contact = Some(MS(200));
    watch.member(2).last_index = Some(1_000 - 251);
    assert_eq!(watch.pass(5_000), None);
    watch.member(2).last_index = Some(1_000 - 250);
    assert_eq!(watch.look(), Some(Step::Promote(2)));
    watch.member(2).last_contact = Some(MS(201));
    assert_eq!(watch.pass(1_000), Some(Step::Promote(2)), "one late answer is no illness");
    watch.pass(0);
    watch.now += GRACE;
    assert_eq!(watch.look(), None);
}

#[test]
fn stability_begins_anew_after_an_illness() {
    let mut watch = Watch::settled(3);
    watch.members.push(member(4, false));
    assert_eq!(watch.pass(8_000), None);
    watch.silence(4);
    assert_eq!(watch.pass(2_000), None);
    watch.member(4).last_contact = Some(MS(50));
    let well = watch.now;
    assert_eq!(watch.pass(60_000), Some(Step::Promote(4)));
    assert_eq!(watch.now - well, MS(10_000));
}

#[test]
fn a_dead_server_is_replaced_soon_and_removed_later() {
    let mut watch = Watch::settled(3);
    watch.silence(3);
    let died = watch.now;
    assert_eq!(watch.pass(120_000), Some(Step::Remove(3)));
    assert!(watch.now - died >= MS(59_000));

    let mut watch = Watch::settled(3);
    watch.silence(3);
    watch.members.push(member(4, false));
    let died = watch.now;
    assert_eq!(watch.pass(120_000), Some(Step::Replace(3, 4)));
    assert!(watch.now - died <= MS(10_000), "it waited longer than the newcomer had to be watched");

    // Nor is a newcomer of a new leader made a fourth voter beside one that is gone.
    let mut watch = Watch::new(3, 1);
    watch.silence(3);
    assert_eq!(watch.pass(120_000), Some(Step::Replace(3, 4)));
    assert!(watch.pilot.stands().len() == 4 && watch.now.duration_since(watch.pilot.began) <= MS(5_000));

    // One that says goodbye is not waited for.
    let mut watch = Watch::settled(3);
    watch.left = vec![2];
    assert_eq!(watch.pass(5_000), None, "it is still heard");
    watch.silence(2);
    assert_eq!(watch.pass(2_000), Some(Step::Remove(2)));
}

#[test]
fn no_more_are_removed_than_the_rest_can_spare() {
    // Two of three: nobody is left to agree.
    let mut watch = Watch::settled(3);
    watch.silence(2);
    watch.silence(3);
    assert_eq!(watch.pass(300_000), None);
    // Two of five are a minority.
    let mut watch = Watch::settled(5);
    watch.silence(4);
    watch.silence(5);
    assert!(matches!(watch.pass(300_000), Some(Step::Remove(4 | 5))));
    // Not below the number that is asked for.
    watch.config.min_quorum = 4;
    assert_eq!(watch.pass(300_000), None);
    watch.config.min_quorum = 3;
    assert!(watch.look().is_some());
    // Not at all.
    watch.config.cleanup_dead_servers = false;
    assert_eq!(watch.pass(300_000), None);
    // A server without a vote costs nothing.
    let mut watch = Watch::settled(3);
    watch.members.push(member(4, false));
    watch.silence(4);
    assert_eq!(watch.pass(300_000), Some(Step::Remove(4)));
}

#[test]
fn the_leader_itself_and_an_unheard_server_of_a_new_leader_are_not_dead() {
    let mut watch = Watch::new(3, 0);
    watch.left = vec![1];
    watch.silence(2);
    watch.silence(3);
    assert_eq!(watch.look(), None);
    // Its time begins with the new leader's.
    watch.member(2).last_contact = Some(MS(50));
    assert_eq!(watch.pass(59_000), None);
    assert_eq!(watch.pass(2_000), Some(Step::Remove(3)));
}

#[test]
fn who_is_no_member_any_more_is_forgotten() {
    let mut watch = Watch::settled(3);
    watch.members.pop();
    watch.look();
    assert_eq!(watch.pilot.stands().len(), 2);
}
