//! Who may call whom: denied unless said otherwise, changed at once, cut where it no longer holds.

use std::io::{Read, Write};
use std::time::Duration;

use serde_json::{Value, json};

use super::traffic::http_app;
use crate::kit::apps::{client, meshed, nginx, redis};
use crate::kit::mesh::{await_status, call};
use crate::kit::net::rest;
use crate::kit::wait::SOON;
use crate::kit::{Agent, Host, Mesh, until};

pub const STORIES: &[(&str, fn())] = &[
    ("intentions::decide", decide),
    ("intentions::cut", cut),
    ("intentions::requests", requests),
    ("intentions::default_allow", default_allow),
];

/// How soon a change must be in force everywhere.
const ENFORCED: Duration = Duration::from_secs(1);

/// Until every one of a row of requests gets this status, from whichever instance; the last body.
#[track_caller]
fn enforced(web: &Host, port: u16, wanted: u16) -> String {
    until(&format!("{wanted} everywhere"), ENFORCED, || {
        let mut last = String::new();
        for _ in 0..6 {
            match call(web, port)? {
                (status, body) if status == wanted => last = body,
                other => return Err(format!("{other:?}")),
            }
        }
        Ok(last)
    })
}

#[track_caller]
fn says(body: &str, words: &[&str]) {
    for word in words {
        assert!(body.contains(word), "no {word:?} in {body:?}");
    }
}

/// Does what a refusal says would help.
#[track_caller]
fn obey(agent: &Agent, refusal: &str) {
    let command =
        refusal.split("to allow it: purlin ").nth(1).unwrap_or_else(|| panic!("no remedy: {refusal:?}"));
    let words: Vec<&str> = command.split_whitespace().collect();
    agent.purlin(&words);
}

fn decide() {
    let mesh = Mesh::start(3, "");
    let web = mesh.lab.host(2);
    let _apps = [nginx(mesh.lab.host(1), 8080, "one"), nginx(mesh.lab.host(3), 8080, "three")];
    for host in [1, 3] {
        mesh.on(host).register(&meshed("api", 8080));
    }
    mesh.on(2).register(&client("web", &[("api", 9191)]));
    mesh.on(2).await_healthy("api", 2);

    let denied = await_status(web, 9191, 403, SOON);
    says(&denied, &["web", "api", "no intention", "default policy deny", "purlin intention create web api"]);
    checked(mesh.on(3), false);
    obey(mesh.on(2), &denied);
    enforced(web, 9191, 200);
    checked(mesh.on(3), true);

    // By the API this time, and from another host.
    let entry = json!({"SourceName": "web", "DestinationName": "api", "Action": "deny"}).to_string();
    let path = "/v1/connect/intentions/exact?source=web&destination=api";
    assert_eq!(mesh.on(1).put(path, &entry).expect("an answer").0, 200);
    let denied = enforced(web, 9191, 403);
    says(&denied, &["web", "api", "intention", "deny", "-replace"]);
    checked(mesh.on(2), false);
    obey(mesh.on(2), &denied);
    enforced(web, 9191, 200);
    mesh.on(3).purlin(&["intention", "delete", "web", "api"]);
    says(&enforced(web, 9191, 403), &["default policy deny"]);

    wildcards(&mesh, web);
}

/// `purlin intention check` agrees with the proxies.
#[track_caller]
fn checked(agent: &Agent, allowed: bool) {
    until("the check agrees", ENFORCED, || {
        let output = agent.host.output(crate::kit::mesh::PURLIN, &["intention", "check", "web", "api"]);
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let wanted = if allowed { ("Allowed", Some(0)) } else { ("Denied", Some(1)) };
        if (said.as_str(), output.status.code()) == wanted { Ok(()) } else { Err(format!("{output:?}")) }
    });
}

/// From the least to the most exact, each overrules what was there before.
fn wildcards(mesh: &Mesh, web: &Host) {
    for (n, (source, destination)) in
        [("*", "*"), ("web", "*"), ("*", "api"), ("web", "api")].iter().enumerate()
    {
        let (flag, status) = if n % 2 == 0 { ("-allow", 200) } else { ("-deny", 403) };
        mesh.on(3).purlin(&["intention", "create", flag, source, destination]);
        let body = enforced(web, 9191, status);
        if status == 403 {
            says(&body, &[source, destination]);
        }
    }
    let order = mesh.on(2).purlin(&["intention", "match", "api"]);
    let wanted = ["web => api (deny)", "* => api (allow)", "web => * (deny)", "* => * (allow)"];
    assert_eq!(order.lines().collect::<Vec<_>>(), wanted);
    mesh.on(2).purlin(&["intention", "delete", "web", "api"]);
    enforced(web, 9191, 200);
    mesh.on(2).purlin(&["intention", "delete", "*", "api"]);
    enforced(web, 9191, 403);
}

fn cut() {
    let mesh = Mesh::start(3, "");
    let (web, far) = (mesh.lab.host(2), mesh.lab.host(3));
    let (_redis, _app) = (redis(far, 6379), http_app(far, 8080));
    mesh.on(3).register(&meshed("cache", 6379));
    mesh.on(3).register(&meshed("api", 8080));
    mesh.on(2).register(&client("web", &[("cache", 9001), ("api", 9191)]));
    mesh.on(2).register(&client("shop", &[("cache", 9002)]));
    for (source, destination) in [("web", "cache"), ("web", "api"), ("shop", "cache")] {
        mesh.on(2).purlin(&["intention", "create", source, destination]);
    }
    await_status(web, 9191, 200, SOON);
    let mut lines = ["127.0.0.1:9001", "127.0.0.1:9002"].map(|address| {
        until("redis answers", SOON, || {
            let mut line = web.dial(address).map_err(|error| error.to_string())?;
            ping(&mut line).map(|()| line)
        })
    });

    // A connection that is open, and of another service one that stays.
    mesh.on(3).purlin(&["intention", "create", "-deny", "-replace", "web", "cache"]);
    assert_eq!(rest(&lines[0]), "", "cut");
    ping(&mut lines[1]).expect("shop's connection goes on");

    // A new one is closed without a word; both sides tell why.
    let counts = [mesh.on(2), mesh.on(3)].map(|agent| denials(agent, "cache"));
    let again = web.dial("127.0.0.1:9001").expect("a connection to the proxy");
    assert_eq!(rest(&again), "");
    for (agent, before) in [mesh.on(2), mesh.on(3)].into_iter().zip(counts) {
        until(&format!("{} counts the denial", agent.host.name), SOON, || match denials(agent, "cache") {
            now if now > before => Ok(()),
            now => Err(format!("{before} before, now {now}")),
        });
        let log = agent.process.log();
        let told = log
            .lines()
            .any(|line| ["access denied", "web", "cache", "deny"].iter().all(|word| line.contains(word)));
        assert!(told, "{}", log);
    }

    // A long answer breaks off; the client learns that it is not whole.
    let mut stream =
        web.spawn("stream", "curl", &["-sSN", "--max-time", "30", "http://127.0.0.1:9191/stream"]);
    until("the answer begins", SOON, || match stream.log().contains("first") {
        true => Ok(()),
        false => Err(stream.log()),
    });
    mesh.on(3).purlin(&["intention", "delete", "web", "api"]);
    assert!(!stream.wait(SOON).success(), "{}", stream.log());
    assert!(!stream.log().contains("last"), "{}", stream.log());
}

pub fn ping(line: &mut std::net::TcpStream) -> Result<(), String> {
    let mut pong = [0; 7];
    line.write_all(b"PING\r\n")
        .and_then(|()| line.read_exact(&mut pong))
        .map_err(|error| error.to_string())?;
    if &pong == b"+PONG\r\n" { Ok(()) } else { Err(format!("{pong:?}")) }
}

fn denials(agent: &Agent, destination: &str) -> f64 {
    agent.metric("purlin_proxy_denied_total", &[("source", "web"), ("destination", destination)])
}

fn requests() {
    let mesh = Mesh::start(2, "");
    let (far, web) = (mesh.lab.host(1), mesh.lab.host(2));
    let _app = http_app(far, 8080);
    mesh.on(1).register(&meshed("api", 8080));
    mesh.on(2).register(&client("web", &[("api", 9191)]));
    await_status(web, 9191, 403, SOON);

    let rules = web.write(
        "rules.hcl",
        r#"
        Kind = "service-intentions"
        Name = "api"
        Sources = [{
          Name = "web"
          Permissions = [
            { Action = "deny",  HTTP = { PathExact = "/public/secret" } },
            { Action = "allow", HTTP = { PathPrefix = "/public", Methods = ["GET", "HEAD"] } },
            { Action = "allow", HTTP = { PathRegex = "/items/[0-9]+", Header = [{ Name = "x-team", Exact = "blue" }] } }
          ]
        }]"#,
    );
    let rules = rules.display().to_string();
    let refusal =
        mesh.on(2).try_purlin(&["config", "write", &rules]).expect_err("refused without a protocol");
    says(&refusal, &["api", "protocol", "service-defaults"]);

    let defaults =
        web.write("defaults.json", r#"{"Kind": "service-defaults", "Name": "api", "Protocol": "http"}"#);
    mesh.on(2).purlin(&["config", "write", &defaults.display().to_string()]);
    mesh.on(2).purlin(&["config", "write", &rules]);
    until("the rules hold", ENFORCED, || match ask(web, &["http://127.0.0.1:9191/public/page"])? {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let cases: [(u16, &[&str], &str); 10] = [
        (200, &["-I"], "/public/other"),
        (200, &[], "/public/page?with=query"),
        (403, &["-X", "POST"], "/public/page"),
        (403, &[], "/public/secret"),
        (403, &[], "/public/./secret"),
        (403, &[], "/private"),
        (200, &["-H", "X-Team: blue"], "/items/42"),
        (403, &["-H", "X-Team: red"], "/items/42"),
        (403, &[], "/items/42"),
        (403, &["-H", "X-Team: blue"], "/items/42/more"),
    ];
    for (wanted, flags, path) in cases {
        let url = format!("http://127.0.0.1:9191{path}");
        let args = [&["--path-as-is"], flags, &[url.as_str()]].concat();
        let (status, body) = ask(web, &args).expect("an answer");
        assert_eq!(status, wanted, "{flags:?} {path}: {body}");
    }
    let (_, body) = ask(web, &["http://127.0.0.1:9191/private"]).expect("an answer");
    says(&body, &["web", "api", "permission"]);

    // The protocol that rules rest on can't be taken away from under them.
    let refusal = mesh.on(1).try_purlin(&["config", "delete", "-kind", "service-defaults", "-name", "api"]);
    says(&refusal.expect_err("refused while the rules need it"), &["api", "L7 permissions", "protocol"]);
}

fn ask(web: &Host, args: &[&str]) -> Result<(u16, String), String> {
    web.curl(args)
}

fn default_allow() {
    let mesh = Mesh::start(2, "default_intention_policy = \"allow\"");
    let web = mesh.lab.host(2);
    let _nginx = nginx(mesh.lab.host(1), 8080, "hello");
    mesh.on(1).register(&meshed("api", 8080));
    mesh.on(2).register(&client("web", &[("api", 9191)]));
    await_status(web, 9191, 200, SOON);
    let answer: Value =
        mesh.on(2).get("/v1/connect/intentions/check?source=web&destination=api").expect("an answer");
    assert_eq!(answer["Allowed"], true);
    mesh.on(2).purlin(&["intention", "create", "-deny", "web", "api"]);
    enforced(web, 9191, 403);
    mesh.on(2).purlin(&["intention", "delete", "web", "api"]);
    enforced(web, 9191, 200);
}
