//! Transactions: all or nothing, what each operation tells, and that reads alone are answered from one state.

use purlin_model::kv::{KvPut, KvTopic, KvWrite};
use purlin_model::session::{Behavior, Session, SessionWrite};
use purlin_model::txn::{Change, Txn, TxnDone, TxnOp, TxnRead, TxnResult};
use purlin_model::{SessionId, limit};

use super::*;

fn put(key: &str, value: &str) -> KvPut {
    KvPut { key: key.into(), value: value.as_bytes().into(), flags: 0 }
}

fn set(key: &str, value: &str) -> TxnOp {
    TxnOp::Kv(KvWrite::Set(put(key, value)))
}

fn read(read: TxnRead) -> TxnOp {
    TxnOp::Read(read)
}

impl Log {
    #[track_caller]
    fn txn(&mut self, ops: Vec<TxnOp>) -> TxnDone {
        match self.apply(Command::Txn(Txn { ops })).0.result {
            Ok(Done::Txn(done)) => *done,
            other => panic!("{other:?}"),
        }
    }

    /// The operations that failed, and why. Nothing may have changed.
    #[track_caller]
    fn fails(&mut self, ops: Vec<TxnOp>) -> Vec<(usize, String)> {
        let before = tables(&self.state);
        let done = self.txn(ops);
        assert_eq!(tables(&self.state), before, "a failed transaction changed something");
        assert!(done.results.is_empty());
        done.errors.into_iter().map(|error| (error.op, error.what)).collect()
    }
}

/// Key, value and index of a result.
fn kv(result: &TxnResult) -> (&str, &[u8], u64) {
    match result {
        TxnResult::Kv(entry) => (&entry.key, &entry.value, entry.modify_index.0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_is_done_in_order_and_only_reads_bring_values() {
    let mut log = Log::new();
    let (outcome, touched) = log.apply(Command::Txn(Txn {
        ops: vec![
            set("t/a", "1"),
            read(TxnRead::Get("t/a".into())),
            set("t/b", "2"),
            read(TxnRead::GetTree("t/".into())),
            TxnOp::Kv(KvWrite::Delete("t/a".into())),
            read(TxnRead::CheckNotExists("t/a".into())),
            read(TxnRead::GetOrEmpty("t/a".into())),
        ],
    }));
    let Ok(Done::Txn(done)) = outcome.result else { panic!("{:?}", outcome.result) };
    let found: Vec<_> = done.results.iter().map(kv).collect();
    let at = outcome.revision.0;
    let expected: [(&str, &[u8], u64); 6] = [
        ("t/a", b"", at),
        ("t/a", b"1", at),
        ("t/b", b"", at),
        ("t/a", b"1", at),
        ("t/b", b"2", at),
        ("t/a", b"", 0),
    ];
    assert_eq!(found, expected);
    assert_eq!(touched.kv.len(), 3);
    assert_eq!(log.keys(&Topic::Kv(KvTopic::Tree("".into()))), ["t/b"]);
}

#[test]
fn one_that_fails_undoes_all_and_every_failure_is_told() {
    let mut log = Log::with_mesh();
    log.yes(Command::AnnounceNode(member("h1", 1)));
    for (name, checks) in [("s1", vec![]), ("s2", vec![])] {
        log.yes(Command::Session(SessionWrite::Create(Session {
            id: SessionId::new(name),
            name: String::new(),
            node: node_name("h1"),
            lock_delay: Duration::from_secs(15),
            behavior: Behavior::Release,
            ttl: String::new(),
            node_checks: checks,
            service_checks: Vec::new(),
            create_index: Revision(0),
            modify_index: Revision(0),
        })));
    }
    let lock = |session: &str| TxnOp::Kv(KvWrite::Lock(put("l", ""), SessionId::new(session)));
    let unlock = |session: &str| TxnOp::Kv(KvWrite::Unlock(put("l", ""), SessionId::new(session)));
    assert!(log.txn(vec![set("a", "1"), lock("s1")]).errors.is_empty());
    let session = |name: &str| Some(SessionId::new(name));
    let errors = log.fails(vec![
        set("b", "2"),
        TxnOp::Kv(KvWrite::Cas(put("a", "2"), Revision(3))),
        TxnOp::Kv(KvWrite::DeleteCas("a".into(), Revision(3))),
        lock("s2"),
        lock("none"),
        unlock("s2"),
        read(TxnRead::Get("none".into())),
        read(TxnRead::CheckIndex("a".into(), Revision(3))),
        read(TxnRead::CheckSession("l".into(), session("s2"))),
        read(TxnRead::CheckNotExists("a".into())),
        read(TxnRead::Node(node_name("none"))),
    ]);
    let words = [
        "failed to set key \"a\", index is stale",
        "failed to delete key \"a\", index is stale",
        "failed to lock key \"l\", lock is already held",
        "invalid session \"none\"",
        "failed to unlock key \"l\", lock isn't held, or is held by another session",
        "key \"none\" doesn't exist",
        "failed index check for key \"a\"",
        "failed session check for key \"l\", current session \"s1\" != \"s2\"",
        "key \"a\" exists",
        "node \"none\" doesn't exist",
    ];
    assert_eq!(errors.len(), words.len(), "{errors:?}");
    for ((op, what), (n, words)) in errors.iter().zip(words.iter().enumerate()) {
        assert!(*op == n + 1 && what.starts_with(words), "{op}: {what}");
    }
    let ends =
        vec![read(TxnRead::CheckSession("l".into(), session("s1"))), TxnOp::EndSession(SessionId::new("s1"))];
    assert!(log.txn(ends).errors.is_empty());
    assert_eq!(log.fails(vec![lock("s2")]), [(0, "failed to lock key \"l\" due to lock delay".into())]);
    log.at = NOW.plus(Duration::from_secs(15));
    assert!(log.txn(vec![lock("s2")]).errors.is_empty());
}

#[test]
fn the_catalog_changes_with_keys_or_not_at_all() {
    let mut log = Log::with_mesh();
    let db = || node_name("db");
    let service = InstanceId::new("db-1").unwrap();
    let up = CheckId::new("up").unwrap();
    let service_op = |change| TxnOp::Service { node: db(), id: service.clone(), change };
    let check_op = |change| TxnOp::Check { node: db(), id: up.clone(), change };
    let node_op = |change| TxnOp::Node { name: db(), change };
    let passing = || check("db", "up", Some("db-1"), Status::Passing);
    let done = log.txn(vec![
        node_op(Change::Cas(node("db"), Revision(0))),
        service_op(Change::Set(instance("db-1", "db"))),
        check_op(Change::Set(passing())),
        set("db/known", "yes"),
    ]);
    assert_eq!((done.errors, done.results.len()), (vec![], 4));
    assert_eq!(log.status("db", "db/db-1"), Status::Passing);
    let index = log.state.node(&db()).unwrap().modify_index;
    let errors = log.fails(vec![
        set("db/known", "no"),
        node_op(Change::Cas(node("db"), Revision(1))),
        service_op(Change::DeleteCas(Revision(1))),
        check_op(Change::Cas(passing(), Revision(0))),
        TxnOp::Service {
            node: node_name("none"),
            id: service.clone(),
            change: Change::Set(instance("db-1", "db")),
        },
    ]);
    assert_eq!(errors.iter().map(|(op, _)| *op).collect::<Vec<_>>(), [1, 2, 3, 4], "{errors:?}");
    let done = log.txn(vec![
        node_op(Change::Cas(Node { address: "10.0.0.2".into(), ..node("db") }, index)),
        check_op(Change::Delete),
        service_op(Change::DeleteCas(index)),
        node_op(Change::Delete),
        read(TxnRead::GetOrEmpty("db/known".into())),
    ]);
    assert_eq!(done.errors, []);
    assert!(log.state.node(&db()).is_none());
}

#[test]
fn reads_alone_are_answered_from_one_state_and_read_back_in_order() {
    let mut log = Log::new();
    log.txn(vec![set("t/a", "1"), set("t/b", "2")]);
    let reads = vec![TxnRead::GetTree("t/".into()), TxnRead::Get("none".into()), TxnRead::Get("t/a".into())];
    let topic = Topic::Txn(reads);
    let contents = log.read(&topic);
    let found: Vec<&Record> = contents.records.values().collect();
    let [Record::TxnResult(a), Record::TxnResult(b), Record::TxnError(error), Record::TxnResult(again)] =
        found.as_slice()
    else {
        panic!("{found:?}")
    };
    assert_eq!([kv(a).0, kv(b).0, kv(again).0], ["t/a", "t/b", "t/a"]);
    assert_eq!((error.op, error.what.as_str()), (1, "key \"none\" doesn't exist"));
    for (key, record) in &contents.records {
        assert_eq!(log.state.record(&topic, key).as_ref(), Some(record));
    }
    assert_eq!(contents.revision, log.state.applied());
}

#[test]
fn a_transaction_has_limits_of_operations_and_of_what_it_brings() {
    let mut log = Log::new();
    let many = |count: usize| (0..count).map(|n| set(&format!("k{n}"), "v")).collect::<Vec<_>>();
    assert_eq!(log.txn(many(limit::TXN_OPS)).results.len(), limit::TXN_OPS);
    let (code, _) = log.refused(Command::Txn(Txn { ops: many(limit::TXN_OPS + 1) }));
    assert_eq!(code, FaultCode::TooLarge);
    let value = "x".repeat(limit::KV_VALUE_BYTES);
    log.txn(vec![set("big", &value)]);
    let twice = vec![read(TxnRead::Get("big".into())), read(TxnRead::Get("big".into())), set("w", "")];
    let (code, text) = log.refused(Command::Txn(Txn { ops: twice }));
    assert!(code == FaultCode::TooLarge && text.contains("results"), "{text}");
    assert_eq!(log.txn(vec![read(TxnRead::Get("big".into())), set("w", "")]).results.len(), 2);
}
