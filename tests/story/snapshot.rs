//! A snapshot is saved from one mesh and restored: into the same one, and into one that never heard of it.

use std::time::Duration;

use serde_json::json;

use crate::kit::wait::SOON;
use crate::kit::{Mesh, until};

pub const STORIES: &[(&str, fn())] =
    &[("snapshot::back_in_time", back_in_time), ("snapshot::into_another_mesh", into_another_mesh)];

fn external(name: &str) -> String {
    json!({"Node": name, "Address": "10.9.9.9", "SkipNodeUpdate": true,
           "Service": {"ID": format!("{name}-1"), "Service": "db", "Port": 5432}})
    .to_string()
}

/// The instances of `db` as the agent's own view has them, by node.
fn nodes_of_db(mesh: &Mesh, host: usize) -> Result<Vec<String>, String> {
    let entries = mesh.on(host).get("/v1/catalog/service/db")?;
    Ok(entries
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one["Node"].as_str().map(str::to_owned))
        .collect())
}

#[track_caller]
fn await_db(mesh: &Mesh, host: usize, wanted: &[&str]) {
    until(&format!("db on {wanted:?} seen from host {host}"), SOON, || {
        let found = nodes_of_db(mesh, host)?;
        if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

fn back_in_time() {
    let mut mesh = Mesh::start(2, "");
    let agent = mesh.on(2);
    agent.register(&json!({"Name": "web", "Port": 80}));
    agent.await_healthy("web", 1);
    assert_eq!(agent.put("/v1/catalog/register", &external("old")).map(|(status, _)| status), Ok(200));
    agent.purlin(&["intention", "create", "web", "db"]);
    await_db(&mesh, 2, &["old"]);
    let said = agent.purlin(&["snapshot", "save", "backup.snap"]);
    assert!(said.contains("Saved and verified snapshot to index"), "{said}");
    let told: serde_json::Value =
        serde_json::from_str(&agent.purlin(&["snapshot", "inspect", "--format", "json", "backup.snap"]))
            .expect("JSON");
    assert_eq!(told["Meta"]["Version"], 1, "{told}");
    let table = agent.purlin(&["snapshot", "inspect", "backup.snap"]);
    for word in ["Index", "Term", "Version", "instances", "config-entries", "Total"] {
        assert!(table.contains(word), "no {word} in {table}");
    }

    agent.purlin(&["intention", "delete", "web", "db"]);
    assert_eq!(agent.put("/v1/catalog/register", &external("new")).map(|(status, _)| status), Ok(200));
    await_db(&mesh, 2, &["new", "old"]);
    // Somebody waits for the next change of what the snapshot does not touch either.
    let (status, head) = agent
        .host
        .curl(&["-o", "/dev/null", "-D", "-", "http://127.0.0.1:8500/v1/catalog/nodes"])
        .expect("the nodes");
    assert_eq!(status, 200);
    let index = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("x-consul-index:").map(|at| at.trim().to_owned())
        })
        .expect("an index");
    let url = format!("http://127.0.0.1:8500/v1/catalog/nodes?index={index}&wait=120s");
    let host = agent.host.clone();
    let waiting = std::thread::spawn(move || host.curl(&["--max-time", "100", &url]));

    // A damaged one changes nothing.
    let path = agent.host.dir.join("backup.snap");
    let good = std::fs::read(&path).expect("the snapshot");
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    std::fs::write(agent.host.dir.join("bad.snap"), &bad).expect("written");
    let refused = agent.try_purlin(&["snapshot", "restore", "bad.snap"]).expect_err("a damaged snapshot");
    assert!(refused.contains("checksum is wrong") && refused.contains("nothing was changed"), "{refused}");
    let refused = agent.try_purlin(&["snapshot", "inspect", "bad.snap"]).expect_err("a damaged snapshot");
    assert!(refused.contains("bad.snap is corrupt"), "{refused}");
    await_db(&mesh, 2, &["new", "old"]);

    assert!(agent.purlin(&["snapshot", "restore", "backup.snap"]).contains("Restored snapshot"));
    await_db(&mesh, 1, &["old"]);
    await_db(&mesh, 2, &["old"]);
    let answered = waiting.join().expect("the thread").expect("an answer");
    assert_eq!(answered.0, 200);
    assert!(agent.purlin(&["intention", "list"]).contains("web"), "the intention is not back");
    // The host's own service was never gone, and it can register more.
    agent.await_healthy("web", 1);
    agent.register(&json!({"Name": "api", "Port": 81}));
    agent.await_healthy("api", 1);

    // The agent starts again and the server does: both go on from there.
    mesh.on_mut(2).again();
    mesh.on_mut(1).again();
    mesh.on(1).await_ready();
    mesh.on(2).await_ready();
    mesh.await_members(2);
    await_db(&mesh, 2, &["old"]);
    mesh.on(2).await_healthy("api", 1);
}

fn into_another_mesh() {
    let theirs = Mesh::start(1, "");
    assert_eq!(theirs.on(1).put("/v1/catalog/register", &external("old")).map(|(status, _)| status), Ok(200));
    theirs.on(1).purlin(&["intention", "create", "a", "b"]);
    let index = |mesh: &Mesh| {
        let told = mesh.on(1).purlin(&["snapshot", "save", "--format", "json", "backup.snap"]);
        serde_json::from_str::<serde_json::Value>(&told).expect("JSON")["Index"].as_u64().expect("a number")
    };
    for n in 0..20 {
        theirs.on(1).purlin(&["intention", "create", &format!("s{n}"), "b"]);
    }
    let before = index(&theirs);
    let file = std::fs::read(theirs.on(1).host.dir.join("backup.snap")).expect("the snapshot");
    drop(theirs);

    let ours = Mesh::start(2, "");
    let roots = ours.on(2).get("/v1/connect/ca/roots").expect("roots");
    let agent = ours.on(2);
    std::fs::write(agent.host.dir.join("backup.snap"), &file).expect("written");
    let (status, said) = agent
        .host
        .curl(&["-X", "PUT", "--data-binary", "@backup.snap", "http://127.0.0.1:8500/v1/snapshot"])
        .expect("an answer");
    assert_eq!(status, 200, "{said}");
    assert!(said.contains("keeps its own root"), "{said}");
    await_db(&ours, 2, &["old"]);
    assert!(agent.purlin(&["intention", "list"]).contains("s19"));
    let after = ours.on(2).get("/v1/connect/ca/roots").expect("roots");
    assert_eq!(
        (&after["TrustDomain"], &after["Roots"][0]["ID"]),
        (&roots["TrustDomain"], &roots["Roots"][0]["ID"])
    );
    assert!(index(&ours) > before, "revisions went back");
    // The members of this mesh are alive and their certificates good.
    ours.await_members(2);
    agent.register(&json!({"Name": "web", "Port": 80, "Connect": {"SidecarService": {}}}));
    agent.await_healthy("web", 1);
    until("a leaf", Duration::from_secs(30), || agent.get("/v1/agent/connect/ca/leaf/web").map(|_| ()));
}
