//! Every kind of traffic that applications speak gets from one host to another as it was sent.

use std::io::{Read, Write};
use std::net::Shutdown;

use serde_json::{Value, json};

use crate::kit::apps::{
    await_open, client, meshed, nginx, nginx_with, postgres, psql, python, redis, script,
};
use crate::kit::capture::capture;
use crate::kit::mesh::{await_status, call};
use crate::kit::net::{App, read_head, rest};
use crate::kit::wait::SOON;
use crate::kit::{Agent, Host, Lab, Mesh, Process, until};

pub const STORIES: &[(&str, fn())] = &[
    ("traffic::http", http),
    ("traffic::grpc", grpc),
    ("traffic::tcp", tcp),
    ("traffic::instances", instances),
    ("traffic::upstreams", upstreams),
    ("traffic::places", places),
    ("traffic::ipv6", ipv6),
];

/// Registers `api` on host 3, and `web` on host 2 with it as upstream on port 9191, allowed.
fn api_and_web(mesh: &Mesh, port: u16) {
    mesh.on(2).purlin(&["intention", "create", "web", "api"]);
    mesh.on(3).register(&meshed("api", port));
    mesh.on(2).register(&client("web", &[("api", 9191)]));
}

pub fn http_app(host: &Host, port: u16) -> Process {
    let port = port.to_string();
    let app = host.spawn("http_app", &python(), &[&script("http_app.py"), &port]);
    await_open(host, &port);
    app
}

/// What `http_app.py` says that reached it, in each answer of a run of curl.
#[track_caller]
fn told(host: &Host, args: &[&str]) -> Value {
    let (status, body) = host.curl(args).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body:?}"))
}

fn sha256(host: &Host, file: &str) -> String {
    host.run("sha256sum", &[file]).split(' ').next().unwrap_or_default().to_owned()
}

/// A file of random bytes.
fn blob(host: &Host, file: &str, megabytes: usize) -> String {
    host.run(
        "dd",
        &["if=/dev/urandom", &format!("of={file}"), "bs=1M", &format!("count={megabytes}"), "status=none"],
    );
    sha256(host, file)
}

fn http() {
    let mesh = Mesh::start(3, "");
    let (web, far) = (mesh.lab.host(2), mesh.lab.host(3));
    let _app = http_app(far, 8080);
    api_and_web(&mesh, 8080);
    await_status(web, 9191, 200, SOON);

    heads_and_connections(web);
    bodies_up(web);
    answers_are_not_held_back(web);
    let out = web.run("curl", &["-sSfZ", "--parallel-max", "20", "http://127.0.0.1:9191/[1-300]"]);
    assert_eq!(out.matches(r#""size": 0"#).count(), 300, "many at once");

    mesh.on(2).purlin(&["intention", "create", "web", "*"]);
    upgrades(&mesh, web);

    // nginx speaks HTTP/1.1 and HTTP/2 on ports of their own; each is sent what its client spoke.
    let page = format!(
        "location / {{ default_type text/plain; return 200 $server_protocol; }}\n\
         location /files/ {{ alias {}/; }}",
        far.dir.display()
    );
    let (_one, _two) = (nginx_with(far, "8081", &page), nginx_with(far, "8082 http2", &page));
    let sum = blob(far, "blob", 32);
    mesh.on(3).register(&meshed("one", 8081));
    mesh.on(3).register(&meshed("two", 8082));
    mesh.on(2).register(&client("web", &[("api", 9191), ("one", 9192), ("two", 9193)]));
    for (port, flag, version) in
        [(9192, "--http1.1", "HTTP/1.1"), (9193, "--http2-prior-knowledge", "HTTP/2.0")]
    {
        let url = format!("http://127.0.0.1:{port}/");
        let spoken = until("nginx answers", SOON, || match web.curl(&[flag, &url])? {
            (200, body) => Ok(body),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(spoken, version);
        web.run("curl", &["-sSf", flag, "-o", "copy", &format!("{url}files/blob")]);
        assert_eq!(sha256(web, "copy"), sum, "a big body down, {version}");
    }
    // Where the protocol is declared, an application gets that version, whatever its caller speaks.
    for (service, port, protocol, flag, version) in [
        ("one", 9192, "http", "--http2-prior-knowledge", "HTTP/1.1"),
        ("two", 9193, "http2", "--http1.1", "HTTP/2.0"),
    ] {
        let entry = json!({"Kind": "service-defaults", "Name": service, "Protocol": protocol}).to_string();
        assert_eq!(mesh.on(1).put("/v1/config", &entry).expect("an answer").0, 200);
        until(&format!("{service} is spoken to in {version}"), SOON, || {
            match web.curl(&[flag, &format!("http://127.0.0.1:{port}/")])? {
                (200, body) if body == version => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
}

fn heads_and_connections(web: &Host) {
    let url = "http://127.0.0.1:9191/some/path?with=query";
    let got = told(web, &["-H", "X-Story: one", "-H", "Host: api.example:81", url]);
    assert_eq!(got["path"], "/some/path?with=query");
    assert_eq!(got["headers"]["x-story"], "one");
    assert_eq!(got["headers"]["host"], "api.example:81");

    let out =
        web.run("curl", &["-sS", "-o", "/dev/null", "-o", "/dev/null", "-w", "%{num_connects}", url, url]);
    assert_eq!(out, "10", "the second request goes over the connection of the first");

    // After a HEAD the connection goes on being useful: no body was expected that did not come.
    let out = web.run("curl", &["-sSI", "-w", "%{num_connects}\n", url, url]);
    assert_eq!(out.matches("200 OK").count(), 2, "{out}");
    assert!(out.to_ascii_lowercase().contains("content-length"), "{out}");
    assert!(out.ends_with('0'), "{out}");
}

fn bodies_up(web: &Host) {
    let sum = blob(web, "up", 16);
    let url = "http://127.0.0.1:9191/up";
    let plain = told(web, &["-X", "PUT", "-H", "Expect:", "--data-binary", "@up", url]);
    let chunked = ["-H", "Expect:", "-H", "Transfer-Encoding: chunked", "--data-binary", "@up", url];
    let chunked = told(web, &chunked);
    // curl waits for the word to go on far longer than it may take in all.
    let expecting = ["--expect100-timeout", "60", "-H", "Expect: 100-continue", "--data-binary", "@up", url];
    let expecting = told(web, &expecting);
    for (how, got) in [("plain", &plain), ("chunked", &chunked), ("expecting", &expecting)] {
        assert_eq!(got["size"], 16 << 20, "{how}");
        assert_eq!(got["sha256"].as_str(), Some(sum.as_str()), "{how}");
    }
    assert_eq!(plain["method"], "PUT");
    assert_eq!(plain["headers"]["content-length"], (16 << 20).to_string());
    assert_eq!(chunked["headers"]["transfer-encoding"], "chunked");
    assert_eq!(chunked["headers"].get("content-length"), None);
}

/// After an upgrade the bytes are the application's own, both ways.
fn upgrades(mesh: &Mesh, web: &Host) {
    let _talker = App::start(mesh.lab.host(3), "127.0.0.1:8083", |mut stream| {
        if !read_head(&mut stream).contains("upgrade: story") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        let _ = stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: story\r\n\r\n>");
        let mut said = [0; 5];
        let _ = stream.read_exact(&mut said);
        said.reverse();
        let _ = stream.write_all(&said);
    });
    mesh.on(3).register(&meshed("talker", 8083));
    mesh.on(2).register(&client("web", &[("api", 9191), ("talker", 9194)]));
    await_status(web, 9194, 200, SOON);
    let mut line = web.dial("127.0.0.1:9194").expect("a connection");
    line.write_all(
        b"GET /chat HTTP/1.1\r\nHost: talker\r\nConnection: upgrade\r\nUpgrade: story\r\n\r\nhello",
    )
    .expect("written");
    let got = rest(&line);
    assert!(got.starts_with("HTTP/1.1 101"), "{got:?}");
    assert!(got.ends_with("\r\n\r\n>olleh"), "{got:?}");
}

/// The first part of an answer is there before the application has any idea of the second.
fn answers_are_not_held_back(web: &Host) {
    let mut stream =
        web.spawn("stream", "curl", &["-sSN", "--max-time", "20", "http://127.0.0.1:9191/stream"]);
    until("the first part arrives", SOON, || match stream.log().as_str() {
        "first\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    told(web, &["http://127.0.0.1:9191/go"]);
    assert!(stream.wait(SOON).success());
    assert_eq!(stream.log(), "first\nlast\n");
}

fn grpc() {
    let mesh = Mesh::start(3, "");
    let (web, far) = (mesh.lab.host(2), mesh.lab.host(3));
    let _server = far.spawn("grpc", &python(), &[&script("grpc_app.py"), "serve", "50051"]);
    await_open(far, "50051");
    mesh.on(3).register(&meshed("api", 50051));
    mesh.on(2).register(&client("web", &[("api", 9191)]));
    mesh.on(2).await_healthy("api", 1);

    let ask = |what: &str| -> Value {
        let text = web.run(&python(), &[&script("grpc_app.py"), what, "9191"]);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
    };
    let denied = until("the call is refused by policy", SOON, || match ask("refused") {
        answer if answer["code"] == "PERMISSION_DENIED" => Ok(answer),
        answer => Err(answer.to_string()),
    });
    let why = denied["details"].as_str().unwrap_or_default();
    assert!(why.contains("purlin intention create web api"), "{why}");

    mesh.on(1).purlin(&["intention", "create", "web", "api"]);
    until("the call goes through", SOON, || match ask("refused") {
        answer if answer["code"] == "OK" => Ok(()),
        answer => Err(answer.to_string()),
    });
    let got = ask("call");
    let wanted = json!({
        "unary": "hi", "initial": "sent before", "trailing": {"last": "sent after", "echo": "w"},
        "failure": ["FAILED_PRECONDITION", "as you asked: 100 % no"],
        "big": true, "down": true, "down_trailing": "after the stream", "up": 500_000,
        "both": ["one", "two", "three"],
    });
    assert_eq!(got, wanted);
}

fn tcp() {
    let mesh = Mesh::start(3, "");
    let (web, far) = (mesh.lab.host(2), mesh.lab.host(3));
    let (_redis, _postgres) = (redis(far, 6379), postgres(far, 5432));
    // Speaks first, to a client that says nothing before it has heard.
    let _greeter = App::start(far, "127.0.0.1:2525", |mut stream| {
        let _ = stream.write_all(b"220 at your service\r\n");
        let mut line = [0; 64];
        let read = stream.read(&mut line).unwrap_or(0);
        let _ = stream.write_all(format!("heard {:?}", String::from_utf8_lossy(&line[..read])).as_bytes());
    });
    // Answers only when all is said.
    let _counter = App::start(far, "127.0.0.1:7777", |mut stream| {
        let _ = stream.write_all(b"counting\n");
        let mut all = Vec::new();
        let read = stream.read_to_end(&mut all);
        let _ = stream
            .write_all(format!("{read:?} {}", all.iter().map(|b| u64::from(*b)).sum::<u64>()).as_bytes());
    });
    let services = [("cache", 6379, 9001), ("db", 5432, 9002), ("mail", 2525, 9003), ("counter", 7777, 9004)];
    for (name, port, _) in services {
        mesh.on(3).register(&meshed(name, port));
    }
    mesh.on(2).register(&client("web", &services.map(|(name, _, port)| (name, port))));
    mesh.on(2).purlin(&["intention", "create", "web", "*"]);

    until("redis answers", SOON, || match web.try_run("redis-cli", &["-p", "9001", "ping"])?.as_str() {
        "PONG" => Ok(()),
        other => Err(other.to_owned()),
    });
    web.run("redis-cli", &["-p", "9001", "set", "story", "told"]);
    assert_eq!(far.run("redis-cli", &["-p", "6379", "get", "story"]), "told");
    let out = web.run("redis-cli", &["-p", "9001", "-r", "200", "incr", "count"]);
    assert!(out.ends_with("200"), "{out}");

    psql(web, "9002", "create table t as select n, md5(n::text) as m from generate_series(1, 100000) n")
        .expect("a table");
    let there = psql(far, "5432", "select md5(string_agg(m, '' order by n)) from t").expect("its sum");
    let rows = psql(web, "9002", "select m from t order by n").expect("its rows");
    web.write("rows", &rows.replace('\n', ""));
    assert_eq!(
        web.run("md5sum", &["rows"]).split(' ').next(),
        Some(there.as_str()),
        "100,000 rows came as they are"
    );

    let mut mail = web.dial("127.0.0.1:9003").expect("a connection");
    let mut greeting = [0; 21];
    mail.read_exact(&mut greeting).expect("a greeting to a silent client");
    assert_eq!(&greeting, b"220 at your service\r\n");
    mail.write_all(b"EHLO story\r\n").expect("written");
    assert_eq!(rest(&mail), "heard \"EHLO story\\r\\n\"");

    // Half-close: the answer comes after the client said that it has nothing more to say.
    let mut counter = web.dial("127.0.0.1:9004").expect("a connection");
    counter.write_all(&[1; 3_000_000]).expect("written");
    counter.shutdown(Shutdown::Write).expect("shut down");
    assert_eq!(rest(&counter), "counting\nOk(3000000) 3000000");
}

fn instances() {
    let mesh = Mesh::start(3, "");
    let (web, far) = (mesh.lab.host(2), mesh.lab.host(3));
    let instance = |id: &str, port: u16, version: &str| {
        json!({"ID": id, "Name": "api", "Port": port, "Meta": {"version": version}, "Tags": [version],
               "Connect": {"SidecarService": {}}})
    };
    // Two versions on host 3, one on the host of the caller, which is reached without the network.
    let mut apps = vec![nginx(far, 8081, "v1"), nginx(far, 8082, "v2")];
    mesh.on(3).register(&instance("api-1", 8081, "v1"));
    mesh.on(3).register(&instance("api-2", 8082, "v2"));
    mesh.on(2).register(&client("web", &[("api", 9191)]));
    mesh.on(2).purlin(&["intention", "create", "web", "api"]);
    mesh.on(2).await_healthy("api", 2);
    await_status(web, 9191, 200, SOON);

    each_answers(web, &["v1", "v2"]);
    let proxies = mesh.on(2).get("/v1/health/connect/api").expect("the proxies");
    let mut of: Vec<_> =
        proxies.as_array().expect("a list").iter().map(|one| one["Service"].clone()).collect();
    of.sort_by_key(|service| service["ID"].to_string());
    assert_eq!(of.len(), 2, "{proxies}");
    for (service, id) in of.iter().zip(["api-1", "api-2"]) {
        assert_eq!(service["ID"], format!("{id}-sidecar-proxy"));
        assert_eq!(service["Kind"], "connect-proxy");
        assert_eq!(service["Port"], 20000);
        assert_eq!(service["Proxy"]["DestinationServiceID"], id);
    }

    // One dies without a word, and nothing checks it: every request is answered by the other.
    drop(apps.pop());
    for _ in 0..40 {
        assert_eq!(call(web, 9191), Ok((200, "v1\n".into())));
    }

    // Both ends on one host: nothing goes by the mesh port, be it over the network or not, and the same policy holds.
    mesh.on(3).put("/v1/agent/service/deregister/api-1", "").expect("deregistered");
    mesh.on(3).put("/v1/agent/service/deregister/api-2", "").expect("deregistered");
    let _near = nginx(web, 8083, "near");
    mesh.on(2).register(&instance("api-3", 8083, "v3"));
    until("the near one answers", SOON, || match call(web, 9191)? {
        (200, body) if body == "near\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let mesh_port = capture(web, 20000);
    for _ in 0..10 {
        assert_eq!(call(web, 9191), Ok((200, "near\n".into())));
    }
    mesh.on(2).purlin(&["intention", "create", "-deny", "-replace", "web", "api"]);
    let body = await_status(web, 9191, 403, SOON);
    assert!(body.contains("web") && body.contains("api"), "{body}");
    mesh.on(2).purlin(&["intention", "create", "-allow", "-replace", "web", "api"]);
    await_status(web, 9191, 200, SOON);
    assert_eq!(mesh_port.packets(), "", "two services of one host spoke by the mesh port");
    // The capture would have seen it.
    drop(_near);
    mesh.on(3).register(&instance("api-1", 8081, "v1"));
    await_status(web, 9191, 200, SOON);
    until("the capture sees the far one", SOON, || match mesh_port.packets() {
        none if none.is_empty() => Err("nothing".into()),
        _ => Ok(()),
    });
}

/// Every one of them answers, and nobody else.
fn each_answers(web: &Host, wanted: &[&str]) {
    let mut seen = std::collections::BTreeSet::new();
    until(&format!("each of {wanted:?} answers"), SOON, || {
        let (status, body) = call(web, 9191)?;
        assert_eq!(status, 200, "{body}");
        seen.insert(body.trim().to_owned());
        if seen.len() >= wanted.len() { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), wanted);
}

fn upstreams() {
    let mesh = Mesh::start(2, "");
    let web = mesh.lab.host(2);
    let _nginx = nginx(mesh.lab.host(1), 8080, "plain");
    mesh.on(1).register(&json!({"Name": "plain", "Port": 8080}));
    mesh.on(1).register(&meshed("api", 8080));
    mesh.on(2).register(&client("web", &[("plain", 9190), ("api", 9191), ("nobody", 9192)]));
    mesh.on(2).purlin(&["intention", "create", "web", "*"]);
    await_status(web, 9191, 200, SOON);

    let body = await_status(web, 9190, 503, SOON);
    for word in ["plain", "connect", "sidecar_service"] {
        assert!(body.contains(word), "no {word:?} in {body:?}");
    }
    let body = await_status(web, 9192, 503, SOON);
    assert!(body.contains("nobody"), "{body:?}");

    // The place is taken: by another service of the mesh, or by a stranger.
    let second = client("shop", &[("api", 9191)]).to_string();
    let (status, body) = mesh.on(2).put("/v1/agent/service/register", &second).expect("an answer");
    assert_eq!(status, 409, "{body}");
    for word in ["shop", "127.0.0.1:9191", "web", "local_bind_port"] {
        assert!(body.contains(word), "no {word:?} in {body:?}");
    }
    let services = mesh.on(2).get("/v1/agent/services").expect("services");
    assert_eq!(services.get("shop"), None, "{services}");

    protocols(&mesh);
}

/// A declared protocol is not guessed.
fn protocols(mesh: &Mesh) {
    let web = mesh.lab.host(2);
    let declare = |protocol: &str| {
        let entry = json!({"Kind": "service-defaults", "Name": "api", "Protocol": protocol}).to_string();
        assert_eq!(mesh.on(2).put("/v1/config", &entry).expect("an answer").0, 200);
    };
    mesh.on(2).purlin(&["intention", "create", "-deny", "web", "api"]);
    await_status(web, 9191, 403, SOON);
    declare("tcp");
    // As TCP there is nobody to give a status to.
    until("the connection is closed", SOON, || match call(web, 9191) {
        Ok(answer) => Err(format!("{answer:?}")),
        Err(error) if error.contains("curl: (52)") || error.contains("curl: (56)") => Ok(()),
        Err(error) => Err(error),
    });
    declare("http");
    await_status(web, 9191, 403, SOON);
    // A client that takes its time is no longer taken for one that waits to be spoken to.
    let mut slow = web.dial("127.0.0.1:9191").expect("a connection");
    slow.set_read_timeout(Some(std::time::Duration::from_millis(500))).expect("a limit");
    assert!(slow.read(&mut [0; 1]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    slow.write_all(b"GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n").expect("written");
    let answer = rest(&slow);
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer:?}");
}

/// Applications and upstreams in unusual places: named ports, other addresses, Unix sockets.
fn places() {
    let mesh = Mesh::start(2, "");
    let (far, web) = (mesh.lab.host(1), mesh.lab.host(2));
    let _ports = [nginx(far, 8080, "front"), nginx(far, 8081, "admin")];
    let _outside = App::start(far, "10.77.0.1:8082", |stream| answer(stream, "outside"));
    let _socket = nginx_with(far, "unix:socket", "location / { return 200 socket; }");
    let proxied = |name: &str, proxy: Value| {
        mesh.on(1)
            .register(&json!({"Name": name, "Port": 9, "Connect": {"SidecarService": {"Proxy": proxy}}}));
    };
    mesh.on(1).register(&json!({"Name": "many", "Connect": {"SidecarService": {}}, "Ports": [
        {"Name": "http", "Port": 8080, "Default": true}, {"Name": "admin", "Port": 8081}]}));
    mesh.on(1).register(&json!({"Name": "outside", "Address": "10.77.0.1", "Port": 8082,
        "Connect": {"SidecarService": {}}}));
    proxied("socket", json!({"LocalServiceSocketPath": far.dir.join("nginx-unix:socket/socket")}));
    proxied("moved", json!({"LocalServiceAddress": "127.0.0.1", "LocalServicePort": 8080}));
    let upstreams = json!([
        {"DestinationName": "many", "LocalBindPort": 9001},
        {"DestinationName": "many", "DestinationPort": "admin", "LocalBindPort": 9002},
        {"DestinationName": "outside", "LocalBindAddress": "127.7.7.7", "LocalBindPort": 9001},
        {"DestinationName": "socket", "LocalBindAddress": "::1", "LocalBindPort": 9001},
        {"DestinationName": "moved", "LocalBindAddress": "10.77.0.2", "LocalBindPort": 9003},
    ]);
    mesh.on(2).register(&json!({"Name": "web", "Port": 80,
        "Connect": {"SidecarService": {"Proxy": {"Upstreams": upstreams}}}}));
    mesh.on(2).purlin(&["intention", "create", "web", "*"]);
    for (place, wanted) in [
        ("127.0.0.1:9001", "front"),
        ("127.0.0.1:9002", "admin"),
        ("127.7.7.7:9001", "outside"),
        ("[::1]:9001", "socket"),
        ("10.77.0.2:9003", "front"),
    ] {
        until(&format!("{wanted} answers on {place}"), SOON, || {
            match web.curl(&[&format!("http://{place}/")])? {
                (200, body) if body.trim() == wanted => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
    figures(&mesh);
}

fn answer(mut stream: std::net::TcpStream, body: &str) {
    read_head(&mut stream);
    let length = body.len();
    let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes());
}

/// Both proxies count requests, bytes and time for each pair of services.
fn figures(mesh: &Mesh) {
    let (far, near) = (mesh.on(1), mesh.on(2));
    for (agent, direction) in [(near, "outbound"), (far, "inbound")] {
        let pair = [("source", "web"), ("destination", "outside"), ("direction", direction)];
        let class = [&pair[..], &[("response_class", "2xx")]].concat();
        let before = agent.metric("purlin_proxy_requests_total", &class);
        let bytes = agent.metric("purlin_proxy_bytes_received_total", &pair);
        let timed = agent.metric("purlin_proxy_request_duration_seconds_count", &class);
        for _ in 0..5 {
            assert_eq!(near.host.curl(&["http://127.7.7.7:9001/"]), Ok((200, "outside".into())));
        }
        until(&format!("{direction} requests are counted"), SOON, || {
            let now = agent.metric("purlin_proxy_requests_total", &class) - before;
            let bytes = agent.metric("purlin_proxy_bytes_received_total", &pair) - bytes;
            let timed = agent.metric("purlin_proxy_request_duration_seconds_count", &class) - timed;
            if (now, bytes, timed) == (5.0, 35.0, 5.0) {
                Ok(())
            } else {
                Err(format!("{now} {bytes} {timed}"))
            }
        });
    }
    assert_eq!(near.metric("purlin_agent_session_connected", &[]), 1.0);
    assert_eq!(near.metric("purlin_agent_sync_healthy", &[]), 1.0);
}

/// A mesh whose hosts know each other by IPv6 alone.
fn ipv6() {
    let lab = Lab::new(2);
    let server = Agent::start(lab.host(1), "server", "", &["--bootstrap", "--advertise=fd77::1"]);
    server.await_ready();
    let token = server.purlin(&["join-token", "create"]);
    let flags = ["--join", token.as_str(), "--advertise=fd77::2"];
    let agent = Agent::start(lab.host(2), "agent", "", &flags);
    agent.await_ready();
    let mesh = Mesh { agents: vec![server, agent], lab };
    mesh.await_members(2);
    let (far, web) = (mesh.lab.host(1), mesh.lab.host(2));
    let _nginx = nginx(far, 8080, "hello");
    mesh.on(1).register(&meshed("api", 8080));
    mesh.on(2).register(&client("web", &[("api", 9191)]));
    mesh.on(2).purlin(&["intention", "create", "web", "api"]);
    let seen = capture(web, 20000);
    assert_eq!(await_status(web, 9191, 200, SOON), "hello\n");
    until("it went over the network", SOON, || match seen.packets() {
        none if none.is_empty() => Err("nothing was seen".into()),
        _ => Ok(()),
    });
    let dig = ["@127.0.0.1", "-p", "8600", "+short", "api.service.mesh.internal", "AAAA"];
    assert_eq!(web.run("dig", &dig), "fd77::1");
}
