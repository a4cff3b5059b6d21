//! The servers as a cluster: listed, led by another, taken out, replaced, and looked after by autopilot.

use std::time::Duration;

use serde_json::Value;

use super::ran::{Ran, has};
use crate::kit::wait::LONG;
use crate::kit::{Agent, Lab, until};

pub const STORIES: &[(&str, fn())] = &[
    ("operator::servers_are_listed_and_another_leads", servers_are_listed_and_another_leads),
    ("operator::a_server_is_taken_out_and_comes_back", a_server_is_taken_out_and_comes_back),
    ("operator::a_dead_server_is_replaced_by_an_empty_one", a_dead_server_is_replaced_by_an_empty_one),
    ("operator::autopilot_takes_the_dead_out", autopilot_takes_the_dead_out),
    ("operator::a_leader_leaves_in_order", a_leader_leaves_in_order),
];

/// As long as a server may be dead, and a machine be busy.
const PATIENT: Duration = Duration::from_secs(90);

fn join(lab: &Lab, host: usize, by: &Agent, config: &str) -> Agent {
    let token = Ran::purlin(&by.host, &["join-token", "create", "--role", "server"]).ok();
    let server = Agent::start(lab.host(host), "server", config, &["--join", token.trim()]);
    server.await_ready();
    server
}

/// Three servers, each with a vote.
fn cluster(lab: &Lab) -> Vec<Agent> {
    let mut servers = vec![Agent::server(lab.host(1), "")];
    for host in 2..=3 {
        let joined = join(lab, host, &servers[0], "");
        servers.push(joined);
        await_voters(&servers[0], &(1..=host).map(|n| lab.host(n).name.as_str()).collect::<Vec<_>>());
    }
    servers
}

fn peers(server: &Agent) -> Result<Vec<Value>, String> {
    let found = server.get("/v1/operator/raft/configuration")?;
    Ok(found["Servers"].as_array().cloned().unwrap_or_default())
}

/// Until exactly these servers are members, each with a vote.
#[track_caller]
fn await_voters(server: &Agent, names: &[&str]) -> Vec<Value> {
    until(&format!("voters {names:?}"), PATIENT, || {
        let found = peers(server)?;
        let voters = found.iter().filter(|one| one["Voter"] == true);
        let mut voters: Vec<_> = voters.filter_map(|one| one["Node"].as_str()).collect();
        voters.sort_unstable();
        if voters == names && found.len() == names.len() { Ok(found) } else { Err(format!("{found:?}")) }
    })
}

fn of<'a>(peers: &'a [Value], name: &str) -> &'a Value {
    peers.iter().find(|one| one["Node"] == name).unwrap_or_else(|| panic!("no {name} in {peers:?}"))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

#[track_caller]
fn await_leader(server: &Agent, address: &str) {
    until(&format!("{address} leads"), LONG, || match server.get("/v1/status/leader")? {
        found if found == address => Ok(()),
        found => Err(found.to_string()),
    });
}

/// A write that must be taken, and seen on every one of these.
#[track_caller]
fn write(servers: &[&Agent], name: &str) {
    let body = format!(r#"{{"Node": "{name}", "Address": "10.9.9.9"}}"#);
    until(&format!("{name} is taken"), LONG, || match servers[0].put("/v1/catalog/register", &body)? {
        (200, _) => Ok(()),
        answer => Err(format!("{answer:?}")),
    });
    for server in servers {
        until(&format!("{name} is seen"), LONG, || {
            let node = server.get(&format!("/v1/catalog/node/{name}"))?;
            if node["Node"]["Node"] == name { Ok(()) } else { Err(node.to_string()) }
        });
    }
}

fn servers_are_listed_and_another_leads() {
    let lab = Lab::new(3);
    let servers = cluster(&lab);
    let names = [1, 2, 3].map(|n| lab.host(n).name.clone());
    let peers = peers(&servers[2]).unwrap();
    let table = Ran::purlin(&servers[1].host, &["operator", "raft", "list-peers"]).ok();
    let head = table.lines().next().unwrap_or_default();
    for column in
        ["Node", "ID", "Address", "State", "Voter", "RaftProtocol", "Commit Index", "Trails Leader By"]
    {
        assert!(head.contains(column), "{table}");
    }
    assert_eq!(table.lines().count(), 4, "{table}");
    let first = text(of(&peers, &names[0]), "Address").to_owned();
    assert_eq!(first, format!("{}:8300", lab.host(1).ip));
    await_leader(&servers[1], &first);

    // To the one that is named, then to whoever is best.
    let second = of(&peers, &names[1]);
    let id = text(second, "ID");
    let said = Ran::purlin(&servers[2].host, &["operator", "raft", "transfer-leader", "-id", id]).ok();
    assert!(said.contains("Success"), "{said}");
    for server in &servers {
        await_leader(server, text(second, "Address"));
    }
    write(&servers.iter().collect::<Vec<_>>(), "after-transfer");
    Ran::purlin(&servers[1].host, &["operator", "raft", "transfer-leader"]).ok();
    until("another leads", LONG, || match servers[1].get("/v1/status/leader")? {
        found if found != text(second, "Address") && found != "" => Ok(()),
        found => Err(found.to_string()),
    });
    // What everybody is told of the servers follows.
    until("the servers are told truly", LONG, || {
        let told = servers[0].get("/v1/status/peers")?;
        if told.as_array().is_some_and(|all| all.len() == 3) { Ok(()) } else { Err(told.to_string()) }
    });

    until("all are healthy", PATIENT, || servers[2].get("/v1/operator/autopilot/health"));
    let state = Ran::purlin(&servers[0].host, &["operator", "autopilot", "state"]).ok();
    has(&state, &["Healthy:", "Failure Tolerance:", "Voters:", "Servers:", &names[2]]);
    let config = Ran::purlin(&servers[0].host, &["operator", "autopilot", "get-config"]).ok();
    has(&config, &["CleanupDeadServers = true", "LastContactThreshold = 200ms", "MaxTrailingLogs = 250"]);
    let set = ["operator", "autopilot", "set-config", "-min-quorum=3", "-cleanup-dead-servers=false"];
    assert_eq!(Ran::purlin(&servers[1].host, &set).ok(), "Configuration updated!\n");
    let config = servers[2].get("/v1/operator/autopilot/configuration").unwrap();
    assert_eq!((&config["MinQuorum"], &config["CleanupDeadServers"]), (&3.into(), &false.into()));
    let stale = servers[2].put("/v1/operator/autopilot/configuration?cas=1", "{}").unwrap();
    assert_eq!(stale, (200, "false".to_owned()));
    let usage = servers[0].get("/v1/operator/usage").unwrap();
    assert_eq!(usage["Usage"]["dc1"]["Nodes"], 4, "{usage}");
}

fn a_server_is_taken_out_and_comes_back() {
    let lab = Lab::new(3);
    let mut servers = cluster(&lab);
    let names = [1, 2, 3].map(|n| lab.host(n).name.as_str());
    let id = text(of(&peers(&servers[0]).unwrap(), names[2]), "ID").to_owned();
    servers[2].process.kill();
    let removed = Ran::purlin(&servers[1].host, &["operator", "raft", "remove-peer", "-id", &id]).ok();
    assert_eq!(removed, format!("Removed peer with id \"{id}\"\n"));
    await_voters(&servers[0], &names[..2]);
    // Of the two that are left, each is needed.
    let address = format!("-address={}:8300", lab.host(3).ip);
    Ran::purlin(&servers[0].host, &["operator", "raft", "remove-peer", &address])
        .fails(1, &["was not found in the Raft configuration"]);
    write(&[&servers[0], &servers[1]], "with-two");
    servers[2].again();
    await_voters(&servers[0], &names);
    write(&servers.iter().rev().collect::<Vec<_>>(), "with-three");
}

fn a_dead_server_is_replaced_by_an_empty_one() {
    let lab = Lab::new(4);
    let mut servers = cluster(&lab);
    let names = [1, 2, 3, 4].map(|n| lab.host(n).name.as_str());
    servers[2].process.kill();
    let joined = join(&lab, 4, &servers[0], "");
    await_voters(&servers[1], &[names[0], names[1], names[3]]);
    write(&[&joined, &servers[0]], "replaced");
    // It counts: with it, another of the old ones may go.
    servers[1].process.kill();
    write(&[&joined, &servers[0]], "with-two-of-three");
}

fn autopilot_takes_the_dead_out() {
    let lab = Lab::new(3);
    let mut servers = cluster(&lab);
    let names = [1, 2, 3].map(|n| lab.host(n).name.as_str());
    let set = ["operator", "autopilot", "set-config", "--dead-server-last-contact-threshold", "10s"];
    Ran::purlin(&servers[0].host, &set).ok();
    servers[2].process.kill();
    until("it is seen that one is not well", LONG, || {
        let (status, body) = servers[1].host.curl(&["http://127.0.0.1:8500/v1/operator/autopilot/health"])?;
        if status == 429 { Ok(()) } else { Err(format!("{status} {body}")) }
    });
    await_voters(&servers[0], &names[..2]);
    // Its place in what is told of the servers goes too.
    until("two servers are told of", LONG, || match servers[1].get("/v1/status/peers")? {
        told if told.as_array().is_some_and(|all| all.len() == 2) => Ok(()),
        told => Err(told.to_string()),
    });
    // One of two is no minority: it stays, and is waited for.
    servers[1].process.kill();
    servers[1].again();
    await_voters(&servers[0], &names[..2]);
    write(&[&servers[0], &servers[1]], "with-two");
}

fn a_leader_leaves_in_order() {
    let lab = Lab::new(3);
    let mut servers = cluster(&lab);
    let names = [1, 2, 3].map(|n| lab.host(n).name.as_str());
    Ran::purlin(&servers[0].host, &["leave"]).ok();
    let status = servers[0].process.wait(PATIENT);
    assert!(status.success(), "{status}: {}", servers[0].process.log());
    await_voters(&servers[1], &names[1..]);
    write(&[&servers[1], &servers[2]], "without-the-first");
    until("it left", LONG, || {
        let members = servers[2].get("/v1/agent/members")?;
        let first = members.as_array().into_iter().flatten().find(|one| one["Name"] == names[0]);
        if first.is_some_and(|one| one["Status"] == 3) { Ok(()) } else { Err(members.to_string()) }
    });
}
