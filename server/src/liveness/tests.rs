use super::*;

/// Virtual time, a catalog that obeys every verdict, and hosts that beat or do not.
struct World {
    machine: Liveness,
    start: Instant,
    now: Duration,
    catalog: BTreeMap<NodeName, NodeStatus>,
    beating: Vec<NodeName>,
    log: Vec<(u64, String, NodeStatus)>,
}

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

impl World {
    fn new(hosts: &[&str]) -> Self {
        let mut world = Self {
            machine: Liveness::default(),
            start: Instant::now(),
            now: Duration::ZERO,
            catalog: hosts.iter().map(|host| (name(host), NodeStatus::Alive)).collect(),
            beating: hosts.iter().map(|host| name(host)).collect(),
            log: Vec::new(),
        };
        world.sync();
        world.machine.led(world.start);
        world
    }

    fn at(&self) -> Instant {
        self.start + self.now
    }

    fn sync(&mut self) {
        let now = self.at();
        self.machine.catalog(self.catalog.iter().map(|(name, status)| (name, *status)), now);
    }

    /// Beats fall on whole seconds.
    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now += TICK;
            if self.now.subsec_nanos() == 0 {
                for host in self.beating.clone() {
                    self.machine.beat(&host, self.at());
                }
            }
            self.look();
        }
    }

    fn look(&mut self) {
        for (host, status) in self.machine.verdicts(self.at()) {
            self.log.push((self.now.as_millis() as u64, host.to_string(), status));
            self.catalog.insert(host, status);
        }
        self.sync();
    }

    fn silence(&mut self, host: &str) {
        self.beating.retain(|beating| *beating != name(host));
    }

    fn log(&self) -> Vec<(u64, &str, NodeStatus)> {
        self.log.iter().map(|(at, host, status)| (*at, host.as_str(), *status)).collect()
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn silence_fails_a_host_in_less_than_five_seconds_and_a_beat_brings_it_back() {
    let mut world = World::new(&["a", "b"]);
    world.run(20 * SECOND);
    assert_eq!(world.log(), []);
    world.silence("a");
    world.run(3 * SECOND);
    assert_eq!(world.machine.metrics(world.at()).suspected, 1);
    world.run(2 * SECOND);
    assert_eq!(world.log(), [(24_500, "a", NodeStatus::Failed)]);
    world.run(10 * SECOND);
    world.beating.push(name("a"));
    world.run(SECOND);
    assert_eq!(world.log()[1..], [(36_000, "a", NodeStatus::Alive)]);
}

#[test]
fn goodbye_counts_at_once_and_coming_back_too() {
    let mut world = World::new(&["a"]);
    world.run(2 * SECOND);
    world.silence("a");
    world.machine.goodbye(&name("a"));
    world.look();
    assert_eq!(world.log(), [(2_000, "a", NodeStatus::Left)]);
    world.run(60 * SECOND);
    assert_eq!(world.log().len(), 1, "one that left is never failed");
    world.machine.beat(&name("a"), world.at());
    world.look();
    assert_eq!(world.log()[1..], [(62_000, "a", NodeStatus::Alive)]);
}

#[test]
fn after_a_start_hosts_have_time_to_come_back() {
    let mut world = World::new(&["a", "b", "c", "d"]);
    for host in ["a", "b", "c", "d"] {
        world.silence(host);
    }
    world.run(Duration::from_millis(9_750));
    assert_eq!(world.log(), []);
    world.run(SECOND);
    assert_eq!(world.log().len(), 4, "nobody came at all: {:?}", world.log());
    assert!(world.log().iter().all(|(at, _, status)| *at == 10_000 && *status == NodeStatus::Failed));
}

#[test]
fn whoever_spoke_after_a_start_has_no_more_grace() {
    let mut world = World::new(&["a", "b"]);
    world.run(SECOND);
    world.silence("a");
    world.run(5 * SECOND);
    assert_eq!(world.log(), [(5_500, "a", NodeStatus::Failed)]);
}

#[test]
fn one_that_was_down_when_the_server_started_stays_down() {
    let mut world = World::new(&["a"]);
    world.silence("a");
    world.catalog.insert(name("a"), NodeStatus::Failed);
    world.sync();
    world.run(60 * SECOND);
    assert_eq!(world.log(), []);
}

#[test]
fn a_server_that_stood_still_blames_nobody() {
    let mut world = World::new(&["a", "b"]);
    world.run(20 * SECOND);
    world.now += 60 * SECOND;
    world.look();
    assert_eq!(world.log(), []);
    world.run(3 * SECOND);
    assert_eq!(world.log(), []);
    // One that died meanwhile is found out all the same.
    world.silence("a");
    world.now += 60 * SECOND;
    world.look();
    world.run(5 * SECOND);
    assert_eq!(world.log(), [(147_500, "a", NodeStatus::Failed)]);
}

#[test]
fn when_most_fall_silent_together_nobody_is_failed_for_a_while() {
    let mut world = World::new(&["a", "b", "c", "d", "e"]);
    world.run(20 * SECOND);
    for host in ["a", "b", "c"] {
        world.silence(host);
    }
    world.run(25 * SECOND);
    assert_eq!(world.log(), []);
    assert!(world.machine.metrics(world.at()).holding);
    // They come back: it was our network.
    for host in ["a", "b"] {
        world.beating.push(name(host));
    }
    world.run(2 * SECOND);
    assert_eq!(world.log(), [(46_000, "c", NodeStatus::Failed)]);
    assert!(!world.machine.metrics(world.at()).holding);
}

#[test]
fn if_they_stay_silent_they_are_failed_in_the_end() {
    let mut world = World::new(&["a", "b", "c"]);
    world.run(20 * SECOND);
    for host in ["a", "b", "c"] {
        world.silence(host);
    }
    world.run(60 * SECOND);
    assert_eq!(world.log().iter().map(|(at, ..)| *at).collect::<Vec<_>>(), [53_000; 3]);
}

#[test]
fn a_few_hosts_may_die_together() {
    let mut world = World::new(&["a", "b"]);
    world.run(20 * SECOND);
    world.silence("a");
    world.silence("b");
    world.run(5 * SECOND);
    assert_eq!(world.log().len(), 2);
}

#[test]
fn a_host_that_flaps_must_hold_out_longer_each_time() {
    let mut world = World::new(&["a"]);
    world.run(20 * SECOND);
    let mut waits = Vec::new();
    for _ in 0..5 {
        world.silence("a");
        world.run(5 * SECOND);
        assert_eq!(world.catalog[&name("a")], NodeStatus::Failed);
        world.beating.push(name("a"));
        let back = world.now + SECOND;
        while world.catalog[&name("a")] != NodeStatus::Alive {
            world.run(TICK);
        }
        waits.push((world.now - back).as_secs());
    }
    assert_eq!(waits, [0, 0, 5, 10, 15]);
    world.run(120 * SECOND);
    world.silence("a");
    world.run(5 * SECOND);
    world.beating.push(name("a"));
    world.run(SECOND);
    assert_eq!(world.catalog[&name("a")], NodeStatus::Alive, "calm forgives");
}

#[test]
fn a_verdict_that_does_not_come_true_is_given_again_but_not_all_the_time() {
    let mut machine = Liveness::default();
    let start = Instant::now();
    let members = [(name("a"), NodeStatus::Alive)];
    machine.catalog(members.iter().map(|(name, status)| (name, *status)), start);
    let mut given = 0;
    for n in 0..80 {
        let now = start + TICK * n;
        given += machine.verdicts(now).len();
    }
    assert_eq!(given, 5);
}

#[test]
fn one_that_joined_or_was_vouched_for_has_time_to_open_its_session() {
    let mut world = World::new(&[]);
    world.run(20 * SECOND);
    world.catalog.insert(name("new"), NodeStatus::Alive);
    world.sync();
    world.run(9 * SECOND);
    assert_eq!(world.log(), []);
    world.run(2 * SECOND);
    assert_eq!(world.log(), [(30_000, "new", NodeStatus::Failed)]);
    world.catalog.insert(name("new"), NodeStatus::Alive);
    world.sync();
    world.run(9 * SECOND);
    assert_eq!(world.log().len(), 1);
    world.catalog.remove(&name("new"));
    world.sync();
    assert_eq!(world.machine.metrics(world.at()).watched, 0);
}
