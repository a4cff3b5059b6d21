//! The log decides alone: repeats act once, replays give equal bytes, and the bytes of yesterday still load.

use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::{collection, proptest};
use purlin_model::command::{Deregister, DeregisterWhat, JoinToken, LEVEL};
use purlin_model::event::UserEvent;
use purlin_model::intention::{Party, Rule, SourceIntention};
use purlin_model::query::{PreparedQuery, ServiceQuery};

use super::*;

#[test]
fn a_repeat_returns_the_first_outcome_and_acts_once() {
    let mut log = Log::new();
    let first = log.envelope(register(node("n1"), None, vec![]));
    let (outcome, _) = log.state.apply(Revision(10), &first);
    log.next = 11;
    log.apply(Command::Deregister(Deregister { node: node_name("n1"), what: DeregisterWhat::Node }));
    let (again, touched) = log.state.apply(Revision(12), &first);
    assert_eq!(again, outcome);
    assert_eq!(touched.keys, []);
    assert_eq!(log.keys(&Topic::Nodes), [""; 0]);
    // A refusal is remembered as well.
    log.next = 13;
    let bad = log.envelope(register(Node { address: String::new(), ..node("n1") }, None, vec![]));
    let (refused, _) = log.state.apply(Revision(13), &bad);
    assert_eq!(log.state.apply(Revision(14), &bad).0, refused);
}

fn names() -> impl Strategy<Value = String> {
    (0..4u8).prop_map(|n| format!("n{n}"))
}

fn statuses() -> impl Strategy<Value = Status> {
    prop_oneof![
        proptest::strategy::Just(Status::Passing),
        proptest::strategy::Just(Status::Warning),
        proptest::strategy::Just(Status::Critical)
    ]
}

fn intention(source: &str, allow: bool) -> SourceIntention {
    SourceIntention {
        source: Party::parse(source).unwrap(),
        source_namespace: Namespace::default(),
        rule: Rule::L4(if allow { Action::Allow } else { Action::Deny }),
        description: String::new(),
        legacy_meta: BTreeMap::new(),
        created_at: Millis(0),
        updated_at: Millis(0),
    }
}

fn commands() -> impl Strategy<Value = Command> {
    prop_oneof![
        (names(), names(), names(), statuses(), any::<bool>()).prop_map(
            |(host, id, name, status, in_mesh)| {
                let one = if in_mesh { meshed(&id, &name) } else { instance(&id, &name) };
                register(node(&host), Some(one), vec![check(&host, &name, Some(&id), status)])
            }
        ),
        (names(), names(), statuses()).prop_map(|(host, id, status)| register(
            node(&host),
            None,
            vec![check(&host, &id, None, status)]
        )),
        (names(), 0..4u128).prop_map(|(host, id)| Command::AnnounceNode(member(&host, id))),
        (names(), any::<bool>()).prop_map(|(host, failed)| {
            let status = if failed { NodeStatus::Failed } else { NodeStatus::Alive };
            Command::SetNodeStatus { node: node_name(&host), status }
        }),
        (names(), names()).prop_map(|(host, id)| {
            let what = DeregisterWhat::Instance(InstanceId::new(id).unwrap());
            Command::Deregister(Deregister { node: node_name(&host), what })
        }),
        names().prop_map(|host| Command::RemoveNode { node: node_name(&host) }),
        (names(), names(), any::<bool>()).prop_map(|(source, destination, allow)| Command::PutIntention {
            destination: Party::parse(&destination).unwrap(),
            destination_namespace: Namespace::default(),
            source: intention(&source, allow),
        }),
        (names(), names()).prop_map(|(source, destination)| Command::DeleteIntention {
            source: Party::parse(&source).unwrap(),
            destination: Party::parse(&destination).unwrap(),
        }),
        (names(), any::<u128>()).prop_map(|(name, id)| {
            let id = uuid::Uuid::from_u128(id);
            Command::FireEvent(UserEvent { id, name, ..UserEvent::default() })
        }),
        (names(), 0..4u128, any::<bool>(), any::<bool>()).prop_map(|(name, id, create, put)| {
            let id = uuid::Uuid::from_u128(id);
            let service = ServiceQuery { service: name.clone(), ..ServiceQuery::default() };
            let query = PreparedQuery { id, name, service, ..PreparedQuery::default() };
            if put { Command::PutQuery { query, create } } else { Command::DeleteQuery { id } }
        }),
    ]
}

/// Every topic that a touched key belongs to, as a reader that follows it would hold it.
fn follow(held: &mut BTreeMap<Topic, BTreeMap<String, Record>>, state: &State, touched: &Touched) {
    for (topic, key) in &touched.keys {
        let records = held.entry(topic.clone()).or_default();
        match state.record(topic, key) {
            Some(record) => records.insert(key.clone(), record),
            None => records.remove(key),
        };
    }
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_same_log_gives_the_same_bytes_and_they_read_back(
        commands in collection::vec(commands(), 0..60),
        at in 0..60usize,
    ) {
        let (mut one, mut other) = (Log::with_mesh(), Log::with_mesh());
        let mut held = BTreeMap::new();
        for (n, command) in commands.into_iter().enumerate() {
            if n == at {
                // A server that restarts from a snapshot in between comes to the same.
                other.state = State::decode(&other.state.encode()).unwrap();
            }
            let (outcome, touched) = one.apply(command.clone());
            assert_eq!(other.apply(command), (outcome, touched.clone()));
            follow(&mut held, &one.state, &touched);
        }
        let bytes = one.state.encode();
        assert_eq!(bytes, other.state.encode());
        assert_eq!(State::decode(&bytes).unwrap().encode(), bytes);
        // Whoever looks again at touched keys alone holds what a full reading gives.
        for (topic, records) in held {
            assert_eq!(one.state.read(&topic).records, records, "{topic}");
        }
    }

    #[test]
    fn bytes_that_are_no_snapshot_are_refused_without_panic(noise in collection::vec(any::<u8>(), 0..200)) {
        assert!(State::decode(&noise).is_err());
        let mut bytes = Log::with_mesh().state.encode();
        let end = bytes.len().saturating_sub(noise.len() + 1);
        bytes.truncate(end);
        assert!(State::decode(&bytes).is_err());
    }
}

/// One of everything, made by the log alone.
fn golden() -> Log {
    let mut log = Log::with_mesh();
    log.yes(Command::AnnounceNode(member("h1", 1)));
    let checks = vec![check("h1", "alive", Some("web-1"), Status::Warning)];
    log.yes(register(member("h1", 1), Some(meshed("web-1", "web")), checks));
    log.yes(Command::PutConfig { entry: web_defaults(), cas: None });
    log.yes(Command::PutIntention {
        destination: Party::parse("web").unwrap(),
        destination_namespace: Namespace::default(),
        source: intention("*", false),
    });
    log.yes(Command::CreateJoinToken(JoinToken {
        id: "t1".into(),
        secret_sha256: vec![7; 32],
        role: NodeRole::Agent,
        expires: NOW.plus(Duration::from_secs(60)),
        uses: 3,
        created: NOW,
    }));
    log.yes(Command::PutIntermediate { node: node_name("h1"), certificate_pem: "PEM".into() });
    let (sha256, not_after) = (vec![9; 32], NOW.plus(Duration::from_secs(60)));
    log.yes(Command::RecordCertificate { node: node_name("h1"), sha256, not_after });
    log
}

/// If this fails, snapshots of a released build no longer load as they were: raise the command level, keep this file
/// and add another.
#[test]
fn the_snapshot_of_level_1_still_loads() {
    let golden = golden().state.encode();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/state/tests/level1.snapshot");
    if std::env::var_os("PURLIN_WRITE_GOLDEN").is_some() {
        std::fs::write(path, &golden).unwrap();
    }
    let stored = std::fs::read(path).unwrap();
    assert_eq!(State::decode(&stored).unwrap().encode(), stored);
    assert!(stored == golden, "the encoding of the state changed");
}

#[test]
fn a_snapshot_of_a_newer_build_says_so() {
    let mut bytes = golden().state.encode();
    let level = bytes[11];
    bytes[11] = u8::try_from(LEVEL + 1).unwrap();
    let error = State::decode(&bytes).unwrap_err().to_string();
    assert!(error.contains("use a newer build"), "{error}");
    bytes[11] = level;
    bytes.push(0);
    assert!(State::decode(&bytes).unwrap_err().to_string().contains("left over"));
}
