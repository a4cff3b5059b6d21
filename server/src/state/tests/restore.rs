//! A snapshot becomes the state in one step, and what makes the mesh this mesh outlives it.

use purlin_model::HistoryId;
use purlin_model::command::{Deregister, DeregisterWhat, JoinToken};
use purlin_model::history::{Restore, RestoreStep};

use super::*;
use crate::state::RESTORE_BYTES;

fn step(id: u128, step: RestoreStep) -> Command {
    Command::Restore(Restore { id: uuid::Uuid::from_u128(id), step })
}

fn history(n: u128) -> HistoryId {
    HistoryId(uuid::Uuid::from_u128(n))
}

fn begin(bytes: &[u8]) -> RestoreStep {
    RestoreStep::Begin { bytes: bytes.len() as u64, crc32: crc32fast::hash(bytes) }
}

/// The steps by which `snapshot` goes in, in pieces of 100 bytes.
fn steps(id: u128, snapshot: &[u8]) -> Vec<Command> {
    let piece =
        |(n, bytes): (usize, &[u8])| RestoreStep::Piece { offset: 100 * n as u64, bytes: bytes.into() };
    let pieces = snapshot.chunks(100).enumerate().map(piece);
    let all = std::iter::once(begin(snapshot)).chain(pieces);
    all.chain([RestoreStep::Commit { history: history(id) }]).map(|one| step(id, one)).collect()
}

fn restore(log: &mut Log, id: u128, snapshot: &[u8]) -> Touched {
    let mut last = Touched::default();
    for command in steps(id, snapshot) {
        last = log.yes(command);
    }
    last
}

fn names(log: &Log) -> Vec<String> {
    log.keys(&Topic::Nodes)
}

#[test]
fn what_was_written_since_is_gone_and_every_topic_moves_on() {
    let mut log = Log::with_mesh();
    log.yes(register(node("n1"), Some(instance("web-1", "web")), vec![]));
    let snapshot = log.state.encode();
    log.yes(register(node("n2"), Some(instance("api-1", "api")), vec![]));
    let gone = Command::Deregister(Deregister { node: node_name("n1"), what: DeregisterWhat::Node });
    assert_eq!(log.apply(gone).0.result, Ok(Done::Deleted { existed: true }));
    let before = log.read(&Topic::Service(service_key("web"))).revision;
    let touched = restore(&mut log, 7, &snapshot);
    assert!(touched.all && touched.keys.is_empty());
    assert_eq!(names(&log), ["n1"]);
    assert_eq!(log.keys(&Topic::Service(service_key("web"))), ["n1/web-1"]);
    assert_eq!(log.keys(&Topic::Service(service_key("api"))), [""; 0]);
    // Also one that the snapshot never heard of: whoever waits for it is answered.
    for topic in [Topic::Service(service_key("web")), Topic::Mesh, Topic::Service(service_key("none"))] {
        assert_eq!(log.state.revision(&topic), touched.revision);
    }
    assert!(touched.revision > before);
    assert_eq!((log.state.history(), log.state.applied()), (Some(history(7)), touched.revision));
    // The records keep the numbers they had.
    assert!(log.state.node(&node_name("n1")).unwrap().modify_index < touched.revision);
    let later = log.yes(register(node("n3"), None, vec![]));
    assert_eq!(later.revision, Revision(touched.revision.0 + 1));
}

#[test]
fn revisions_go_on_above_those_of_a_snapshot_from_elsewhere() {
    let mut elsewhere = Log { next: 5_000_000, ..Log::with_mesh() };
    elsewhere.yes(register(node("n1"), None, vec![]));
    let snapshot = elsewhere.state.encode();
    let mut log = Log::with_mesh();
    let touched = restore(&mut log, 7, &snapshot);
    assert_eq!(touched.revision, Revision(5_000_001));
    let next = log.yes(register(node("n2"), None, vec![]));
    assert_eq!(next.revision, Revision(5_000_002));
    // Once more: what is ahead is not added twice.
    assert_eq!(restore(&mut log, 8, &snapshot).revision.0, 5_000_002 + steps(8, &snapshot).len() as u64);
    let again = State::decode(&log.state.encode()).unwrap();
    assert_eq!(again.encode(), log.state.encode());
}

#[test]
fn servers_roots_members_and_their_certificates_stay_those_of_the_running_mesh() {
    let server = |name: &str| {
        Command::AnnounceServer(purlin_model::topic::ServerInfo {
            node: node_name(name),
            address: format!("{name}:8300"),
            leader: true,
            voter: true,
            id: None,
            level: 0,
            sealing: Vec::new(),
        })
    };
    let server_node = |name: &str, id| Node { role: NodeRole::Server, ..member(name, id) };
    let record = |name: &str, first| Command::RecordCertificate {
        node: node_name(name),
        sha256: vec![first; 32],
        not_after: NOW.plus(Duration::from_secs(3600)),
    };
    let token = |id: &str| {
        Command::CreateJoinToken(JoinToken {
            id: id.into(),
            secret_sha256: vec![0; 32],
            role: NodeRole::Agent,
            expires: NOW.plus(Duration::from_secs(60)),
            uses: 1,
            created: NOW,
        })
    };
    let mut old = Log::new();
    old.yes(Command::CreateMesh(CreateMesh {
        trust_domain: TrustDomain("99999999-2222-3333-4444-555555555555.mesh.internal".into()),
        ..mesh()
    }));
    old.yes(server("s1"));
    old.yes(server("s9"));
    old.yes(Command::AnnounceNode(server_node("s1", 901)));
    old.yes(Command::AnnounceNode(server_node("s9", 909)));
    old.yes(Command::AnnounceNode(member("a1", 11)));
    old.yes(record("a1", 0xaa));
    old.yes(Command::AnnounceNode(member("a2", 12)));
    old.yes(register(member("a1", 11), Some(meshed("old-1", "old")), vec![]));
    old.yes(register(node("db"), Some(instance("db-1", "db")), vec![]));
    old.yes(token("old"));
    let snapshot = old.state.encode();

    let mut log = Log::with_mesh();
    log.yes(server("s1"));
    log.yes(Command::AnnounceNode(server_node("s1", 1)));
    log.yes(Command::AnnounceNode(member("a1", 11)));
    log.yes(record("a1", 0xbb));
    log.yes(register(member("a1", 11), Some(meshed("new-1", "new")), vec![]));
    log.yes(Command::AnnounceNode(member("a3", 13)));
    log.yes(record("a3", 0xcc));
    log.yes(Command::SetNodeStatus { node: node_name("a3"), status: NodeStatus::Failed });
    let removed = log.apply(Command::RemoveNode { node: node_name("a3") }).0.result;
    assert_eq!(removed, Ok(Done::Deleted { existed: true }));
    log.yes(token("new"));
    let running = log.state.clone();
    restore(&mut log, 7, &snapshot);
    let state = &log.state;

    assert_eq!(state.mesh_info(), running.mesh_info());
    assert_eq!(state.sealed_root_key(&[1]), running.sealed_root_key(&[1]));
    assert_eq!(log.keys(&Topic::Servers), ["s1"]);
    assert_eq!(log.keys(&Topic::JoinTokens), ["new"]);
    // Nobody's server any more, neither is its host; what only the snapshot has is here.
    assert_eq!(names(&log), ["a1", "a2", "db", "s1"]);
    assert_eq!(state.node(&node_name("s1")).unwrap().id, Some(node_id(1)));
    // A host that is alive speaks for itself.
    assert_eq!(log.keys(&Topic::Service(service_key("new"))), ["a1/new-1"]);
    assert_eq!(log.keys(&Topic::Service(service_key("old"))), [""; 0]);
    // One whom nobody here let in is not alive here.
    assert_eq!(state.node(&node_name("a2")).unwrap().status, NodeStatus::Failed);
    let health = state.record(&Topic::Node(node_name("a2")), "check/serfHealth");
    assert!(matches!(health, Some(Record::Check(check)) if check.status == Status::Critical));
    // A certificate that counts no more stays so, and the one of the snapshot opens nothing.
    assert!(state.is_revoked(&[0xcc; 32]));
    assert!(state.knows_certificate(&node_name("a1"), &[0xbb; 32]));
    assert!(!state.knows_certificate(&node_name("a1"), &[0xaa; 32]));
}

#[test]
fn a_snapshot_taken_half_way_carries_what_came_so_far() {
    let mut log = Log::with_mesh();
    log.yes(register(node("n1"), None, vec![]));
    let snapshot = log.state.encode();
    let commands = steps(7, &snapshot);
    for command in &commands[..3] {
        log.yes(command.clone());
    }
    let mut other = Log { state: State::decode(&log.state.encode()).unwrap(), next: log.next, at: log.at };
    for command in &commands[3..] {
        log.yes(command.clone());
        other.yes(command.clone());
    }
    assert_eq!(other.state.encode(), log.state.encode());
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let mut log = Log::with_mesh();
    let snapshot = log.state.encode();
    let commit = |id| step(id, RestoreStep::Commit { history: history(id) });
    let piece = |id, offset, bytes: &[u8]| step(id, RestoreStep::Piece { offset, bytes: bytes.into() });
    assert_eq!(log.refused(commit(1)).0, FaultCode::Conflict);
    assert_eq!(log.refused(piece(1, 0, b"x")).0, FaultCode::Conflict);
    let huge = RestoreStep::Begin { bytes: RESTORE_BYTES + 1, crc32: 0 };
    assert_eq!(log.refused(step(1, huge)).0, FaultCode::TooLarge);
    log.yes(step(1, begin(&snapshot)));
    // Not of this attempt, not where it goes on, more than was announced, too little.
    for command in [
        piece(2, 0, b"x"),
        piece(1, 1, b"x"),
        piece(1, 0, &[]),
        piece(1, 0, &[&snapshot[..], b"x"].concat()),
        commit(1),
    ] {
        assert_eq!(log.refused(command).0, FaultCode::Conflict);
    }
    let mut damaged = snapshot.clone();
    *damaged.last_mut().unwrap() ^= 1;
    log.yes(piece(1, 0, &damaged));
    assert!(log.refused(commit(1)).1.contains("did not arrive whole"));
    // Whole, but not a state.
    log.yes(step(3, begin(b"nonsense")));
    log.yes(piece(3, 0, b"nonsense"));
    assert_eq!(log.refused(commit(3)).0, FaultCode::Invalid);
    log.yes(step(3, RestoreStep::Abort));
    assert_eq!(log.refused(commit(3)).0, FaultCode::Conflict);
    assert_eq!(log.state.history(), None);
}

#[test]
fn an_attempt_that_stopped_is_forgotten() {
    let mut log = Log::with_mesh();
    let snapshot = log.state.encode();
    log.yes(step(1, begin(&snapshot)));
    assert_ne!(log.state.encode().len(), snapshot.len());
    log.at = NOW.plus(Duration::from_secs(601));
    log.yes(register(node("n1"), None, vec![]));
    let piece = RestoreStep::Piece { offset: 0, bytes: snapshot.clone().into() };
    assert_eq!(log.refused(step(1, piece)).0, FaultCode::Conflict);
}

#[test]
fn a_survivor_goes_on_far_above_what_others_may_have_been_told() {
    let mut log = Log::with_mesh();
    let server = |name: &str, id| Node { role: NodeRole::Server, ..member(name, id) };
    log.yes(Command::AnnounceNode(server("s1", 1)));
    log.yes(Command::AnnounceNode(server("s2", 2)));
    let at = log.yes(register(node("n1"), None, vec![])).revision;
    let recovered = log.state.clone().recovered(history(5), &node_name("s1"), NOW);
    assert_eq!((recovered.history(), recovered.recoveries()), (Some(history(5)), vec![history(5)]));
    log.state = recovered;
    let next = log.yes(register(node("n2"), None, vec![])).revision;
    assert!(next.0 > at.0 + 1_000_000, "{next:?}");
    assert!(log.state.revision(&Topic::Mesh) > at);
    // The other servers are as hosts that were removed: who comes back with an old disk is not known.
    assert_eq!(names(&log), ["n1", "n2", "s1"]);
}
