//! The walls: a request between hosts is refused, then allowed over mutual TLS, and goes on without the server.

use serde_json::json;

use crate::kit::mesh::{await_status, call, nginx};
use crate::kit::wait::SOON;
use crate::kit::{Mesh, until};

pub const STORIES: &[(&str, fn())] = &[("walls", walls)];

fn walls() {
    let mut mesh = Mesh::start(3, "");
    let web = mesh.lab.host(2).clone();
    let _nginx = nginx(mesh.lab.host(3), 8080, "hello from api");
    mesh.on(3).register(&json!({"Name": "api", "Port": 8080, "Connect": {"SidecarService": {}}}));
    mesh.on(2).register(&json!({
        "Name": "web", "Port": 80,
        "Connect": {"SidecarService": {"Proxy": {"Upstreams": [{"DestinationName": "api", "LocalBindPort": 9191}]}}}
    }));
    mesh.on(2).await_healthy("api", 1);

    let refused = await_status(&web, 9191, 403, SOON);
    for word in ["web", "api", "purlin intention create web api"] {
        assert!(refused.contains(word), "no {word:?} in {refused:?}");
    }

    mesh.on(2).purlin(&["intention", "create", "web", "api"]);
    let body = await_status(&web, 9191, 200, SOON);
    assert_eq!(body.trim(), "hello from api");

    let capture = web.spawn(
        "capture",
        "tcpdump",
        &["-Z", "root", "-i", "eth0", "-U", "-A", "-s0", "tcp", "port", "20000"],
    );
    until("the capture runs", SOON, || match capture.log().contains("listening on") {
        true => Ok(()),
        false => Err(capture.log()),
    });
    assert_eq!(call(&web, 9191).map(|(status, _)| status), Ok(200));
    until("something was captured", SOON, || match capture.log().contains("20000") {
        true => Ok(()),
        false => Err("nothing".into()),
    });
    assert!(!capture.log().contains("hello from api"), "plaintext between hosts:\n{}", capture.log());

    mesh.on_mut(1).process.kill();
    mesh.lab.host(1).kill_all();
    for _ in 0..20 {
        assert_eq!(call(&web, 9191), Ok((200, "hello from api\n".into())));
    }
}
