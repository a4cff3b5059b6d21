//! Locks: with a client that is not ours, between hosts, and held by `purlin lock`.

use std::time::Duration;

use super::ran::has;
use crate::kit::apps::client_passes;
use crate::kit::mesh::PURLIN;
use crate::kit::wait::{LONG, SOON};
use crate::kit::{Host, Mesh, Process, until};

pub const STORIES: &[(&str, fn())] = &[
    ("lock::an_unmodified_consul_client", an_unmodified_consul_client),
    ("lock::a_host_that_dies_lets_go_what_it_held", a_host_that_dies_lets_go_what_it_held),
    ("lock::commands_that_hold_a_lock_run_one_after_another", commands_run_one_after_another),
    ("lock::a_killed_holder_loses_its_lock", a_killed_holder_loses_its_lock),
    ("lock::a_semaphore_has_so_many_places", a_semaphore_has_so_many_places),
];

/// A session that runs out takes twice its time, and its delay.
const EXPIRED: Duration = Duration::from_secs(120);

fn an_unmodified_consul_client() {
    let mesh = Mesh::start(2, "");
    client_passes(mesh.lab.host(2), "lock_client.py", 4);
}

fn a_host_that_dies_lets_go_what_it_held() {
    let mut mesh = Mesh::start(3, "");
    let session =
        |host: usize| mesh.on(host).purlin(&["session", "create", "-lock-delay=0s", "-name=holder"]);
    let (second, third) = (session(2), session(3));
    let take = |mesh: &Mesh, host: usize, id: &str| {
        mesh.on(host).try_purlin(&["kv", "put", "-acquire", "-session", id, "leader", &format!("h{host}")])
    };
    take(&mesh, 2, &second).expect("free");
    has(&take(&mesh, 3, &third).expect_err("held"), &["Did not acquire lock"]);
    has(&mesh.on(1).purlin(&["session", "list"]), &[&second, &third, "h2", "h3"]);
    mesh.on_mut(2).process.kill();
    until("the lock is free", LONG, || take(&mesh, 3, &third));
    has(&mesh.on(1).purlin(&["kv", "get", "-detailed", "leader"]), &[&third, "LockIndex    2", "h3"]);
    assert!(!mesh.on(1).purlin(&["session", "list"]).contains(&second));
}

/// Runs a shell command under a lock; it leaves marks in a file of its host.
fn lock(host: &Host, label: &str, flags: &[&str], command: &str) -> Process {
    host.spawn(label, PURLIN, &[&["lock"], flags, &["jobs/nightly", command]].concat())
}

#[track_caller]
fn await_mark(host: &Host, name: &str, limit: Duration) {
    until(&format!("{name} on {}", host.name), limit, || {
        std::fs::read_to_string(host.dir.join(name)).map_err(|error| error.to_string())
    });
}

fn commands_run_one_after_another() {
    let mesh = Mesh::start(2, "");
    let (one, two) = (mesh.lab.host(1), mesh.lab.host(2));
    let mut first = lock(one, "first", &["-verbose"], "echo $CONSUL_LOCK_HELD > began; sleep 1000");
    await_mark(one, "began", LONG);
    assert_eq!(std::fs::read_to_string(one.dir.join("began")).expect("a mark").trim(), "true");
    let mut second = lock(two, "second", &["-name", "the second"], "echo > began");
    until("the second waits", SOON, || {
        let sessions = mesh.on(1).purlin(&["session", "list"]);
        if sessions.contains("the second") { Ok(()) } else { Err(sessions) }
    });
    let given_up = mesh.on(2).try_purlin(&["lock", "-try=1s", "jobs/nightly", "echo", "mine"]);
    has(&given_up.expect_err("it is held"), &["not to be had within"]);
    assert!(second.is_running() && !two.dir.join("began").exists());
    // Told to end, it ends its command and gives the lock back at once.
    assert_eq!(first.stop().code(), Some(0));
    assert_eq!(second.wait(LONG).code(), Some(0));
    await_mark(two, "began", SOON);
    assert_eq!(mesh.on(1).purlin(&["kv", "get", "-keys", "-separator=", "jobs/"]), "");
    assert_eq!(mesh.on(1).get("/v1/session/list"), Ok(serde_json::json!([])));

    let code = |flags: &[&str]| {
        let child = ["jobs/nightly", "exit", "7"];
        one.output(PURLIN, &[&["lock"], flags, &child].concat()).status.code()
    };
    assert_eq!((code(&[]), code(&["-child-exit-code"])), (Some(0), Some(2)));
    let plain = mesh.on(1).purlin(&["lock", "-shell=false", "jobs/nightly", "echo", "-n", "$HOME"]);
    assert_eq!(plain, "$HOME");
}

fn a_killed_holder_loses_its_lock() {
    let mesh = Mesh::start(2, "");
    let (one, two) = (mesh.lab.host(1), mesh.lab.host(2));
    let mut first = lock(one, "first", &[], "echo > began; sleep 1000");
    await_mark(one, "began", LONG);
    let mut second = lock(two, "second", &[], "echo > began");
    first.kill();
    assert_eq!(second.wait(EXPIRED).code(), Some(0), "{}", second.log());
    await_mark(two, "began", SOON);

    // Whose session is ended by another loses the lock, and its command with it.
    let mut third = lock(one, "third", &["-name", "the third"], "echo > again; sleep 1000");
    await_mark(one, "again", LONG);
    let sessions = mesh.on(2).get("/v1/session/list").expect("sessions");
    let id = sessions[0]["ID"].as_str().expect("a session").to_owned();
    mesh.on(2).purlin(&["session", "destroy", &id]);
    assert_eq!(third.wait(LONG).code(), Some(1));
    has(&third.log(), &["is lost"]);
}

fn a_semaphore_has_so_many_places() {
    let mesh = Mesh::start(2, "");
    let (one, two) = (mesh.lab.host(1), mesh.lab.host(2));
    let mut first = lock(one, "first", &["-n", "2"], "echo > first; sleep 1000");
    let mut second = lock(two, "second", &["-n=2"], "echo > second; sleep 1000");
    await_mark(one, "first", LONG);
    await_mark(two, "second", LONG);
    let mut third = lock(two, "third", &["-n", "2"], "echo > third");
    until("the third contends", SOON, || {
        let keys = mesh.on(1).purlin(&["kv", "get", "-keys", "jobs/nightly/"]);
        if keys.lines().count() == 4 { Ok(()) } else { Err(keys) }
    });
    let other = mesh.on(1).try_purlin(&["lock", "-n", "3", "jobs/nightly", "true"]);
    has(&other.expect_err("another number of places"), &["has 2 places"]);
    assert!(third.is_running() && !two.dir.join("third").exists());
    assert_eq!(first.stop().code(), Some(0));
    assert_eq!(third.wait(LONG).code(), Some(0));
    assert_eq!(second.stop().code(), Some(0));
    assert_eq!(mesh.on(1).purlin(&["kv", "get", "-keys", "-separator=", "jobs/"]), "");
}
