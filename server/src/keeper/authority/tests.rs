use purlin_model::command::{Actor, CreateMesh, Envelope, RequestId};
use purlin_model::identity::TrustDomain;
use purlin_model::intention::Action;
use purlin_model::node::{Node, NodeRole};
use purlin_model::{Datacenter, NodeId};

use super::*;

const NOW: Millis = Millis(1_700_000_000_000);
const SECOND: Duration = Duration::from_secs(1);

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn key(server: &str, sealing: u8) -> SealedKey {
    SealedKey {
        node: name(server),
        recipient: vec![sealing; 32],
        encapsulated: vec![],
        ciphertext: vec![],
        root: String::new(),
    }
}

fn info(server: &str, sealing: u8, leader: bool) -> ServerInfo {
    ServerInfo {
        node: name(server),
        address: "10.0.0.1:8300".into(),
        leader,
        voter: true,
        id: None,
        level: 2,
        sealing: vec![sealing; 32],
    }
}

struct Servers {
    state: State,
    next: u64,
}

impl Servers {
    /// Three of them, s1 leads; the key is sealed to s1 only.
    fn three() -> Self {
        let domain = TrustDomain("x.mesh.internal".into());
        let root = NewRoot::create(&domain, NOW).unwrap();
        let mut servers = Self { state: State::new(), next: 1 };
        servers.apply(Command::CreateMesh(CreateMesh {
            trust_domain: domain,
            datacenter: Datacenter::default(),
            root: root.certificate,
            sealed_root_key: vec![key("s1", 1)],
            default_intention: Action::Deny,
            leaf_ttl_ms: 3_600_000,
        }));
        for (server, n) in [("s1", 1), ("s2", 2), ("s3", 3)] {
            servers.apply(Command::AnnounceNode(Node {
                id: Some(NodeId(uuid::Uuid::from_u128(u128::from(n)))),
                name: name(server),
                datacenter: Datacenter::default(),
                address: "10.0.0.1".into(),
                tagged_addresses: Default::default(),
                meta: Default::default(),
                locality: None,
                mesh_port: None,
                role: NodeRole::Server,
                status: NodeStatus::Alive,
                version: String::new(),
                create_index: Revision(0),
                modify_index: Revision(0),
            }));
            servers.apply(Command::AnnounceServer(info(server, n, server == "s1")));
        }
        servers
    }

    fn apply(&mut self, command: Command) {
        let request = RequestId(uuid::Uuid::from_u128(u128::from(self.next)));
        let envelope = Envelope { level: 2, request, actor: Actor::default(), at: NOW, command };
        self.next += 1;
        self.state.apply(Revision(self.next), &envelope).0.result.unwrap();
    }

    fn of(&self, server: &str, sealing: u8, leads: bool, now: Millis) -> Vec<Duty> {
        duties(&self.state, &name(server), &[sealing; 32], leads, now)
    }
}

#[test]
fn the_leader_seals_the_root_key_to_every_server_that_lacks_it() {
    let mut servers = Servers::three();
    let seal = |server: &str, n| Duty::Seal(info(server, n, false));
    assert_eq!(servers.of("s1", 1, true, NOW), [seal("s2", 2), seal("s3", 3)]);
    assert_eq!(servers.of("s2", 2, false, NOW), []);
    servers.apply(Command::SealRootKey(key("s2", 2)));
    servers.apply(Command::SealRootKey(key("s3", 3)));
    assert_eq!(servers.of("s1", 1, true, NOW), []);
    // One whose disk was replaced gets it anew.
    servers.apply(Command::AnnounceServer(info("s3", 4, false)));
    assert_eq!(servers.of("s1", 1, true, NOW), [seal("s3", 4)]);
}

#[test]
fn where_the_leader_cannot_open_the_key_another_seals_it_to_the_leader() {
    let mut servers = Servers::three();
    servers.apply(Command::SealRootKey(key("s2", 2)));
    // s1 leads and lost its sealing key.
    servers.apply(Command::AnnounceServer(info("s1", 9, true)));
    assert_eq!(servers.of("s1", 9, true, NOW), [], "no new root as long as somebody has the old one");
    let due = servers.of("s2", 2, false, NOW);
    assert_eq!(due, [Duty::Seal(info("s1", 9, true)), Duty::Seal(info("s3", 3, false))]);
    assert_eq!(servers.of("s3", 3, false, NOW), []);
}

#[test]
fn where_nobody_opens_the_key_the_mesh_starts_a_new_root_in_two_steps() {
    let mut servers = Servers::three();
    servers.apply(Command::AnnounceServer(info("s1", 9, true)));
    assert_eq!(servers.of("s1", 9, true, NOW), [Duty::NewRoot]);
    assert_eq!(servers.of("s2", 2, false, NOW), [], "only the leader does");
    let root = NewRoot::create(&TrustDomain("x.mesh.internal".into()), NOW).unwrap().certificate;
    let (id, old) = (root.id.clone(), servers.state.mesh_info().unwrap().roots[0].id.clone());
    servers.apply(Command::AddRoot { root, sealed_root_key: vec![key("s1", 9)] });
    assert_eq!(servers.of("s1", 9, true, NOW.plus(14 * SECOND)), []);
    assert_eq!(servers.of("s1", 9, true, NOW.plus(15 * SECOND)), [Duty::Activate(id.clone())]);
    servers.apply(Command::ActivateRoot { id });
    let life = NODE_TTL + MARGIN;
    let seals = servers.of("s1", 9, true, NOW);
    assert_eq!(seals.len(), 2, "{seals:?}");
    let late = servers.of("s1", 9, true, NOW.plus(life));
    assert!(late.contains(&Duty::Forget(old.clone())), "{late:?}");
    assert!(!servers.of("s1", 9, true, NOW.plus(life - SECOND)).contains(&Duty::Forget(old)));
}
