use purlin_model::command::{Actor, Command, Envelope, Register, RequestId};
use purlin_model::node::{Node, NodeRole, NodeStatus};
use purlin_model::topic::{Contents, Delta};
use purlin_model::{Datacenter, Millis};
use purlin_wire::frame;
use purlin_wire::rpc::{Assembler, Down};

use super::*;
use crate::raft::Hook;

/// A state that grows, and the hub that is told.
struct World {
    state: State,
    hub: Arc<Hub>,
    next: u64,
}

impl World {
    fn new() -> Self {
        Self { state: State::new(), hub: Arc::default(), next: 10 }
    }

    fn register(&mut self, name: &str, address: &str) {
        let node = Node {
            id: None,
            name: NodeName::new(name).unwrap(),
            datacenter: Datacenter::default(),
            address: address.into(),
            tagged_addresses: Default::default(),
            meta: Default::default(),
            locality: None,
            mesh_port: None,
            role: NodeRole::External,
            status: NodeStatus::Alive,
            version: String::new(),
            create_index: Revision(0),
            modify_index: Revision(0),
        };
        let register =
            Register { node, skip_node_update: false, instance: None, checks: vec![], replace_checks: false };
        let envelope = Envelope {
            level: 1,
            request: RequestId(uuid::Uuid::from_u128(u128::from(self.next))),
            actor: Actor::default(),
            at: Millis(1),
            command: Command::Register(register),
        };
        let (_, touched) = self.state.apply(Revision(self.next), &envelope);
        self.next += 1;
        self.hub.applied(&Arc::new(self.state.clone()), vec![touched]);
    }

    /// What a session would send now, put together as its agent would.
    fn flush(&self, subscription: &Subscription) -> Vec<Delta> {
        let taken = subscription.take();
        let mut assembler = Assembler::default();
        let mut deltas = Vec::new();
        for (topic, marks) in taken.dirty.into_topics() {
            for frame in self.hub.frames().of(&taken.state, &topic, marks).unwrap().iter() {
                let body = &frame[frame::HEADER_BYTES..];
                let Down::Delta(piece) = frame::decode_body(body).unwrap() else { panic!("no delta") };
                deltas.extend(assembler.push(piece).unwrap());
            }
        }
        deltas
    }
}

fn shape(deltas: &[Delta]) -> Vec<(u64, bool, Vec<&str>, Vec<&str>)> {
    let keys = |delta: &Delta| delta.set.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    deltas
        .iter()
        .map(|delta| {
            let set = delta.set.iter().map(|(key, _)| key.as_str()).collect();
            assert!(keys(delta).is_sorted());
            (delta.revision.0, delta.reset, set, delta.removed.iter().map(String::as_str).collect())
        })
        .collect()
}

#[test]
fn first_all_of_it_then_what_changed_and_a_slow_one_gets_the_newest_only() {
    let mut world = World::new();
    world.register("a", "1");
    let subscription = world.hub.subscribe(None);
    subscription.follow(Topic::Nodes, Revision(0)).unwrap();
    assert_eq!(shape(&world.flush(&subscription)), [(10, true, vec!["a"], vec![])]);
    assert_eq!(shape(&world.flush(&subscription)), []);
    for address in ["2", "3", "4"] {
        world.register("b", address);
    }
    assert_eq!(shape(&world.flush(&subscription)), [(13, false, vec!["b"], vec![])]);
}

#[test]
fn who_comes_back_is_told_what_it_missed_or_all_when_that_is_not_known() {
    let mut world = World::new();
    world.register("a", "1");
    world.register("b", "1");
    let resume = |have| {
        let subscription = world.hub.subscribe(None);
        subscription.follow(Topic::Nodes, Revision(have)).unwrap();
        let deltas = world.flush(&subscription);
        shape(&deltas).into_iter().map(|(_, reset, set, _)| (reset, set.len())).collect::<Vec<_>>()
    };
    assert_eq!(resume(11), [(false, 0)], "an empty delta says that nothing was missed");
    assert_eq!(resume(10), [(false, 1)]);
    assert_eq!(resume(5), [(true, 2)]);
    assert_eq!(resume(12), [], "it is ahead of us, and must not go back in time");
}

#[test]
fn who_comes_from_another_server_resumes_there_and_one_that_is_behind_catches_up_first() {
    let (mut first, mut second) = (World::new(), World::new());
    for world in [&mut first, &mut second] {
        world.register("a", "1");
        world.register("b", "1");
    }
    let subscription = first.hub.subscribe(None);
    subscription.follow(Topic::Nodes, Revision(0)).unwrap();
    first.register("c", "1");
    let have = first.flush(&subscription)[0].revision;
    assert_eq!(have, Revision(12));
    first.register("d", "1");

    // The second server is one change behind what the follower has.
    let ahead = second.hub.subscribe(None);
    ahead.follow(Topic::Nodes, have).unwrap();
    let impatient = second.hub.subscribe(None);
    impatient.follow(Topic::Nodes, have).unwrap();
    let gone = second.hub.subscribe(None);
    gone.follow(Topic::Nodes, have).unwrap();
    drop(gone);
    assert_eq!(shape(&second.flush(&ahead)), []);
    impatient.wait_no_more();
    assert_eq!(shape(&second.flush(&impatient)), [(11, true, vec!["a", "b"], vec![])]);
    second.register("c", "1");
    assert_eq!(shape(&second.flush(&ahead)), [(12, false, vec![], vec![])]);
    second.register("d", "1");
    assert_eq!(shape(&second.flush(&ahead)), [(13, false, vec!["d"], vec![])]);
    assert!(second.hub.lock().ahead.is_empty());
}

#[test]
fn a_hub_that_begins_with_a_state_knows_nothing_before_it() {
    let mut world = World::new();
    world.register("a", "1");
    let later = Arc::new(Hub::default());
    later.begin(Arc::new(world.state.clone()));
    let subscription = later.subscribe(None);
    subscription.follow(Topic::Nodes, Revision(10)).unwrap();
    assert_eq!(subscription.take().dirty.into_topics()[&Topic::Nodes], Marks::Keys(BTreeSet::new()));
    subscription.follow(Topic::Nodes, Revision(9)).unwrap();
    assert_eq!(subscription.take().dirty.into_topics()[&Topic::Nodes], Marks::All);
}

#[test]
fn a_replaced_state_is_told_whole() {
    let mut world = World::new();
    world.register("a", "1");
    let subscription = world.hub.subscribe(None);
    subscription.follow(Topic::Nodes, Revision(10)).unwrap();
    world.flush(&subscription);
    let mut other = World::new();
    other.next = 50;
    other.register("z", "1");
    world.hub.replaced(&Arc::new(other.state.clone()), Revision(50));
    assert_eq!(shape(&world.flush(&subscription)), [(50, true, vec!["z"], vec![])]);
}

#[test]
fn an_absorbed_feed_is_the_topic() {
    let mut world = World::new();
    let subscription = world.hub.subscribe(None);
    subscription.follow(Topic::Nodes, Revision(0)).unwrap();
    let mut held = Contents::default();
    for n in 0..50 {
        world.register(&format!("n{}", n % 7), &n.to_string());
        if n % 3 == 0 {
            for delta in world.flush(&subscription) {
                held.absorb(delta);
            }
        }
    }
    for delta in world.flush(&subscription) {
        held.absorb(delta);
    }
    assert_eq!(held, world.state.read(&Topic::Nodes));
}

#[test]
fn the_topics_of_a_session_are_bounded_and_leave_nothing_behind() {
    let world = World::new();
    let subscription = world.hub.subscribe(None);
    let topic = |n: usize| Topic::Node(NodeName::new(format!("n{n}")).unwrap());
    for n in 0..limit::TOPICS_PER_SESSION {
        subscription.follow(topic(n), Revision(0)).unwrap();
    }
    assert_eq!(subscription.follow(Topic::Nodes, Revision(0)).unwrap_err().code, FaultCode::TooLarge);
    subscription.follow(topic(0), Revision(0)).unwrap();
    subscription.unfollow(&topic(0));
    subscription.follow(Topic::Nodes, Revision(0)).unwrap();
    assert_eq!(world.hub.metrics().topics, limit::TOPICS_PER_SESSION);
    drop(subscription);
    assert_eq!((world.hub.metrics().topics, world.hub.metrics().followers), (0, 0));
}

#[tokio::test]
async fn whoever_follows_is_woken_and_nobody_else() {
    let mut world = World::new();
    let follows = world.hub.subscribe(None);
    follows.follow(Topic::Nodes, Revision(0)).unwrap();
    follows.rung().await;
    world.flush(&follows);
    let other = world.hub.subscribe(Some(NodeName::new("h1").unwrap()));
    other.follow(Topic::Mesh, Revision(0)).unwrap();
    other.rung().await;
    world.flush(&other);
    world.register("a", "1");
    follows.rung().await;
    let quiet = futures_util::FutureExt::now_or_never(other.rung());
    assert!(quiet.is_none());
    world.hub.nudge(&NodeName::new("h1").unwrap());
    other.rung().await;
}
