//! Sessions and locks: who may hold what, and everything that makes a holder let go.

use purlin_model::kv::{KvEntry, KvPut, KvTopic, KvWrite};
use purlin_model::query::{PreparedQuery, ServiceQuery};
use purlin_model::session::{Behavior, Session, SessionWrite};
use purlin_model::{SessionId, limit};
use uuid::Uuid;

use super::*;

fn id(text: &str) -> SessionId {
    SessionId::new(text)
}

fn session(name: &str, node: &str) -> Session {
    Session {
        id: id(name),
        name: String::new(),
        node: node_name(node),
        lock_delay: Duration::from_secs(15),
        behavior: Behavior::Release,
        ttl: String::new(),
        node_checks: vec![CheckId::new("serfHealth").unwrap()],
        service_checks: Vec::new(),
        create_index: Revision(0),
        modify_index: Revision(0),
    }
}

fn create(session: Session) -> Command {
    Command::Session(SessionWrite::Create(session))
}

fn destroy(name: &str) -> Command {
    Command::Session(SessionWrite::Destroy(id(name)))
}

fn lock(key: &str, session: &str) -> Command {
    Command::Kv(KvWrite::Lock(
        KvPut { key: key.into(), value: session.as_bytes().into(), flags: 0 },
        id(session),
    ))
}

fn unlock(key: &str, session: &str) -> Command {
    Command::Kv(KvWrite::Unlock(
        KvPut { key: key.into(), value: "free".as_bytes().into(), flags: 0 },
        id(session),
    ))
}

impl Log {
    /// A mesh with two hosts that have a session each.
    fn with_sessions() -> Self {
        let mut log = Self::with_mesh();
        for (n, name) in ["h1", "h2"].into_iter().enumerate() {
            log.yes(Command::AnnounceNode(member(name, n as u128 + 1)));
            log.yes(create(session(&format!("of-{name}"), name)));
        }
        log
    }

    #[track_caller]
    fn locks(&mut self, key: &str, session: &str, expected: bool) {
        let (outcome, _) = self.apply(lock(key, session));
        assert_eq!(outcome.result, Ok(if expected { Done::Yes } else { Done::CasFailed }));
    }

    fn holder(&self, key: &str) -> Option<String> {
        self.entry_of(key)?.session.map(|id| id.to_string())
    }

    fn entry_of(&self, key: &str) -> Option<KvEntry> {
        match self.state.record(&Topic::Kv(KvTopic::Key(key.into())), key) {
            Some(Record::Kv(entry)) => Some(entry),
            _ => None,
        }
    }

    fn sessions(&self) -> Vec<String> {
        self.keys(&Topic::Sessions(None))
    }
}

#[test]
fn one_session_holds_a_key_and_the_lock_index_counts_its_holders() {
    let mut log = Log::with_sessions();
    log.locks("k", "of-h1", true);
    let first = log.entry_of("k").unwrap();
    assert_eq!((first.lock_index, first.session.clone()), (1, Some(id("of-h1"))));
    log.locks("k", "of-h2", false);
    assert_eq!(log.entry_of("k"), Some(first.clone()));
    // The holder may do it again, with another value.
    let again = KvPut { key: "k".into(), value: "new".as_bytes().into(), flags: 3 };
    log.yes(Command::Kv(KvWrite::Lock(again, id("of-h1"))));
    let entry = log.entry_of("k").unwrap();
    assert_eq!((entry.lock_index, entry.flags, &*entry.value), (1, 3, &b"new"[..]));
    assert!(entry.modify_index > first.modify_index);
    // A plain write is not kept out and takes nothing away.
    log.yes(Command::Kv(KvWrite::Set(KvPut { key: "k".into(), value: "x".as_bytes().into(), flags: 0 })));
    assert_eq!((log.holder("k"), log.entry_of("k").unwrap().lock_index), (Some("of-h1".into()), 1));

    let (outcome, _) = log.apply(unlock("k", "of-h2"));
    assert_eq!(outcome.result, Ok(Done::CasFailed));
    log.yes(unlock("k", "of-h1"));
    let entry = log.entry_of("k").unwrap();
    assert_eq!((entry.lock_index, entry.session, &*entry.value), (1, None, &b"free"[..]));
    // Given back by its holder, it is free at once.
    log.locks("k", "of-h2", true);
    assert_eq!(log.entry_of("k").unwrap().lock_index, 2);
    assert_eq!(log.refused(lock("k", "none")).1, "invalid session \"none\"");
}

#[test]
fn a_session_that_ends_lets_its_keys_go_and_they_rest_for_its_delay() {
    let mut log = Log::with_sessions();
    log.locks("a", "of-h1", true);
    log.locks("b", "of-h1", true);
    let (outcome, touched) = log.apply(destroy("of-h1"));
    assert_eq!(outcome.result, Ok(Done::Deleted { existed: true }));
    assert_eq!(touched.kv.len(), 2);
    assert_eq!((log.holder("a"), log.holder("b")), (None, None));
    let entry = log.entry_of("a").unwrap();
    assert_eq!((entry.lock_index, entry.modify_index), (1, outcome.revision));
    log.locks("a", "of-h2", false);
    log.at = NOW.plus(Duration::from_millis(14_999));
    log.locks("a", "of-h2", false);
    assert_eq!(log.state.sizes().lock_delays, 2);
    log.at = NOW.plus(Duration::from_secs(15));
    log.locks("a", "of-h2", true);
    assert_eq!(log.entry_of("a").unwrap().lock_index, 2);
    assert_eq!(log.apply(destroy("of-h1")).0.result, Ok(Done::Deleted { existed: false }));
}

#[test]
fn a_delay_is_a_minute_at_most_and_may_be_none() {
    let mut log = Log::with_sessions();
    let long = Session { lock_delay: Duration::from_secs(3_600), ..session("long", "h1") };
    let none = Session { lock_delay: Duration::ZERO, ..session("none", "h1") };
    log.yes(create(long));
    log.yes(create(none));
    log.locks("a", "long", true);
    log.locks("b", "none", true);
    for name in ["long", "none"] {
        log.apply(destroy(name)).0.result.unwrap();
    }
    log.locks("b", "of-h2", true);
    log.at = NOW.plus(Duration::from_secs(59));
    log.locks("a", "of-h2", false);
    log.at = NOW.plus(Duration::from_secs(60));
    log.locks("a", "of-h2", true);
}

#[test]
fn keys_of_a_session_that_deletes_are_gone_with_it() {
    let mut log = Log::with_sessions();
    log.yes(create(Session { behavior: Behavior::Delete, ..session("deletes", "h1") }));
    log.locks("a", "deletes", true);
    let revision = log.apply(destroy("deletes")).0.revision;
    assert_eq!(log.entry_of("a"), None);
    assert_eq!(log.state.revision(&Topic::Kv(KvTopic::Key("a".into()))), revision);
    log.locks("a", "of-h2", false);
    log.at = NOW.plus(Duration::from_secs(15));
    log.locks("a", "of-h2", true);
    assert_eq!(log.entry_of("a").unwrap().lock_index, 1);
}

#[test]
fn whatever_is_bad_for_its_checks_or_its_host_ends_a_session_in_the_same_step() {
    let bound = |name: &str| Session {
        node_checks: vec![CheckId::new("serfHealth").unwrap(), CheckId::new("disk").unwrap()],
        service_checks: vec![CheckId::new("web-up").unwrap()],
        ..session(name, "h1")
    };
    let registered = |disk: Status, up: Status| {
        let checks = vec![check("h1", "disk", None, disk), check("h1", "web-up", Some("web"), up)];
        register(member("h1", 1), Some(instance("web", "web")), checks)
    };
    let gone = |what| Command::Deregister(purlin_model::command::Deregister { node: node_name("h1"), what });
    let ends = [
        registered(Status::Critical, Status::Passing),
        registered(Status::Passing, Status::Critical),
        gone(purlin_model::command::DeregisterWhat::Check(CheckId::new("disk").unwrap())),
        gone(purlin_model::command::DeregisterWhat::Instance(InstanceId::new("web").unwrap())),
        Command::SetNodeStatus { node: node_name("h1"), status: NodeStatus::Failed },
        Command::SetNodeStatus { node: node_name("h1"), status: NodeStatus::Left },
    ];
    for end in ends {
        let mut log = Log::with_sessions();
        log.yes(registered(Status::Passing, Status::Warning));
        log.yes(create(bound("bound")));
        log.yes(create(Session { node_checks: vec![], ..session("free", "h1") }));
        log.locks("k", "bound", true);
        log.yes(registered(Status::Warning, Status::Passing));
        assert_eq!(log.holder("k"), Some("bound".into()));
        let (_, touched) = log.apply(end.clone());
        assert_eq!(log.holder("k"), None, "{end:?}");
        assert_eq!(touched.kv.len(), 1);
        let sessions = log.sessions();
        assert!(!sessions.contains(&"bound".into()) && sessions.contains(&"free".into()), "{end:?}");
        assert!(touched.keys.contains(&(Topic::Session(id("bound")), "bound".into())));
        log.yes(Command::AnnounceNode(member("h1", 1)));
        // With its host every session goes, whatever it hangs on.
        log.yes(Command::SetNodeStatus { node: node_name("h1"), status: NodeStatus::Left });
        log.apply(Command::RemoveNode { node: node_name("h1") }).0.result.unwrap();
        assert_eq!(log.sessions(), ["of-h2"]);
    }
}

#[test]
fn prepared_queries_that_are_bound_to_a_session_go_with_it() {
    let mut log = Log::with_sessions();
    let holder = Uuid::from_u128(7);
    let query = |n, session| PreparedQuery {
        id: Uuid::from_u128(n),
        service: ServiceQuery { service: "web".into(), ..ServiceQuery::default() },
        session,
        ..PreparedQuery::default()
    };
    let put = |query, create| Command::PutQuery { query, create };
    let (_, text) = log.refused(put(query(1, Some(holder)), true));
    assert_eq!(text, format!("invalid session '{holder}'"));
    log.yes(create(session(&holder.to_string(), "h1")));
    for n in [1, 2] {
        log.yes(put(query(n, Some(holder)), true));
    }
    log.yes(put(PreparedQuery { name: "stays".into(), ..query(2, None) }, false));
    let mut log = Log { state: State::decode(&log.state.encode()).unwrap(), ..log };
    let (_, touched) = log.apply(destroy(&holder.to_string()));
    let gone = Topic::Queries(Some(Uuid::from_u128(1)));
    assert!(touched.keys.iter().any(|(topic, _)| *topic == gone), "{touched:?}");
    assert_eq!(log.keys(&Topic::Queries(None)), [Uuid::from_u128(2).to_string()]);
}

#[test]
fn a_session_needs_a_host_and_checks_that_are_well() {
    let mut log = Log::with_sessions();
    log.yes(register(member("h1", 1), None, vec![check("h1", "disk", None, Status::Critical)]));
    let with = |checks: &[&str]| Session {
        node_checks: checks.iter().map(|id| CheckId::new(id).unwrap()).collect(),
        ..session("new", "h1")
    };
    assert_eq!(log.refused(create(with(&["none"]))).1, "Missing check 'none' registration");
    assert_eq!(log.refused(create(with(&["disk"]))).1, "Check 'disk' is in critical state");
    assert_eq!(log.refused(create(session("new", "nowhere"))).1, "Missing node registration");
    let (_, text) = log.refused(create(Session { ttl: "5s".into(), ..session("new", "h1") }));
    assert_eq!(text, "Invalid Session TTL '5s', must be between [10s=24h0m0s]");
    assert_eq!(log.refused(create(session("of-h1", "h1"))).0, FaultCode::Conflict);
    assert_eq!(log.refused(Command::Session(SessionWrite::Renew(id("none")))).0, FaultCode::NotFound);
    log.yes(Command::Session(SessionWrite::Renew(id("of-h1"))));
    log.yes(create(with(&[])));
}

#[test]
fn sessions_are_found_by_host_and_each_has_a_revision_of_its_own() {
    let mut log = Log::with_sessions();
    let of = |node: &str| Topic::Sessions(Some(node_name(node)));
    let topics = [Topic::Session(id("of-h1")), of("h1")];
    let others = [Topic::Session(id("of-h2")), of("h2")];
    let before = others.clone().map(|topic| log.state.revision(&topic));
    let revision = log.apply(destroy("of-h1")).0.revision;
    assert_eq!(topics.map(|topic| log.state.revision(&topic)), [revision; 2]);
    assert_eq!(others.map(|topic| log.state.revision(&topic)), before);
    assert_eq!((log.keys(&of("h1")), log.keys(&of("h2"))), (vec![], vec!["of-h2".to_owned()]));
    assert!(log.state.record(&of("h1"), "of-h2").is_none());
    assert!(log.state.record(&of("h2"), "of-h2").is_some());
}

#[test]
fn a_snapshot_has_sessions_locks_and_delays() {
    let mut log = Log::with_sessions();
    log.yes(create(Session { ttl: "10s".into(), ..session("ttl", "h1") }));
    log.locks("a", "of-h1", true);
    log.locks("b", "ttl", true);
    log.apply(destroy("ttl")).0.result.unwrap();
    let again = State::decode(&log.state.encode()).unwrap();
    assert_eq!(again.encode(), log.state.encode());
    assert_eq!(again.sizes(), log.state.sizes());
    let mut copy = Log { state: again, next: log.next, at: log.at };
    copy.locks("b", "of-h2", false);
    copy.apply(destroy("of-h1")).0.result.unwrap();
    assert_eq!(copy.holder("a"), None);
    copy.yes(Command::SetNodeStatus { node: node_name("h2"), status: NodeStatus::Failed });
    assert!(copy.sessions().is_empty());
}

#[test]
fn there_are_so_many_sessions_and_no_more() {
    let mut log = Log::with_sessions();
    for n in 2..limit::SESSIONS {
        log.yes(create(Session { node_checks: vec![], ..session(&format!("s{n}"), "h1") }));
    }
    assert_eq!(log.apply(create(session("more", "h1"))).0.result.unwrap_err().code, FaultCode::Busy);
    log.apply(destroy("s2")).0.result.unwrap();
    log.yes(create(session("more", "h1")));
}
