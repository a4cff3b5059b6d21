//! What attackers and careless operators do: each gets a clear refusal, nothing is half applied, nothing is forgotten
//! without a word, and nobody else notices.

use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use std::path::Path;

use serde_json::{Value, json};

use super::ran::Ran;
use crate::kit::apps::{client, meshed, nginx};
use crate::kit::mesh::{await_status, call};
use crate::kit::net::rest;
use crate::kit::privacy::run;
use crate::kit::wait::SOON;
use crate::kit::{Agent, Host, Lab, Mesh, until};

pub const STORIES: &[(&str, fn())] = &[
    ("limits::what_the_api_refuses_changes_nothing", what_the_api_refuses_changes_nothing),
    ("limits::strangers_at_the_doors", strangers_at_the_doors),
    ("limits::damage_on_disk_is_told", damage_on_disk_is_told),
    ("limits::a_disk_that_is_full", a_disk_that_is_full),
    ("limits::secrets_stay_out_of_logs", secrets_stay_out_of_logs),
];

#[track_caller]
fn refused(agent: &Agent, path: &str, body: &Value, word: &str) {
    let (status, said) = agent.put(path, &body.to_string()).expect("an answer");
    assert_eq!(status, 400, "{path} {body}: {said}");
    assert!(said.contains(word) && !said.contains('\n'), "no {word:?} in {said:?}");
}

fn what_the_api_refuses_changes_nothing() {
    let mesh = Mesh::start(1, "");
    let agent = mesh.on(1);
    let check = |check: Value| json!({"Name": "web", "Port": 80, "Check": check});
    for (body, word) in [
        (json!({"Name": "web", "Port": "80"}), "Port"),
        (json!({"Name": "web", "Tags": "v1"}), "Tags"),
        (json!({"Name": "web", "Tags": vec!["t"; 257]}), "256"),
        (json!({"Name": "w".repeat(129)}), "too long"),
        (json!({"Name": "web", "Prot": 80}), "did you mean"),
        (json!({"Name": "web", "Locality": {"Region": "r".repeat(129)}}), "Region"),
        (json!({"Name": "web", "SocketPath": format!("/{}", "s".repeat(107))}), "SocketPath"),
        (json!({"Name": "web.front", "Connect": {"SidecarService": {}}}), "DNS label"),
        (check(json!({"TTL": "0s"})), "TTL"),
        (check(json!({"TTL": "10s", "Notes": "n".repeat(4097)})), "Notes"),
        (check(json!({"HTTP": "localhost/health", "Interval": "10s"})), "HTTP"),
    ] {
        refused(agent, "/v1/agent/service/register", &body, word);
    }
    let node = |extra: Value| {
        let mut body = json!({"Node": "printer", "Address": "10.9.9.9"});
        body.as_object_mut().expect("a body").extend(extra.as_object().expect("fields").clone());
        body
    };
    for (body, word) in [
        (node(json!({"NodeMeta": {"k": "v".repeat(513)}})), "NodeMeta"),
        (node(json!({"Check": {"Name": "up", "Node": "other"}})), "Check.Node"),
        (node(json!({"Service": {"Service": "lpd", "Port": -1}})), "Port"),
    ] {
        refused(agent, "/v1/catalog/register", &body, word);
    }
    let exact = "/v1/connect/intentions/exact?source=web&destination=api";
    refused(agent, exact, &json!({"Action": "allow", "SourceNS": "blue"}), "SourceNS");
    refused(agent, exact, &json!({"Action": "allow", "DestinationName": 1}), "DestinationName");
    refused(agent, "/v1/agent/log-level", &json!({"Level": "dbug"}), "dbug");
    assert_eq!(agent.get("/v1/agent/services"), Ok(json!({})));
    assert_eq!(agent.get("/v1/catalog/services"), Ok(json!({})));
    assert_eq!(agent.get("/v1/connect/intentions"), Ok(json!([])));
    assert_eq!(agent.get("/v1/catalog/nodes").expect("nodes").as_array().map(Vec::len), Some(1));
}

/// More connections than the proxy of host 2 has places for handshakes, all silent.
const SILENT: usize = 600;

fn strangers_at_the_doors() {
    let mesh = Mesh::start(3, "proxy = { workers = 1 }");
    let (stranger, web) = (mesh.lab.host(1), mesh.lab.host(3));
    let _nginx = nginx(mesh.lab.host(2), 8080, "hello");
    mesh.on(2).register(&meshed("api", 8080));
    mesh.on(3).register(&client("web", &[("api", 9191)]));
    mesh.on(1).purlin(&["intention", "create", "web", "api"]);
    await_status(web, 9191, 200, SOON);

    let door = "10.77.0.2:20000";
    let mut plain = stranger.dial(door).expect("the port is open");
    plain.write_all(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n").expect("it reads");
    assert!(!rest(&plain).contains("HTTP/"), "plaintext was answered");
    for version in ["-tls1_2", "-tls1_3"] {
        let name = "api.default.dc1.internal.mesh.internal";
        let args = ["10", "openssl", "s_client", "-connect", door, "-servername", name, version];
        let output = stranger.output("timeout", &args);
        assert!(!String::from_utf8_lossy(&output.stdout).contains("BEGIN CERTIFICATE"), "{version}");
    }

    let silent: Vec<TcpStream> = stranger.inside(|| {
        let dial = |_| TcpStream::connect(door).expect("the port is open");
        (0..SILENT).map(dial).collect()
    });
    // A new proxy has no connection yet: it must make its way past those.
    let agent = mesh.on(3).process.pid().to_string();
    for process in web.pids().iter().filter(|process| **process != agent) {
        let _ = run("kill", &["-KILL", process]);
    }
    until("web calls past the silent ones", SOON, || match call(web, 9191)? {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    drop(silent);

    // Garbage for DNS and for the server's QUIC port: both go on.
    stranger.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        for n in 0..2_000_u32 {
            let bytes: Vec<u8> = (0..n % 700).map(|i| (i * n).to_le_bytes()[0]).collect();
            let _ = socket.send_to(&bytes, ("127.0.0.1", 8600));
            let _ = socket.send_to(&bytes, ("10.77.0.1", 8300));
        }
    });
    let dig = ["@127.0.0.1", "-p", "8600", "+time=3", "+short", "api.service.consul"];
    assert_eq!(stranger.run("dig", &dig), "10.77.0.2");
}

/// Changes a file, sees the server refuse to start with these words, and puts the file back.
#[track_caller]
fn refuses_to_start(host: &Host, file: &Path, damage: impl FnOnce(&mut Vec<u8>), words: &[&str]) {
    let good = host.dir.join("good");
    run("cp", &["-a", &host.dir.join("data").to_string_lossy(), &good.to_string_lossy()]).expect("a copy");
    let mut bytes = std::fs::read(file).expect("the file");
    damage(&mut bytes);
    std::fs::write(file, &bytes).expect("the file is written");
    let ran = Ran::purlin(host, &["server", "--config", "server.toml"]);
    assert_eq!(ran.code, Some(1), "{}\n{}", file.display(), ran.err);
    let line = ran.err.lines().find(|line| line.starts_with("purlin: ")).unwrap_or_default();
    for word in words {
        assert!(line.contains(word), "no {word:?} in {:?}", ran.err);
    }
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
    let data = host.dir.join("data");
    std::fs::remove_dir_all(&data).expect("the damaged data goes");
    std::fs::rename(&good, &data).expect("the copy is put back");
}

fn damage_on_disk_is_told() {
    let lab = Lab::new(1);
    let mut server = Agent::server(lab.host(1), "");
    for n in 0..20 {
        server.purlin(&["intention", "create", &format!("web-{n}"), "api"]);
    }
    server.register(&json!({"Name": "web", "Port": 80}));
    server.process.stop();
    for process in lab.host(1).pids() {
        let _ = run("kill", &["-KILL", &process]);
    }
    let data = lab.host(1).dir.join("data");
    let flip = |bytes: &mut Vec<u8>| {
        let at = bytes.len() / 2;
        bytes[at] ^= 0x10;
    };
    let halve = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
    for file in ["registry", "ca/intermediate", "ca/sealing", "node.json", "node.pem", "roots.pem"] {
        refuses_to_start(lab.host(1), &data.join(file), halve, &[file, "damaged"]);
    }
    refuses_to_start(lab.host(1), &data.join("registry"), flip, &["registry", "checksum"]);
    refuses_to_start(lab.host(1), &data.join("raft/db"), halve, &["raft", "damaged", "backup"]);
    refuses_to_start(lab.host(1), &data.join("raft/db"), flip, &["raft", "damaged", "backup"]);

    // What can be done without is done without, and said.
    let mirror = data.join("mirror");
    std::fs::write(&mirror, b"nonsense").expect("the file is written");
    server.again();
    server.await_ready();
    assert!(server.process.log().contains("mirror is damaged"), "{}", server.process.log());
    let intentions = server.get("/v1/connect/intentions").expect("a list");
    assert_eq!(intentions.as_array().map(Vec::len), Some(20));
    assert!(server.get("/v1/agent/services").expect("a map").get("web").is_some());
}

fn a_disk_that_is_full() {
    let lab = Lab::new(2);
    let server = Agent::server(lab.host(1), "");
    let disk = lab.host(2).dir.join("data");
    std::fs::create_dir_all(&disk).expect("a directory");
    let place = disk.to_string_lossy().into_owned();
    run("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs", &place]).expect("a small disk");
    let token = server.purlin(&["join-token", "create"]);
    let mut agent = Agent::start(lab.host(2), "agent", "", &["--join", &token]);
    agent.await_ready();
    agent.register(&json!({"Name": "one", "Port": 1}));
    let filling = disk.join("filling");
    let _full = std::fs::write(&filling, vec![0; 2 * 1024 * 1024]);
    let two = json!({"Name": "two", "Port": 2}).to_string();
    for (path, body) in [("register", two.as_str()), ("deregister/one", "")] {
        let (status, said) = agent.put(&format!("/v1/agent/service/{path}"), body).expect("an answer");
        assert_eq!(status, 500, "{said}");
        assert!(said.contains("registry") && said.contains("No space left"), "{said}");
    }
    for knows in [&agent, &server] {
        let services = knows.get("/v1/catalog/services").expect("a map");
        assert!(services.get("one").is_some() && services.get("two").is_none(), "{services}");
    }
    std::fs::remove_file(&filling).expect("room again");
    let done = agent.put("/v1/agent/service/register", &two).expect("an answer");
    assert_eq!(done.0, 200, "{}", done.1);
    agent.process.stop();
    lab.host(2).kill_all();
    run("umount", &[&place]).expect("the disk goes");
}

fn secrets_stay_out_of_logs() {
    let mesh = Mesh::start(2, "log_level = \"trace,openraft=trace,sled=trace,quinn=trace\"");
    let token = mesh.token();
    mesh.on(2).register(&meshed("web", 80));
    let leaf = until("the leaf is there", SOON, || mesh.on(2).get("/v1/agent/connect/ca/leaf/web"));
    let key = leaf["PrivateKeyPEM"].as_str().expect("a key");
    let key_line = key.lines().nth(1).expect("a line of the key").to_owned();
    let secret: String = token.chars().rev().take(32).collect::<Vec<_>>().into_iter().rev().collect();
    for host in [1, 2] {
        let log = mesh.on(host).process.log();
        assert!(log.contains("TRACE"), "nothing was logged at that level");
        for word in ["PRIVATE KEY", &key_line, &secret] {
            assert!(!log.contains(word), "{word:?} is in the log of host {host}");
        }
    }
}
