//! Members come, get their vote, move, are replaced and go, and there is a majority at every moment.

use purlin_model::FaultCode;

use super::kit::{Cluster, IDS, name, node};
use crate::raft::{MEMBERS_MAX, Member, ServerNode};

fn answers(member: &Member) -> bool {
    member.answers()
}

fn silent(member: &Member) -> bool {
    !member.answers()
}

fn follower(cluster: &Cluster) -> u64 {
    let leader = cluster.leader();
    IDS.into_iter().find(|id| *id != leader).unwrap()
}

#[test]
fn a_server_joins_without_a_vote_catches_up_and_gets_it() {
    let mut cluster = Cluster::new();
    let said = cluster.say("before");
    cluster.start(4);
    cluster.lead(async |leader| leader.add_learner(4, node(4)).await).unwrap();
    assert!(cluster.wait_applied(4, said).contains_key("before"));
    let learner = cluster.until_member(4, |member| answers(member) && member.last_index >= Some(said.0));
    assert!(!learner.voter && !learner.leader);

    cluster.lead(async |leader| leader.promote(4).await).unwrap();
    cluster.lead(async |leader| leader.promote(4).await).expect("to repeat it changes nothing");
    let members = cluster.handle(cluster.leader()).members();
    assert_eq!(
        members.iter().map(|m| (m.id, m.voter)).collect::<Vec<_>>(),
        [1, 2, 3, 4].map(|id| (id, true))
    );
    let leader = members.iter().find(|member| member.leader).unwrap();
    assert_eq!((leader.id, leader.last_contact), (cluster.leader(), Some(std::time::Duration::ZERO)));
    // Four voters need three: the new one counts.
    cluster.kill(follower(&cluster));
    cluster.say("after");
}

#[test]
fn only_the_leader_changes_members_and_says_who_that_is() {
    let cluster = Cluster::new();
    let (leader, follower) = (cluster.leader(), follower(&cluster));
    let fault = cluster.wait(cluster.handle(follower).add_learner(4, node(4))).unwrap_err();
    assert_eq!(fault.code, FaultCode::Unavailable);
    assert!(fault.text.contains(&format!("ask {} at {}", name(leader), name(leader))), "{fault}");
    let fault = cluster.lead(async |leader| leader.promote(9).await).unwrap_err();
    assert_eq!(fault.code, FaultCode::NotFound, "{fault}");
    let fault = cluster.lead(async |leader| leader.remove(leader.id()).await).unwrap_err();
    assert!(fault.code == FaultCode::Conflict && fault.text.contains("transfer leadership"), "{fault}");
}

#[test]
fn no_change_leaves_voters_of_which_no_majority_answers() {
    let mut cluster = Cluster::new();
    let (leader, dead) = (cluster.leader(), follower(&cluster));
    let other = IDS.into_iter().find(|id| *id != leader && *id != dead).unwrap();
    cluster.kill(dead);
    cluster.until_member(dead, silent);
    cluster.until_member(other, answers);
    // Of the leader and the dead one no majority answers.
    let fault = cluster.lead(async |leader| leader.remove(other).await).unwrap_err();
    assert!(fault.code == FaultCode::Conflict && fault.text.contains(&name(dead)), "{fault}");
    // A dead server gets no vote.
    cluster.lead(async |leader| leader.add_learner(4, node(4)).await).unwrap();
    let fault = cluster.lead(async |leader| leader.promote(4).await).unwrap_err();
    assert!(fault.text.contains("does not answer"), "{fault}");
    cluster.lead(async |leader| leader.remove(4).await).unwrap();

    cluster.lead(async |leader| leader.remove(dead).await).unwrap();
    cluster.lead(async |leader| leader.remove(other).await).unwrap();
    assert_eq!(cluster.handle(leader).members().len(), 1);
    cluster.say("alone");
    let fault = cluster.lead(async |leader| leader.transfer(None).await).unwrap_err();
    assert!(fault.code == FaultCode::Conflict && fault.text.contains("no other voter"), "{fault}");
}

#[test]
fn a_server_that_comes_back_elsewhere_is_the_same_server() {
    let mut cluster = Cluster::new();
    let moved = follower(&cluster);
    cluster.kill(moved);
    let said = cluster.say("while it moved");
    let elsewhere = ServerNode { name: name(moved), address: "elsewhere".into() };
    cluster.start_as(moved, elsewhere.clone());
    let held = ServerNode { name: name(moved), address: name(cluster.leader()) };
    let fault = cluster.lead(async |leader| leader.update_address(moved, held.clone()).await).unwrap_err();
    assert!(fault.code == FaultCode::Conflict && fault.text.contains("which answers there"), "{fault}");
    cluster.lead(async |leader| leader.update_address(moved, elsewhere.clone()).await).unwrap();
    cluster.wait_applied(moved, said);
    let member = cluster.until_member(moved, answers);
    assert_eq!((member.voter, member.address.as_str()), (true, "elsewhere"));
    assert_eq!(cluster.handle(cluster.leader()).members().len(), 3);
}

#[test]
fn a_server_of_the_same_name_with_an_empty_disk_takes_the_place_of_the_old_one() {
    let mut cluster = Cluster::new();
    let old = follower(&cluster);
    cluster.kill(old);
    let said = cluster.say("before");
    // The same host, reinstalled: name and address stay, the id does not.
    cluster.start_as(4, node(old));
    cluster.lead(async |leader| leader.add_learner(4, node(old)).await).unwrap();
    cluster.wait_applied(4, said);
    cluster.until_member(4, answers);
    cluster.lead(async |leader| leader.promote(4).await).unwrap();
    let members = cluster.handle(cluster.leader()).members();
    assert!(members.len() == 3 && members.iter().all(|m| m.voter && m.id != old), "{members:?}");
    cluster.say("after");
}

#[test]
fn one_server_takes_the_vote_of_a_dead_one_in_a_single_change() {
    let mut cluster = Cluster::new();
    let (leader, dead) = (cluster.leader(), follower(&cluster));
    cluster.kill(dead);
    cluster.start(4);
    cluster.lead(async |leader| leader.add_learner(4, node(4)).await).unwrap();
    cluster.until_member(4, answers);
    cluster.lead(async |leader| leader.replace(dead, 4).await).unwrap();
    let members = cluster.handle(cluster.leader()).members();
    assert!(members.len() == 3 && members.iter().all(|m| m.voter && m.id != dead), "{members:?}");
    // It counts: with it, another may die.
    let third = IDS.into_iter().find(|id| *id != leader && *id != dead).unwrap();
    cluster.kill(third);
    cluster.say("with two of three");
}

#[test]
fn members_are_bounded() {
    let cluster = Cluster::new();
    for id in 4..=MEMBERS_MAX as u64 {
        cluster.lead(async |leader| leader.add_learner(id, node(id)).await).unwrap();
    }
    let id = MEMBERS_MAX as u64 + 1;
    let fault = cluster.lead(async |leader| leader.add_learner(id, node(id)).await).unwrap_err();
    assert_eq!(fault.code, FaultCode::TooLarge, "{fault}");
    cluster.lead(async |leader| leader.remove(4).await).unwrap();
    cluster.lead(async |leader| leader.add_learner(id, node(id)).await).unwrap();
}
