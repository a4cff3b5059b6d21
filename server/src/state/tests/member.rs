//! Joining, living, failing and leaving; join tokens; servers.

use purlin_model::command::{Join, JoinToken};
use purlin_model::topic::ServerInfo;

use super::super::node::NODES_WITH_EXTERNAL;
use super::*;

fn token(id: &str, role: NodeRole, uses: u32) -> Command {
    Command::CreateJoinToken(JoinToken {
        id: id.into(),
        secret_sha256: vec![7; 32],
        role,
        expires: NOW.plus(Duration::from_secs(3600)),
        uses,
        created: NOW,
    })
}

fn join(token: &str, name: &str, id: u128) -> Join {
    Join {
        token: token.into(),
        secret_sha256: vec![7; 32],
        key_sha256: vec![u8::try_from(id).unwrap(); 32],
        id: node_id(id),
        name: node_name(name),
        role: NodeRole::Agent,
        address: "10.0.0.2".into(),
        mesh_port: Some(20000),
    }
}

fn with_token(uses: u32) -> Log {
    let mut log = Log::with_mesh();
    log.yes(token("t1", NodeRole::Agent, uses));
    log
}

fn uses_left(log: &Log) -> u32 {
    match log.state.record(&Topic::JoinTokens, "t1") {
        Some(Record::JoinToken(info)) => info.uses_left,
        other => panic!("{other:?}"),
    }
}

/// A certificate that a host got, good for so many seconds.
fn record(host: &str, sha256: u8, seconds: u64) -> Command {
    Command::RecordCertificate {
        node: node_name(host),
        sha256: vec![sha256; 32],
        not_after: NOW.plus(Duration::from_secs(seconds)),
    }
}

fn status(name: &str, status: NodeStatus) -> Command {
    Command::SetNodeStatus { node: node_name(name), status }
}

#[test]
fn a_use_is_counted_once_for_each_key() {
    let mut log = with_token(2);
    log.yes(Command::Join(join("t1", "h1", 1)));
    log.yes(Command::Join(join("t1", "h1", 1)));
    assert_eq!(uses_left(&log), 1);
    log.yes(Command::Join(join("t1", "h2", 2)));
    let (code, text) = log.refused(Command::Join(join("t1", "h3", 3)));
    assert_eq!(code, FaultCode::Forbidden);
    assert!(text.contains("used up (2 uses)"), "{text}");
    // One that was counted may still retry.
    log.yes(Command::Join(join("t1", "h2", 2)));
}

#[test]
fn a_token_that_is_wrong_expired_revoked_or_of_another_role_lets_nobody_in() {
    let mut log = with_token(2);
    let wrong = Join { secret_sha256: vec![8; 32], ..join("t1", "h1", 1) };
    assert!(log.refused(Command::Join(wrong)).1.contains("not known"));
    assert!(log.refused(Command::Join(join("t2", "h1", 1))).1.contains("not known"));
    let server = Join { role: NodeRole::Server, ..join("t1", "h1", 1) };
    let text = log.refused(Command::Join(server)).1;
    assert!(text.contains("is for role agent, not server"), "{text}");
    log.at = NOW.plus(Duration::from_secs(3600));
    assert!(log.refused(Command::Join(join("t1", "h1", 1))).1.contains("expired"));
    log.at = NOW;
    let (outcome, _) = log.apply(Command::RevokeJoinToken { id: "t1".into() });
    assert_eq!(outcome.result, Ok(Done::Deleted { existed: true }));
    assert!(log.refused(Command::Join(join("t1", "h1", 1))).1.contains("not known"));
}

#[test]
fn a_join_that_fails_costs_no_use() {
    let mut log = with_token(5);
    log.yes(Command::Join(join("t1", "h1", 1)));
    log.refused(Command::Join(join("t1", "h1", 2)));
    assert_eq!(uses_left(&log), 4);
}

#[test]
fn the_name_of_a_live_node_is_refused_and_that_of_a_dead_one_taken_over() {
    for dead in [NodeStatus::Failed, NodeStatus::Left] {
        let mut log = with_token(5);
        log.yes(Command::Join(join("t1", "h1", 1)));
        log.yes(register(member("h1", 1), Some(instance("web-1", "web")), vec![]));
        let (code, text) = log.refused(Command::Join(join("t1", "h1", 2)));
        assert_eq!(code, FaultCode::Conflict);
        assert!(text.contains("node name h1 is held by a live node (10.0.0.1)"), "{text}");
        log.yes(status("h1", dead));
        log.yes(Command::Join(join("t1", "h1", 2)));
        assert_eq!(log.state.node(&node_name("h1")).unwrap().id, Some(node_id(2)));
        assert_eq!(log.keys(&Topic::Services), [""; 0]);
        assert_eq!(log.keys(&Topic::Checks(None)), ["h1/serfHealth"]);
        // The old host is another now.
        assert_eq!(log.refused(Command::AnnounceNode(member("h1", 1))).0, FaultCode::Conflict);
    }
}

#[test]
fn what_a_host_that_left_had_registered_goes_and_it_may_come_back() {
    let mut log = with_token(5);
    log.yes(Command::Join(join("t1", "h1", 1)));
    log.yes(register(member("h1", 1), Some(instance("web-1", "web")), vec![]));
    let release = || Command::ReleaseNode { node: node_name("h1") };
    assert!(log.refused(release()).1.contains("has not left"));
    log.yes(status("h1", NodeStatus::Failed));
    assert!(log.refused(release()).1.contains("has not left"));
    log.yes(status("h1", NodeStatus::Left));
    assert_eq!(log.state.left_with_something().collect::<Vec<_>>(), [&node_name("h1")]);
    log.yes(release());
    assert_eq!(log.state.left_with_something().count(), 0);
    assert_eq!(log.keys(&Topic::Services), [""; 0]);
    assert_eq!(log.keys(&Topic::Checks(None)), [""; 0]);
    assert_eq!(log.keys(&Topic::Nodes), ["h1"]);
    log.yes(Command::AnnounceNode(member("h1", 1)));
    assert_eq!(log.keys(&Topic::Checks(Some(Status::Passing))), ["h1/serfHealth"]);
    let (outcome, _) = log.apply(Command::ReleaseNode { node: node_name("h9") });
    assert_eq!(outcome.result, Ok(Done::Deleted { existed: false }));
}

#[test]
fn a_host_that_was_reaped_comes_back_by_its_certificate_until_it_is_removed_or_replaced() {
    let key = |id: u8| vec![id; 32];
    let reaped = || {
        let mut log = with_token(5);
        log.yes(Command::Join(join("t1", "h1", 1)));
        log.yes(record("h1", 9, 3600));
        let reap = || Command::ReapNode { node: node_name("h1") };
        assert_eq!(log.refused(reap()).0, FaultCode::Conflict);
        log.yes(status("h1", NodeStatus::Failed));
        assert_eq!(log.state.gone_agents().collect::<Vec<_>>(), [&node_name("h1")]);
        let (outcome, _) = log.apply(reap());
        assert_eq!(outcome.result, Ok(Done::Deleted { existed: true }));
        assert!(log.state.node(&node_name("h1")).is_none());
        assert!(log.state.knows_certificate(&node_name("h1"), &[9; 32]));
        let until = log.state.joined_until(&node_name("h1"), &key(1));
        assert_eq!(until, Some(NOW.plus(Duration::from_secs(3600))));
        assert_eq!(log.state.joined_until(&node_name("h1"), &key(2)), None, "another key");
        log
    };
    let is_out = |log: &Log| {
        assert!(log.state.is_revoked(&[9; 32]) && !log.state.knows_certificate(&node_name("h1"), &[9; 32]));
        assert_eq!(log.state.joined_until(&node_name("h1"), &key(1)), None);
    };
    let mut log = reaped();
    log.yes(record("h1", 10, 7200));
    log.yes(Command::AnnounceNode(member("h1", 1)));
    assert_eq!(log.state.node(&node_name("h1")).unwrap().status, NodeStatus::Alive);

    // The same host with a token, and then another of its name.
    let mut log = reaped();
    log.yes(Command::Join(join("t1", "h1", 1)));
    assert!(log.state.knows_certificate(&node_name("h1"), &[9; 32]));
    let mut log = reaped();
    log.yes(Command::Join(join("t1", "h1", 2)));
    is_out(&log);

    let mut log = reaped();
    for existed in [true, false] {
        let (outcome, _) = log.apply(Command::RemoveNode { node: node_name("h1") });
        assert_eq!(outcome.result, Ok(Done::Deleted { existed }));
    }
    is_out(&log);
    assert!(log.refused(record("h1", 11, 60)).1.contains("was removed"));
}

#[test]
fn servers_and_external_nodes_are_not_reaped() {
    let mut log = with_token(5);
    log.yes(token("t2", NodeRole::Server, 1));
    log.yes(Command::Join(Join { role: NodeRole::Server, ..join("t2", "s1", 1) }));
    log.yes(status("s1", NodeStatus::Failed));
    log.yes(register(node("db"), None, vec![]));
    for name in ["s1", "db"] {
        assert_eq!(log.refused(Command::ReapNode { node: node_name(name) }).0, FaultCode::Conflict);
    }
    assert_eq!(log.state.gone_agents().count(), 0);
}

#[test]
fn an_external_node_keeps_its_name() {
    let mut log = with_token(5);
    log.yes(register(node("h1"), None, vec![]));
    assert!(log.refused(Command::Join(join("t1", "h1", 1))).1.contains("external"));
}

#[test]
fn a_host_that_was_renamed_leaves_its_dead_name_behind() {
    let mut log = with_token(5);
    log.yes(Command::Join(join("t1", "old", 1)));
    assert_eq!(log.refused(Command::Join(join("t1", "new", 1))).0, FaultCode::Conflict);
    log.yes(status("old", NodeStatus::Left));
    log.yes(Command::Join(join("t1", "new", 1)));
    assert_eq!(log.keys(&Topic::Nodes), ["new"]);
}

#[test]
fn the_status_of_a_host_is_a_check_of_all_its_instances() {
    let mut log = Log::with_mesh();
    log.yes(Command::AnnounceNode(member("h1", 1)));
    log.yes(register(member("h1", 1), Some(instance("web-1", "web")), vec![]));
    assert_eq!(log.status("web", "h1/web-1"), Status::Passing);
    let touched = log.yes(status("h1", NodeStatus::Failed));
    assert!(touched.keys.contains(&(Topic::Service(service_key("web")), "h1/web-1".into())));
    assert_eq!(log.status("web", "h1/web-1"), Status::Critical);
    let Some(Record::Check(check)) = log.state.record(&Topic::Checks(None), "h1/serfHealth") else {
        panic!("no check")
    };
    assert_eq!(check.output, "Agent not live or unreachable");
    // A registration is no sign of life of the host; only the servers' verdict or its own announcement is.
    log.yes(register(member("h1", 1), Some(instance("web-2", "web")), vec![]));
    assert_eq!(log.status("web", "h1/web-1"), Status::Critical);
    log.yes(Command::AnnounceNode(member("h1", 1)));
    assert_eq!(log.status("web", "h1/web-1"), Status::Passing);
    assert_eq!(log.yes(status("h1", NodeStatus::Alive)).keys, []);
}

#[test]
fn nobody_but_the_servers_writes_the_check_of_the_host() {
    let mut log = Log::with_mesh();
    log.yes(Command::AnnounceNode(member("h1", 1)));
    let forged = check("h1", "serfHealth", None, Status::Passing);
    assert!(log.refused(register(member("h1", 1), None, vec![forged])).1.contains("servers' own"));
    let (code, _) = log.refused(status("nobody", NodeStatus::Failed));
    assert_eq!(code, FaultCode::NotFound);
    log.yes(register(node("ext"), None, vec![check("ext", "serfHealth", None, Status::Passing)]));
    assert_eq!(log.refused(status("ext", NodeStatus::Failed)).0, FaultCode::Invalid);
}

#[test]
fn only_a_node_that_is_gone_is_removed() {
    let mut log = Log::with_mesh();
    log.yes(Command::AnnounceNode(member("h1", 1)));
    let remove = || Command::RemoveNode { node: node_name("h1") };
    assert!(log.refused(remove()).1.contains("is alive"));
    log.yes(status("h1", NodeStatus::Failed));
    assert_eq!(log.apply(remove()).0.result, Ok(Done::Deleted { existed: true }));
    assert_eq!(log.apply(remove()).0.result, Ok(Done::Deleted { existed: false }));
    assert_eq!(log.keys(&Topic::Checks(None)), [""; 0]);
}

#[test]
fn tokens_have_sane_limits_and_expired_ones_make_room() {
    let mut log = Log::with_mesh();
    for (uses, ok) in [(0, false), (1, true), (10_000, true), (10_001, false)] {
        let command = token(&format!("t{uses}"), NodeRole::Agent, uses);
        assert_eq!(log.apply(command).0.result.is_ok(), ok, "{uses}");
    }
    assert_eq!(log.refused(token("t1", NodeRole::Agent, 1)).0, FaultCode::Conflict);
    assert_eq!(log.refused(token("x", NodeRole::External, 1)).0, FaultCode::Invalid);
    for n in 2..super::super::token::TOKENS {
        log.yes(token(&format!("more-{n}"), NodeRole::Server, 1));
    }
    assert_eq!(log.refused(token("one-more", NodeRole::Agent, 1)).0, FaultCode::TooLarge);
    log.at = NOW.plus(Duration::from_secs(3600));
    assert!(log.refused(token("late", NodeRole::Agent, 1)).1.contains("in the future"));
    let later = Command::CreateJoinToken(JoinToken {
        id: "later".into(),
        secret_sha256: vec![7; 32],
        role: NodeRole::Agent,
        expires: log.at.plus(Duration::from_secs(1)),
        uses: 1,
        created: log.at,
    });
    log.yes(later);
    assert_eq!(log.keys(&Topic::JoinTokens), ["later"]);
}

#[test]
fn there_is_one_mesh_and_one_leader() {
    let mut log = Log::new();
    assert_eq!(log.refused(token("t", NodeRole::Agent, 1)).0, FaultCode::Unavailable);
    log.yes(Command::CreateMesh(mesh()));
    assert_eq!(log.refused(Command::CreateMesh(mesh())).0, FaultCode::Conflict);
    let server = |name: &str, leader| {
        Command::AnnounceServer(ServerInfo {
            node: node_name(name),
            address: format!("{name}:8300"),
            leader,
            voter: true,
            id: None,
            level: 0,
            sealing: Vec::new(),
        })
    };
    log.yes(server("s1", true));
    log.yes(server("s2", true));
    assert_eq!(log.state.server_addresses(), ["s2:8300", "s1:8300"]);
    assert_eq!(log.yes(server("s2", true)).keys, []);
}

#[test]
fn mesh_wide_settings_change_only_within_their_bounds() {
    let mut log = Log::with_mesh();
    let update = |leaf_ttl_ms| Command::UpdateMesh { default_intention: Action::Allow, leaf_ttl_ms };
    assert_eq!(log.refused(update(9_999)).0, FaultCode::Invalid);
    assert_eq!(log.yes(update(10_000)).keys, [(Topic::Mesh, "mesh".into())]);
    assert_eq!(log.yes(update(10_000)).keys, []);
    assert_eq!(log.state.mesh_info().unwrap().default_intention, Action::Allow);
}

#[test]
fn certificates_of_a_host_that_is_gone_count_no_more_until_they_expire() {
    let mut log = with_token(5);
    let record = |sha256, seconds| record("h1", sha256, seconds);
    assert_eq!(log.refused(record(1, 60)).0, FaultCode::NotFound);
    log.yes(Command::Join(join("t1", "h1", 1)));
    log.yes(record(1, 60));
    log.yes(record(2, 600));
    log.yes(status("h1", NodeStatus::Failed));
    assert!(!log.state.is_revoked(&[1; 32]), "it may come back");
    log.yes(Command::Join(join("t1", "h1", 2)));
    assert!(log.state.is_revoked(&[1; 32]) && log.state.is_revoked(&[2; 32]));
    log.yes(record(3, 600));
    log.at = NOW.plus(Duration::from_secs(61));
    log.yes(status("h1", NodeStatus::Left));
    assert_eq!(
        log.apply(Command::RemoveNode { node: node_name("h1") }).0.result,
        Ok(Done::Deleted { existed: true })
    );
    assert_eq!([1, 2, 3].map(|sha256| log.state.is_revoked(&[sha256; 32])), [false, true, true]);
}

#[test]
fn to_know_the_id_of_a_live_host_is_not_to_be_it() {
    let mut log = with_token(5);
    log.yes(Command::Join(join("t1", "h1", 1)));
    log.yes(Command::Join(join("t1", "h1", 1)));
    let thief = || Command::Join(Join { key_sha256: vec![99; 32], ..join("t1", "h1", 1) });
    let (code, text) = log.refused(thief());
    assert_eq!(code, FaultCode::Conflict);
    assert!(text.contains("held by a live node"), "{text}");
    // One that never joined, as the server that founded the mesh, has no key to show.
    log.yes(Command::AnnounceNode(Node { role: NodeRole::Server, ..member("s1", 5) }));
    assert_eq!(log.refused(Command::Join(join("t1", "s1", 5))).0, FaultCode::Conflict);
    // A dead one is replaced, and nothing of it is left to the newcomer.
    log.yes(record("h1", 1, 60));
    log.yes(register(member("h1", 1), Some(instance("web-1", "web")), vec![]));
    log.yes(status("h1", NodeStatus::Failed));
    log.yes(thief());
    assert!(log.state.is_revoked(&[1; 32]));
    assert_eq!(log.keys(&Topic::Services), [""; 0]);
    // A host that starts its join anew with another token is still itself.
    log.yes(token("t2", NodeRole::Agent, 1));
    log.yes(Command::Join(Join { key_sha256: vec![99; 32], ..join("t2", "h1", 1) }));
}

#[test]
fn a_host_is_known_by_few_certificates_and_none_of_them_outlives_it() {
    let mut log = with_token(5);
    log.yes(Command::Join(join("t1", "h1", 1)));
    let known = |log: &Log, of: &str| -> Vec<u8> {
        (0..=30).filter(|n| log.state.knows_certificate(&node_name(of), &[*n; 32])).collect()
    };
    for n in 0..30 {
        log.yes(record("h1", n, 600));
    }
    // The one that it came with stays good: its host may have failed to keep those that it got later.
    assert_eq!(known(&log, "h1"), [0, 1, 2, 3, 4, 5, 6, 29]);
    assert_eq!(known(&log, "h2"), [0; 0]);
    log.at = NOW.plus(Duration::from_secs(601));
    log.yes(record("h1", 30, 900));
    assert_eq!(known(&log, "h1"), [30]);
    log.yes(status("h1", NodeStatus::Left));
    log.apply(Command::RemoveNode { node: node_name("h1") });
    assert_eq!(known(&log, "h1"), [0; 0]);
}

#[test]
fn the_catalog_is_bounded_and_external_nodes_leave_room_for_hosts() {
    let mut log = with_token(5);
    for n in 0..NODES_WITH_EXTERNAL {
        log.yes(register(node(&format!("n{n}")), None, vec![]));
    }
    let (code, text) = log.refused(register(node("one-more"), None, vec![]));
    assert_eq!(code, FaultCode::TooLarge);
    assert!(text.contains("nodes in the catalog"), "{text}");
    log.yes(register(node("n0"), Some(instance("web-1", "web")), vec![]));
    log.yes(Command::Join(join("t1", "h1", 1)));
    log.yes(Command::AnnounceNode(member("h2", 2)));
}

#[test]
fn the_mesh_rises_to_what_all_servers_understand() {
    let mut log = Log::with_mesh();
    let server = |name: &str, level| {
        Command::AnnounceServer(ServerInfo {
            node: node_name(name),
            address: format!("{name}:8300"),
            leader: false,
            voter: true,
            id: None,
            level,
            sealing: Vec::new(),
        })
    };
    // One that says nothing is of the first release.
    log.yes(server("s1", 0));
    assert_eq!(log.state.level(), 1);
    log.yes(server("s2", 2));
    assert_eq!(log.state.level(), 1);
    assert!(log.state.below(2).text.contains("upgrade s1"), "{}", log.state.below(2));
    log.yes(server("s1", 2));
    assert_eq!(log.state.level(), 2);
    // It never falls, and what was stored of it is read again.
    log.yes(server("s1", 1));
    assert_eq!(log.state.level(), 2);
    assert_eq!(State::decode(&log.state.encode()).unwrap().level(), 2);
}
