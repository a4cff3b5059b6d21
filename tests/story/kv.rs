//! The key-value tree: with a client that is not ours, and from the command line.

use std::io::Write;
use std::process::Stdio;

use super::ran::has;
use crate::kit::apps::client_passes;
use crate::kit::mesh::PURLIN;
use crate::kit::{Agent, Host, Lab, Mesh};

pub const STORIES: &[(&str, fn())] = &[
    ("kv::an_unmodified_consul_client", an_unmodified_consul_client),
    ("kv::from_the_command_line", from_the_command_line),
    ("kv::what_was_written_is_there_after_a_kill", what_was_written_is_there_after_a_kill),
];

fn an_unmodified_consul_client() {
    let mesh = Mesh::start(2, "");
    client_passes(mesh.lab.host(2), "kv_client.py", 5);
}

/// Runs `purlin` with something on its standard input.
#[track_caller]
fn purlin_with(host: &Host, args: &[&str], input: &[u8]) -> String {
    let mut command = host.command(PURLIN);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("purlin starts");
    child.stdin.take().expect("an input").write_all(input).expect("the input is taken");
    let output = child.wait_with_output().expect("purlin ends");
    assert!(output.status.success(), "{args:?}: {}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn from_the_command_line() {
    let lab = Lab::new(1);
    let agent = Agent::server(lab.host(1), "");
    let host = lab.host(1);
    let kv = |args: &[&str]| agent.purlin(&[&["kv"], args].concat());
    let refused = |args: &[&str]| agent.try_purlin(&[&["kv"], args].concat()).expect_err("a refusal");

    assert_eq!(kv(&["put", "app/colour", "blue"]), "Success! Data written to: app/colour");
    assert_eq!(kv(&["put", "-flags=7", "/app/size", "10"]), "Success! Data written to: app/size");
    assert_eq!(kv(&["get", "app/colour"]), "blue");
    assert_eq!(kv(&["get", "-base64", "app/colour"]), "Ymx1ZQ==");
    assert_eq!(kv(&["get", "-recurse", "app/"]), "app/colour:blue\napp/size:10");
    assert_eq!(kv(&["get", "-keys"]), "app/");
    assert_eq!(kv(&["get", "-keys", "-separator=", "app/"]), "app/colour\napp/size");
    has(&refused(&["get", "app/none"]), &["No key exists at: app/none"]);
    let detailed = kv(&["get", "-detailed", "app/size"]);
    has(&detailed, &["Flags        7", "LockIndex    0", "Session      -", "Value        10"]);
    let index = detailed.lines().find_map(|line| line.strip_prefix("ModifyIndex")).expect("an index").trim();

    has(&refused(&["put", "-cas", "app/size", "11"]), &["CAS failed"]);
    kv(&["put", "-cas", "-modify-index", index, "app/size", "11"]);
    has(&refused(&["delete", "-cas", "-modify-index", index, "app/size"]), &["CAS failed"]);
    host.write("value.bin", "from a file\n");
    kv(&["put", "app/file", "@value.bin"]);
    purlin_with(host, &["kv", "put", "app/stdin", "-"], b"\x00\xffraw");
    assert_eq!(host.output(PURLIN, &["kv", "get", "app/stdin"]).stdout, b"\x00\xffraw\n");
    kv(&["put", "-base64", "app/decoded", "aGVsbG8="]);
    assert_eq!(kv(&["get", "app/decoded"]), "hello");
    kv(&["put", "app/minus", "-5"]);
    assert_eq!(kv(&["get", "app/minus"]), "-5");

    let exported = kv(&["export", "app/"]);
    purlin_with(host, &["kv", "import", "-prefix", "copy/", "-"], exported.as_bytes());
    assert_eq!(host.output(PURLIN, &["kv", "get", "copy/app/stdin"]).stdout, b"\x00\xffraw\n");
    has(&kv(&["get", "-detailed", "copy/app/file"]), &["from a file"]);
    assert_eq!(kv(&["delete", "-recurse", "copy/"]), "Success! Deleted keys with prefix: copy/");
    assert_eq!(kv(&["delete", "app/minus"]), "Success! Deleted key: app/minus");
    has(&kv(&["get", "-keys", "-separator", "", "--format", "json"]), &["\"app/stdin\""]);
    has(&refused(&["import", "{\"not\": \"a list\"}"]), &["no JSON list"]);
}

fn what_was_written_is_there_after_a_kill() {
    let lab = Lab::new(1);
    let mut agent = Agent::server(lab.host(1), "");
    for n in 0..50 {
        let (status, body) = agent.put(&format!("/v1/kv/n/{n}"), &format!("value {n}")).expect("an answer");
        assert_eq!((status, body.as_str()), (200, "true"));
    }
    agent.host.run("curl", &["-sS", "-X", "DELETE", "http://127.0.0.1:8500/v1/kv/n/7"]);
    let before = agent.get("/v1/kv/n/?recurse").expect("the tree");
    agent.again();
    agent.await_ready();
    assert_eq!(agent.get("/v1/kv/n/?recurse"), Ok(before));
    assert!(agent.get("/v1/kv/n/7").is_err_and(|error| error.contains("404")));
    assert_eq!(agent.metric("purlin_server_state_kv_keys", &[]), 49.0);
}
