use purlin_wire::rpc::Presence;

use super::*;

/// Virtual time, a catalog that obeys every verdict, servers that report as they do, and hosts that beat or do not.
struct World {
    machine: Liveness,
    start: Instant,
    now: Duration,
    catalog: BTreeMap<NodeName, NodeStatus>,
    servers: BTreeMap<NodeName, Server>,
    /// Each with the server that has its session.
    beating: Vec<(NodeName, NodeName)>,
    log: Vec<(u64, String, NodeStatus)>,
}

struct Server {
    sessions: Sessions,
    /// The leader knows all there is.
    told: bool,
    /// It reaches the leader.
    heard: bool,
}

const S1: &str = "s1";

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

impl World {
    /// One server, and hosts with sessions there.
    fn new(hosts: &[&str]) -> Self {
        Self::with(&[S1], hosts)
    }

    fn with(servers: &[&str], hosts: &[&str]) -> Self {
        let start = Instant::now();
        let server = |server: &&str| {
            let sessions = Sessions::new(name(server), uuid::Uuid::new_v4(), start);
            (name(server), Server { sessions, told: false, heard: true })
        };
        let mut world = Self {
            machine: Liveness::default(),
            start,
            now: Duration::ZERO,
            catalog: hosts.iter().map(|host| (name(host), NodeStatus::Alive)).collect(),
            servers: servers.iter().map(server).collect(),
            beating: Vec::new(),
            log: Vec::new(),
        };
        world.machine.led();
        world.sync();
        for (host, server) in hosts.iter().zip(servers.iter().cycle()) {
            world.beating.push((name(host), name(server)));
        }
        world
    }

    fn at(&self) -> Instant {
        self.start + self.now
    }

    fn sync(&mut self) {
        let now = self.at();
        self.machine.catalog(self.catalog.iter().map(|(name, status)| (name, *status)), now);
    }

    fn sessions(&mut self, server: &str) -> &mut Sessions {
        &mut self.servers.get_mut(&name(server)).unwrap().sessions
    }

    /// Beats fall on whole seconds; the first opens the session.
    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now += TICK;
            if self.now.subsec_nanos() == 0 {
                for (host, server) in self.beating.clone() {
                    let now = self.at();
                    let sessions = self.sessions(server.as_str());
                    sessions.beat(&host, now);
                    if !sessions.has(&host) {
                        sessions.opened(&host, None, now);
                    }
                }
            }
            self.look();
        }
    }

    fn look(&mut self) {
        let now = self.at();
        for (server, one) in &mut self.servers {
            one.sessions.look(now);
            if !one.heard {
                one.told = false;
                continue;
            }
            let rosters = if one.told { one.sessions.changes(now) } else { one.sessions.whole(now) };
            one.told = true;
            for roster in rosters {
                one.told &= !self.machine.roster(server, roster, now).tell_all;
            }
        }
        self.sync();
        for (host, status) in self.machine.verdicts(now) {
            self.log.push((self.now.as_millis() as u64, host.to_string(), status));
            self.catalog.insert(host, status);
        }
        self.sync();
    }

    fn silence(&mut self, host: &str) {
        self.beating.retain(|(beating, _)| *beating != name(host));
    }

    fn beats(&mut self, host: &str, server: &str) {
        self.beating.push((name(host), name(server)));
    }

    fn goodbye(&mut self, host: &str, server: &str) {
        self.silence(host);
        let now = self.at();
        self.sessions(server).goodbye(&name(host));
        self.sessions(server).closed(&name(host), now);
    }

    /// The link between a host and its server is no more, and both notice.
    fn break_session(&mut self, host: &str, server: &str) {
        self.silence(host);
        let now = self.at();
        self.sessions(server).closed(&name(host), now);
    }

    /// Each errand that is due, and who may be asked.
    fn errands(&mut self) -> Vec<(String, Vec<String>)> {
        let errands = self.machine.errands(self.at(), &mut fastrand::Rng::with_seed(7));
        let helpers = |errand: &Errand| errand.helpers.iter().map(|(one, _)| one.to_string()).collect();
        errands.iter().map(|errand| (errand.node.to_string(), helpers(errand))).collect()
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
    world.beats("a", S1);
    world.run(SECOND);
    assert_eq!(world.log()[1..], [(36_000, "a", NodeStatus::Alive)]);
}

#[test]
fn goodbye_counts_at_once_and_coming_back_too() {
    let mut world = World::new(&["a"]);
    world.run(2 * SECOND);
    world.goodbye("a", S1);
    world.look();
    assert_eq!(world.log(), [(2_000, "a", NodeStatus::Left)]);
    world.run(60 * SECOND);
    assert_eq!(world.log().len(), 1, "one that left is never failed");
    world.beats("a", S1);
    world.run(SECOND);
    assert_eq!(world.log()[1..], [(63_000, "a", NodeStatus::Alive)]);
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
        world.beats(host, S1);
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
        world.beats("a", S1);
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
    world.beats("a", S1);
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

#[test]
fn a_host_lives_as_long_as_any_server_hears_it() {
    let mut world = World::with(&["s1", "s2", "s3"], &["a", "b", "c"]);
    world.run(20 * SECOND);
    assert_eq!(world.log(), []);
    // From one server to another, with a moment in between.
    world.break_session("a", "s1");
    world.run(2 * SECOND);
    world.beats("a", "s2");
    world.run(60 * SECOND);
    // And with the next session before the end of the last.
    let now = world.at();
    world.sessions("s3").opened(&name("a"), None, now);
    world.beats("a", "s3");
    world.beating.retain(|(host, server)| *host != name("a") || *server == name("s3"));
    world.sessions("s2").closed(&name("a"), now);
    world.run(60 * SECOND);
    assert_eq!(world.log(), []);
    world.silence("a");
    world.run(5 * SECOND);
    assert_eq!(world.log().len(), 1);
}

#[test]
fn a_failed_server_fails_its_own_host_and_no_other() {
    let mut world = World::with(&["s1", "s2", "s3"], &["a", "b", "c", "d", "s1", "s2", "s3"]);
    for server in ["s1", "s2", "s3"] {
        world.silence(server);
    }
    world.run(20 * SECOND);
    assert_eq!(world.log(), []);
    world.servers.remove(&name("s2"));
    world.silence("b");
    world.run(5 * SECOND);
    assert_eq!(world.log(), [(24_500, "s2", NodeStatus::Failed)]);
    world.run(5 * SECOND);
    world.beats("b", "s3");
    world.run(60 * SECOND);
    assert_eq!(world.log().len(), 1, "{:?}", world.log());
    // A host that died with its server is found out, too.
    let mut world = World::with(&["s1", "s2"], &["a", "b"]);
    world.run(20 * SECOND);
    world.servers.remove(&name("s2"));
    world.silence("b");
    world.run(20 * SECOND);
    assert_eq!(world.log(), [(33_000, "b", NodeStatus::Failed)]);
}

#[test]
fn a_new_leader_asks_for_everything_and_fails_nobody() {
    let mut world = World::with(&["s1", "s2"], &["a", "b", "c", "d"]);
    world.run(20 * SECOND);
    world.machine = Liveness::default();
    world.machine.led();
    world.run(SECOND);
    assert_eq!(world.log(), []);
    assert_eq!(world.machine.metrics(world.at()).reporters, 2);
    world.silence("b");
    world.run(5 * SECOND);
    assert_eq!(world.log(), [(25_500, "b", NodeStatus::Failed)]);
}

#[test]
fn a_roster_that_does_not_fit_is_asked_for_as_a_whole() {
    let start = Instant::now();
    let server = name("s2");
    let mut sessions = Sessions::new(server.clone(), uuid::Uuid::from_u128(1), start);
    let mut machine = Liveness::default();
    let mut say = |rosters: Vec<Roster>| -> Vec<bool> {
        rosters.into_iter().map(|roster| machine.roster(&server, roster, start).tell_all).collect()
    };
    assert_eq!(say(sessions.changes(start)), [true], "nothing is known yet");
    assert_eq!(say(sessions.whole(start)), [false]);
    sessions.opened(&name("a"), None, start);
    assert_eq!(say(sessions.changes(start)), [false]);
    sessions.opened(&name("b"), None, start);
    sessions.changes(start);
    assert_eq!(say(sessions.changes(start)), [true], "one was lost");
    assert_eq!(say(sessions.changes(start)), [true], "and is not forgotten");
    assert_eq!(say(sessions.whole(start)), [false]);
    let mut wrong = sessions.changes(start);
    wrong[0].sum += 1;
    assert_eq!(say(wrong), [true]);
    let mut again = Sessions::new(server.clone(), uuid::Uuid::from_u128(2), start);
    again.whole(start);
    assert_eq!(say(again.changes(start)), [true], "another run of it");
    assert_eq!(say(again.whole(start)), [false]);
}

#[test]
fn a_server_that_was_cut_off_from_the_leader_is_heard_again() {
    let mut world = World::with(&["s1", "s2"], &["a", "b"]);
    world.run(20 * SECOND);
    world.servers.get_mut(&name("s2")).unwrap().heard = false;
    world.run(10 * SECOND);
    assert_eq!(world.machine.metrics(world.at()).reporters, 1);
    world.servers.get_mut(&name("s2")).unwrap().heard = true;
    world.run(60 * SECOND);
    assert_eq!(world.log(), []);
    assert_eq!(world.machine.metrics(world.at()).reporters, 2);
}

#[test]
fn a_silent_host_is_probed_through_others_and_stays_alive_if_one_reaches_it() {
    let mut world = World::with(&["s1", "s2"], &["a", "b", "c", "d", "e", "s1"]);
    world.silence("s1");
    world.run(20 * SECOND);
    assert_eq!(world.errands(), []);
    world.silence("a");
    world.run(Duration::from_millis(2_750));
    assert_eq!(world.errands(), []);
    world.run(TICK);
    let [(node, helpers)] = &world.errands()[..] else { panic!("no errand") };
    assert_eq!(node, "a");
    assert_eq!(helpers.len(), 3);
    assert!(!helpers.contains(&"a".to_owned()) && !helpers.contains(&"s1".to_owned()), "{helpers:?}");
    assert_eq!(world.errands(), [], "not twice at once");
    world.run(SECOND);
    world.machine.reached(&name("a"), world.at());
    for _ in 0..20 {
        world.run(Duration::from_millis(1_500));
        assert_eq!(world.errands().len(), 1, "as long as no server hears it");
        world.machine.reached(&name("a"), world.at());
    }
    assert_eq!(world.log(), []);
    let metrics = world.machine.metrics(world.at());
    assert_eq!((metrics.suspected, metrics.cut_off), (1, 1));
    // Now nobody reaches it.
    world.run(5 * SECOND);
    assert_eq!(world.log().len(), 1);
    assert_eq!(world.machine.metrics(world.at()).cut_off, 0);
    world.beats("a", "s2");
    world.run(SECOND);
    assert_eq!(world.log()[1].2, NodeStatus::Alive);
}

#[test]
fn a_broken_session_has_the_host_probed_at_once() {
    let mut world = World::with(&["s1", "s2"], &["a", "b", "c"]);
    world.run(20 * SECOND);
    world.break_session("a", "s1");
    world.look();
    assert_eq!(world.errands().len(), 1);
    world.run(4 * SECOND);
    assert_eq!(world.log(), []);
    world.run(SECOND);
    assert_eq!(world.log(), [(24_500, "a", NodeStatus::Failed)]);
    world.run(10 * SECOND);
    assert_eq!(world.errands(), [], "a verdict that was given is not asked about");
}

#[test]
fn answers_that_are_under_way_are_waited_for_but_not_for_ever() {
    let mut world = World::with(&["s1", "s2"], &["a", "b", "c"]);
    world.run(20 * SECOND);
    world.silence("a");
    world.run(Duration::from_millis(4_250));
    assert_eq!(world.errands().len(), 1);
    world.run(SECOND);
    assert_eq!(world.log(), []);
    assert_eq!(world.errands(), []);
    world.run(SECOND);
    assert_eq!(world.log(), [(25_750, "a", NodeStatus::Failed)]);
}

#[test]
fn with_nobody_to_ask_silence_is_judged_alone() {
    let mut world = World::new(&["a"]);
    world.run(20 * SECOND);
    world.silence("a");
    world.run(4 * SECOND);
    assert_eq!(world.errands(), []);
    world.run(SECOND);
    assert_eq!(world.log(), [(24_500, "a", NodeStatus::Failed)]);
}

#[test]
fn a_host_that_beats_slower_has_more_time() {
    let mut world = World::new(&["a"]);
    world.run(20 * SECOND);
    let now = world.at();
    world.sessions(S1).paced(&name("a"), 2 * SECOND, now);
    world.silence("a");
    world.run(8 * SECOND);
    assert_eq!(world.log(), []);
    world.run(2 * SECOND);
    assert_eq!(world.log(), [(29_000, "a", NodeStatus::Failed)]);
}

#[test]
fn grace_grows_with_those_who_must_come_back_and_has_an_end() {
    assert_eq!(grace_of(3), GRACE);
    assert_eq!(grace_of(3_000), 4 * GRACE);
    assert_eq!(grace_of(usize::MAX), GRACE_MAX);
}

#[test]
fn errands_have_a_limit() {
    let start = Instant::now();
    let mut machine = Liveness::default();
    let names: Vec<NodeName> = (0..300).map(|n| name(&format!("h{n}"))).collect();
    machine.catalog(names.iter().map(|name| (name, NodeStatus::Alive)), start);
    let here = |node: &NodeName, contact| Presence {
        node: node.clone(),
        contact,
        silent_ms: 0,
        beat_ms: 1_000,
        probe: None,
    };
    for (number, contact) in [(1, Contact::Here), (2, Contact::Broken)] {
        let broken = if contact == Contact::Here { &names[..] } else { &names[..200] };
        let changes = broken.iter().map(|node| here(node, contact)).collect();
        let boot = uuid::Uuid::from_u128(1);
        let left = if contact == Contact::Here { &names[..] } else { &names[200..] };
        let (count, sum) = (left.len() as u64, name_sum(left.iter()));
        let roster = Roster { boot, number, whole: number == 1, changes, more: false, count, sum };
        assert!(!machine.roster(&name("s1"), roster, start).tell_all);
    }
    assert_eq!(machine.errands(start, &mut fastrand::Rng::with_seed(1)).len(), 64);
}

#[test]
fn a_goodbye_is_not_taken_back_by_what_is_older_but_it_is_by_a_return() {
    let mut world = World::with(&["s1", "s2"], &["a", "b"]);
    world.run(20 * SECOND);
    // Both have a session of it, and only one hears the goodbye.
    let now = world.at();
    world.sessions("s2").opened(&name("a"), None, now);
    world.look();
    world.goodbye("a", "s1");
    world.look();
    assert_eq!(world.log(), [(20_000, "a", NodeStatus::Left)]);
    world.servers.get_mut(&name("s2")).unwrap().told = false;
    world.run(2 * SECOND);
    assert_eq!(world.log().len(), 1, "what the other has is older");
    // It is back where everything is told at once, as by a server that started again.
    world.beats("a", "s2");
    world.servers.get_mut(&name("s2")).unwrap().told = false;
    world.run(10 * SECOND);
    assert_eq!(world.log()[1].2, NodeStatus::Alive);
    assert_eq!(world.log().len(), 2);
}
