//! The settings of autopilot, and what the leader says of the servers.

use purlin_model::autopilot::AutopilotConfig;
use purlin_model::topic::ServerInfo;

use super::*;

fn put(min_quorum: u32, cas: Option<u64>) -> Command {
    let config = AutopilotConfig { min_quorum, ..AutopilotConfig::default() };
    Command::PutAutopilot { config, cas: cas.map(Revision) }
}

fn announced(log: &mut Log, name: &str, leader: bool) {
    log.yes(Command::AnnounceServer(ServerInfo {
        node: node_name(name),
        address: format!("{name}:8300"),
        leader,
        voter: leader,
        id: None,
        level: 2,
        sealing: vec![1],
    }));
}

fn flags(log: &Log) -> Vec<(String, bool, bool)> {
    log.state.servers().map(|one| (one.node.to_string(), one.leader, one.voter)).collect()
}

#[test]
fn autopilot_is_as_consul_has_it_until_somebody_writes_it() {
    let mut log = Log::with_mesh();
    assert_eq!(log.state.autopilot(), AutopilotConfig::default());
    let unused = log.state.encode();
    log.yes(put(3, Some(0)));
    let first = log.state.autopilot();
    assert_eq!((first.min_quorum, first.create_index, first.modify_index), (3, Revision(11), Revision(11)));
    let (outcome, _) = log.apply(put(4, Some(10)));
    assert_eq!((outcome.result, log.state.autopilot()), (Ok(Done::CasFailed), first));
    log.yes(put(4, Some(11)));
    log.yes(put(5, None));
    let last = log.state.autopilot();
    assert_eq!((last.min_quorum, last.create_index, last.modify_index), (5, Revision(11), Revision(14)));
    assert_eq!(log.refused(put(17, None)).0, FaultCode::Invalid);
    assert_eq!(State::decode(&log.state.encode()).unwrap().autopilot(), last);
    // A mesh that never wrote it has the snapshot that the first release made.
    assert!(!unused.windows(9).any(|window| window == b"autopilot"));
    assert_eq!(put(1, None).level(), 2);
}

#[test]
fn what_is_told_of_servers_follows_the_leader_and_keeps_the_rest() {
    let mut log = Log::with_mesh();
    announced(&mut log, "s1", true);
    announced(&mut log, "s2", false);
    announced(&mut log, "s3", false);
    let voters = |names: &[&str]| names.iter().map(|name| node_name(name)).collect::<Vec<_>>();
    let command = Command::PutVoters { leader: node_name("s2"), voters: voters(&["s1", "s2"]) };
    let touched = log.yes(command.clone());
    let keys: Vec<_> = touched.keys.iter().map(|(_, key)| key.as_str()).collect();
    assert_eq!(keys, ["s1", "s2"]);
    let expected = [("s1", false, true), ("s2", true, true), ("s3", false, false)];
    assert_eq!(flags(&log), expected.map(|(name, leads, votes)| (name.to_owned(), leads, votes)));
    assert!(log.state.servers().all(|server| server.level == 2 && server.sealing == [1]));
    assert_eq!(log.yes(command.clone()).keys, []);

    let signs = Command::PutIntermediate { node: node_name("s3"), certificate_pem: "PEM".into() };
    log.yes(signs);
    let forget = Command::ForgetServer { node: node_name("s3") };
    for existed in [true, false] {
        let (outcome, touched) = log.apply(forget.clone());
        assert_eq!(outcome.result, Ok(Done::Deleted { existed }));
        assert_eq!(touched.keys.len(), usize::from(existed));
    }
    assert_eq!(flags(&log).len(), 2);
    // It may only have been off for long: what it signs is believed until its node is removed.
    assert!(log.state.knows_intermediate(&node_name("s3"), "PEM"));
    assert_eq!((command.level(), forget.level()), (2, 2));
}
