//! How many answers it takes to change what a check says, counted at the target.

use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::{follows, id, offered, own};
use crate::kit::apps::{client, meshed, nginx};
use crate::kit::mesh::await_status;
use crate::kit::net::App;
use crate::kit::wait::SOON;
use crate::kit::{Host, Mesh};
use crate::story::ran::has;

/// What a check asks over HTTP: each question waits until the story answers it.
struct Gate {
    asked: Receiver<()>,
    answers: Sender<u16>,
    _app: App,
}

impl Gate {
    fn start(host: &Host, address: &str) -> Self {
        let ((ask, asked), (answers, given)) = (channel(), channel());
        let given = Arc::new(Mutex::new(given));
        let app = App::start(host, address, move |mut stream| {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0; 1];
                if stream.read_exact(&mut byte).is_err() {
                    return;
                }
                head.push(byte[0]);
            }
            let answer = ask.send(()).ok().and_then(|()| given.lock().ok()?.recv().ok());
            let Some(status): Option<u16> = answer else { return };
            let _ = stream.write_all(
                format!("HTTP/1.1 {status} Story\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .as_bytes(),
            );
        });
        Self { asked, answers, _app: app }
    }

    /// Until the next question is there; what the ones before it led to is then decided.
    #[track_caller]
    fn await_question(&self) {
        self.asked.recv_timeout(SOON).expect("the check asks again");
    }

    fn answer(&self, status: u16) {
        self.answers.send(status).expect("the target is there");
    }
}

/// What is so when the next question is there, which means that all answers before it were weighed.
#[track_caller]
fn stays(mesh: &Mesh, gate: &Gate, service: &str, status: &str) {
    gate.await_question();
    let check = own(mesh.on(2), &id(service)).expect("checks");
    assert_eq!(check["Status"], status, "{check}");
    offered(mesh, service, status);
}

fn gated(name: &str, port: u16, mut thresholds: Value) -> Value {
    thresholds["HTTP"] = format!("http://127.0.0.1:{port}/").into();
    thresholds["Interval"] = "1s".into();
    thresholds["Timeout"] = "30s".into();
    let mut service = meshed(name, 8080);
    service["Check"] = thresholds;
    service
}

pub fn thresholds() {
    let mesh = Mesh::start(2, "enable_script_checks = true");
    let (web, far, agent) = (mesh.lab.host(1), mesh.lab.host(2), mesh.on(2));
    let (_app, gate) = (nginx(far, 8080, "here"), Gate::start(far, "127.0.0.1:8081"));
    agent.register(&gated("api", 8081, json!({"SuccessBeforePassing": 2, "FailuresBeforeCritical": 3})));
    mesh.on(1).register(&client("web", &[("api", 9191), ("slow", 9192)]));
    for called in ["api", "slow"] {
        mesh.on(1).purlin(&["intention", "create", "web", called]);
    }

    // The first answer counts at once.
    gate.await_question();
    gate.answer(200);
    follows(&mesh, "api", &id("api"), "passing", &["200"]);
    await_status(web, 9191, 200, SOON);
    // One that is well in between: the failures before it do not count any more.
    for status in [500, 500, 200, 500, 500] {
        stays(&mesh, &gate, "api", "passing");
        gate.answer(status);
    }
    stays(&mesh, &gate, "api", "passing");
    await_status(web, 9191, 200, SOON);
    gate.answer(500);
    follows(&mesh, "api", &id("api"), "critical", &["500"]);
    has(&await_status(web, 9191, 503, SOON), &["api", "healthy"]);
    for _ in 0..2 {
        stays(&mesh, &gate, "api", "critical");
        gate.answer(200);
    }
    follows(&mesh, "api", &id("api"), "passing", &["200"]);
    await_status(web, 9191, 200, SOON);

    // A warning on the way, where it is asked for.
    let gate = Gate::start(far, "127.0.0.1:8082");
    agent.register(&gated("slow", 8082, json!({"FailuresBeforeWarning": 2, "FailuresBeforeCritical": 3})));
    gate.await_question();
    gate.answer(200);
    follows(&mesh, "slow", &id("slow"), "passing", &["200"]);
    for status in ["passing", "passing", "warning"] {
        stays(&mesh, &gate, "slow", status);
        // A warning is no reason not to be called.
        await_status(web, 9192, 200, SOON);
        gate.answer(500);
    }
    follows(&mesh, "slow", &id("slow"), "critical", &["500"]);
    has(&await_status(web, 9192, 503, SOON), &["slow", "healthy"]);

    // Where the host allows it, the API may have a script run.
    let script = json!({"Args": ["sh", "-c", "echo told by $0; exit 1", "h2"], "Interval": "1s"});
    agent.register(&json!({"Name": "script", "Port": 1, "Check": script}));
    follows(&mesh, "script", &id("script"), "warning", &["told by h2"]);
}
