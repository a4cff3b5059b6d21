//! Names, asked with dig: of an agent and of a server's host, in every form, and of another resolver for the rest.

use serde_json::json;

use crate::kit::apps::python;
use crate::kit::apps::script;
use crate::kit::wait::{LONG, SOON};
use crate::kit::{Agent, Host, Mesh, until};

pub const STORIES: &[(&str, fn())] = &[("dns::names", names), ("dns::others", others)];

/// An answer as dig shows it.
#[derive(Debug)]
struct Answer {
    text: String,
}

impl Answer {
    /// Asks the agent of this host.
    fn ask(host: &Host, words: &str) -> Result<Self, String> {
        let mut args = vec!["@127.0.0.1", "-p", "8600", "+time=3", "+tries=1"];
        args.extend(words.split(' '));
        Ok(Self { text: host.try_run("dig", &args)? })
    }

    fn status(&self) -> &str {
        self.text.split("status: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or("none")
    }

    fn flags(&self) -> Vec<&str> {
        let line = self.text.split("flags: ").nth(1).and_then(|rest| rest.split(';').next());
        line.unwrap_or_default().split(' ').collect()
    }

    /// Type and data of the records of a section, sorted.
    fn section(&self, name: &str) -> Vec<String> {
        let rest = self.text.split(&format!(";; {name} SECTION:\n")).nth(1).unwrap_or_default();
        let lines = rest.lines().take_while(|line| !line.is_empty());
        let mut found: Vec<String> =
            lines.map(|line| line.split_whitespace().skip(3).collect::<Vec<_>>().join(" ")).collect();
        found.sort();
        found
    }

    /// The data of the answers of one type.
    fn data(&self, kind: &str) -> Vec<String> {
        let start = format!("{kind} ");
        self.section("ANSWER")
            .iter()
            .filter_map(|line| line.strip_prefix(&start))
            .map(str::to_owned)
            .collect()
    }
}

#[track_caller]
fn ask(host: &Host, words: &str) -> Answer {
    Answer::ask(host, words).unwrap_or_else(|error| panic!("{words}: {error}"))
}

#[track_caller]
fn finds(host: &Host, words: &str, kind: &str, wanted: &[&str]) {
    let answer = ask(host, words);
    assert_eq!(answer.data(kind), wanted, "{words} on {}: {}", host.name, answer.text);
    assert_eq!(answer.status(), "NOERROR", "{words}");
    assert!(answer.flags().contains(&"aa"), "{words}: {}", answer.text);
}

fn names() {
    let mesh = Mesh::start(3, "");
    let instance = |id: &str, address: &str, port: u16, tags: &[&str]| json!({"ID": id, "Name": "api", "Address": address, "Port": port, "Tags": tags});
    mesh.on(2).register(&instance("api-1", "", 8080, &["v1"]));
    mesh.on(3).register(&instance("api-2", "", 8081, &["v2", "canary"]));
    mesh.on(3).register(&instance("api-6", "fd77::33", 8082, &["v6"]));
    mesh.on(3).register(&json!({
        "ID": "api-sick", "Name": "api", "Port": 8089, "Tags": ["sick"], "Check": {"TTL": "1h", "Status": "critical"}
    }));
    mesh.on(3).register(&json!({"Name": "shop", "Port": 80, "Connect": {"SidecarService": {}}}));
    for host in [1, 2] {
        mesh.on(host).await_healthy("api", 3);
        mesh.on(host).await_healthy("shop", 1);
        matrix(mesh.lab.host(host));
    }

    // Names of addresses: of a node, and of what another host has at an address of its own.
    finds(mesh.lab.host(2), "-x 10.77.0.3", "PTR", &["h3.node.dc1.mesh.internal."]);
    for host in [1, 2, 3] {
        finds(mesh.lab.host(host), "-x fd77::33", "PTR", &["api.service.mesh.internal."]);
    }
    assert_eq!(ask(mesh.lab.host(2), "-x 10.77.0.99").status(), "REFUSED");

    // Healthy now, then sick again: it comes and goes.
    for (status, wanted) in [("pass", true), ("fail", false)] {
        mesh.on(3).put(&format!("/v1/agent/check/{status}/service:api-sick"), "").expect("an answer");
        until("DNS follows the check", SOON, || {
            let found = ask(mesh.lab.host(2), "sick.api.service.mesh.internal SRV").data("SRV").len();
            if (found == 1) == wanted { Ok(()) } else { Err(format!("{found} found")) }
        });
    }
}

fn matrix(host: &Host) {
    let both = ["10.77.0.2", "10.77.0.3"];
    for domain in ["mesh.internal", "consul"] {
        finds(host, &format!("api.service.{domain}"), "A", &both);
        finds(host, &format!("api.service.dc1.{domain}"), "A", &both);
        finds(host, &format!("v2.api.service.{domain}"), "A", &["10.77.0.3"]);
        finds(host, &format!("h3.node.{domain}"), "A", &["10.77.0.3"]);
        finds(host, &format!("h3.node.dc1.{domain}"), "A", &["10.77.0.3"]);
        finds(host, &format!("shop.connect.{domain}"), "A", &["10.77.0.3"]);
    }
    finds(host, "API.Service.Mesh.INTERNAL", "A", &both);
    finds(host, "+tcp api.service.mesh.internal", "A", &both);
    finds(host, "+noedns api.service.mesh.internal", "A", &both);
    finds(host, "api.service.mesh.internal AAAA", "AAAA", &["fd77::33"]);
    finds(host, "v6.api.service.mesh.internal AAAA", "AAAA", &["fd77::33"]);
    let edns = ask(host, "+edns=0 +bufsize=1400 api.service.mesh.internal");
    assert!(edns.text.contains("OPT PSEUDOSECTION"), "{}", edns.text);

    // Two forms for SRV, each with the ports and, beside them, the addresses.
    for words in ["api.service.mesh.internal SRV", "_api._tcp.service.mesh.internal SRV"] {
        let answer = ask(host, words);
        let mut ports: Vec<String> =
            answer.data("SRV").iter().filter_map(|line| line.split(' ').nth(2).map(str::to_owned)).collect();
        ports.sort();
        assert_eq!(ports, ["8080", "8081", "8082"], "{}", answer.text);
        let beside = answer.section("ADDITIONAL").join("\n");
        for address in ["A 10.77.0.2", "A 10.77.0.3", "AAAA fd77::33"] {
            assert!(beside.contains(address), "no {address} beside {words}: {}", answer.text);
        }
    }
    let tagged = ask(host, "_api._canary.service.mesh.internal SRV").data("SRV");
    assert_eq!(tagged.len(), 1, "{tagged:?}");
    assert!(tagged[0].starts_with("1 1 8081 "), "{tagged:?}");
    // The target of an SRV is a name that can be asked for.
    let target = tagged[0].rsplit(' ').next().unwrap_or_default().trim_end_matches('.');
    finds(host, target, "A", &["10.77.0.3"]);
    let port = ask(host, "shop.connect.mesh.internal SRV").data("SRV");
    assert!(port.len() == 1 && port[0].contains(" 20000 "), "{port:?}");

    // There is no such name; or there is, but nothing of this type. Both say how long that holds.
    for (words, status) in [
        ("nobody.service.mesh.internal", "NXDOMAIN"),
        ("v9.api.service.mesh.internal", "NXDOMAIN"),
        ("nobody.node.mesh.internal", "NXDOMAIN"),
        ("api.nonsense.mesh.internal", "NXDOMAIN"),
        ("api.service.elsewhere.mesh.internal", "NXDOMAIN"),
        ("sick.api.service.mesh.internal", "NXDOMAIN"),
        ("v2.api.service.mesh.internal AAAA", "NOERROR"),
        ("api.service.mesh.internal MX", "NOERROR"),
        ("h3.node.mesh.internal SRV", "NOERROR"),
    ] {
        let answer = ask(host, words);
        assert_eq!(answer.status(), status, "{words}: {}", answer.text);
        assert_eq!(answer.section("ANSWER"), Vec::<String>::new(), "{words}");
        let authority = answer.section("AUTHORITY");
        assert!(authority.len() == 1 && authority[0].starts_with("SOA "), "{words}: {}", answer.text);
    }
    finds_soa(host);
    // Not ours, and nobody was named to ask.
    assert_eq!(ask(host, "example.com").status(), "REFUSED");
}

fn finds_soa(host: &Host) {
    for domain in ["mesh.internal", "consul"] {
        let answer = ask(host, &format!("{domain} SOA"));
        assert_eq!(answer.data("SOA").len(), 1, "{}", answer.text);
        let servers = ask(host, &format!("{domain} NS"));
        assert!(!servers.data("NS").is_empty(), "{}", servers.text);
    }
}

/// Another resolver of the house knows what is not ours.
fn others() {
    let mesh = Mesh::start(2, "recursors = [\"127.0.0.1:5353\"]\ndns_config = { recursor_timeout = \"1s\" }");
    let host = mesh.lab.host(2);
    let resolver = host.spawn("resolver", &python(), &[&script("resolver.py"), "5353"]);
    until("the other resolver answers", LONG, || {
        let out = host
            .try_run("dig", &["@127.0.0.1", "-p", "5353", "+time=1", "+tries=1", "+short", "example.com"])?;
        if out == "192.0.2.7" { Ok(()) } else { Err(out) }
    });
    for words in ["example.com", "+tcp example.com", "EXAMPLE.com"] {
        let answer = ask(host, words);
        assert_eq!(answer.data("A"), ["192.0.2.7"], "{words}: {}", answer.text);
        assert!(answer.flags().contains(&"ra") && !answer.flags().contains(&"aa"), "{}", answer.text);
    }
    assert_eq!(ask(host, "nobody.example").status(), "NXDOMAIN");
    // An answer too long for a datagram comes whole all the same.
    let long = ask(host, "long.example TXT");
    assert_eq!(long.data("TXT").len(), 40, "{}", long.text);
    // Ours stays ours.
    assert_eq!(ask(host, "nobody.service.mesh.internal").status(), "NXDOMAIN");
    finds(host, "h1.node.mesh.internal", "A", &["10.77.0.1"]);
    not_for_others(mesh.on(2));

    drop(resolver);
    assert_eq!(ask(host, "example.org").status(), "SERVFAIL");
    finds(host, "h1.node.mesh.internal", "A", &["10.77.0.1"]);
}

/// The resolver was never asked for what is ours.
fn not_for_others(agent: &Agent) {
    let asked = std::fs::read_to_string(agent.host.dir.join("resolver.log")).unwrap_or_default();
    assert!(asked.contains("example.com"), "{asked}");
    assert!(!asked.contains("mesh.internal"), "{asked}");
}
