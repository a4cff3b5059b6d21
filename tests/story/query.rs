//! User events, prepared queries, and programs that run when something changes.

use serde_json::{Value, json};

use super::ran::{Ran, has};
use crate::kit::apps::client_passes;
use crate::kit::wait::{LONG, SOON};
use crate::kit::{Agent, Mesh, until};

pub const STORIES: &[(&str, fn())] = &[
    ("query::an_unmodified_consul_client", an_unmodified_consul_client),
    ("query::events_reach_whom_they_concern", events_reach_whom_they_concern),
    ("query::prepared_queries_answer_by_http_and_dns", prepared_queries_answer_by_http_and_dns),
    ("query::a_watch_shows_or_runs", a_watch_shows_or_runs),
];

fn db(tags: &[&str]) -> Value {
    json!({"Name": "db", "Port": 5432, "Tags": tags, "Check": {"TTL": "10m", "Status": "passing"}})
}

fn an_unmodified_consul_client() {
    let mesh = Mesh::start(2, "");
    mesh.on(2).register(&db(&["primary"]));
    client_passes(mesh.lab.host(2), "query_client.py", 2);
}

/// Names of the events that a host lists.
fn listed(agent: &Agent, query: &str) -> Result<Vec<String>, String> {
    let events = agent.get(&format!("/v1/event/list{query}"))?;
    let events = events.as_array().ok_or_else(|| format!("no list: {events}"))?;
    Ok(events.iter().map(|event| event["Name"].as_str().unwrap_or_default().to_owned()).collect())
}

#[track_caller]
fn await_listed(agent: &Agent, query: &str, wanted: &[&str]) {
    until(&format!("{wanted:?} listed on {}", agent.host.name), SOON, || match listed(agent, query)? {
        found if found == wanted => Ok(()),
        found => Err(format!("{found:?}")),
    });
}

fn events_reach_whom_they_concern() {
    let mut mesh = Mesh::start(3, "");
    mesh.on(3).register(&db(&["primary"]));
    let host = mesh.lab.host(2);
    let said = Ran::purlin(host, &["event", "-name=deploy", "v2"]).ok();
    assert!(said.starts_with("Event ID: ") && said.trim().len() == "Event ID: ".len() + 36, "{said}");
    Ran::purlin(host, &["event", "-name", "disk", "-node", "^h[12]$"]).ok();
    let fired =
        Ran::purlin(host, &["event", "--name=dump", "--service=^db$", "--tag=prim", "--format=json"]).json();
    assert_eq!((&fired["ServiceFilter"], &fired["TagFilter"]), (&json!("^db$"), &json!("prim")));
    Ran::purlin(host, &["event", "-name=cache", "-service=cache"]).ok();
    // Who fires sees at once what it fired.
    assert_eq!(listed(mesh.on(2), ""), Ok(vec!["deploy".to_owned(), "disk".into()]));
    await_listed(mesh.on(1), "", &["deploy", "disk"]);
    await_listed(mesh.on(3), "", &["deploy", "dump"]);
    let first = mesh.on(3).get("/v1/event/list?name=deploy").expect("events")[0].clone();
    let expected = json!({
        "ID": first["ID"], "Name": "deploy", "Payload": "djI=", "NodeFilter": "", "ServiceFilter": "",
        "TagFilter": "", "Version": 1, "LTime": 1,
    });
    assert_eq!(first, expected);
    // What a host runs counts when it is asked.
    mesh.on(3).register(&json!({"Name": "cache", "Port": 1}));
    await_listed(mesh.on(3), "", &["deploy", "dump", "cache"]);

    // What is wrong is refused, and nobody hears of it.
    Ran::purlin(host, &["event", "-name=bad", "-node=("])
        .fails(1, &["Invalid node filter", "unclosed group"]);
    Ran::purlin(host, &["event", "-name=bad", "-tag=v1"]).was_misused(&["service"]);
    Ran::purlin(host, &["event"]).was_misused(&["--name"]);
    Ran::purlin(host, &["event", "-name=bad", &"x".repeat(513)]).fails(1, &["payload", "512"]);
    for (path, body, status) in [
        ("/v1/event/fire/", "", 400),
        ("/v1/event/fire/x?tag=v1", "", 400),
        ("/v1/event/fire/x", &*"x".repeat(513), 413),
        ("/v1/event/fire/x", &*"x".repeat(512), 200),
    ] {
        let answer = mesh.on(2).put(path, body).expect("an answer");
        assert_eq!(answer.0, status, "{path}: {}", answer.1);
    }
    assert_eq!(mesh.on(2).get("/v1/event/list?name=x").expect("events")[0]["LTime"], 5);

    // The ring keeps the newest, over a restart too, and without servers what is here is still listed.
    let fire = "for i in $(seq 260); do curl -sS -X PUT http://127.0.0.1:8500/v1/event/fire/e$i; done";
    host.run("sh", &["-c", fire]);
    let newest = listed(mesh.on(2), "").expect("events");
    assert_eq!((newest.len(), newest[0].as_str(), newest[255].as_str()), (256, "e5", "e260"));
    mesh.on_mut(1).again();
    mesh.on(1).await_ready();
    assert_eq!(listed(mesh.on(1), ""), Ok(newest.clone()));
    mesh.on_mut(1).process.kill();
    assert_eq!(listed(mesh.on(2), ""), Ok(newest));
    let (status, said) = mesh.on(2).put("/v1/event/fire/late", "").expect("an answer");
    assert!(status == 500, "{status} {said}");
}

fn post(agent: &Agent, query: &Value) -> (u16, String) {
    let body = query.to_string();
    agent.host.curl(&["-d", &body, "http://127.0.0.1:8500/v1/query"]).expect("an answer")
}

#[track_caller]
fn create(agent: &Agent, query: &Value) -> String {
    let (status, text) = post(agent, query);
    assert_eq!(status, 200, "{text}");
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    answer["ID"].as_str().expect("an id").to_owned()
}

/// The hosts on which a query finds something, in its order.
fn found(agent: &Agent, path: &str) -> Result<Vec<String>, String> {
    let answer = agent.get(&format!("/v1/query/{path}"))?;
    let nodes = answer["Nodes"].as_array().ok_or_else(|| format!("no nodes: {answer}"))?;
    Ok(nodes.iter().map(|one| one["Node"]["Node"].as_str().unwrap_or_default().to_owned()).collect())
}

fn dig(agent: &Agent, args: &[&str]) -> String {
    agent.host.run("dig", &[&["@127.0.0.1", "-p", "8600", "+noall", "+answer", "+comments"], args].concat())
}

fn prepared_queries_answer_by_http_and_dns() {
    let mut mesh = Mesh::start(3, "");
    mesh.on(2).register(&db(&["primary", "v1"]));
    mesh.on(3).register(&db(&["replica", "v1"]));
    mesh.on(1).await_healthy("db", 2);
    let agent = mesh.on(2);
    let id = create(
        agent,
        &json!({"Name": "shop-db", "Service": {"Service": "db", "Tags": ["v1", "!replica"]}, "DNS": {"TTL": "17s"}}),
    );
    create(agent, &json!({"Name": "near", "Service": {"Service": "db", "Near": "_agent"}}));
    create(
        agent,
        &json!({
            "Name": "", "Template": {"Type": "name_prefix_match", "Regexp": "^(.*?)-(.*)$"},
            "Service": {"Service": "${match(1)}", "Tags": ["${match(2)}"]},
        }),
    );
    // On every host, by name in any case or by id, at once where it was written.
    assert_eq!(found(agent, "shop-db/execute"), Ok(vec!["h2".to_owned()]));
    for host in 1..=3 {
        let path = ["SHOP-DB/execute".to_owned(), format!("{id}/execute")];
        for path in path {
            until("the query finds h2", SOON, || match found(mesh.on(host), &path)? {
                nodes if nodes == ["h2"] => Ok(()),
                nodes => Err(format!("{nodes:?}")),
            });
        }
    }
    for (host, first) in [(2, "h2"), (3, "h3")] {
        for _ in 0..5 {
            assert_eq!(
                found(mesh.on(host), "near/execute").map(|nodes| nodes[0].clone()),
                Ok(first.to_owned())
            );
        }
        assert_eq!(found(mesh.on(host), "near/execute?limit=1&near=h2"), Ok(vec!["h2".to_owned()]));
    }
    assert_eq!(found(agent, "db-replica/execute"), Ok(vec!["h3".to_owned()]), "the template of all names");
    assert_eq!(found(agent, "db-none/execute"), Ok(vec![]));
    let explained = agent.get("/v1/query/db-replica/explain").expect("an explanation");
    assert_eq!(explained["Query"]["Service"]["Tags"], json!(["replica"]));

    // Over DNS with the query's own life; an unhealthy instance is no answer.
    let answer = dig(agent, &["shop-db.query.mesh.internal"]);
    has(&answer, &["NOERROR", " 17\tIN\tA\t10.77.0.2"]);
    has(&dig(mesh.on(3), &["_shop-db._tcp.query.consul", "SRV"]), &["17", "1 1 5432 h2.node.dc1.consul."]);
    has(&dig(mesh.on(3), &["db-replica.query.consul"]), &["10.77.0.3"]);
    has(&dig(agent, &["db-none.query.consul"]), &["NXDOMAIN"]);
    assert_eq!(agent.put("/v1/agent/check/fail/service:db", "").map(|answer| answer.0), Ok(200));
    until("nothing is healthy", SOON, || match found(mesh.on(3), "shop-db/execute")? {
        nodes if nodes.is_empty() => Ok(()),
        nodes => Err(format!("{nodes:?}")),
    });
    has(&dig(mesh.on(3), &["shop-db.query.consul"]), &["NXDOMAIN"]);

    // A change and a deletion are seen by who waits for that one.
    let path = format!("http://127.0.0.1:8500/v1/query/{id}");
    let index = agent
        .host
        .run("sh", &["-c", &format!("curl -sSi {path} | tr -d '\\r' | sed -n 's/^x-consul-index: //Ip'")]);
    let mut wait = agent.host.spawn("wait", "curl", &["-sS", &format!("{path}?index={index}&wait=60s")]);
    let unrelated = create(agent, &json!({"Name": "unrelated", "Service": {"Service": "x"}}));
    assert!(wait.is_running(), "another query woke it: {}", wait.log());
    let change = json!({"Name": "shop-db", "Service": {"Service": "db", "IgnoreCheckIDs": ["service:db"]}});
    assert_eq!(agent.put(&format!("/v1/query/{id}"), &change.to_string()), Ok((200, String::new())));
    assert_eq!(wait.wait(SOON).code(), Some(0));
    has(&wait.log(), &["IgnoreCheckIDs\":[\"service:db\"]"]);
    assert_eq!(found(agent, "shop-db/execute").map(|nodes| nodes.len()), Ok(2));
    let delete = ["-X", "DELETE", &format!("http://127.0.0.1:8500/v1/query/{unrelated}")];
    assert_eq!(agent.host.curl(&delete), Ok((200, String::new())));
    assert_eq!(agent.host.curl(&delete).map(|answer| answer.0), Ok(404));

    refusals(agent);

    // Without a server a host goes on with what it knows, by both ways.
    mesh.on_mut(1).process.kill();
    let agent = mesh.on(2);
    assert_eq!(found(agent, "shop-db/execute").map(|nodes| nodes.len()), Ok(2));
    has(&dig(agent, &["shop-db.query.consul"]), &["NOERROR", "10.77.0.2"]);
}

fn refusals(agent: &Agent) {
    let service = json!({"Service": "db"});
    for (query, status, words) in [
        (json!({"Name": "x"}), 400, "Must provide a Service name to query"),
        (json!({"Service": service}), 400, "Must be bound to a session"),
        (json!({"ID": "x", "Name": "x", "Service": service}), 400, "ID must be empty"),
        (json!({"Name": "NEAR", "Service": service}), 409, "name 'NEAR' aliases an existing query name"),
        (
            json!({"Name": "", "Template": {"Type": "name_prefix_match"}, "Service": service}),
            409,
            "a query template with an empty name already exists",
        ),
        (
            json!({"Name": "x", "Template": {"Type": "regexp"}, "Service": service}),
            400,
            "Bad Template.Type 'regexp'",
        ),
        (json!({"Name": "x", "Service": service, "DNS": {"TTL": "soon"}}), 400, "Bad DNS TTL 'soon'"),
        (json!({"Name": "x", "Service": {"Service": "db", "OnlyPasing": true}}), 400, "OnlyPassing"),
        (json!({"Name": "x", "Service": {"Service": "db", "Failover": {"NearestN": -1}}}), 400, "NearestN"),
        (
            json!({"Name": "x", "Service": {"Service": "db", "Failover": {"Targets": [{"Peer": "east"}]}}}),
            400,
            "Peer: is not supported by this version",
        ),
        (json!({"Name": "x", "Service": {"Service": "db", "SamenessGroup": "all"}}), 400, "SamenessGroup"),
        (json!([]), 400, "prepared query"),
    ] {
        let (found, said) = post(agent, &query);
        assert_eq!(found, status, "{query}: {said}");
        has(&said, &[words]);
        assert_eq!(said.trim().lines().count(), 1, "{said}");
    }
    for (path, status, words) in [
        ("/v1/query/x", 404, "Query not found"),
        ("/v1/query/db/execute?limit=x", 400, "Bad limit"),
        ("/v1/query/00000000-0000-4000-8000-000000000000", 404, "Query not found"),
        ("/v1/query/db/execute?near=_agent&connect=perhaps", 400, "connect"),
    ] {
        let (found, said) = agent.host.curl(&[&format!("http://127.0.0.1:8500{path}")]).expect("an answer");
        assert_eq!(found, status, "{path}: {said}");
        has(&said, &[words]);
    }
}

fn a_watch_shows_or_runs() {
    let mut mesh = Mesh::start(2, "");
    let host = mesh.lab.host(2).clone();
    mesh.on(2).register(&db(&["primary"]));
    mesh.on(2).await_healthy("db", 1);
    // Without a program: once, and done.
    let shown = |args: &[&str]| Ran::purlin(&host, &[&["watch"], args].concat()).json();
    assert_eq!(shown(&["-type=service", "-service=db", "-tag=primary"])[0]["Service"]["ID"], "db");
    assert_eq!(
        shown(&["-type", "service", "-service", "db", "-tag=replica", "-passingonly=true"]),
        json!([])
    );
    assert_eq!(shown(&["-type=services"])["db"], json!(["primary"]));
    assert_eq!(shown(&["-type=nodes"]).as_array().map(Vec::len), Some(2));
    assert_eq!(shown(&["-type=checks", "-service=db"])[0]["Status"], "passing");
    assert_eq!(shown(&["-type=checks", "-state=critical"]), json!([]));
    assert_eq!(shown(&["-type=event"]), json!([]));
    assert_eq!(shown(&["-type=agent_service", "-service=db"])["Port"], 5432);
    assert!(shown(&["-type=connect_roots"])["TrustDomain"].is_string());
    Ran::purlin(&host, &["watch", "-type=service"]).fails(2, &["single service", "--service"]);
    Ran::purlin(&host, &["watch"]).was_misused(&["--type"]);
    Ran::purlin(&host, &["watch", "-type=weather"]).was_misused(&["weather", "connect_leaf"]);
    Ran::purlin(&host, &["watch", "-type=checks", "-state=odd"]).fails(1, &["odd"]);
    Ran::purlin(&host, &["watch", "-type=nodes", "-http-addr=127.0.0.1:1"]).fails(1, &["cannot reach"]);
    Ran::purlin(&host, &["watch", "-type=nodes", "exit 3"]).fails(1, &["exit 3", "exit status: 3"]);
    Ran::purlin(&host, &["watch", "-type=nodes", "-shell=false", "no-such-program"])
        .fails(1, &["no-such-program"]);

    // With one: at once, then for each change, with the words and the index that Consul gives.
    let script = "#!/bin/sh\necho \"$1 $CONSUL_INDEX $PURLIN_INDEX $(cat)\" >> heard\n";
    host.write("handler", script);
    host.run("chmod", &["+x", "handler"]);
    let heard = |name: &str, count: usize| {
        until(&format!("{count} lines in {name}"), LONG, || {
            let text = std::fs::read_to_string(host.dir.join(name)).unwrap_or_default();
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            if lines.len() == count { Ok(lines) } else { Err(text) }
        })
    };
    let args = ["watch", "-type=service", "-service=db", "-shell=false", "./handler", "-type=mine"];
    let mut watch = host.spawn("watch", crate::kit::mesh::PURLIN, &args);
    let line = heard("heard", 1).remove(0);
    let mut words = line.splitn(4, ' ');
    assert_eq!(words.next(), Some("-type=mine"));
    let index: u64 = words.next().and_then(|text| text.parse().ok()).expect("an index");
    assert_eq!(words.next().and_then(|text| text.parse().ok()), Some(index));
    let value: Value = serde_json::from_str(words.next().expect("JSON")).expect("JSON");
    assert_eq!(value[0]["Service"]["Port"], 5432);
    mesh.on(2).register(&json!({"Name": "other", "Port": 1}));
    assert_eq!(mesh.on(2).put("/v1/agent/check/warn/service:db", "").map(|answer| answer.0), Ok(200));
    let line = heard("heard", 2).remove(1);
    has(&line, &["\"Status\":\"warning\""]);

    // Events: those that came since, each once, also when the agent was away in between.
    let program =
        "python3 -c 'import json, sys; [print(one[\"Name\"]) for one in json.load(sys.stdin)]' >> names";
    Ran::purlin(&host, &["event", "-name=one"]).ok();
    let mut events = host.spawn("events", crate::kit::mesh::PURLIN, &["watch", "-type=event", program]);
    assert_eq!(heard("names", 1), ["one"]);
    Ran::purlin(&host, &["event", "-name=two"]).ok();
    Ran::purlin(mesh.lab.host(1), &["event", "-name=three"]).ok();
    assert_eq!(heard("names", 3), ["one", "two", "three"]);
    mesh.on_mut(2).again();
    mesh.on(2).await_ready();
    Ran::purlin(mesh.lab.host(1), &["event", "-name=four"]).ok();
    assert_eq!(heard("names", 4)[3], "four");
    has(&events.log(), &["trying again in 5 s"]);

    // A wish to end ends it, and what it runs.
    for watch in [&mut watch, &mut events] {
        watch.signal("TERM");
        assert_eq!(watch.wait(SOON).code(), Some(0), "{}", watch.log());
    }
    let mut long = host.spawn(
        "long",
        crate::kit::mesh::PURLIN,
        &["watch", "-type=nodes", "echo $$ > pid; exec sleep 1000"],
    );
    let pid = until("the program runs", SOON, || {
        std::fs::read_to_string(host.dir.join("pid"))
            .map_err(|error| error.to_string())
            .and_then(|text| text.trim().parse::<u32>().map_err(|error| error.to_string()))
    });
    long.signal("INT");
    assert_eq!(long.wait(SOON).code(), Some(0), "{}", long.log());
    assert!(!host.pids().contains(&pid.to_string()), "it outlived its watch");
}
