//! Hosts come in, are refused, come back, and are replaced.

use base64::Engine;
use serde_json::Value;

use super::ran::{Ran, has};
use crate::kit::wait::{LONG, SOON};
use crate::kit::{Agent, Host, Lab, Mesh, until};

pub const STORIES: &[(&str, fn())] = &[
    ("join::tokens_that_do_not_open", tokens_that_do_not_open),
    ("join::servers_that_are_not_believed", servers_that_are_not_believed),
    ("join::tokens_are_counted_and_listed", tokens_are_counted_and_listed),
    ("join::a_token_comes_by_flag_file_or_environment", a_token_comes_by_flag_file_or_environment),
    ("join::a_node_starts_from_its_data", a_node_starts_from_its_data),
    ("join::a_node_has_the_id_that_it_is_given", a_node_has_the_id_that_it_is_given),
    ("join::data_of_another_mesh_stays_there", data_of_another_mesh_stays_there),
    ("join::a_member_keeps_trying", a_member_keeps_trying),
    ("join::names_are_held_by_the_living", names_are_held_by_the_living),
    ("join::a_host_leaves_and_is_removed", a_host_leaves_and_is_removed),
    ("join::a_host_that_was_off_for_weeks_comes_back", a_host_that_was_off_for_weeks_comes_back),
];

/// A configuration under that name, for a host that has no agent yet, with a data directory of its own.
fn config(host: &Host, file: &str, more: &str) {
    let dir = host.dir.join(file.trim_end_matches(".toml"));
    let text = format!("data_dir = \"{}\"\nadvertise_addr = \"{}\"\n{more}\n", dir.display(), host.ip);
    host.write(file, &text);
}

/// `purlin agent --join` with a new data directory; it must give up.
fn try_to_join(host: &Host, token: &str) -> Ran {
    let _ = std::fs::remove_dir_all(host.dir.join("newcomer"));
    config(host, "newcomer.toml", "node_name = \"newcomer\"\njoin_timeout = \"2s\"");
    Ran::purlin(host, &["agent", "--config", "newcomer.toml", "--join", token])
}

fn token(server: &Agent, flags: &[&str]) -> String {
    Ran::purlin(&server.host, &[&["join-token", "create"], flags].concat()).ok().trim_end().to_owned()
}

fn tokens(server: &Agent) -> Vec<Value> {
    let listed = Ran::purlin(&server.host, &["join-token", "list", "--format", "json"]).json();
    listed.as_array().cloned().unwrap_or_default()
}

/// What the list says of the one token that was made for so many uses.
#[track_caller]
fn listed(server: &Agent, uses: u64) -> Value {
    let all = tokens(server);
    let found: Vec<&Value> = all.iter().filter(|one| one["Uses"] == uses).collect();
    assert_eq!(found.len(), 1, "{all:?}");
    found[0].clone()
}

fn member(agent: &Agent, name: &str) -> Result<Value, String> {
    let members = agent.get("/v1/agent/members")?;
    let found = members.as_array().into_iter().flatten().find(|one| one["Name"] == name);
    found.cloned().ok_or_else(|| format!("no {name} in {members}"))
}

#[track_caller]
fn await_status(agent: &Agent, name: &str, status: u64) {
    until(&format!("{name} has status {status}"), LONG, || match member(agent, name)? {
        found if found["Status"] == status => Ok(()),
        found => Err(found.to_string()),
    });
}

fn tokens_that_do_not_open() {
    let lab = Lab::new(2);
    let server = Agent::server(lab.host(1), "");
    let host = lab.host(2);
    let good = token(&server, &[]);
    let data = host.dir.join("newcomer");

    // What is no token is refused before anything else: neither the configuration nor the directory is touched.
    for (text, words) in [
        (&good[..good.len() - 7], &["cut short", "copy all of it"][..]),
        (&good[..20], &["cut short"]),
        ("nonsense", &["not a join token", "purlin join-token create"]),
        (&good.replace("v1.A", "v1.B"), &["token"]),
        ("@absent", &["absent", "No such file"]),
    ] {
        let typed = ["agent", "--config", "no-such-file.toml", "--join", text];
        Ran::purlin(host, &typed).fails(1, words);
        try_to_join(host, text).fails(1, words);
        assert!(!data.exists(), "{} was made", data.display());
    }

    let for_servers = token(&server, &["--role", "server"]);
    try_to_join(host, &for_servers).fails(1, &["role server", "agent", "--role agent"]);
    config(host, "second.toml", "node_name = \"second\"");
    let typed = ["server", "--config", "second.toml", "--join", &good];
    Ran::purlin(host, &typed).fails(1, &["role agent", "server", "--role server"]);

    let brief = token(&server, &["--ttl", "1s", "--uses", "77"]);
    until("the token is over", SOON, || match listed(&server, 77)["Expired"] == true {
        true => Ok(()),
        false => Err("not yet".into()),
    });
    try_to_join(host, &brief).fails(1, &["expired", "purlin join-token create"]);
    has(&Ran::purlin(&server.host, &["join-token", "list"]).ok(), &["expired"]);

    let revoked = token(&server, &["--uses", "78"]);
    let id = listed(&server, 78)["ID"].as_str().expect("an id").to_owned();
    has(&Ran::purlin(&server.host, &["join-token", "revoke", &id]).ok(), &[&id]);
    try_to_join(host, &revoked).fails(1, &["revoked"]);

    // None of these cost a use, and none left a member.
    for one in tokens(&server) {
        assert_eq!(one["Uses"], one["UsesLeft"], "{one}");
    }
    assert!(member(&server, "newcomer").is_err() && member(&server, "second").is_err());
}

fn servers_that_are_not_believed() {
    let lab = Lab::new(3);
    let mut stranger = Agent::server(lab.host(3), "");
    let token = token(&stranger, &[]);
    let (host, other) = (lab.host(2), lab.host(3));

    // Nobody there: it gives up after join_timeout, 2 s here.
    stranger.process.kill();
    let start = std::time::Instant::now();
    try_to_join(host, &token).fails(1, &["10.77.0.3:8300", "within 2 s"]);
    assert!(start.elapsed() >= std::time::Duration::from_secs(2), "it did not try for 2 s");

    // Another mesh now has the address in the token.
    other.kill_all();
    std::fs::remove_dir_all(other.dir.join("data")).expect("the old data goes");
    let impostor = Agent::server(other, "");
    try_to_join(host, &token).fails(1, &["10.77.0.3", "another ca", "join token"]);
    assert!(member(&impostor, "newcomer").is_err());
}

fn tokens_are_counted_and_listed() {
    let lab = Lab::new(3);
    let mut server = Agent::server(lab.host(1), "");
    // The first start says how to go on.
    until("the server tells how to join", SOON, || match server.process.log() {
        log if log.contains("purlin agent --join purlin-join-v1.")
            && log.contains("purlin join-token create") =>
        {
            Ok(())
        }
        log => Err(log),
    });

    let text = token(&server, &["--uses", "2", "--ttl", "30m"]);
    assert_eq!(text.split_whitespace().count(), 1, "more than a token: {text}");
    let inside = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(text.strip_prefix("purlin-join-v1.").expect("a token").trim_end_matches('='))
        .unwrap_or_default();
    let mesh = server.get("/v1/agent/self").expect("self")["Mesh"]["TrustDomain"].clone();
    has(
        &String::from_utf8_lossy(&inside),
        &["10.77.0.1:8300", mesh.as_str().expect("a trust domain"), "Agent"],
    );

    let one = listed(&server, 2);
    assert_eq!(
        (&one["Role"], &one["UsesLeft"], &one["Expired"]),
        (&"agent".into(), &2.into(), &false.into())
    );
    let secret = &text[text.len() - 20..];
    assert!(!one.to_string().contains(secret), "the secret is in the list");
    let table = Ran::purlin(&server.host, &["join-token", "list"]).ok();
    has(&table, &["ID", "Role", "Uses Left", "Expires", one["ID"].as_str().expect("an id")]);

    // A first try that came to nothing leaves a key; a copy of it joins, is lost, and joins again.
    server.process.kill();
    config(lab.host(2), "agent.toml", "node_name = \"h2\"\njoin_timeout = \"1s\"");
    let typed = ["agent", "--config", "agent.toml", "--join", &text];
    Ran::purlin(lab.host(2), &typed).fails(1, &["within 1 s"]);
    let (tried, copy) = (lab.host(2).dir.join("agent"), lab.host(2).dir.join("copy"));
    lab.host(2).run("cp", &["-a", &tried.to_string_lossy(), &copy.to_string_lossy()]);
    server = Agent::restart(lab.host(1), "server", &[]);
    server.await_ready();
    config(lab.host(2), "agent.toml", "node_name = \"h2\"");
    for _ in 0..2 {
        let agent = Agent::restart(lab.host(2), "agent", &["--join", &text]);
        agent.await_ready();
        assert_eq!(listed(&server, 2)["UsesLeft"], 1);
        drop(agent);
        lab.host(2).kill_all();
        std::fs::remove_dir_all(&tried).expect("the data directory goes");
        lab.host(2).run("cp", &["-a", &copy.to_string_lossy(), &tried.to_string_lossy()]);
    }

    // Another key costs the second use, and a third finds none, while the first may come again.
    let agent = Agent::start(lab.host(3), "agent", "", &["--join", &text]);
    agent.await_ready();
    assert_eq!(listed(&server, 2)["UsesLeft"], 0);
    try_to_join(lab.host(2), &text).fails(1, &["used up", "2 uses", "purlin join-token create"]);
    let agent = Agent::restart(lab.host(2), "agent", &["--join", &text]);
    agent.await_ready();
}

fn a_token_comes_by_flag_file_or_environment() {
    let lab = Lab::new(3);
    let server = Agent::server(lab.host(1), "");
    let text = token(&server, &["--uses", "5"]);
    lab.host(2).write("token", &format!("{text}\n"));
    let by_file = Agent::start(lab.host(2), "agent", "", &["--join", "@token"]);
    by_file.await_ready();

    config(lab.host(3), "agent.toml", "node_name = \"h3\"");
    let mut command = lab.host(3).command(crate::kit::mesh::PURLIN);
    command.args(["agent", "--config", "agent.toml"]).env("PURLIN_JOIN_TOKEN", &text);
    let mut by_environment = crate::kit::Process::start(lab.host(3), "agent", command);
    until("h3 is there", LONG, || {
        lab.host(3).curl(&["http://127.0.0.1:8500/v1/agent/self"])?;
        member(&server, "h3")
    });
    assert!(!by_environment.log().contains(&text), "the token is in the log");
    assert_eq!(by_environment.stop().code(), Some(0));

    // A flag wins over the environment, and both flags at once are wrong usage.
    let env = [("PURLIN_JOIN_TOKEN", "nonsense")];
    Ran::with(lab.host(3), &env, &["agent", "--config", "no-such-file.toml"]).fails(1, &["not a join token"]);
    let typed = ["agent", "--data-dir=x", "--config", "no-such-file.toml", "--join", &text];
    Ran::with(lab.host(3), &env, &typed).fails(1, &["no-such-file.toml"]);
    let typed = ["server", "--bootstrap", "--join", &text];
    Ran::purlin(lab.host(3), &typed).was_misused(&["--bootstrap", "--join", "cannot be used"]);
}

fn a_node_starts_from_its_data() {
    let mut mesh = Mesh::start(2, "");
    let token = token(mesh.on(1), &["--uses", "7"]);
    for host in [2, 1] {
        mesh.on_mut(host).again();
        mesh.on(host).await_ready();
    }
    mesh.await_members(2);

    // Both flags are accepted on data of this mesh, with a notice and without a use of the token.
    for (host, role, flags) in [(2, "agent", ["--join", &token].as_slice()), (1, "server", &["--bootstrap"])]
    {
        assert_eq!(mesh.on_mut(host).process.stop().code(), Some(0));
        let agent = Agent::restart(mesh.lab.host(host), role, flags);
        agent.await_ready();
        has(&agent.process.log(), &["already", flags[0], "ignored"]);
        *mesh.on_mut(host) = agent;
    }
    mesh.await_members(2);
    assert_eq!(listed(mesh.on(1), 7)["UsesLeft"], 7);

    // Neither flag, and nothing there: both are named.
    let host = mesh.lab.host(2);
    for role in ["agent", "server"] {
        let data_dir = format!("--data-dir={}", host.dir.join("empty").display());
        let typed = [role, &data_dir, "--node=x", "--advertise=10.77.0.2"];
        Ran::purlin(host, &typed).fails(2, &["empty", "purlin server --bootstrap", "--join TOKEN"]);
    }

    // A directory is of one node in one role, and of one process.
    let taken = ["agent", "--config", "agent.toml"];
    Ran::purlin(host, &taken).fails(1, &["data", "another"]);
    mesh.on_mut(2).process.stop();
    let host = mesh.lab.host(2);
    Ran::purlin(host, &["server", "--config", "agent.toml"]).fails(1, &["purlin agent"]);
    Ran::purlin(host, &["agent", "--config", "agent.toml", "--node", "h9"])
        .fails(1, &["h2", "h9", "node_name"]);
}

fn a_node_has_the_id_that_it_is_given() {
    const FIRST: &str = "aaaaaaaa-0000-4000-8000-000000000001";
    const SECOND: &str = "aaaaaaaa-0000-4000-8000-000000000002";
    let lab = Lab::new(3);
    let mut server = Agent::server(lab.host(1), &format!("node_id = \"{FIRST}\""));
    let with_id = |id: &str| format!("node_id = \"{id}\"\njoin_timeout = \"3s\"");
    let join = ["--join", &token(&server, &["--uses", "9"])];
    let mut agent = Agent::start(lab.host(2), "agent", &with_id(SECOND), &join);
    agent.await_ready();
    for (name, id) in [("h1", FIRST), ("h2", SECOND)] {
        assert_eq!(member(&server, name).map(|found| found["Tags"]["id"].clone()), Ok(id.into()));
    }
    let node = server.get("/v1/catalog/node/h2").map(|found| found["Node"]["ID"].clone());
    assert_eq!(node, Ok(SECOND.into()));
    assert_eq!(agent.get("/v1/agent/self").map(|own| own["Config"]["NodeID"].clone()), Ok(SECOND.into()));

    // An id of a live node is refused, and once the configuration says another the same host comes in.
    let host = lab.host(3);
    let typed = |id: &str| {
        config(host, "third.toml", &format!("node_name = \"h3\"\n{}", with_id(id)));
        ["agent", "--config", "third.toml", "--join", join[1]]
    };
    Ran::purlin(host, &typed(SECOND)).fails(1, &[SECOND, "live node h2", "node_id"]);
    Ran::purlin(host, &typed("nonsense")).fails(1, &["node_id", "not a UUID"]);
    assert_eq!(listed(&server, 9)["UsesLeft"], 8, "a refused join costs nothing");
    let third = host.spawn("third", crate::kit::mesh::PURLIN, &typed(&SECOND.replace("002", "003")));
    until("h3 comes in", LONG, || member(&server, "h3").map_err(|why| format!("{why}\n{}", third.log())));

    // The data says who a host is; a configuration that says another is refused, one that says nothing is not.
    agent.process.stop();
    server.process.stop();
    for (host, role) in [(lab.host(2), "agent"), (lab.host(1), "server")] {
        let file = format!("{role}.toml");
        Ran::purlin(host, &[role, "--config", &file, "--node-id", &FIRST.replace('1', "9")])
            .fails(1, &["data_dir", "node_id", "000000000009"]);
        let text = std::fs::read_to_string(host.dir.join(&file)).expect("its configuration");
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("node_id")).collect();
        host.write(&file, &kept.join("\n"));
    }
    let server = Agent::restart(lab.host(1), "server", &[]);
    server.await_ready();
    assert_eq!(server.get("/v1/agent/self").map(|own| own["Config"]["NodeID"].clone()), Ok(FIRST.into()));
}

fn data_of_another_mesh_stays_there() {
    let lab = Lab::new(3);
    let ours = Agent::server(lab.host(1), "");
    let theirs = Agent::server(lab.host(3), "");
    let mut agent = Agent::start(lab.host(2), "agent", "", &["--join", &token(&ours, &[])]);
    agent.await_ready();
    assert_eq!(agent.process.stop().code(), Some(0));
    let foreign = token(&theirs, &[]);
    let typed = ["agent", "--config", "agent.toml", "--join", &foreign];
    Ran::purlin(lab.host(2), &typed).fails(1, &["another mesh", "data_dir"]);
    // And one that is none is refused here as well, though it would not be needed.
    let typed = ["agent", "--config", "agent.toml", "--join", "nonsense"];
    Ran::purlin(lab.host(2), &typed).fails(1, &["not a join token"]);
    assert!(member(&theirs, "h2").is_err());
}

fn a_member_keeps_trying() {
    let mut mesh = Mesh::start(2, "join_timeout = \"1s\"");
    mesh.on_mut(2).process.kill();
    mesh.on_mut(1).process.kill();
    // Started while no server is there: no token, no timeout, the API answers from the first moment.
    let agent = Agent::restart(mesh.lab.host(2), "agent", &[]);
    until("the agent tells that it has no server", LONG, || {
        let own = agent.get("/v1/agent/self")?;
        let session = &own["Stats"]["session"];
        let tells =
            session["phase"] != "connected" && session["reason"].as_str().is_some_and(|why| !why.is_empty());
        if tells { Ok(()) } else { Err(session.to_string()) }
    });
    // Long after join_timeout, three tries at least.
    until("it has tried again and again", LONG, || {
        let text = agent.host.curl(&["http://127.0.0.1:8500/v1/agent/metrics?format=prometheus"])?.1;
        let tries = text.lines().find(|line| line.contains("session") && line.contains("failures_total"));
        let count = tries.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0);
        if count >= 3.0 { Ok(()) } else { Err(format!("{tries:?}")) }
    });
    mesh.on_mut(1).again();
    mesh.on(1).await_ready();
    // At most 5 s between tries.
    until("it is back by itself", SOON, || {
        match agent.get("/v1/agent/self")?["Stats"]["session"]["phase"] == "connected" {
            true => Ok(()),
            false => Err(agent.process.log()),
        }
    });
    *mesh.on_mut(2) = agent;
    mesh.await_members(2);
}

fn names_are_held_by_the_living() {
    let mut mesh = Mesh::start(3, "");
    mesh.on_mut(3).process.stop();
    let (host, token) = (mesh.lab.host(3).clone(), token(mesh.on(1), &["--uses", "9"]));
    host.kill_all();
    let name = "node_name = \"h2\"\njoin_timeout = \"3s\"";
    config(&host, "heir.toml", name);
    let typed = ["agent", "--config", "heir.toml", "--join", &token];
    Ran::purlin(&host, &typed).fails(1, &["h2", "held by a live node", "10.77.0.2", "purlin node remove h2"]);
    assert_eq!(listed(mesh.on(1), 9)["UsesLeft"], 9, "a refused join costs nothing");

    // The holder dies, and its name is free for the next.
    mesh.on_mut(2).process.kill();
    mesh.lab.host(2).kill_all();
    await_status(mesh.on(1), "h2", 4);
    let heir = host.spawn("heir", crate::kit::mesh::PURLIN, &typed);
    until("h2 lives again, elsewhere", LONG, || {
        let found = member(mesh.on(1), "h2")?;
        if found["Addr"] == "10.77.0.3" && found["Status"] == 1 {
            Ok(())
        } else {
            Err(format!("{found}\n{}", heir.log()))
        }
    });

    // The old holder comes back and is told that its place is taken; the heir stays.
    mesh.on_mut(2).again();
    until("the old h2 is refused", LONG, || {
        let session = mesh.on(2).get("/v1/agent/self")?["Stats"]["session"].clone();
        let refused = session["phase"] != "connected"
            && session["reason"].as_str().is_some_and(|why| why.contains("revoked") || why.contains("h2"));
        if refused { Ok(()) } else { Err(format!("{session}")) }
    });
    assert_eq!(member(mesh.on(1), "h2").map(|found| found["Addr"].clone()), Ok("10.77.0.3".into()));
}

fn a_host_leaves_and_is_removed() {
    let mut mesh = Mesh::start(3, "");
    let remove = ["node", "remove", "h3"];
    let server = mesh.lab.host(1).clone();
    Ran::purlin(&server, &remove).fails(1, &["h3", "alive", "purlin leave"]);
    Ran::purlin(&server, &["node", "remove", "h9"]).fails(1, &["h9"]);

    // One host fails, one leaves in order: both ways its agent ends with 0.
    mesh.on(2).register(&serde_json::json!({"Name": "web", "Port": 80}));
    mesh.on(1).await_healthy("web", 1);
    assert_eq!(Ran::purlin(mesh.lab.host(2), &["leave"]).ok().trim_end(), "Graceful leave complete");
    assert_eq!(mesh.on_mut(2).process.wait(SOON).code(), Some(0));
    assert_eq!(mesh.lab.host(2).pids(), Vec::<String>::new(), "something goes on on a host that left");
    await_status(mesh.on(1), "h2", 3);
    mesh.on(1).await_healthy("web", 0);

    // As in Consul only the members tell of a host that left; it comes back with what it has when it is started.
    until("the catalog forgets what h2 had", SOON, || {
        let services = mesh.on(1).get("/v1/catalog/services")?;
        let checks = mesh.on(1).get("/v1/health/state/any?filter=Node==h2")?;
        let gone = services.get("web").is_none() && checks == serde_json::json!([]);
        if gone { Ok(()) } else { Err(format!("{services} {checks}")) }
    });
    assert!(!Ran::purlin(&server, &["catalog", "nodes"]).ok().contains("h2"));
    assert_eq!(mesh.on(1).get("/v1/catalog/node/h2"), Ok(Value::Null));
    let name = "h2.node.mesh.internal";
    assert_eq!(server.run("dig", &["+short", "@127.0.0.1", "-p", "8600", name]), "");
    let mut back = Agent::restart(mesh.lab.host(2), "agent", &[]);
    await_status(mesh.on(1), "h2", 1);
    mesh.on(1).await_healthy("web", 1);
    assert_eq!(server.run("dig", &["+short", "@127.0.0.1", "-p", "8600", name]), "10.77.0.2");
    assert_eq!(Ran::purlin(mesh.lab.host(2), &["leave"]).ok().trim_end(), "Graceful leave complete");
    assert_eq!(back.process.wait(SOON).code(), Some(0));
    await_status(mesh.on(1), "h2", 3);

    // The name of one that left is free, here for the same host with nothing of its past; it leaves by the API.
    std::fs::remove_dir_all(mesh.lab.host(2).dir.join("data")).expect("the data directory goes");
    let mut heir = Agent::start(mesh.lab.host(2), "agent", "", &["--join", &token(mesh.on(1), &[])]);
    heir.await_ready();
    await_status(mesh.on(1), "h2", 1);
    assert_eq!(heir.put("/v1/agent/leave", ""), Ok((200, String::new())));
    assert_eq!(heir.process.wait(SOON).code(), Some(0));
    await_status(mesh.on(1), "h2", 3);
    mesh.on(3).register(&serde_json::json!({"Name": "db", "Port": 5432}));
    mesh.on_mut(3).process.kill();
    await_status(mesh.on(1), "h3", 4);
    for name in ["h2", "h3"] {
        has(&Ran::purlin(&server, &["node", "remove", name]).ok(), &[name]);
        assert!(member(mesh.on(1), name).is_err());
    }
    assert!(!Ran::purlin(&server, &["catalog", "nodes"]).ok().contains("h2"));
    assert_eq!(mesh.on(1).get("/v1/catalog/service/web").expect("a list"), serde_json::json!([]));

    // What was removed cannot come back by its old certificate, only by a new token.
    mesh.on_mut(3).again();
    until("the removed host is refused", LONG, || {
        let session = mesh.on(3).get("/v1/agent/self")?["Stats"]["session"].clone();
        let why = session["reason"].as_str().unwrap_or_default().to_owned();
        let tells = why.contains("h3") && why.contains("purlin agent --join TOKEN");
        if session["phase"] != "connected" && tells { Ok(()) } else { Err(session.to_string()) }
    });
    assert!(member(mesh.on(1), "h3").is_err());

    // With one it is let in as a new member, from the data directory as it is, with what it runs.
    mesh.on_mut(3).process.stop();
    let again = token(mesh.on(1), &["--uses", "5"]);
    Ran::purlin(
        mesh.lab.host(3),
        &["agent", "--config", "agent.toml", "--join", &again.replace("v1.", "v1.x")],
    )
    .fails(1, &["token"]);
    let old = std::fs::read_to_string(mesh.lab.host(3).dir.join("data/node.json")).expect("node.json");
    for used in [1, 1] {
        let mut agent = Agent::restart(mesh.lab.host(3), "agent", &["--join", &again]);
        agent.await_ready();
        await_status(mesh.on(1), "h3", 1);
        mesh.on(1).await_healthy("db", 1);
        assert_eq!(listed(mesh.on(1), 5)["UsesLeft"], 5 - used, "a member needs no second use");
        agent.process.stop();
    }
    let new = std::fs::read_to_string(mesh.lab.host(3).dir.join("data/node.json")).expect("node.json");
    assert_ne!(old, new, "it came back under its old id");
}

fn a_host_that_was_off_for_weeks_comes_back() {
    let mut mesh = Mesh::start(3, "");
    mesh.on(2).register(&serde_json::json!({"Name": "web", "Port": 80}));
    mesh.on(1).await_healthy("web", 1);
    for host in 1..=3 {
        mesh.on_mut(host).process.kill();
        mesh.lab.host(host).kill_all();
    }
    let later = |mesh: &mut Mesh, host: usize, role: &'static str, days: u32, flags: &[&str]| {
        *mesh.on_mut(host) = Agent::restart_ahead(mesh.lab.host(host), role, days, flags);
    };

    // Forty days later, the certificates of hosts have expired ten days ago.
    later(&mut mesh, 1, "server", 40, &[]);
    mesh.on(1).await_ready();
    for name in ["h2", "h3"] {
        await_status(mesh.on(1), name, 4);
    }
    later(&mut mesh, 2, "agent", 40, &[]);
    await_status(mesh.on(1), "h2", 1);
    mesh.on(1).await_healthy("web", 1);
    has(&mesh.on(2).process.log(), &["had expired and was renewed by its key"]);

    // One that was removed meanwhile does not come back by its key.
    has(&Ran::purlin(mesh.lab.host(1), &["node", "remove", "h3"]).ok(), &["h3"]);
    later(&mut mesh, 3, "agent", 40, &[]);
    until("h3 is refused", LONG, || match mesh.on(3).process.log() {
        log if log.contains("node h3 was removed from this mesh") => Ok(()),
        log => Err(log),
    });
    assert!(member(mesh.on(1), "h3").is_err());

    // Nor one whose certificate expired more than 90 days ago, but with a token.
    for host in 1..=3 {
        mesh.on_mut(host).process.kill();
        mesh.lab.host(host).kill_all();
    }
    later(&mut mesh, 1, "server", 165, &[]);
    mesh.on(1).await_ready();
    await_status(mesh.on(1), "h2", 4);
    later(&mut mesh, 2, "agent", 165, &[]);
    until("h2 is refused", LONG, || match mesh.on(2).process.log() {
        log if log.contains("expired more than 90 days ago") => Ok(()),
        log => Err(log),
    });
    mesh.on_mut(2).process.kill();
    let again = mesh.token();
    later(&mut mesh, 2, "agent", 165, &["--join", &again]);
    await_status(mesh.on(1), "h2", 1);
    mesh.on(1).await_healthy("web", 1);
}
