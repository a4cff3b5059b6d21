//! What three servers promise together: nothing acknowledged is lost and no read lies, whatever befalls one of them.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use purlin_history::{Answer, History, Op};

use crate::kit::apps::{client, meshed, nginx};
use crate::kit::cluster::{PATIENT, await_voters, join_server, leader, servers};
use crate::kit::mesh::await_status;
use crate::kit::net::read_reply;
use crate::kit::wait::{LONG, SOON};
use crate::kit::{Agent, Host, Lab, until};

pub const STORIES: &[(&str, fn())] = &[
    ("cluster::any_server_takes_writes_and_reads", any_server_takes_writes_and_reads),
    ("cluster::no_read_lies_while_servers_are_killed", no_read_lies_while_servers_are_killed),
    ("cluster::no_read_lies_while_links_are_cut", no_read_lies_while_links_are_cut),
    ("cluster::a_write_under_way_outlives_its_leader", a_write_under_way_outlives_its_leader),
    ("cluster::agents_hardly_notice", agents_hardly_notice),
    ("cluster::an_older_build_holds_the_mesh_back", an_older_build_holds_the_mesh_back),
];

/// Writes on one server, and each other one knows at once.
fn any_server_takes_writes_and_reads() {
    let lab = Lab::new(4);
    let servers = servers(&lab, 3, "");
    for (index, server) in servers.iter().enumerate() {
        let key = format!("/v1/kv/from/{index}");
        assert_eq!(server.put(&key, "x"), Ok((200, "true".into())));
        for other in &servers {
            // By lease, by read index.
            assert!(other.get(&key).is_ok(), "{key} is not on {}", other.host.name);
            assert!(other.get(&format!("{key}?consistent")).is_ok());
        }
    }
    let stale = |server: &Agent| {
        let url = "http://127.0.0.1:8500/v1/kv/from/0?stale";
        let (_, answer) = server.host.curl(&["-i", url]).expect("an answer");
        let header = |name: &str| {
            let line = answer.lines().find(|line| line.to_ascii_lowercase().starts_with(name));
            line.and_then(|line| line.rsplit(' ').next()).map(str::trim).unwrap_or_default().to_owned()
        };
        (header("x-consul-knownleader:"), header("x-consul-lastcontact:"))
    };
    for server in &servers {
        let (known, age) = stale(server);
        assert_eq!(known, "true");
        assert!(age.parse::<u64>().is_ok_and(|age| age < 5_000), "{age:?}");
    }

    // Cut off from the others, a server still tells what it has, says how old that is, and takes nothing.
    let alone = (leader(&servers).expect("a leader") + 1) % 3;
    let cut = servers[alone].host.number;
    for other in (1..=3).filter(|other| *other != cut) {
        lab.part(cut, other);
    }
    until("it says that what it knows is old", LONG, || match stale(&servers[alone]) {
        (_, age) if age.parse::<u64>().is_ok_and(|age| age > 1_000) => Ok(()),
        told => Err(format!("{told:?}")),
    });
    let (status, text) = servers[alone].put("/v1/kv/from/nowhere", "x").expect("an answer");
    assert_eq!((status, text.as_str()), (500, "No cluster leader"));
    assert!(servers[alone].get("/v1/kv/from/0").is_err(), "a read that cannot be fresh was answered");
    lab.heal();
    until("it is back", LONG, || servers[alone].get("/v1/kv/from/0?consistent").map(|_| ()));
    assert!(servers[alone].get("/v1/kv/from/nowhere").is_err(), "what was refused was done");
}

fn no_read_lies_while_servers_are_killed() {
    let lab = Lab::new(3);
    let mut servers = servers(&lab, 3, "");
    under_load(&lab, |acknowledged| {
        for round in 0..4 {
            let at = until("somebody leads", LONG, || leader(&servers));
            match round % 2 {
                0 => {
                    servers[at].process.kill();
                    progress(acknowledged);
                    servers[at].again();
                }
                _ => {
                    servers[at].process.signal("STOP");
                    progress(acknowledged);
                    servers[at].process.signal("CONT");
                }
            }
            until("all three agree", PATIENT, || all_agree(&servers));
        }
    });
}

fn no_read_lies_while_links_are_cut() {
    let lab = Lab::new(3);
    let servers = servers(&lab, 3, "");
    under_load(&lab, |acknowledged| {
        for round in 0..4 {
            let at = until("somebody leads", LONG, || leader(&servers)) + 1;
            let (next, last) = (at % 3 + 1, (at + 1) % 3 + 1);
            match round {
                // The leader hears nobody and nobody hears it.
                0 => {
                    lab.part(at, next);
                    lab.part(at, last);
                }
                // It is heard, and hears nothing.
                1 => {
                    lab.cut(next, at);
                    lab.cut(last, at);
                }
                // It hears, and is not heard.
                2 => {
                    lab.cut(at, next);
                    lab.cut(at, last);
                }
                // Two that follow do not see each other.
                _ => lab.part(next, last),
            }
            progress(acknowledged);
            lab.heal();
            until("all three agree", PATIENT, || all_agree(&servers));
        }
    });
}

/// Who writes on another server at the moment at which the leader falls silent gets an answer of the next leader.
fn a_write_under_way_outlives_its_leader() {
    let lab = Lab::new(3);
    let mut servers = servers(&lab, 3, "");
    for (round, signal) in ["STOP", "KILL"].into_iter().enumerate() {
        let first = leader(&servers).expect("a leader");
        servers[first].process.signal(signal);
        for offset in [1, 2] {
            let other = &servers[(first + offset) % 3];
            let key = format!("/v1/kv/{signal}/{offset}");
            let url = format!("http://127.0.0.1:8500{key}");
            let answer = other.host.curl(&["--max-time", "60", "-X", "PUT", "-d", "x", &url]);
            assert_eq!(answer, Ok((200, "true".into())), "round {round}: {}", other.process.log());
            assert!(other.get(&format!("{key}?consistent")).is_ok());
        }
        match signal {
            "STOP" => servers[first].process.signal("CONT"),
            _ => servers[first].again(),
        }
        servers[first].await_ready();
        await_voters(&servers[first], 3);
    }
}

fn all_agree(servers: &[Agent]) -> Result<(), String> {
    for server in servers {
        server.get("/v1/kv/?keys&consistent")?;
    }
    Ok(())
}

/// Until more writes are acknowledged, by whoever can.
fn progress(acknowledged: &AtomicU64) {
    let before = acknowledged.load(Ordering::SeqCst);
    until("writes go on", PATIENT, || match acknowledged.load(Ordering::SeqCst) {
        now if now > before + 20 => Ok(()),
        now => Err(format!("{now} acknowledged, {before} before")),
    });
}

const CLIENTS: u32 = 6;
const KEYS: u64 = 3;

/// Clients of all servers read, write and swap a few keys while `trouble` goes on; then what they saw is judged.
fn under_load(lab: &Lab, trouble: impl FnOnce(&AtomicU64)) {
    let history = History::new();
    let (stop, acknowledged, values) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(1));
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let host = lab.host(usize::try_from(number).unwrap_or(0) % 3 + 1);
            let (history, stop, acknowledged, values) = (&history, &stop, &acknowledged, &values);
            scope.spawn(move || {
                let mut client = Client::new(host, number);
                while !stop.load(Ordering::SeqCst) {
                    client.turn(history, values, acknowledged);
                }
            });
        }
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| trouble(&acknowledged)));
        stop.store(true, Ordering::SeqCst);
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
    let operations = history.operations().len();
    if let Err(broken) = history.check() {
        panic!("{operations} operations, and they are not linearizable: {broken}");
    }
    assert!(operations > 200, "only {operations} operations say little");
}

/// One that does one thing after another on its host, over a connection that it keeps.
struct Client<'a> {
    host: &'a Host,
    number: u32,
    line: Option<TcpStream>,
    dice: fastrand::Rng,
    /// What it saw last of each key: the index to swap with, and the value.
    seen: Vec<(u64, Option<u64>)>,
}

impl<'a> Client<'a> {
    fn new(host: &'a Host, number: u32) -> Self {
        let dice = fastrand::Rng::with_seed(u64::from(number) + 1);
        Self { host, number, line: None, dice, seen: vec![(0, None); KEYS as usize] }
    }

    fn turn(&mut self, history: &History, values: &AtomicU64, acknowledged: &AtomicU64) {
        let at = self.dice.u64(..KEYS);
        let key = format!("register/{at}");
        let (index, seen) = self.seen[at as usize];
        let value = values.fetch_add(1, Ordering::SeqCst);
        let (op, method, query, body) = match self.dice.u8(..10) {
            0..=4 => (Op::Read, "GET", if self.dice.bool() { "?consistent" } else { "" }.to_owned(), None),
            5..=7 => (Op::Write(value), "PUT", String::new(), Some(value)),
            // Index 0 means: only where there is nothing.
            _ => (Op::Cas { expected: seen, new: value }, "PUT", format!("?cas={index}"), Some(value)),
        };
        let ticket = history.begin(self.number, &key, op);
        let Some((status, text)) = self.ask(method, &format!("/v1/kv/{key}{query}"), body) else { return };
        let answer = match (op, status) {
            (Op::Read, 200 | 404) => {
                self.seen[at as usize] = parse(&text);
                Answer::Value(self.seen[at as usize].1)
            }
            (Op::Write(_), 200) => Answer::Done,
            (Op::Cas { .. }, 200) => Answer::Swapped(text.trim() == "true"),
            // Whether it was carried out, nobody knows.
            _ => return,
        };
        ticket.answer(answer);
        if method == "PUT" {
            acknowledged.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn ask(&mut self, method: &str, path: &str, body: Option<u64>) -> Option<(u16, String)> {
        let answered = self.try_ask(method, path, body);
        if answered.is_none() {
            self.line = None;
        }
        answered
    }

    fn try_ask(&mut self, method: &str, path: &str, body: Option<u64>) -> Option<(u16, String)> {
        if self.line.is_none() {
            let begun = Instant::now();
            self.line = self.host.dial("127.0.0.1:8500").ok();
            if self.line.is_none() && begun.elapsed() < Duration::from_millis(50) {
                // Nobody listens there at the moment.
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let line = self.line.as_mut()?;
        let body = body.map(|value| value.to_string()).unwrap_or_default();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        line.write_all(format!("{head}{body}").as_bytes()).ok()?;
        read_reply(line).ok()
    }
}

/// The index and the value of a key as the API tells them; nothing where there is no such key.
fn parse(text: &str) -> (u64, Option<u64>) {
    let entries: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let Some(entry) = entries.get(0) else { return (0, None) };
    let bytes = entry["Value"].as_str().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
    let value = String::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
    (entry["ModifyIndex"].as_u64().unwrap_or(0), value)
}

/// The leader goes, and another: names, requests and verdicts go on, and so do writes while two are left.
fn agents_hardly_notice() {
    let lab = Lab::new(5);
    let mut servers = servers(&lab, 3, "");
    let agents: Vec<Agent> = [4, 5]
        .map(|host| {
            let token = servers[0].purlin(&["join-token", "create"]);
            let agent = Agent::start(lab.host(host), "agent", "", &["--join", token.trim()]);
            agent.await_ready();
            agent
        })
        .into();
    let _nginx = nginx(lab.host(5), 8080, "hello");
    agents[1].register(&meshed("api", 8080));
    agents[0].register(&client("web", &[("api", 9191)]));
    agents[0].purlin(&["intention", "create", "web", "api"]);
    await_status(lab.host(4), 9191, 200, SOON);
    let alive = |agent: &Agent, wanted: usize| {
        until(&format!("{wanted} hosts alive"), PATIENT, || {
            let members = agent.get("/v1/agent/members")?;
            let alive = members.as_array().into_iter().flatten().filter(|one| one["Status"] == 1).count();
            if alive == wanted { Ok(()) } else { Err(format!("{alive}: {members}")) }
        });
    };
    alive(&agents[0], 5);
    for _ in 0..2 {
        let at = until("somebody leads", LONG, || leader(&servers));
        servers[at].process.kill();
        // A write of an agent finds the servers that are left.
        until("a write is taken", LONG, || match agents[0].put("/v1/kv/still", "here")? {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        await_status(lab.host(4), 9191, 200, SOON);
        agents[0].await_healthy("api", 1);
        // The server is failed, and no other host with it.
        alive(&agents[0], 4);
        servers[at].again();
        alive(&agents[0], 5);
    }
    // All of them: nothing can be written, and all else goes on.
    for server in &mut servers {
        server.process.kill();
    }
    let (status, text) = agents[0].put("/v1/kv/still", "gone").expect("an answer");
    assert_eq!((status, text.as_str()), (500, "No cluster leader"));
    await_status(lab.host(4), 9191, 200, SOON);
    agents[0].await_healthy("api", 1);
    for server in &mut servers {
        server.again();
    }
    alive(&agents[0], 5);
    let entry = agents[0].get("/v1/kv/still").expect("what was acknowledged");
    assert_eq!(entry[0]["Value"], STANDARD.encode("here"));
}

/// Until every server is of the new build, nobody writes what the old one would not understand.
fn an_older_build_holds_the_mesh_back() {
    let lab = Lab::new(3);
    let token = |by: &Agent| by.purlin(&["join-token", "create", "--role", "server"]);
    let old = |host: usize, flags: &[&str]| {
        let host = lab.host(host);
        let server = Agent::start_with_env(host, "server", "", flags, &[("PURLIN_TEST_LEVEL", "1")]);
        server.await_ready();
        server
    };
    let one = old(1, &["--bootstrap"]);
    let two = old(2, &["--join", token(&one).trim()]);
    // A new build among old ones speaks as they do.
    let three = join_server(&lab, 3, &one, "");
    let put = |by: &Agent| by.put("/v1/kv/new", "x");
    let (status, text) = put(&three).expect("an answer");
    assert!(status == 409 && text.contains("upgrade h1, h2"), "{status} {text}");
    one.purlin(&["intention", "create", "web", "api"]);
    assert!(three.purlin(&["intention", "list"]).contains("web"));
    // One after the other is upgraded, and the last one lets the mesh rise.
    let mut fleet = [one, two];
    for server in &mut fleet {
        assert_eq!(put(&three).map(|(status, _)| status), Ok(409));
        server.process.stop();
        *server = Agent::restart(&server.host.clone(), "server", &[]);
        server.await_ready();
    }
    until("the mesh has risen", PATIENT, || match put(&three)? {
        (200, text) if text == "true" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(fleet[0].purlin(&["intention", "list"]).contains("web"));
}
