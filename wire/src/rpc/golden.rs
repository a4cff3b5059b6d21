//! Yesterday's bytes: each message as it lies in `golden/`, which no later build may read or write differently.
//!
//! A file that is missing is written by `PURLIN_GOLDEN=write cargo test -p purlin-wire golden`; one that is there is
//! never overwritten. Once a release has written a form, the file of that form stays and must be read for ever; a
//! message that gets a new form gets a new file beside it.

use std::fmt::Debug;
use std::fs;
use std::path::PathBuf;

use purlin_model::command::{Command, Register, RequestId};
use purlin_model::node::NodeRole;
use purlin_model::topic::{Record, Topic};
use purlin_model::view::{
    Dial, Endpoint, Listener, LocalInstance, LocalPort, Part, PartKey, Settings, Target, TargetKey,
};
use purlin_model::{Datacenter, InstanceId, Revision};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{
    Ask, Asked, Call, Consistency, Contact, Down, Item, JoinRequest, Presence, Probe, ProbeVia, Probed,
    Reply, Roster, RosterTaken, Signed, Up, WRITE, WireDelta, Write, samples,
};
use crate::frame::{self, HEADER_BYTES};
use crate::local::{FromProxy, ToProxy};

fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, message: &T) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(format!("{name}.bin"));
    let now = frame::encode(message).unwrap();
    if std::env::var("PURLIN_GOLDEN").is_ok_and(|value| value == "write") && !path.exists() {
        fs::write(&path, &now).unwrap();
    }
    let then = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let read: T = frame::decode_body(&then[HEADER_BYTES..]).unwrap();
    assert_eq!(read, *message, "{name} reads differently");
    assert!(then == now, "{name} is written differently: {now:02x?}");
}

fn write() -> Write {
    let register = Register {
        node: samples::node(),
        skip_node_update: true,
        instance: Some(samples::instance()),
        checks: vec![samples::check()],
        replace_checks: true,
    };
    Write {
        request: RequestId(uuid::Uuid::from_u128(42)),
        uid: Some(1000),
        command: Command::Register(register),
    }
}

fn items() -> Vec<Item> {
    samples::records()
        .iter()
        .enumerate()
        .map(|(i, record)| Item::new(i.to_string(), record).unwrap())
        .collect()
}

#[test]
fn calls() {
    check("call", &Call::new(WRITE, &write()).unwrap());
    check("write", &write());
    let ask = Ask {
        topic: Topic::Service(samples::key("web")),
        consistency: Consistency::Stale,
        after: Revision(7),
        wait_ms: 30_000,
    };
    check("ask", &ask);
    let asked = Asked {
        revision: Revision(8),
        records: items(),
        known_leader: true,
        last_contact_ms: 3,
        more: false,
    };
    check("asked", &Reply::Ok(asked));
    check("fault", &Reply::<()>::Err(purlin_model::Fault::unavailable("No cluster leader")));
    check("signed", &Signed { chain: vec![vec![0x30, 0x82], vec![0x30]] });
    let join = JoinRequest {
        token: "6f1d".into(),
        secret: "secret".into(),
        csr: vec![0x30, 0x82, 0x01],
        id: samples::node_id(),
        name: samples::node_name(),
        role: NodeRole::Agent,
        datacenter: Some(Datacenter::default()),
        address: "10.0.0.1".into(),
        mesh_port: Some(20_000),
        version: "0.1.0".into(),
    };
    check("join-request", &join);
}

#[test]
fn sessions() {
    let topics = vec![
        Topic::Nodes,
        Topic::Node(samples::node_name()),
        Topic::Services,
        Topic::Service(samples::key("web")),
        Topic::Checks(Some(purlin_model::check::Status::Critical)),
        Topic::Config(purlin_model::config_entry::ConfigKind::ServiceIntentions, Some("api".into())),
        Topic::Mesh,
        Topic::Servers,
        Topic::JoinTokens,
    ];
    let followed = topics.iter().map(|topic| (topic.clone(), Revision(1))).collect();
    let applied = Up::Applied(vec![(Revision(9), 250)]);
    for (i, up) in
        [Up::Beat, Up::Follow(followed), Up::Unfollow(topics), Up::Leave, applied].iter().enumerate()
    {
        check(&format!("up-{i}"), up);
    }
    let delta = WireDelta {
        topic: Topic::Nodes,
        revision: Revision(9),
        reset: true,
        set: items(),
        removed: vec!["host-9".into()],
        more: true,
    };
    check("wire-delta", &delta);
    let downs = [Down::Beat, Down::Delta(delta), Down::Progress(Revision(9)), Down::Pace(2_000), Down::Move];
    for (i, down) in downs.iter().enumerate() {
        check(&format!("down-{i}"), down);
    }
}

#[test]
fn rosters() {
    let presence = Presence {
        node: samples::node_name(),
        contact: Contact::Silent,
        silent_ms: 3_000,
        beat_ms: 1_000,
        probe: Some("10.0.0.1:8301".into()),
    };
    let kinds = [Contact::Here, Contact::Silent, Contact::Broken, Contact::Left, Contact::Gone];
    let changes = kinds.map(|contact| Presence { contact, ..presence.clone() }).into();
    let boot = uuid::Uuid::from_u128(7);
    check("roster", &Roster { boot, number: 3, whole: true, changes, more: false, count: 1, sum: 9 });
    check("roster-taken", &RosterTaken { tell_all: true, fair_share: 100 });
    let probe = Probe { node: samples::node_name(), address: "[::1]:8301".into(), within_ms: 1_000 };
    check("probe-via", &ProbeVia { helper: samples::node_name(), probe });
    check("probed", &Probed { boot });
}

/// What came with the second level: records, topics and commands in files of their own.
#[test]
fn events_and_queries() {
    let mut commands = Vec::new();
    for record in samples::events_and_queries() {
        let item = Item::new("key", &record).unwrap();
        check(&format!("record-{}", item.kind), &item);
        match record {
            Record::Event(event) => commands.push(Command::FireEvent(event)),
            Record::Query(query) => {
                commands.push(Command::DeleteQuery { id: query.id });
                commands.push(Command::PutQuery { query, create: true });
            }
            other => panic!("{other:?} is not among them"),
        }
    }
    for command in commands {
        let name = format!("write-{}", command.name());
        let write = Write { request: RequestId(uuid::Uuid::from_u128(42)), uid: None, command };
        check(&name, &write);
    }
    let topics = vec![Topic::Events, Topic::Queries(None), Topic::Queries(Some(uuid::Uuid::from_u128(8)))];
    check("up-unfollow-events-queries", &Up::Unfollow(topics));
}

fn parts() -> Vec<(PartKey, Part)> {
    let inbound = "10.0.0.1:20000".parse().unwrap();
    let bind = "[::1]:9191".parse().unwrap();
    let web = InstanceId::new("web").unwrap();
    let api = TargetKey { port_name: Some("admin".into()), ..TargetKey::local(samples::key("api")) };
    let settings = Settings {
        node: samples::node_name(),
        datacenter: Datacenter::default(),
        trust_domain: samples::domain(),
        inbound: vec![inbound],
        roots: vec![vec![0x30, 0x82]],
        revoked: Default::default(),
        detection_timeout_ms: 100,
        locality: None,
    };
    let port = LocalPort {
        server_name: "0011.web.default.dc1.internal.x".into(),
        service_server_name: "web.default.dc1.internal.x".into(),
        name: None,
        protocol: None,
        dial: Dial::Unix("/run/web.sock".into()),
    };
    let local = LocalInstance {
        id: web.clone(),
        service: samples::key("web"),
        ports: vec![port],
        healthy: true,
        protocol: None,
        connect_timeout_ms: 5_000,
        request_timeout_ms: None,
        max_connections: Some(64),
    };
    let listener = Listener {
        bind,
        network_namespace: None,
        source: samples::key("web"),
        source_instance: web.clone(),
        target: api.clone(),
        connect_timeout_ms: 5_000,
    };
    let endpoint = Endpoint {
        node: samples::node_name(),
        instance: InstanceId::new("api-1").unwrap(),
        address: inbound,
        server_name: "0022.api.default.dc1.internal.x".into(),
        weight: 1,
        locality: None,
        local: false,
    };
    let target = Target {
        key: api.clone(),
        protocol: Some(purlin_model::service::Protocol::Http),
        identity: "spiffe://x/ns/default/dc/dc1/svc/api".into(),
        endpoints: vec![endpoint],
        absence: None,
    };
    vec![
        (PartKey::Settings, Part::Settings(settings)),
        (PartKey::Local(web), Part::Local(local)),
        (PartKey::Listener(bind), Part::Listener(listener)),
        (PartKey::Target(api), Part::Target(target)),
    ]
}

#[test]
fn proxies() {
    let view = ToProxy::View {
        revision: 3,
        reset: true,
        set: parts(),
        removed: vec![PartKey::Policy(samples::key("web"))],
        last: true,
    };
    check("to-proxy-view", &view);
    check("to-proxy-hello", &ToProxy::Hello { version: "0.1.0".into(), protocol: 1 });
    let applied = FromProxy::Applied { revision: 3, failed_listeners: vec![("a".into(), "b".into())] };
    check("from-proxy-applied", &applied);
}

/// The lists by which unknown messages are told from broken ones name every variant there is.
#[test]
fn vocabularies_are_complete() {
    fn variants<T: DeserializeOwned>() -> String {
        let unknown = frame::encode_body("No such variant").unwrap();
        frame::decode_body::<T>(&unknown).err().map(|e| e.to_string()).unwrap_or_default()
    }
    fn check<T: frame::Vocabulary>() {
        let said = variants::<T>();
        let named = said.matches('`').count() / 2 - 1;
        assert_eq!(named, T::VARIANTS.len(), "{said}");
        assert!(T::VARIANTS.iter().all(|name| said.contains(&format!("`{name}`"))), "{said}");
    }
    check::<Up>();
    check::<Down>();
    check::<ToProxy>();
    check::<FromProxy>();
}
