//! What goes on when servers, agents, proxies or whole hosts do not, and how it all comes back.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::intentions::ping;
use crate::kit::apps::{client, meshed, nginx, redis};
use crate::kit::mesh::{await_status, call};
use crate::kit::net::read_answer;
use crate::kit::wait::{LONG, SOON};
use crate::kit::{Agent, Host, Mesh, until};

pub const STORIES: &[(&str, fn())] = &[
    ("stability::no_server", no_server),
    ("stability::no_agent", no_agent),
    ("stability::hosts_come_and_go", hosts_come_and_go),
    ("stability::changes", changes),
];

/// Within five seconds by default, and then the word must get around.
const NOTICED: Duration = Duration::from_secs(8);

/// `api` and `cache` on host 3, allowed to `web` on host 2, nothing to `shop` there.
fn start() -> Mesh {
    let mesh = Mesh::start(3, "");
    mesh.on(3).register(&meshed("api", 8080));
    mesh.on(3).register(&meshed("cache", 6379));
    mesh.on(2).register(&client("web", &[("api", 9191), ("cache", 9001)]));
    mesh.on(2).register(&client("shop", &[("api", 9192)]));
    mesh.on(2).purlin(&["intention", "create", "web", "*"]);
    mesh.on(2).await_healthy("api", 1);
    mesh.on(2).await_healthy("web", 1);
    mesh
}

fn dig(host: &Host, name: &str) -> Result<String, String> {
    host.try_run("dig", &["@127.0.0.1", "-p", "8600", "+time=3", "+tries=1", "+short", name])
}

/// Traffic, discovery and decisions, as they must be on host 2 whatever else is gone.
#[track_caller]
fn all_is_well(agent: &Agent) {
    let web = &agent.host;
    assert_eq!(call(web, 9191), Ok((200, "hello\n".into())));
    assert_eq!(call(web, 9192).map(|(status, _)| status), Ok(403));
    discovery_is_well(agent);
}

#[track_caller]
fn discovery_is_well(agent: &Agent) {
    assert_eq!(dig(&agent.host, "api.service.mesh.internal"), Ok("10.77.0.3".into()));
    let entries = agent.get("/v1/health/service/api?passing").expect("the instances of api");
    assert_eq!(entries.as_array().map(Vec::len), Some(1), "{entries}");
    assert_eq!(dig(&agent.host, "web.service.consul"), Ok("10.77.0.2".into()));
    for (source, allowed) in [("web", true), ("shop", false)] {
        let path = format!("/v1/connect/intentions/check?source={source}&destination=api");
        assert_eq!(agent.get(&path).expect("a verdict")["Allowed"], allowed, "{source}");
    }
    let services = agent.get("/v1/agent/services").expect("this host's services");
    assert!(services.get("web").is_some() && services.get("shop").is_some(), "{services}");
}

/// A request every few milliseconds, on one connection and on new ones, while `what` happens; none may fail.
#[track_caller]
fn undisturbed(web: &Host, what: impl FnOnce()) {
    let over = AtomicBool::new(false);
    let asked = AtomicU32::new(0);
    let failure = std::thread::scope(|scope| {
        let steady = scope.spawn(|| {
            let mut kept = web.dial("127.0.0.1:9191").map_err(|error| error.to_string())?;
            while !over.load(Ordering::Relaxed) {
                ask(&mut kept).map_err(|error| format!("on the old connection: {error}"))?;
                let mut fresh = web.dial("127.0.0.1:9191").map_err(|error| error.to_string())?;
                ask(&mut fresh).map_err(|error| format!("on a new connection: {error}"))?;
                asked.fetch_add(2, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok::<(), String>(())
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(what));
        over.store(true, Ordering::Relaxed);
        let failure = steady.join().expect("the thread of requests");
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
        failure
    });
    let asked = asked.into_inner();
    assert_eq!(failure, Ok(()), "after {asked} requests");
    assert!(asked > 10, "only {asked} requests");
}

fn ask(line: &mut TcpStream) -> Result<(), String> {
    line.write_all(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n").map_err(|error| error.to_string())?;
    match read_answer(line)? {
        answer if answer == "hello\n" => Ok(()),
        answer => Err(answer),
    }
}

fn no_server() {
    let mut mesh = start();
    let (web, far) = (mesh.lab.host(2).clone(), mesh.lab.host(3).clone());
    let (_nginx, _redis) = (nginx(&far, 8080, "hello"), redis(&far, 6379));
    await_status(&web, 9191, 200, SOON);
    await_status(&web, 9192, 403, SOON);
    let mut old = until("redis answers", SOON, || {
        let mut line = web.dial("127.0.0.1:9001").map_err(|error| error.to_string())?;
        ping(&mut line).map(|()| line)
    });

    undisturbed(&web, || {
        mesh.on_mut(1).process.kill();
        mesh.lab.host(1).kill_all();
        until("host 2 knows that its server is gone", SOON, || {
            match mesh.on(2).metric("purlin_agent_session_connected", &[]) {
                0.0 => Ok(()),
                connected => Err(connected.to_string()),
            }
        });
        all_is_well(mesh.on(2));
    });
    ping(&mut old).expect("a connection older than the server's end goes on");
    // What is registered now is kept, and found when a server is there again.
    mesh.on(3).register(&meshed("late", 8080));
    let refusal = mesh.on(2).try_purlin(&["intention", "create", "shop", "api"]);
    assert!(refusal.is_err(), "a write without a server");

    undisturbed(&web, || {
        mesh.on_mut(1).again();
        mesh.on(1).await_ready();
        mesh.await_members(3);
        mesh.on(2).await_healthy("late", 1);
    });
    mesh.on(2).purlin(&["intention", "create", "shop", "api"]);
    await_status(&web, 9192, 200, SOON);
    mesh.on(2).purlin(&["intention", "delete", "shop", "api"]);
    await_status(&web, 9192, 403, SOON);
    all_is_well(mesh.on(2));
}

fn no_agent() {
    let mut mesh = start();
    let (web, far) = (mesh.lab.host(2).clone(), mesh.lab.host(3).clone());
    let _nginx = nginx(&far, 8080, "hello");
    await_status(&web, 9191, 200, SOON);
    await_status(&web, 9192, 403, SOON);
    // Views and certificates must be on disk before they can come from there.
    until("host 2 has saved what it knows", SOON, || saved(&web));

    mesh.on_mut(1).process.kill();
    mesh.lab.host(1).kill_all();
    let proxy = proxy_of(&web).expect("a proxy");
    undisturbed(&web, || {
        mesh.on_mut(2).process.kill();
        assert!(mesh.on(2).get("/v1/agent/self").is_err(), "the agent is still there");
        assert_eq!(proxy_of(&web).as_ref(), Some(&proxy), "the proxy went with its agent");
        for _ in 0..20 {
            assert_eq!(call(&web, 9191), Ok((200, "hello\n".into())));
        }
        // Back without a server: it finds the proxy, and all it knew.
        mesh.on_mut(2).again();
        until("the agent is back and has its proxy", LONG, || back(mesh.on(2)));
        all_is_well(mesh.on(2));
    });
    assert_eq!(proxy_of(&web).as_ref(), Some(&proxy), "the proxy was started anew");

    // Agent and proxy both gone, on both hosts of the conversation: keys and views come from disk.
    for number in [2, 3] {
        let host = mesh.lab.host(number).clone();
        let proxy = proxy_of(&host).expect("a proxy");
        mesh.on_mut(number).process.kill();
        host.run("kill", &["-KILL", &proxy]);
        mesh.on_mut(number).again();
    }
    for number in [2, 3] {
        until("the agent is back and has a proxy", LONG, || back(mesh.on(number)));
    }
    await_status(&web, 9191, 200, SOON);
    all_is_well(mesh.on(2));

    mesh.on_mut(1).again();
    mesh.await_members(3);
    mesh.on(3).purlin(&["intention", "create", "shop", "api"]);
    await_status(&web, 9192, 200, SOON);

    // A proxy that dies on its own is replaced.
    let proxy = proxy_of(&web).expect("a proxy");
    web.run("kill", &["-KILL", &proxy]);
    await_status(&web, 9191, 200, SOON);
    assert_ne!(proxy_of(&web), Some(proxy));
}

fn back(agent: &Agent) -> Result<(), String> {
    agent.get("/v1/agent/self")?;
    match agent.metric("purlin_agent_proxy_connected", &[]) {
        1.0 => Ok(()),
        _ => Err("no proxy is connected".into()),
    }
}

/// The process of the host's proxy.
fn proxy_of(host: &Host) -> Option<String> {
    host.pids().into_iter().find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.get(1).is_some_and(|word| *word == b"proxy")
    })
}

/// Whether the newest view of this host is on its disk: nothing is written any more.
fn saved(host: &Host) -> Result<(), String> {
    let younger = host.try_run("find", &["data", "-type", "f", "-newermt", "-1 seconds"])?;
    if younger.is_empty() { Ok(()) } else { Err(younger) }
}

fn hosts_come_and_go() {
    let mut mesh = Mesh::start(3, "");
    let web = mesh.lab.host(2).clone();
    let _apps = [nginx(mesh.lab.host(1), 8080, "one"), nginx(mesh.lab.host(3), 8080, "three")];
    for host in [1, 3] {
        mesh.on(host).register(&meshed("api", 8080));
    }
    mesh.on(2).register(&client("web", &[("api", 9191)]));
    mesh.on(2).purlin(&["intention", "create", "web", "api"]);
    mesh.on(2).await_healthy("api", 2);
    await_status(&web, 9191, 200, SOON);
    both(mesh.on(2));

    // Every process of the host stands still: nothing is closed, nothing answers.
    signal_all(mesh.lab.host(3), "STOP");
    gone(mesh.on(2));
    signal_all(mesh.lab.host(3), "CONT");
    both(mesh.on(2));

    mesh.lab.link(3, false);
    gone(mesh.on(2));
    mesh.lab.link(3, true);
    both(mesh.on(2));

    mesh.on_mut(3).process.kill();
    mesh.lab.host(3).kill_all();
    gone(mesh.on(2));
    mesh.on_mut(3).again();
    let _nginx = nginx(mesh.lab.host(3), 8080, "three");
    both(mesh.on(2));

    // One that leaves in order has left, and has not failed.
    mesh.on(3).purlin(&["leave"]);
    until("host 3 has left", SOON, || {
        let members = mesh.on(2).get("/v1/agent/members")?;
        let left =
            members.as_array().into_iter().flatten().any(|one| one["Name"] == "h3" && one["Status"] == 3);
        match addresses(mesh.on(2))? {
            found if left && found == ["10.77.0.1"] => Ok(()),
            found => Err(format!("{found:?} {members}")),
        }
    });
}

fn signal_all(host: &Host, signal: &str) {
    let pids = host.pids();
    let mut args = vec![format!("-{signal}")];
    args.extend(pids);
    host.run("kill", &args.iter().map(String::as_str).collect::<Vec<_>>());
}

fn addresses(agent: &Agent) -> Result<Vec<String>, String> {
    let mut found: Vec<String> =
        dig(&agent.host, "api.service.mesh.internal")?.lines().map(str::to_owned).collect();
    found.sort();
    Ok(found)
}

/// Host 3 is no longer found, and nobody is sent there.
#[track_caller]
fn gone(agent: &Agent) {
    until("DNS forgets the host", NOTICED, || match addresses(agent)? {
        found if found == ["10.77.0.1"] => Ok(()),
        found => Err(format!("{found:?}")),
    });
    until("the API forgets its instance", Duration::from_secs(1), || {
        let entries = agent.get("/v1/health/service/api?passing")?;
        let nodes: Vec<_> =
            entries.as_array().into_iter().flatten().map(|one| &one["Node"]["Node"]).collect();
        if nodes == ["h1"] { Ok(()) } else { Err(entries.to_string()) }
    });
    for _ in 0..20 {
        assert_eq!(call(&agent.host, 9191), Ok((200, "one\n".into())));
    }
    let members = agent.get("/v1/agent/members").expect("members");
    let failed =
        members.as_array().into_iter().flatten().any(|one| one["Name"] == "h3" && one["Status"] == 4);
    assert!(failed, "{members}");
}

/// Host 3 is found again, and has its share of the requests.
#[track_caller]
fn both(agent: &Agent) {
    until("DNS finds both hosts", LONG, || match addresses(agent)? {
        found if found == ["10.77.0.1", "10.77.0.3"] => Ok(()),
        found => Err(format!("{found:?}")),
    });
    until("host 3 answers requests", LONG, || match call(&agent.host, 9191)? {
        (200, body) if body == "three\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// Whatever else changes, and even what changes about the two who talk: no request fails for it.
fn changes() {
    let mesh = start();
    let (web, far) = (mesh.lab.host(2), mesh.lab.host(3));
    let _apps = [nginx(far, 8080, "hello"), nginx(mesh.lab.host(1), 8080, "hello")];
    let _redis = redis(far, 6379);
    await_status(web, 9191, 200, SOON);
    let mut old = until("redis answers", SOON, || {
        let mut line = web.dial("127.0.0.1:9001").map_err(|error| error.to_string())?;
        ping(&mut line).map(|()| line)
    });
    undisturbed(web, || {
        for round in 0..3 {
            others_change(&mesh, round);
            parties_change(&mesh, round);
        }
    });
    ping(&mut old).expect("an old connection goes on");
}

/// Strangers to the conversation come and go.
fn others_change(mesh: &Mesh, round: usize) {
    let ports = [("api", 9300), ("cache", 9301)];
    for host in [2, 3] {
        mesh.on(host).register(&meshed("other", 7000));
        mesh.on(host).register(&client("third", &ports));
    }
    mesh.on(1).purlin(&["intention", "create", "third", "*"]);
    mesh.on(1).purlin(&["intention", "create", "-deny", "third", "api"]);
    await_status(mesh.lab.host(3), 9300, 403, SOON);
    mesh.on(1).purlin(&["intention", "create", "-replace", "third", "api"]);
    await_status(mesh.lab.host(3), 9300, 200, SOON);
    let entry = serde_json::json!({"Kind": "service-defaults", "Name": "other", "Protocol": "http"});
    assert_eq!(mesh.on(2).put("/v1/config", &entry.to_string()).expect("an answer").0, 200, "round {round}");
    for host in [2, 3] {
        for service in ["other", "third"] {
            mesh.on(host).purlin(&["services", "deregister", &format!("-id={service}")]);
        }
    }
    for (source, destination) in [("third", "*"), ("third", "api")] {
        mesh.on(1).purlin(&["intention", "delete", source, destination]);
    }
}

/// The caller gets one more upstream, the called one another tag, a second instance and loses it again.
fn parties_change(mesh: &Mesh, round: usize) {
    let more = [("api", 9191), ("cache", 9001), ("late", 9400)];
    mesh.on(2).register(&client("web", &more));
    await_status(mesh.lab.host(2), 9400, 503, SOON);
    mesh.on(2).register(&client("web", &more[..2]));
    let mut api = meshed("api", 8080);
    api["Tags"] = serde_json::json!([format!("round-{round}")]);
    api["Meta"] = serde_json::json!({"round": round.to_string()});
    mesh.on(3).register(&api);
    mesh.on(1).register(&api);
    mesh.on(2).await_healthy("api", 2);
    mesh.on(1).purlin(&["intention", "create", "-replace", "web", "api"]);
    mesh.on(3).purlin(&["reload"]);
    mesh.on(1).purlin(&["services", "deregister", "-id=api"]);
    mesh.on(2).await_healthy("api", 1);
    mesh.on(1).purlin(&["intention", "delete", "web", "api"]);
}
