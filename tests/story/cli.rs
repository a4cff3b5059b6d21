//! The command line: what is typed, what is printed where, and how it ends.

use serde_json::{Value, json};

use super::ran::{Ran, has};
use crate::kit::mesh::PURLIN;
use crate::kit::wait::{LONG, SOON};
use crate::kit::{Agent, Lab, Mesh, until};

pub const STORIES: &[(&str, fn())] = &[
    ("cli::every_command_explains_itself", every_command_explains_itself),
    ("cli::shells_complete_commands", shells_complete_commands),
    ("cli::answers_are_tables_or_json", answers_are_tables_or_json),
    ("cli::intentions_as_consul_has_them", intentions_as_consul_has_them),
    ("cli::config_entries", config_entries),
    ("cli::errors_are_one_line", errors_are_one_line),
    ("cli::logs_are_followed_and_changed", logs_are_followed_and_changed),
    ("cli::maintenance", maintenance),
    ("cli::a_host_is_made_to_leave", a_host_is_made_to_leave),
];

/// The commands that a help text lists.
fn listed(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| line.starts_with("  "));
    let names =
        lines.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    names.map(str::to_owned).collect()
}

fn every_command_explains_itself() {
    let lab = Lab::new(1);
    let host = lab.host(1);
    let mut open = vec![Vec::<String>::new()];
    let mut seen = Vec::new();
    while let Some(words) = open.pop() {
        let typed: Vec<&str> = words.iter().map(String::as_str).chain(["--help"]).collect();
        let help = Ran::purlin(host, &typed).ok();
        has(&help, &["Usage: purlin", "Example", &format!("\n  purlin {}", words.join(" "))]);
        for name in listed(&help) {
            open.push([words.clone(), vec![name]].concat());
        }
        seen.push(words.join(" "));
    }
    for wanted in [
        "server",
        "agent",
        "proxy",
        "dev",
        "demo",
        "validate",
        "reload",
        "leave",
        "info",
        "monitor",
        "log-level",
        "maint",
        "members",
        "force-leave",
        "node remove",
        "catalog datacenters",
        "catalog nodes",
        "catalog services",
        "services register",
        "services deregister",
        "intention create",
        "intention delete",
        "intention get",
        "intention list",
        "intention check",
        "intention match",
        "config write",
        "config read",
        "config list",
        "config delete",
        "join-token create",
        "join-token list",
        "join-token revoke",
        "connect ca get-config",
        "connect ca set-config",
        "connect ca roots",
        "version",
        "completion",
    ] {
        assert!(seen.iter().any(|words| words == wanted), "{wanted:?} is in no help");
    }
    // As Consul spells it, and the short one.
    let long = Ran::purlin(host, &["intention", "create", "-help"]).ok();
    assert_eq!(long, Ran::purlin(host, &["intention", "create", "--help"]).ok());
    has(&Ran::purlin(host, &["members", "-h"]).ok(), &["Usage: purlin members"]);
    Ran::purlin(host, &[]).was_misused(&["Usage: purlin", "intention"]);
    Ran::purlin(host, &["nonsense"]).was_misused(&["nonsense"]);
    Ran::purlin(host, &["intentoin", "list"]).was_misused(&["intention"]);
    Ran::purlin(host, &["members", "--nonsense"]).was_misused(&["--nonsense"]);

    has(&Ran::purlin(host, &["version"]).ok(), &["Purlin v0."]);
    let version = Ran::purlin(host, &["version", "-format=json"]).json();
    assert!(version["Version"].as_str().is_some_and(|text| text.starts_with("0.")), "{version}");
    has(&Ran::purlin(host, &["--version"]).ok(), &["purlin 0."]);
}

fn shells_complete_commands() {
    let lab = Lab::new(1);
    let host = lab.host(1);
    for shell in ["bash", "zsh", "fish", "elvish"] {
        let script = Ran::purlin(host, &["completion", shell]).ok();
        has(&script, &["intention", "join-token", "http-addr"]);
        host.write(&format!("completion.{shell}"), &script);
    }
    // What bash offers at `purlin intention cr<TAB>` and behind a command.
    let complete = "source completion.bash\n\
         offer() { COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _purlin purlin \"${!#}\" \"${COMP_WORDS[COMP_CWORD-1]}\"; echo \"${COMPREPLY[*]}\"; }\n\
         offer purlin intention cr; offer purlin intention create --re; offer purlin members --format ''\n";
    let offered = host.run("bash", &["-c", complete]);
    assert_eq!(offered.lines().collect::<Vec<_>>(), ["create", "--replace", "table json"], "{offered}");
    // Whoever has read enough is nobody's failure.
    let piped =
        host.output("bash", &["-c", &format!("set -o pipefail; {PURLIN} completion bash | head -n 1")]);
    assert!(piped.status.success() && piped.stderr.is_empty(), "{piped:?}");
    Ran::purlin(host, &["completion", "tcsh"]).was_misused(&["bash", "zsh", "fish"]);
}

/// Every cell begins where the head of its column does.
#[track_caller]
fn assert_aligned(table: &str, head: &[&str], rows: usize) {
    let lines: Vec<Vec<char>> = table.lines().map(|line| line.chars().collect()).collect();
    assert_eq!(lines.len(), rows + 1, "{table}");
    assert!(!table.contains('\u{1b}'), "colours where no terminal is: {table:?}");
    let first: String = lines[0].iter().collect();
    let mut at = Vec::new();
    for name in head {
        let from = at.last().map_or(0, |last| last + 1);
        let place = first[from..].find(name).unwrap_or_else(|| panic!("no column {name}: {table}"));
        at.push(from + place);
    }
    for (line, column) in lines.iter().flat_map(|line| at.iter().map(move |column| (line, *column))) {
        let text: String = line.iter().collect();
        assert!(line.get(column).is_some_and(|c| *c != ' '), "no cell at {column} in {text:?} of\n{table}");
        assert!(
            column == 0 || line[column - 1] == ' ',
            "a cell reaches over {column} in {text:?} of\n{table}"
        );
        assert_eq!(text.trim_end(), text, "blanks at the end of a line");
    }
}

fn answers_are_tables_or_json() {
    let mesh = Mesh::start(2, "node_meta = { rack = \"7\" }");
    let host = mesh.lab.host(2);
    mesh.on(2).register(
        &json!({"Name": "a-service-with-a-long-name", "ID": "a-1", "Port": 80, "Tags": ["v1", "blue"]}),
    );
    mesh.on(2).register(&json!({"Name": "b", "Port": 81, "Connect": {"SidecarService": {}}}));
    mesh.on(1).await_healthy("b", 1);
    Ran::purlin(host, &["intention", "create", "a-service-with-a-long-name", "b"]).ok();
    Ran::purlin(host, &["intention", "create", "-deny", "*", "b"]).ok();
    let id = mesh.on(1).get("/v1/agent/self").expect("self")["Config"]["NodeID"].clone();
    let id = id.as_str().expect("an id").split('-').next().expect("a part").to_owned();

    let tables: &[(&[&str], &[&str], usize)] = &[
        (&["members"], &["Node", "Address", "Status", "Type", "Build", "DC"], 2),
        (&["members", "-detailed"], &["Node", "Address", "Status", "Tags"], 2),
        (&["members", "-status=alive", "-filter", "Name == h2"], &["Node", "Address"], 1),
        (&["members", "-wan", "-status=al.*"], &["Node", "Address"], 1),
        (&["catalog", "nodes", "-near=_agent"], &["Node", "ID", "Address", "DC"], 2),
        (&["catalog", "nodes"], &["Node", "ID", "Address", "DC"], 2),
        (&["catalog", "nodes", "-detailed"], &["Node", "ID", "Address", "DC", "Meta"], 2),
        (&["catalog", "nodes", "-service=b"], &["Node", "ID", "Address", "DC"], 1),
        (&["catalog", "nodes", "-filter", "Meta.rack == 8"], &["Node", "ID", "Address", "DC"], 0),
        (&["intention", "list"], &["Source", "Action", "Destination", "Precedence"], 2),
        (&["join-token", "list"], &["ID", "Role", "Uses Left", "Uses", "Created", "Expires"], 2),
        (&["connect", "ca", "roots"], &["Name", "Active", "Not Before", "Not After", "ID"], 1),
    ];
    for (words, head, rows) in tables {
        let table = Ran::purlin(host, words).ok();
        if *rows > 0 {
            assert_aligned(&table, head, *rows);
        }
        let [double, single, apart] =
            [["--format", "json"].as_slice(), &["-format=json"], &["-format", "json"]]
                .map(|flag| Ran::purlin(host, &[words, flag].concat()).json());
        assert_eq!((&double, &double), (&single, &apart));
        let count = double.as_array().or(double["Roots"].as_array()).map(Vec::len);
        assert_eq!(count, Some(*rows), "{words:?}: {double}");
    }
    let table = Ran::purlin(host, &["members"]).ok();
    has(
        &table,
        &["h1", "10.77.0.1:8300", "server", "h2", "10.77.0.2:20000", "agent", "alive", "dc1", "0.1.0"],
    );
    has(&Ran::purlin(host, &["catalog", "nodes"]).ok(), &[&id, "10.77.0.1"]);

    assert_eq!(Ran::purlin(host, &["catalog", "datacenters"]).ok(), "dc1\n");
    assert_eq!(Ran::purlin(host, &["catalog", "datacenters", "-format=json"]).json(), json!(["dc1"]));
    let names = "a-service-with-a-long-name\nb\nb-sidecar-proxy\nconsul\n";
    let listed = Ran::purlin(host, &["catalog", "services"]).ok();
    assert_eq!(listed.replace("consul\n", ""), names.replace("consul\n", ""));
    let tagged = Ran::purlin(host, &["catalog", "services", "-tags", "-node=h2"]).ok();
    has(&tagged, &["a-service-with-a-long-name  blue,v1", "b                           -"]);
    let by_name = Ran::purlin(host, &["catalog", "services", "--format", "json"]).json();
    assert_eq!(by_name["a-service-with-a-long-name"], json!(["blue", "v1"]));
    Ran::purlin(host, &["catalog", "services", "-node=h9"]).fails(1, &["h9", "purlin catalog nodes"]);

    has(
        &Ran::purlin(host, &["info"]).ok(),
        &["node:", "\tnode = h2", "mesh:", "TrustDomain", "session:", "connected"],
    );
    assert_eq!(Ran::purlin(host, &["info", "--format=json"]).json()["Config"]["NodeName"], "h2");
    let ca = Ran::purlin(host, &["connect", "ca", "get-config"]).json();
    assert_eq!(ca["Config"]["LeafCertTTL"], "72h0m0s");
    assert_eq!(Ran::purlin(host, &["maint", "-format=json"]).json(), json!([]));
}

fn intentions_as_consul_has_them() {
    let lab = Lab::new(1);
    let _agent = Agent::server(lab.host(1), "");
    let host = lab.host(1);
    let purlin = |words: &[&str]| Ran::purlin(host, &[&["intention"], words].concat());
    let code = |words: &[&str]| {
        let ran = purlin(words);
        (ran.code, ran.out.trim_end().to_owned(), ran.err)
    };
    let says = |code: i32, text: &str| (Some(code), text.to_owned(), String::new());

    has(&purlin(&["list"]).ok(), &["There are no intentions"]);
    assert_eq!(purlin(&["list", "-format=json"]).json(), json!([]));
    // The default is to deny, and to create is to allow.
    assert_eq!(code(&["check", "web", "db"]), says(1, "Denied"));
    assert_eq!(code(&["create", "web", "db"]), says(0, "Created: web => db (allow)"));
    assert_eq!(code(&["check", "web", "db"]), says(0, "Allowed"));
    purlin(&["create", "web", "db"]).fails(1, &["already", "web => db (allow)", "--replace"]);
    assert_eq!(code(&["create", "-deny", "-replace", "web", "db"]), says(0, "Created: web => db (deny)"));
    assert_eq!(code(&["check", "web", "db"]), says(1, "Denied"));

    // Exact over wildcard.
    purlin(&["create", "-allow", "-meta", "owner=data", "-description=all of it", "*", "db"]).ok();
    purlin(&["create", "-deny", "web", "*"]).ok();
    purlin(&["create", "*", "*"]).ok();
    assert_eq!(code(&["check", "other", "db"]), says(0, "Allowed"));
    assert_eq!(code(&["check", "web", "db"]), says(1, "Denied"));
    assert_eq!(code(&["check", "web", "elsewhere"]), says(1, "Denied"));
    assert_eq!(code(&["check", "x", "y"]), says(0, "Allowed"));
    assert_eq!(purlin(&["check", "-format=json", "x", "y"]).json(), json!({"Allowed": true}));
    let all = "web => db (deny)\n* => db (allow)\nweb => * (deny)\n* => * (allow)\n";
    assert_eq!(purlin(&["match", "db"]).ok(), all);
    assert_eq!(purlin(&["match", "-source", "web"]).ok(), all);
    assert_eq!(purlin(&["match", "elsewhere"]).ok(), "web => * (deny)\n* => * (allow)\n");
    assert_eq!(purlin(&["match", "-source", "other"]).ok(), "* => db (allow)\n* => * (allow)\n");
    let precedences: Vec<Value> = purlin(&["list", "-format", "json"])
        .json()
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| one["Precedence"].clone())
        .collect();
    assert_eq!(precedences, [9, 8, 6, 5]);
    let filtered = purlin(&["list", "-filter", "DestinationName == \"db\"", "-format=json"]).json();
    assert_eq!(filtered.as_array().map(Vec::len), Some(2));

    has(
        &purlin(&["get", "*", "db"]).ok(),
        &["Source:", "*", "Destination:", "db", "Action:", "allow", "all of it"],
    );
    assert_eq!(purlin(&["get", "-format=json", "*", "db"]).json()["Meta"], json!({"owner": "data"}));
    assert_eq!(code(&["delete", "web", "db"]), says(0, "Intention deleted."));
    assert_eq!(code(&["check", "web", "db"]), says(0, "Allowed"));
    purlin(&["delete", "web", "db"]).fails(1, &["no intention web => db"]);
    purlin(&["get", "web", "db"]).fails(1, &["no intention web => db"]);

    // From a file, with permissions.
    host.write("one.json", r#"{"SourceName": "etl", "DestinationName": "db", "Action": "deny"}"#);
    has(&purlin(&["create", "-file", "one.json"]).ok(), &["Created: etl => db (deny)"]);
    host.write("l7.hcl", "SourceName = \"etl\"\nDestinationName = \"api\"\nPermissions = [{ Action = \"allow\" HTTP { PathPrefix = \"/v1\" } }]\n");
    purlin(&["create", "-file=l7.hcl"]).fails(1, &["protocol", "http", "api"]);

    // Wrong usage is 2, and so is any error of `check`, whose 1 means denied.
    purlin(&["create", "web"]).was_misused(&["DESTINATION"]);
    purlin(&["create", "-allow", "-deny", "web", "db"]).was_misused(&["--allow", "--deny"]);
    purlin(&["check", "web"]).was_misused(&["DESTINATION"]);
    purlin(&["check", "not a name", "db"]).fails(2, &["not a name"]);
    purlin(&["check", "web", "db", "-http-addr=127.0.0.1:1"]).fails(2, &["127.0.0.1:1"]);
    purlin(&["create", "web", "no/name"]).fails(1, &["no/name"]);
}

fn config_entries() {
    let lab = Lab::new(1);
    let _agent = Agent::server(lab.host(1), "");
    let host = lab.host(1);
    let purlin = |words: &[&str]| Ran::purlin(host, &[&["config"], words].concat());
    host.write("api.hcl", "Kind = \"service-defaults\"\nName = \"api\"\nProtocol = \"http\"\n");
    has(&purlin(&["write", "api.hcl"]).ok(), &["Config entry written: service-defaults/api"]);
    host.write("proxy.toml", "kind = \"proxy-defaults\"\nname = \"global\"\n[config]\nprotocol = \"tcp\"\n");
    purlin(&["write", "proxy.toml"]).ok();
    let intentions = r#"{"Kind": "service-intentions", "Name": "api", "Sources": [{"Name": "web",
        "Permissions": [{"Action": "allow", "HTTP": {"PathPrefix": "/v1", "Methods": ["GET"]}}]}]}"#;
    host.write("intentions.json", intentions);
    let piped = host.run("sh", &["-c", &format!("{PURLIN} config write - < intentions.json")]);
    has(&piped, &["service-intentions/api"]);

    let read = purlin(&["read", "-kind", "service-defaults", "-name", "api"]).json();
    assert_eq!((&read["Kind"], &read["Protocol"]), (&json!("service-defaults"), &json!("http")));
    assert_eq!(purlin(&["read", "-kind=proxy-defaults", "-name=global"]).json()["Config"]["protocol"], "tcp");
    let read = purlin(&["read", "-kind=service-intentions", "-name=api"]).json();
    assert_eq!(read["Sources"][0]["Permissions"][0]["HTTP"]["Methods"], json!(["GET"]));
    assert_eq!(purlin(&["list", "-kind", "service-defaults"]).ok(), "api\n");
    assert_eq!(purlin(&["list", "-kind=service-defaults", "-format=json"]).json()[0]["Name"], "api");

    // Only where it has not changed since it was read.
    let index = purlin(&["read", "-kind=service-defaults", "-name=api"]).json()["ModifyIndex"].to_string();
    host.write("grpc.hcl", "Kind = \"service-defaults\"\nName = \"api\"\nProtocol = \"grpc\"\n");
    purlin(&["write", "-cas", "-modify-index=1", "grpc.hcl"]).fails(1, &["service-defaults/api", "changed"]);
    purlin(&["write", "-cas", "-modify-index", &index, "grpc.hcl"]).ok();
    assert_eq!(purlin(&["read", "-kind=service-defaults", "-name=api"]).json()["Protocol"], "grpc");
    purlin(&["write", "-cas", "grpc.hcl"]).was_misused(&["--modify-index"]);

    // All that is wrong, before anything is sent; and what only the mesh knows.
    host.write(
        "bad.json",
        r#"{"Kind": "service-defaults", "Name": "api", "Protocol": "htttp", "Protocl": 1}"#,
    );
    let ran = purlin(&["write", "bad.json"]);
    assert_eq!((ran.code, ran.err.lines().count()), (Some(1), 2), "{}", ran.err);
    has(&ran.err, &["htttp", "Protocl"]);
    host.write("kind.json", r#"{"Kind": "service-router", "Name": "api"}"#);
    purlin(&["write", "kind.json"]).fails(1, &["service-router"]);
    purlin(&["delete", "-kind=service-defaults", "-name=api"])
        .fails(1, &["api", "L7 permissions", "protocol"]);
    has(&purlin(&["delete", "-kind=service-intentions", "-name=api"]).ok(), &["service-intentions/api"]);
    purlin(&["delete", "-filename=api.hcl"]).ok();
    purlin(&["read", "-kind=service-defaults", "-name=api"]).fails(1, &["service-defaults", "api"]);
    assert_eq!(purlin(&["list", "-kind=service-defaults"]).ok(), "");
    purlin(&["read", "-kind", "service-defaults"]).was_misused(&["--name"]);
}

fn errors_are_one_line() {
    let lab = Lab::new(1);
    let host = lab.host(1);
    let unreachable =
        ["cannot reach the Purlin agent at 127.0.0.1:8500", "refused", "is it running", "PURLIN_HTTP_ADDR"];
    Ran::purlin(host, &["members"]).fails(1, &unreachable);
    let purlin = |env: &[(&str, &str)], words: &[&str]| Ran::with(host, env, words);
    let (ours, consuls) = (("PURLIN_HTTP_ADDR", "127.0.0.1:1"), ("CONSUL_HTTP_ADDR", "http://127.0.0.1:2"));
    purlin(&[ours, consuls], &["members"]).fails(1, &["at 127.0.0.1:1:"]);
    purlin(&[consuls], &["members"]).fails(1, &["at 127.0.0.1:2:"]);
    purlin(&[ours, consuls], &["members", "-http-addr=127.0.0.1:3"]).fails(1, &["at 127.0.0.1:3:"]);
    purlin(&[], &["members", "--http-addr", "unix:///tmp/none.sock"]).fails(1, &["/tmp/none.sock"]);
    purlin(&[], &["members", "--http-addr", "https://127.0.0.1:8501"]).fails(1, &["https", "plain HTTP"]);
    purlin(&[], &["members", "--http-addr", "no address"]).fails(1, &["no address", "host:port"]);
    purlin(&[], &["proxy"]).was_misused(&["--runtime-dir"]);
    purlin(&[], &["server"]).fails(1, &["data_dir", "--data-dir"]);

    let agent = Agent::server(host, "addresses = { http = \"127.0.0.1 unix:///tmp/lab-cli.sock\" }");
    for address in ["127.0.0.1:8500", "http://localhost:8500/", "localhost", "unix:///tmp/lab-cli.sock"] {
        has(&purlin(&[("PURLIN_HTTP_ADDR", address)], &["members"]).ok(), &["h1"]);
    }
    // What the agent says comes through as it is.
    purlin(&[], &["config", "read", "-kind=nonsense", "-name=x"]).fails(1, &["nonsense"]);
    purlin(&[], &["members", "-filter", "Name =="]).fails(1, &["expression", "1:8"]);
    purlin(&[], &["join-token", "revoke", "none"]).fails(1, &["none"]);
    purlin(&[], &["join-token", "create", "-ttl=soon"]).was_misused(&["soon"]);
    purlin(&[], &["join-token", "create", "-uses=0"]).was_misused(&["0"]);
    purlin(&[], &["log-level", "loud"]).was_misused(&["loud"]);
    drop(agent);
}

fn logs_are_followed_and_changed() {
    let lab = Lab::new(1);
    let agent = Agent::server(lab.host(1), "");
    let host = lab.host(1);
    let plain = host.spawn("monitor", PURLIN, &["monitor", "-log-level=debug"]);
    let json = host.spawn("json", PURLIN, &["monitor", "-log-json"]);
    // Followed at a level of its own, while the agent writes at info.
    until("the follower sees debug lines", SOON, || {
        agent.get("/v1/agent/self")?;
        Ran::purlin(host, &["services", "register", "-name=web", "-port=1"]).ok();
        Ran::purlin(host, &["services", "deregister", "-id=web"]).ok();
        Ran::purlin(host, &["reload"]).ok();
        let line = json.log().lines().find(|line| line.contains("reloaded")).map(str::to_owned);
        let line = line.ok_or_else(|| format!("json: {}", json.log()))?;
        let value: Value = serde_json::from_str(&line).map_err(|error| format!("{error}: {line}"))?;
        let is_info = value["level"] == "INFO" && !json.log().contains("\"DEBUG\"");
        if plain.log().contains("DEBUG") && is_info {
            Ok(())
        } else {
            Err(format!("{value}\n{}", plain.log()))
        }
    });
    assert!(!agent.process.log().contains("DEBUG"), "the follower's level is the agent's");

    // By module, at run time, and back.
    Ran::purlin(host, &["log-level", "info,purlin_agent=debug"]).ok();
    until("the agent writes debug lines of one module", SOON, || {
        agent.get("/v1/agent/self")?;
        let log = agent.process.log();
        if log.contains("DEBUG purlin_agent") && !log.contains("DEBUG purlin_server") {
            Ok(())
        } else {
            Err(log)
        }
    });
    has(&Ran::purlin(host, &["log-level", "error"]).ok(), &["error"]);
    let quiet = agent.process.log().len();
    Ran::purlin(host, &["reload"]).ok();
    assert_eq!(agent.process.log().len(), quiet, "lines below the level are written");
    Ran::purlin(host, &["monitor", "-log-level=loud"]).fails(1, &["loud"]);

    // Its end is told to those who follow.
    let mut follower = plain;
    drop(agent);
    host.run("sh", &["-c", "true"]);
    assert_eq!(follower.wait(LONG).code(), Some(1));
    has(&follower.log(), &["purlin: ", "127.0.0.1:8500"]);
}

fn maintenance() {
    let lab = Lab::new(1);
    let agent = Agent::server(lab.host(1), "");
    let host = lab.host(1);
    let maint = |words: &[&str]| Ran::purlin(host, &[&["maint"], words].concat());
    for id in ["web-1", "web-2"] {
        agent.register(&json!({"Name": "web", "ID": id, "Port": 80}));
    }
    agent.await_healthy("web", 2);
    has(&maint(&["-enable", "-service=web-1", "-reason", "new disk"]).ok(), &["enabled", "web-1"]);
    agent.await_healthy("web", 1);
    has(&maint(&[]).ok(), &["web-1", "new disk"]);
    assert_eq!(maint(&["-format=json"]).json()[0]["CheckID"], "_service_maintenance:web-1");
    maint(&["-enable"]).ok();
    agent.await_healthy("web", 0);
    has(&maint(&[]).ok(), &["Node:", "h1"]);
    maint(&["-disable"]).ok();
    maint(&["-disable", "-service=web-1"]).ok();
    agent.await_healthy("web", 2);
    assert_eq!(maint(&[]).ok(), "");
    maint(&["-enable", "-service=nobody"]).fails(1, &["nobody"]);
    maint(&["-service=web-1"]).fails(1, &["--enable", "--disable"]);
    maint(&["-enable", "-disable"]).was_misused(&["--enable", "--disable"]);
}

fn a_host_is_made_to_leave() {
    let mut mesh = Mesh::start(3, "");
    let host = mesh.lab.host(1).clone();
    let status = |mesh: &Mesh, name: &str| {
        let members = mesh.on(1).get("/v1/agent/members").unwrap_or_default();
        members
            .as_array()
            .into_iter()
            .flatten()
            .find(|one| one["Name"] == name)
            .map(|one| one["Status"].clone())
    };
    for number in [2, 3] {
        mesh.on_mut(number).process.kill();
    }
    until("both have failed", SOON, || {
        let found = (status(&mesh, "h2"), status(&mesh, "h3"));
        if found == (Some(json!(4)), Some(json!(4))) { Ok(()) } else { Err(format!("{found:?}")) }
    });
    has(&Ran::purlin(&host, &["members", "-status=failed"]).ok(), &["h2", "h3", "failed"]);
    Ran::purlin(&host, &["force-leave", "h2"]).ok();
    assert_eq!(status(&mesh, "h2"), Some(json!(3)));
    has(&Ran::purlin(&host, &["members", "-status=left"]).ok(), &["h2", "left"]);
    Ran::purlin(&host, &["force-leave", "-prune", "h3"]).ok();
    assert_eq!(status(&mesh, "h3"), None);
    Ran::purlin(&host, &["force-leave", "h9"]).fails(1, &["h9"]);
    Ran::purlin(&host, &["force-leave", "h1"]).fails(1, &["h1", "alive"]);
}
