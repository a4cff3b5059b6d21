//! The walls: a request between hosts is refused, then allowed over mutual TLS, and goes on without the server.

use std::io::Write;

use serde_json::json;

use crate::kit::capture::capture;
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

    let seen = capture(&web, 20000);
    assert_eq!(call(&web, 9191).map(|(status, _)| status), Ok(200));
    // The same eyes see what is not encrypted.
    let mut plain = web.dial("10.77.0.3:20000").expect("a connection");
    plain.write_all(b"GET /in-plain-sight HTTP/1.1\r\n\r\n").expect("written");
    until("the capture sees", SOON, || match seen.packets() {
        text if text.contains("in-plain-sight") => Ok(()),
        text => Err(text),
    });
    let text = seen.packets();
    assert!(!text.contains("hello from api") && !text.contains("HTTP/1.1 200"), "plaintext:\n{text}");

    mesh.on_mut(1).process.kill();
    mesh.lab.host(1).kill_all();
    for _ in 0..20 {
        assert_eq!(call(&web, 9191), Ok((200, "hello from api\n".into())));
    }
}
