//! What goes on when servers, agents, proxies and whole hosts do not: traffic, names, verdicts.

use std::io::Write;
use std::time::Duration;

use crate::kit::apps::{client, meshed, nginx};
use crate::kit::mesh::{await_status, call};
use crate::kit::net::read_answer;
use crate::kit::wait::{LONG, SOON};
use crate::kit::{Agent, Host, Mesh, Process, until};

pub const STORIES: &[(&str, fn())] =
    &[("stability::without_a_server", without_a_server), ("stability::hosts_come_and_go", hosts_come_and_go)];

/// Silence that fails a host, and what it takes for everybody to know, on a busy machine.
const NOTICED: Duration = Duration::from_secs(10);

/// api on hosts 1 and 3, web on host 2, allowed.
fn two_apis() -> (Mesh, [Process; 2]) {
    let mesh = Mesh::start(3, "");
    let apps = [nginx(mesh.lab.host(1), 8080, "one"), nginx(mesh.lab.host(3), 8080, "three")];
    for host in [1, 3] {
        mesh.on(host).register(&meshed("api", 8080));
    }
    mesh.on(2).register(&client("web", &[("api", 9191)]));
    mesh.on(2).purlin(&["intention", "create", "web", "api"]);
    mesh.on(2).await_healthy("api", 2);
    await_status(mesh.lab.host(2), 9191, 200, SOON);
    (mesh, apps)
}

/// Addresses that DNS gives for a service, in order.
fn addresses(host: &Host, service: &str) -> Result<Vec<String>, String> {
    let name = format!("{service}.service.mesh.internal");
    let text = host.try_run("dig", &["@127.0.0.1", "-p", "8600", "+tries=1", "+time=5", "+short", &name])?;
    let mut found: Vec<String> = text.lines().map(str::to_owned).collect();
    found.sort_unstable();
    Ok(found)
}

#[track_caller]
fn resolves(host: &Host, service: &str, wanted: &[&str], limit: Duration) {
    until(&format!("{service} is at {wanted:?}"), limit, || match addresses(host, service)? {
        found if found == wanted => Ok(()),
        found => Err(format!("{found:?}")),
    });
}

/// Traffic, names, verdicts and the API of the host of web.
#[track_caller]
fn all_goes_on(agent: &Agent) {
    let host = &agent.host;
    for _ in 0..10 {
        assert_eq!(call(host, 9191).map(|(status, _)| status), Ok(200));
    }
    resolves(host, "api", &["10.77.0.1", "10.77.0.3"], Duration::ZERO);
    resolves(host, "web", &["10.77.0.2"], Duration::ZERO);
    assert_eq!(agent.purlin(&["intention", "check", "web", "api"]), "Allowed");
    assert!(agent.try_purlin(&["intention", "check", "other", "api"]).is_err());
    for path in ["/v1/health/service/api?passing", "/v1/agent/services", "/v1/agent/connect/ca/roots"] {
        let answer = agent.get(path).unwrap_or_else(|error| panic!("{error}"));
        assert!(answer.to_string().len() > 10, "{path}: {answer}");
    }
}

fn without_a_server() {
    let (mut mesh, _apps) = two_apis();
    // The server's host also runs an instance of api: its proxy and nginx go on, the server process is gone.
    let web = mesh.lab.host(2).clone();
    all_goes_on(mesh.on(2));
    let mut kept = web.dial("127.0.0.1:9191").expect("a connection");
    let ask = "GET / HTTP/1.1\r\nHost: api\r\n\r\n";
    kept.write_all(ask.as_bytes()).expect("a request");
    read_answer(&mut kept).expect("an answer");

    mesh.on_mut(1).process.kill();
    all_goes_on(mesh.on(2));
    kept.write_all(ask.as_bytes()).expect("a request on the same connection");
    read_answer(&mut kept).expect("an answer on the same connection");

    // The agent dies: its proxy serves on. It comes back with what lies on its disk, and adopts the proxy.
    mesh.on_mut(2).process.kill();
    assert_eq!(call(&web, 9191).map(|(status, _)| status), Ok(200));
    mesh.on_mut(2).again();
    await_api(mesh.on(2));
    all_goes_on(mesh.on(2));
    kept.write_all(ask.as_bytes()).expect("a request on the old connection");
    read_answer(&mut kept).expect("an answer on the old connection");

    // All that is ours on the host dies: a new proxy gets the view from the disk, too.
    mesh.on_mut(2).process.kill();
    web.kill_all();
    mesh.on_mut(2).again();
    await_api(mesh.on(2));
    await_status(&web, 9191, 200, SOON);
    all_goes_on(mesh.on(2));

    // What is registered meanwhile is kept, and known to all once the server is back.
    mesh.on(2).register(&meshed("late", 81));
    mesh.on_mut(1).again();
    mesh.on(1).await_ready();
    mesh.await_members(3);
    mesh.on(3).await_healthy("late", 1);
    mesh.on(2).purlin(&["intention", "create", "-deny", "-replace", "web", "api"]);
    await_status(&web, 9191, 403, SOON);
}

#[track_caller]
fn await_api(agent: &Agent) {
    until("the agent's API answers", LONG, || agent.get("/v1/agent/self"));
}

/// Signals every process of a host.
fn signal_all(host: &Host, signal: &str) {
    let pids = host.pids();
    let signal = format!("-{signal}");
    let mut words = vec![signal.as_str()];
    words.extend(pids.iter().map(String::as_str));
    host.run("kill", &words);
}

fn hosts_come_and_go() {
    let (mut mesh, _apps) = two_apis();
    let web = mesh.lab.host(2).clone();
    let alone = ["10.77.0.1"];
    let both = ["10.77.0.1", "10.77.0.3"];
    let only_one = || {
        for _ in 0..6 {
            assert_eq!(call(&web, 9191), Ok((200, "one\n".into())));
        }
    };

    // Cut off, and back.
    mesh.lab.link(3, false);
    resolves(&web, "api", &alone, NOTICED);
    only_one();
    mesh.lab.link(3, true);
    resolves(&web, "api", &both, LONG);

    // Frozen, and thawed.
    signal_all(mesh.lab.host(3), "STOP");
    resolves(&web, "api", &alone, NOTICED);
    only_one();
    signal_all(mesh.lab.host(3), "CONT");
    resolves(&web, "api", &both, LONG);

    // A power cut: nothing says goodbye.
    mesh.on_mut(3).process.kill();
    mesh.lab.host(3).kill_all();
    resolves(&web, "api", &alone, NOTICED);
    only_one();
    let health = mesh.on(2).get("/v1/health/node/h3").expect("its checks");
    assert!(health.to_string().contains("critical"), "{health}");
    let _api = nginx(mesh.lab.host(3), 8080, "three");
    mesh.on_mut(3).again();
    resolves(&web, "api", &both, LONG);
    until("host 3 is called again", LONG, || match call(&web, 9191)? {
        (200, body) if body == "three\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });

    // One that leaves in order is known to have left at once.
    mesh.on(3).purlin(&["leave"]);
    resolves(&web, "api", &alone, SOON);
    let members = mesh.on(2).get("/v1/agent/members").expect("members");
    let left = members
        .as_array()
        .into_iter()
        .flatten()
        .find(|one| one["Name"] == "h3")
        .map(|one| one["Status"].clone());
    assert_eq!(left, Some(3.into()), "{members}");
}
