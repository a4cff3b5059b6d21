//! A whole mesh on one machine: the demo that shows the main job, and the mode for trying things.

use serde_json::Value;

use super::ran::{Ran, has};
use crate::kit::mesh::{PURLIN, await_status, nginx};
use crate::kit::wait::{LONG, SOON};
use crate::kit::{Host, Lab, until};

pub const STORIES: &[(&str, fn())] = &[
    ("demo::once_in_json", once_in_json),
    ("demo::busy_ports_are_replaced", busy_ports_are_replaced),
    ("demo::goes_on_until_interrupted", goes_on_until_interrupted),
    ("demo::dev_is_a_mesh_of_one_host", dev_is_a_mesh_of_one_host),
    ("demo::dev_forgets_or_keeps", dev_forgets_or_keeps),
];

/// Each item of the tour, as words of a step's name, and what its real answer has.
const TOUR: &[(&str, &[&str])] = &[
    ("DNS finds", &["127.0.0.2", "127.0.0.3"]),
    ("API finds", &["api-v1", "api-v2", "passing"]),
    ("may not call", &["403", "web", "api", "purlin intention create web api"]),
    ("allows it", &["Created: web => api (allow)"]),
    ("goes through", &["200", "hello from api"]),
    ("two certificates", &["/svc/web", "/svc/api", "spiffe://", "valid 20", "TLS 1.3", "X25519MLKEM768"]),
    ("stranger on the network", &["TLS records", "16 03 0"]),
    ("killed", &["0 answered by v1"]),
    ("catalog", &["api-v1", "critical", "api-v2", "passing"]),
];

/// Without any privilege, whoever runs the tests.
fn demo(host: &Host, flags: &[&str]) -> (Value, String) {
    let output = host
        .command("setpriv")
        .args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "timeout", "120", PURLIN, "demo"])
        .args(flags)
        .output()
        .unwrap_or_else(|error| panic!("purlin demo: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    let value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}\n{err}"));
    (value, err.into_owned())
}

#[track_caller]
fn assert_tour(told: &Value) {
    assert_eq!(told["ok"], true, "{told:#}");
    assert_eq!(told.as_object().map(|map| map.len()), Some(2), "{told:#}");
    let steps = told["steps"].as_array().expect("steps");
    for step in steps {
        let keys: Vec<&str> = step.as_object().expect("a step").keys().map(String::as_str).collect();
        let mut sorted = keys.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, ["command", "ms", "name", "ok", "output"], "{step:#}");
        assert!(step["ok"] == true && step["ms"].is_u64(), "{step:#}");
    }
    let mut rest = steps.iter();
    for (name, words) in TOUR {
        let found = rest.find(|step| step["name"].as_str().is_some_and(|text| text.contains(name)));
        let step = found.unwrap_or_else(|| panic!("no step {name:?} in its place: {told:#}"));
        has(step["output"].as_str().expect("an output"), words);
        assert!(step["command"].as_str().is_some_and(|command| !command.is_empty()), "{step:#}");
    }
}

fn once_in_json() {
    let lab = Lab::new(1);
    let (told, progress) = demo(lab.host(1), &["--once", "--format", "json"]);
    assert_tour(&told);
    // Progress is told while it happens, elsewhere.
    has(&progress, &["1. ", "purlin intention create web api", "HTTP 403"]);
    assert!(!progress.contains("is busy"), "{progress}");
    assert_eq!(lab.host(1).pids(), Vec::<String>::new(), "something was left behind");
}

fn busy_ports_are_replaced() {
    let lab = Lab::new(1);
    let host = lab.host(1);
    let holder = "import socket\nheld = []\nfor family, kind, port in [(2, 1, 8500), (2, 2, 8600), (2, 1, 9191), (2, 2, 8300)]:\n    \
                  one = socket.socket(family, kind)\n    one.bind(('0.0.0.0', port))\n    kind == 1 and one.listen()\n    held.append(one)\n\
                  print('held', flush=True)\nimport signal\nsignal.pause()\n";
    host.write("hold.py", holder);
    let holder = host.spawn("holder", "python3", &["hold.py"]);
    until("the ports are held", SOON, || match holder.log().contains("held") {
        true => Ok(()),
        false => Err(holder.log()),
    });
    let (told, progress) = demo(host, &["-once", "-format=json"]);
    assert_tour(&told);
    for port in ["127.0.0.1:8500", "127.0.0.2:8500", "127.0.0.1:8600", "127.0.0.1:9191", "127.0.0.1:8300"] {
        has(&progress, &[&format!("{port} is busy")]);
    }
    assert!(!told.to_string().contains("127.0.0.1:8500"), "the busy port is in a command: {told:#}");
}

fn goes_on_until_interrupted() {
    let lab = Lab::new(1);
    let host = lab.host(1);
    let mut demo = host.spawn("demo", PURLIN, &["demo"]);
    let log = until("the tour is over", LONG, || match demo.log() {
        log if log.contains("goes on until Ctrl-C") => Ok(log),
        log => Err(log),
    });
    // What it offers to try works as it stands there.
    let commands: Vec<&str> =
        log.lines().rev().take_while(|line| !line.contains("To try")).map(str::trim).collect();
    assert!(commands.len() >= 5, "{log}");
    let path = format!("PATH={}:$PATH", PURLIN.trim_end_matches("/purlin"));
    for command in commands.iter().rev().filter(|line| !line.is_empty()) {
        let typed = command.split("   ").next().unwrap_or(command);
        let said =
            host.run("sh", &["-c", &format!("{path}; curl() {{ command curl -sSf \"$@\"; }}; {typed}")]);
        assert!(!said.is_empty(), "{typed} said nothing");
    }
    until("the intention is gone", SOON, || match host.curl(&["http://127.0.0.1:9191/"])? {
        (403, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    demo.signal("INT");
    assert_eq!(demo.wait(SOON).code(), Some(0));
    assert_eq!(host.pids(), Vec::<String>::new());
}

fn dev_is_a_mesh_of_one_host() {
    let lab = Lab::new(1);
    let host = lab.host(1);
    host.write(
        "services.hcl",
        "service {\n  name = \"api\"\n  port = 8080\n  connect { sidecar_service {} }\n}\n\
         service {\n  name = \"web\"\n  port = 80\n  upstreams = [{ name = \"api\", local_bind_port = 9191 }]\n}\n",
    );
    let _api = nginx(host, 8080, "hello from dev");
    let mut dev = host.spawn("dev", PURLIN, &["dev", "--config", "services.hcl"]);
    until("dev is up", LONG, || match dev.log() {
        log if log.contains("127.0.0.1:8500")
            && log.contains("127.0.0.1:8600")
            && log.contains("127.0.0.1:20000") =>
        {
            Ok(())
        }
        log => Err(log),
    });
    let purlin = |args: &[&str]| Ran::purlin(host, args);
    assert_eq!(purlin(&["catalog", "datacenters"]).ok(), "dc1\n");
    has(&purlin(&["members"]).ok(), &["127.0.0.1:8300", "alive", "server", "dc1"]);
    has(&await_status(host, 9191, 403, SOON), &["purlin intention create web api"]);
    purlin(&["intention", "create", "web", "api"]).ok();
    has(&await_status(host, 9191, 200, SOON), &["hello from dev"]);
    let answer = host.run("dig", &["@127.0.0.1", "-p", "8600", "+short", "api.service.consul"]);
    assert_eq!(answer, "127.0.0.1");
    // Nothing but this one process, and nothing of it listens beyond this host.
    let open = host.run("ss", &["-Hlntu"]);
    assert!(open.lines().all(|line| line.contains("127.0.0.1:") || line.contains("127.0.0.2:")), "{open}");
    dev.signal("INT");
    assert_eq!(dev.wait(SOON).code(), Some(0));
}

fn dev_forgets_or_keeps() {
    let lab = Lab::new(1);
    let host = lab.host(1);
    for (flags, kept) in [(["dev"].as_slice(), false), (&["dev", "--data-dir=kept"], true)] {
        for round in 0..2 {
            let mut dev = host.spawn("dev", PURLIN, flags);
            let found = until("dev answers", LONG, || {
                host.curl(&["http://127.0.0.1:8500/v1/status/leader"])?;
                let (status, body) = host.curl(&["http://127.0.0.1:8500/v1/connect/intentions"])?;
                if status == 200 { Ok(body) } else { Err(format!("{status} {body}\n{}", dev.log())) }
            });
            let found: Value = serde_json::from_str(&found).expect("JSON");
            let expected = if round == 1 && kept { 1 } else { 0 };
            assert_eq!(found.as_array().map(Vec::len), Some(expected), "round {round}, kept {kept}: {found}");
            if round == 0 {
                Ran::purlin(host, &["intention", "create", "web", "api"]).ok();
            }
            assert_eq!(dev.stop().code(), Some(0), "{}", dev.log());
        }
    }
}
