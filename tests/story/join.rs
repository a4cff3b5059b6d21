//! Hosts come in, are refused, come back, and are replaced.

use crate::kit::mesh::PURLIN;
use crate::kit::wait::{LONG, SOON};
use crate::kit::{Agent, Host, Lab, Mesh, until};

pub const STORIES: &[(&str, fn())] = &[
    ("join::tokens_that_do_not_open", tokens_that_do_not_open),
    ("join::a_node_starts_from_its_data", a_node_starts_from_its_data),
    ("join::names_are_held_by_the_living", names_are_held_by_the_living),
    ("join::tokens_are_counted_and_listed", tokens_are_counted_and_listed),
];

/// Runs `purlin agent --join` until it gives up; the line it printed.
#[track_caller]
fn refused(host: &Host, token: &str, config: &str) -> String {
    let dir = host.dir.join("refused");
    let _ = std::fs::remove_dir_all(&dir);
    let text = format!(
        "node_name = \"{}\"\ndata_dir = \"{}\"\nadvertise_addr = \"{}\"\njoin_timeout = \"3s\"\n{config}\n",
        host.name,
        dir.display(),
        host.ip
    );
    host.write("refused.toml", &text);
    let output = host.output("timeout", &["20", PURLIN, "agent", "--config", "refused.toml", "--join", token]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("purlin: ")).collect();
    assert_eq!(errors.len(), 1, "one line was expected: {said}");
    errors[0].to_owned()
}

#[track_caller]
fn assert_says(line: &str, words: &[&str]) {
    let lower = line.to_lowercase();
    for word in words {
        assert!(lower.contains(&word.to_lowercase()), "no {word:?} in {line:?}");
    }
}

fn tokens_that_do_not_open() {
    // Three hosts: the server, one that tries, and a second mesh.
    let lab = Lab::new(3);
    let server = Agent::server(lab.host(1), "");
    let stranger = Agent::server(lab.host(3), "");
    let host = lab.host(2).clone();
    let good = server.purlin(&["join-token", "create"]);

    assert_says(&refused(&host, &good[..good.len() - 7], ""), &["token", "truncated"]);
    assert_says(&refused(&host, "nonsense", ""), &["token"]);
    assert_says(&refused(&host, &format!("@{}/absent", host.dir.display()), ""), &["absent"]);

    let server_role = server.purlin(&["join-token", "create", "--role", "server"]);
    assert_says(&refused(&host, &server_role, ""), &["role", "server"]);

    let once = server.purlin(&["join-token", "create", "--uses", "1"]);
    let id = server.get("/v1/join-token").expect("a list");
    assert_eq!(id.as_array().map(Vec::len), Some(3), "{id}");
    let brief = server.purlin(&["join-token", "create", "--ttl", "1s"]);
    until("the token is over", SOON, || {
        let line = refused(&host, &brief, "");
        if line.contains("expired") { Ok(()) } else { Err(line) }
    });

    // Used up by another key.
    let mut user = Agent::start(&host, "agent", "", &["--join", &once]);
    user.await_ready();
    user.process.stop();
    let line = refused(&host, &once, "");
    assert!(line.contains("used up") || line.contains("no uses"), "{line}");

    // A server of another mesh at the address in the token.
    let foreign = stranger.purlin(&["join-token", "create"]);
    assert_ne!(foreign, good);
    drop(stranger);
    lab.host(3).kill_all();
    assert_says(&refused(&host, &foreign, ""), &["10.77.0.3"]);
    let _impostor = {
        let other = lab.host(3);
        std::fs::remove_dir_all(other.dir.join("data")).expect("the old data goes");
        Agent::server(other, "")
    };
    let line = refused(&host, &foreign, "");
    assert_says(&line, &["10.77.0.3"]);
    assert!(line.contains("not trusted") || line.contains("fingerprint"), "{line}");
}

fn a_node_starts_from_its_data() {
    let mut mesh = Mesh::start(2, "");
    let token = mesh.token();
    for host in [2, 1] {
        mesh.on_mut(host).again();
        mesh.on(host).await_ready();
    }
    mesh.await_members(2);

    // Both flags are accepted on data of this mesh, with a notice.
    mesh.on_mut(2).process.stop();
    let host = mesh.lab.host(2).clone();
    let agent = Agent::restart(&host, "agent", &["--join", &token]);
    agent.await_ready();
    assert!(agent.process.log().contains("already"), "no notice:\n{}", agent.process.log());
    *mesh.on_mut(2) = agent;

    mesh.on_mut(1).process.stop();
    let server = Agent::restart(mesh.lab.host(1), "server", &["--bootstrap"]);
    server.await_ready();
    assert!(server.process.log().contains("already"), "no notice:\n{}", server.process.log());
    *mesh.on_mut(1) = server;
    mesh.await_members(2);

    // A token of another mesh is refused on data of this one, and an empty directory needs a flag.
    let other = Lab::new(1);
    let stranger = Agent::server(other.host(1), "");
    let foreign = stranger.purlin(&["join-token", "create"]);
    mesh.on_mut(2).process.stop();
    let output = host.output("timeout", &["20", PURLIN, "agent", "--config", "agent.toml", "--join", &foreign]);
    assert_eq!(output.status.code(), Some(1));
    assert_says(&String::from_utf8_lossy(&output.stderr), &["another mesh"]);

    let empty = format!("--data-dir={}", host.dir.join("empty").display());
    for role in ["agent", "server"] {
        let output = host.output("timeout", &["20", PURLIN, role, &empty, "--node=x", "--advertise=10.77.0.2"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{said}");
        assert_says(&said, &["--bootstrap", "--join"]);
    }
}

fn names_are_held_by_the_living() {
    let mut mesh = Mesh::start(3, "");
    let host = mesh.lab.host(3).clone();
    let token = mesh.token();

    let taken = format!(
        "node_name = \"h2\"\ndata_dir = \"{}/taken\"\nadvertise_addr = \"{}\"\njoin_timeout = \"3s\"\n\
         ports = {{ http = 18500, dns = 18600, mesh = 21000 }}\n",
        host.dir.display(),
        host.ip
    );
    host.write("taken.toml", &taken);
    let join = ["20", PURLIN, "agent", "--config", "taken.toml", "--join", &token];
    let output = host.output("timeout", &join);
    assert_eq!(output.status.code(), Some(1));
    assert_says(&String::from_utf8_lossy(&output.stderr), &["h2", "live"]);

    // The holder dies; its name is free for the next.
    mesh.on_mut(2).process.kill();
    mesh.lab.host(2).kill_all();
    until("h2 has failed", SOON, || {
        let members = mesh.on(1).get("/v1/agent/members")?;
        let failed = members.as_array().into_iter().flatten().any(|one| one["Name"] == "h2" && one["Status"] == 4);
        if failed { Ok(()) } else { Err(members.to_string()) }
    });
    let heir = host.spawn("heir", PURLIN, &join[1..]);
    until("h2 lives again, elsewhere", LONG, || {
        let node = mesh.on(1).get("/v1/catalog/node/h2")?;
        if node["Node"]["Address"] == "10.77.0.3" { Ok(()) } else { Err(format!("{node}\n{}", heir.log())) }
    });

    // A node that failed can be removed, a live one cannot.
    drop(heir);
    let refusal = mesh.on(1).try_purlin(&["node", "remove", "h3"]);
    assert!(refusal.is_err_and(|line| line.contains("h3")));
    until("h2 is removed", LONG, || mesh.on(1).try_purlin(&["node", "remove", "h2"]));
    let nodes = mesh.on(1).purlin(&["catalog", "nodes"]);
    assert!(!nodes.contains("h2"), "{nodes}");
}

fn tokens_are_counted_and_listed() {
    let lab = Lab::new(2);
    let server = Agent::server(lab.host(1), "");
    let token = server.purlin(&["join-token", "create", "--uses", "2", "--ttl", "30m"]);
    assert_eq!(token.lines().count(), 1);
    let list = server.get("/v1/join-token").expect("a list");
    let id = list[0]["ID"].as_str().expect("an id").to_owned();
    assert!(!list.to_string().contains(&token), "the secret is in the list");
    let table = server.purlin(&["join-token", "list"]);
    assert!(table.contains(&id) && table.contains('2'), "{table}");
    server.purlin(&["join-token", "revoke", &id]);
    let line = refused(lab.host(2), &token, "");
    assert!(line.contains("revoked") || line.contains("unknown"), "{line}");
}
