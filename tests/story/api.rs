//! The HTTP API as clients know it from Consul: with a client that is not ours, and byte for byte where clients rely
//! on it.

use serde_json::{Value, json};

use super::ran::has;
use crate::kit::apps::client_passes;
use crate::kit::wait::{LONG, SOON};
use crate::kit::{Agent, Host, Lab, Mesh, until};

pub const STORIES: &[(&str, fn())] = &[
    ("api::an_unmodified_consul_client", an_unmodified_consul_client),
    ("api::statuses_and_headers", statuses_and_headers),
    ("api::what_is_too_large_or_malformed", what_is_too_large_or_malformed),
    ("api::a_blocking_query_hears_its_own", a_blocking_query_hears_its_own),
    ("api::secrets_stay_on_the_host", secrets_stay_on_the_host),
];

fn an_unmodified_consul_client() {
    let mesh = Mesh::start(2, "node_meta = { rack = \"7\" }");
    client_passes(mesh.lab.host(2), "consul_client.py", 10);
}

/// An answer with its head: names in lower case.
struct Answer {
    status: u16,
    head: Vec<(String, String)>,
    body: String,
}

impl Answer {
    #[track_caller]
    fn of(host: &Host, args: &[&str]) -> Self {
        let text = host.run("curl", &[&["-sSi", "--max-time", "15"], args].concat());
        // Without what comes before a large body is taken.
        let text = text.replace("\r\n", "\n");
        let text = text.strip_prefix("HTTP/1.1 100 Continue\n\n").unwrap_or(&text);
        let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        let head =
            lines.filter_map(|line| line.split_once(": ")).map(|(k, v)| (k.to_lowercase(), v.to_owned()));
        Self { status: status.expect("a status"), head: head.collect(), body: body.to_owned() }
    }

    fn get(host: &Host, path: &str) -> Self {
        Self::of(host, &[&format!("http://127.0.0.1:8500{path}")])
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Text as Consul's errors are, never JSON.
    #[track_caller]
    fn is_error(&self, status: u16, words: &[&str]) {
        assert_eq!(self.status, status, "{}", self.body);
        assert!(
            self.header("content-type").is_some_and(|media| media.starts_with("text/plain")),
            "{:?}",
            self.head
        );
        has(&self.body, words);
    }
}

fn statuses_and_headers() {
    let lab = Lab::new(1);
    let agent = Agent::server(lab.host(1), "");
    let host = lab.host(1);
    agent.register(&json!({"Name": "web", "Port": 80, "Check": {"TTL": "10m", "Status": "warning"}}));
    let get = |path: &str| Answer::get(host, path);
    let send = |method: &str, path: &str, body: &str| {
        Answer::of(host, &["-X", method, "-d", body, &format!("http://127.0.0.1:8500{path}")])
    };

    let answer = get("/v1/health/service/web");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    for (name, value) in [
        ("x-consul-knownleader", "true"),
        ("x-consul-lastcontact", "0"),
        ("x-consul-effective-consistency", "stale"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{:?}", answer.head);
    }
    let index: u64 = answer.header("x-consul-index").and_then(|text| text.parse().ok()).expect("an index");
    assert!(index > 0 && !answer.body.contains('\n'));
    assert_eq!(
        get("/v1/health/service/web?consistent").header("x-consul-effective-consistency"),
        Some("consistent")
    );
    assert_eq!(get("/v1/health/service/web?cached").header("x-cache"), Some("HIT"));
    assert!(get("/v1/health/service/none").header("x-consul-index").is_some());
    assert!(get("/v1/agent/services?pretty").body.contains("\n    \"web\": {\n        "));
    assert_eq!(get("/v1/health/service/none").body, "[]");
    assert_eq!(Answer::of(host, &["-I", "http://127.0.0.1:8500/v1/catalog/nodes"]).status, 200);

    // Unknown paths, and methods that are not for a path.
    for path in ["/", "/v1", "/v1/nonsense", "/v1/agent/services/more", "/v2/agent/self", "/ui/"] {
        get(path).is_error(404, &[]);
    }
    for (method, path, allowed) in [
        ("DELETE", "/v1/agent/services", "OPTIONS,GET"),
        ("GET", "/v1/agent/service/register", "OPTIONS,PUT"),
        ("POST", "/v1/connect/intentions/exact", "OPTIONS,GET,PUT,DELETE"),
        ("PUT", "/v1/catalog/nodes", "OPTIONS,GET"),
    ] {
        let answer = send(method, path, "");
        answer.is_error(405, &[method, "not allowed"]);
        let mut found: Vec<&str> = answer.header("allow").expect("Allow").split(',').collect();
        let mut wanted: Vec<&str> = allowed.split(',').collect();
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{path}");
        let options = send("OPTIONS", path, "");
        assert_eq!((options.status, options.header("allow").is_some()), (200, true));
    }

    // What Consul's clients tell apart.
    for (path, status, words) in [
        ("/v1/agent/health/service/id/web", 429, "warning"),
        ("/v1/agent/health/service/name/none", 404, ""),
        ("/v1/agent/service/none", 404, "none"),
        ("/v1/config/service-defaults/none", 404, "none"),
        ("/v1/connect/intentions/exact?source=a&destination=b", 404, "not found"),
        ("/v1/health/state/nonsense", 400, "nonsense"),
        ("/v1/config/nonsense", 400, "nonsense"),
        ("/v1/health/service/web?index=x", 400, "Invalid index"),
        ("/v1/health/service/web?index=1&wait=x", 400, "Invalid wait time"),
        ("/v1/health/service/web?stale&consistent", 400, "conflicting"),
        ("/v1/health/service/web?filter=Service.ID==", 400, "expression"),
        ("/v1/health/service/web?filter=Nonsense==x", 400, "Nonsense"),
        ("/v1/health/service/web?dc=elsewhere", 500, "No path to datacenter"),
        ("/v1/health/service/web?ns=other", 400, "ns"),
        ("/v1/acl/tokens", 401, "ACL support disabled"),
        ("/v1/connect/intentions/match?by=nonsense&name=x", 400, "by"),
    ] {
        let answer = get(path);
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        has(&answer.body, &[words]);
    }
    assert_eq!(send("PUT", "/v1/agent/check/pass/service:web", "").status, 200);
    until("it passes", SOON, || match get("/v1/agent/health/service/id/web?format=text") {
        answer if answer.status == 200 && answer.body.trim() == "passing" => Ok(()),
        answer => Err(format!("{} {}", answer.status, answer.body)),
    });
    // A page of elsewhere does not write through a browser.
    let page = ["-X", "PUT", "-H", "Origin: http://evil.example", "http://127.0.0.1:8500/v1/agent/leave"];
    Answer::of(host, &page).is_error(403, &["origin"]);
}

fn what_is_too_large_or_malformed() {
    let lab = Lab::new(1);
    let agent = Agent::server(lab.host(1), "");
    let host = lab.host(1);
    let put = |path: &str, body: &str| {
        let file = host.write("body", body);
        let data = format!("@{}", file.display());
        // The form type of `curl -d` does not matter.
        Answer::of(host, &["-X", "PUT", "--data-binary", &data, &format!("http://127.0.0.1:8500{path}")])
    };
    let register = "/v1/agent/service/register";
    let padded = |length: usize| {
        let bare = r#"{"Name": "web", "Port": 80}"#;
        format!("{bare}{}", " ".repeat(length - bare.len()))
    };
    assert_eq!(put(register, &padded(512 * 1024)).status, 200);
    put(register, &padded(512 * 1024 + 1)).is_error(413, &["too large", "524288"]);
    let chunked = [
        "-X",
        "PUT",
        "-H",
        "Transfer-Encoding: chunked",
        "--data-binary",
        "@body",
        "http://127.0.0.1:8500/v1/config",
    ];
    Answer::of(host, &chunked).is_error(413, &["too large"]);

    for (body, words) in [
        ("", &[][..]),
        ("{", &["JSON"]),
        ("[]", &[]),
        (r#"{"Port": 80}"#, &["name"]),
        (r#"{"Name": "web", "Prot": 80}"#, &["Prot", "port"]),
        (r#"{"Name": "web", "Port": "80"}"#, &["port", "number"]),
        (r#"{"Name": "web", "Port": 1, "port": 2}"#, &["port"]),
        (r#"{"Name": "we b", "Port": 80}"#, &["we b"]),
        (
            r#"{"Name": "web", "Check": {"HTTP": "http://127.0.0.1/", "Interval": "often"}}"#,
            &["interval", "often"],
        ),
        (r#"{"Name": "web", "Check": {"Args": ["true"], "Interval": "10s"}}"#, &["script"]),
    ] {
        put(register, body).is_error(400, words);
    }
    // Any case, snake or Pascal.
    for body in [
        r#"{"NAME": "web", "pOrT": 81}"#,
        r#"{"name": "web", "enable_tag_override": true, "EnableTagOverride": true}"#,
    ] {
        let answer = put(register, body);
        assert!(answer.status == 200 || answer.body.contains("twice"), "{}", answer.body);
    }
    // Requests that are no HTTP, or endless, do not take the agent down.
    let raw = |text: &str| {
        let program = format!(
            "import socket\ns = socket.create_connection(('127.0.0.1', 8500))\ns.sendall({text})\nprint(s.recv(100))"
        );
        host.run("python3", &["-c", &program])
    };
    has(&raw("b'nonsense\\r\\n\\r\\n'"), &["400"]);
    let _ = host.try_run("python3", &["-c", "import socket\ns = socket.create_connection(('127.0.0.1', 8500))\ns.sendall(b'GET /v1/agent/self HTTP/1.1\\r\\nX: ' + b'x' * 4000000)"]);
    assert_eq!(Answer::get(host, &format!("/v1/health/service/{}", "x".repeat(2000))).body, "[]");
    assert!(agent.get("/v1/agent/self").is_ok());
}

fn a_blocking_query_hears_its_own() {
    let mesh = Mesh::start(2, "");
    let (server, agent) = (mesh.on(1), mesh.on(2));
    agent.register(&json!({"Name": "db", "Port": 1, "Check": {"TTL": "10m", "Status": "passing"}}));
    agent.register(&json!({"Name": "noise", "Port": 1}));
    server.await_healthy("db", 1);
    // On every kind of list, at the server's own agent and at the other.
    let paths = [
        "/v1/health/service/db?passing",
        "/v1/catalog/service/db",
        "/v1/health/checks/db",
        "/v1/health/service/absent",
    ];
    let mut waiting = Vec::new();
    for host in [mesh.lab.host(1), mesh.lab.host(2)] {
        for (number, path) in paths.iter().enumerate() {
            let index = Answer::get(host, path).header("x-consul-index").expect("an index").to_owned();
            let url = format!(
                "http://127.0.0.1:8500{path}{}index={index}&wait=60s",
                if path.contains('?') { '&' } else { '?' }
            );
            let curl = host.spawn(&format!("wait-{number}"), "curl", &["-sSi", "--max-time", "80", &url]);
            waiting.push((*path, index, curl));
        }
    }
    // Whether a wait is there cannot be seen; that it hears nothing of others can, and it hears its own wherever it is.
    for port in 2..6 {
        agent.register(&json!({"Name": "noise", "Port": port}));
        agent.register(&json!({"Name": format!("other-{port}"), "Port": port}));
    }
    server.await_healthy("other-5", 1);
    for (path, _, curl) in &mut waiting {
        assert!(curl.is_running(), "{path} was woken by another service: {}", curl.log());
    }
    agent.register(&json!({"Name": "db", "Port": 2, "Check": {"TTL": "10m", "Status": "passing"}}));
    assert_eq!(agent.put("/v1/agent/check/warn/service:db", "").map(|answer| answer.0), Ok(200));
    for (path, index, mut curl) in waiting {
        if path.ends_with("absent") {
            assert!(curl.is_running(), "{path} was woken: {}", curl.log());
            continue;
        }
        assert_eq!(curl.wait(SOON).code(), Some(0));
        let log = curl.log().to_lowercase();
        let found = log.lines().find_map(|line| line.strip_prefix("x-consul-index: ").map(str::trim));
        let (found, index): (u64, u64) =
            (found.and_then(|text| text.parse().ok()).expect("an index"), index.parse().expect("an index"));
        assert!(found > index, "{path}: {found} after {index}");
    }
    // A new service wakes the list of services; the hash of a service wakes whoever asks by it.
    let host = mesh.lab.host(2);
    let index =
        Answer::get(host, "/v1/catalog/services").header("x-consul-index").expect("an index").to_owned();
    let hash =
        Answer::get(host, "/v1/agent/service/db").header("x-consul-contenthash").expect("a hash").to_owned();
    let all = host.spawn(
        "all",
        "curl",
        &["-sS", &format!("http://127.0.0.1:8500/v1/catalog/services?index={index}&wait=60s")],
    );
    let one = host.spawn(
        "one",
        "curl",
        &["-sS", &format!("http://127.0.0.1:8500/v1/agent/service/db?hash={hash}&wait=60s")],
    );
    agent.register(&json!({"Name": "fresh", "Port": 1}));
    agent.register(&json!({"Name": "db", "Port": 3}));
    for (mut process, word) in [(all, "fresh"), (one, "\"Port\":3")] {
        assert_eq!(process.wait(LONG).code(), Some(0));
        has(&process.log(), &[word]);
    }
}

fn secrets_stay_on_the_host() {
    let lab = Lab::new(2);
    let open = "client_addr = \"0.0.0.0\"\n[http_config]\nallow_plaintext = true\nresponse_headers = { X-Site = \"lab\" }";
    let agent = Agent::server(lab.host(1), open);
    agent.register(&json!({"Name": "web", "Port": 80, "Connect": {"SidecarService": {}}}));
    let leaf = until("web has a leaf", SOON, || agent.get("/v1/agent/connect/ca/leaf/web"));
    has(leaf["PrivateKeyPEM"].as_str().expect("a key"), &["BEGIN", "PRIVATE KEY"]);
    let from_elsewhere = |path: &str| Answer::of(lab.host(2), &[&format!("http://10.77.0.1:8500{path}")]);
    assert_eq!(from_elsewhere("/v1/agent/self").header("x-site"), Some("lab"));
    from_elsewhere("/v1/agent/connect/ca/leaf/web").is_error(403, &["loopback"]);
    let leaves: Value = agent.get("/v1/agent/connect/ca/roots").expect("roots");
    assert!(!leaves.to_string().contains("PRIVATE KEY"));
    // What is kept is readable to its owner alone.
    let data = lab.host(1).dir.join("data");
    let found = lab.host(1).run("find", &[data.to_str().expect("a path"), "-printf", "%y %m %P\n"]);
    // Within `raft`, which only the owner can enter, sled makes its own files.
    for line in found.lines().filter(|line| !line.contains(" raft/")) {
        let mode = if line.starts_with('d') { "d 700 " } else { " 600 " };
        assert!(line.contains(mode), "{line}");
    }
    assert!(found.lines().count() > 5, "{found}");
}
