//! Yesterday's commands: each kind as it lies in logs, in `commands/`, which no later build may read or write
//! differently.
//!
//! A file that is missing is written by `PURLIN_GOLDEN=write cargo test -p purlin-server golden`; one that is there is
//! never overwritten. A kind that gets a new form gets a new level, and a new file beside the old one.

use std::path::PathBuf;

use purlin_model::autopilot::AutopilotConfig;
use purlin_model::command::{Deregister, DeregisterWhat, Join, JoinToken};
use purlin_model::config_entry::ConfigKind;
use purlin_model::event::UserEvent;
use purlin_model::history::{HistoryId, Restore, RestoreStep};
use purlin_model::intention::{Party, Rule, SourceIntention};
use purlin_model::kv::{KvPut, KvWrite};
use purlin_model::query::{PreparedQuery, ServiceQuery};
use purlin_model::session::{Behavior, Session, SessionWrite};
use purlin_model::topic::{CaConfig, ServerInfo};
use purlin_model::txn::{Change, Txn, TxnOp, TxnRead};
use purlin_model::{SessionId, limit};
use uuid::Uuid;

use super::*;

fn catalog() -> Vec<Command> {
    let checks = vec![check("h1", "alive", Some("web-1"), Status::Warning)];
    vec![
        Command::CreateMesh(mesh()),
        Command::Join(Join {
            token: "t1".into(),
            secret_sha256: vec![7; 32],
            key_sha256: vec![8; 32],
            id: node_id(1),
            name: node_name("h1"),
            role: NodeRole::Agent,
            address: "10.0.0.1".into(),
            mesh_port: Some(20000),
        }),
        Command::AnnounceNode(member("h1", 1)),
        Command::SetNodeStatus { node: node_name("h1"), status: NodeStatus::Failed },
        Command::RemoveNode { node: node_name("h1") },
        register(member("h1", 1), Some(meshed("web-1", "web")), checks),
        Command::Deregister(Deregister {
            node: node_name("h1"),
            what: DeregisterWhat::Instance(InstanceId::new("web-1").unwrap()),
        }),
        Command::ReleaseNode { node: node_name("h1") },
        Command::ReapNode { node: node_name("h1") },
    ]
}

fn policy() -> Vec<Command> {
    vec![
        Command::PutConfig { entry: web_defaults(), cas: Some(Revision(7)) },
        Command::DeleteConfig { kind: ConfigKind::ServiceDefaults, name: "web".into(), cas: None },
        Command::PutIntention {
            destination: Party::parse("db").unwrap(),
            destination_namespace: Namespace::default(),
            source: SourceIntention {
                source: Party::parse("web").unwrap(),
                source_namespace: Namespace::default(),
                rule: Rule::L4(Action::Allow),
                description: "a reason".into(),
                legacy_meta: BTreeMap::new(),
                created_at: Millis(1),
                updated_at: Millis(2),
            },
        },
        Command::DeleteIntention {
            source: Party::parse("*").unwrap(),
            destination: Party::parse("db").unwrap(),
        },
        Command::UpdateMesh { default_intention: Action::Allow, leaf_ttl_ms: 10_000 },
    ]
}

fn authority() -> Vec<Command> {
    let sealed = SealedKey {
        node: node_name("s2"),
        recipient: vec![1],
        encapsulated: vec![2],
        ciphertext: vec![3],
        root: "cc:dd".into(),
    };
    vec![
        Command::CreateJoinToken(JoinToken {
            id: "t1".into(),
            secret_sha256: vec![7; 32],
            role: NodeRole::Server,
            expires: NOW.plus(Duration::from_secs(60)),
            uses: 3,
            created: NOW,
        }),
        Command::RevokeJoinToken { id: "t1".into() },
        Command::PutIntermediate { node: node_name("s1"), certificate_pem: "PEM".into() },
        Command::RecordCertificate { node: node_name("h1"), sha256: vec![9; 32], not_after: NOW },
        Command::SealRootKey(sealed.clone()),
        Command::AddRoot { root: mesh().root, sealed_root_key: vec![sealed] },
        Command::ActivateRoot { id: "aa:bb".into() },
        Command::RemoveRoot { id: "aa:bb".into() },
        Command::RevokeAuthorities { sha256: vec!["09".repeat(32)] },
        Command::SetCaConfig(CaConfig { leaf_ttl_ms: 1, intermediate_ttl_ms: 2, rotation_period_ms: 3 }),
    ]
}

fn cluster() -> Vec<Command> {
    vec![
        Command::AnnounceServer(ServerInfo {
            node: node_name("s1"),
            address: "10.0.0.1:8300".into(),
            leader: true,
            voter: true,
            id: Some(node_id(1)),
            level: 2,
            sealing: vec![4; 32],
        }),
        Command::PutAutopilot { config: AutopilotConfig::default(), cas: Some(Revision(3)) },
        Command::PutVoters { leader: node_name("s1"), voters: vec![node_name("s1"), node_name("s2")] },
        Command::ForgetServer { node: node_name("s2") },
        Command::Restore(Restore {
            id: Uuid::from_u128(5),
            step: RestoreStep::Commit { history: HistoryId(Uuid::from_u128(6)) },
        }),
    ]
}

fn data() -> Vec<Command> {
    let session = SessionId::new("11111111-2222-3333-4444-555555555555");
    let put = KvPut { key: "app/colour".into(), value: "blue".as_bytes().into(), flags: 42 };
    vec![
        Command::Kv(KvWrite::Lock(put.clone(), session.clone())),
        Command::Session(SessionWrite::Create(Session {
            id: session,
            name: "holder".into(),
            node: node_name("h1"),
            lock_delay: Duration::from_secs(15),
            behavior: Behavior::Release,
            ttl: "30s".into(),
            node_checks: vec![CheckId::new("serfHealth").unwrap()],
            service_checks: Vec::new(),
            create_index: Revision(0),
            modify_index: Revision(0),
        })),
        Command::Txn(Txn {
            ops: vec![
                TxnOp::Read(TxnRead::CheckNotExists("app/size".into())),
                TxnOp::Kv(KvWrite::Cas(put, Revision(0))),
                TxnOp::Node { name: node_name("h2"), change: Change::Delete },
            ],
        }),
        Command::FireEvent(UserEvent {
            id: Uuid::from_u128(7),
            name: "deploy".into(),
            payload: vec![1, 2],
            node_filter: "h.*".into(),
            service_filter: String::new(),
            tag_filter: String::new(),
            ltime: 0,
        }),
        Command::PutQuery {
            query: PreparedQuery {
                id: Uuid::from_u128(8),
                name: "front".into(),
                service: ServiceQuery { service: "web".into(), ..ServiceQuery::default() },
                ..PreparedQuery::default()
            },
            create: true,
        },
        Command::DeleteQuery { id: Uuid::from_u128(8) },
    ]
}

fn all() -> Vec<Command> {
    [catalog(), policy(), authority(), cluster(), data()].concat()
}

#[test]
fn commands_of_every_kind_are_read_and_written_as_ever() {
    for command in all() {
        let name = command.name();
        let envelope = Envelope {
            level: command.level(),
            request: RequestId(Uuid::from_u128(9)),
            actor: Actor { node: Some(node_name("h1")), uid: Some(1000), ..Actor::default() },
            at: NOW,
            command,
        };
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/state/tests/commands");
        let path = folder.join(format!("{name}.bin"));
        let now = rmp_serde::to_vec_named(&envelope).unwrap();
        assert!(now.len() < limit::COMMAND_BYTES);
        if std::env::var("PURLIN_GOLDEN").is_ok_and(|value| value == "write") && !path.exists() {
            std::fs::write(&path, &now).unwrap();
        }
        let then = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(rmp_serde::from_slice::<Envelope>(&then).unwrap(), envelope, "{name} reads differently");
        assert!(then == now, "{name} is written differently: {now:02x?}");
    }
}

/// The kinds that a reader knows, as it tells somebody who asks for another.
#[test]
fn there_is_one_of_every_kind() {
    let unknown = rmp_serde::to_vec_named(&BTreeMap::from([("Unheard", 1)])).unwrap();
    let told = rmp_serde::from_slice::<Command>(&unknown).unwrap_err().to_string();
    let known = told.split_once("expected one of").expect("a list").1.matches('`').count() / 2;
    assert_eq!(all().len(), known, "{told}");
}
