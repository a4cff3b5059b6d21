//! Hosts and services that are taken out of service, and put back.

use std::time::Duration;

use serde_json::json;

use super::{find, follows, offered};
use crate::kit::apps::{client, meshed, nginx};
use crate::kit::mesh::{await_status, call};
use crate::kit::wait::SOON;
use crate::kit::{Host, Mesh, until};
use crate::story::ran::has;

/// What is said of it, everywhere.
pub fn said(mesh: &Mesh) {
    let agent = mesh.on(2);
    agent.register(&json!({"Name": "other", "Port": 1}));
    let said = agent.purlin(&["maint", "-enable", "-service=api", "-reason=new disk"]);
    has(&said, &["now enabled", "api"]);
    let check = follows(mesh, "api", "_service_maintenance:api", "critical", &[]);
    assert_eq!(check["Notes"], "new disk", "{check}");
    offered(mesh, "other", "passing");
    has(&agent.purlin(&["maint"]), &["service:", "api", "new disk"]);
    has(&agent.purlin(&["maint", "-disable", "-service", "api"]), &["now disabled", "api"]);
    offered(mesh, "api", "passing");
    assert_eq!(agent.purlin(&["maint"]), "");

    agent.purlin(&["maint", "-enable", "-reason", "moving house"]);
    for service in ["api", "other", "far"] {
        offered(mesh, service, "critical");
    }
    let node = mesh.on(1).get("/v1/health/node/h2").expect("checks");
    assert_eq!(
        find(&node, "_node_maintenance").map(|check| check["Notes"].clone()),
        Some(json!("moving house"))
    );
    has(&agent.purlin(&["maint"]), &["node:", "h2", "moving house"]);
    agent.purlin(&["maint", "-disable"]);
    for service in ["api", "other", "far"] {
        offered(mesh, service, "passing");
    }
    let unknown = agent.try_purlin(&["maint", "-enable", "-service=nobody"]);
    has(&unknown.expect_err("no such service"), &["nobody"]);
}

/// Callers go elsewhere meanwhile; and it outlives the agent.
pub fn felt() {
    let mut mesh = Mesh::start(3, "");
    let web = mesh.lab.host(3).clone();
    let _apps = [nginx(mesh.lab.host(1), 8080, "one"), nginx(mesh.lab.host(2), 8080, "two")];
    for host in [1, 2] {
        mesh.on(host).register(&meshed("api", 8080));
    }
    mesh.on(3).register(&client("web", &[("api", 9191)]));
    mesh.on(3).purlin(&["intention", "create", "web", "api"]);
    mesh.on(3).await_healthy("api", 2);
    await_status(&web, 9191, 200, SOON);

    mesh.on(1).purlin(&["maint", "-enable", "-service=api", "-reason=new disk"]);
    mesh.on(3).await_healthy("api", 1);
    only(&web, "two");

    mesh.on(1).purlin(&["maint", "-disable", "-service=api"]);
    mesh.on(3).await_healthy("api", 2);
    // A whole host, by the API; it stays so when its agent starts anew.
    let answer = mesh.on(2).put("/v1/agent/maintenance?enable=true&reason=move", "").expect("an answer");
    assert_eq!(answer.0, 200, "{answer:?}");
    mesh.on(3).await_healthy("api", 1);
    only(&web, "one");
    mesh.on_mut(2).again();
    mesh.on(2).await_ready();
    until("the check is there after a start", SOON, || {
        let checks = mesh.on(2).get("/v1/agent/checks")?;
        if checks["_node_maintenance"]["Status"] == "critical" { Ok(()) } else { Err(checks.to_string()) }
    });
    only(&web, "one");
    mesh.on(2).purlin(&["maint", "-disable"]);
    mesh.on(3).await_healthy("api", 2);
}

/// All requests are answered by this one, once the word got around.
#[track_caller]
fn only(web: &Host, wanted: &str) {
    until(&format!("only {wanted} answers"), Duration::from_secs(3), || {
        for _ in 0..8 {
            match call(web, 9191)? {
                (200, body) if body.trim() == wanted => {}
                other => return Err(format!("{other:?}")),
            }
        }
        Ok(())
    });
}
