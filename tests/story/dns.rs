//! DNS as dig sees it: on an agent and on the server's host, over UDP and TCP, for names of ours and of others.

use std::time::Duration;

use serde_json::json;

use crate::kit::mesh::path_text;
use crate::kit::wait::SOON;
use crate::kit::{Host, Mesh, Process, until};

pub const STORIES: &[(&str, fn())] = &[("dns::names", names), ("dns::others", others)];

/// What dig printed of an answer.
struct Answer {
    text: String,
    status: String,
    /// The last word of each record: an address, a target.
    data: Vec<String>,
}

fn dig(host: &Host, words: &[&str]) -> Result<Answer, String> {
    let mut all = vec!["@127.0.0.1", "-p", "8600", "+tries=1", "+time=5"];
    all.extend_from_slice(words);
    let text = host.try_run("dig", &all)?;
    let status =
        text.split("status: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or("none").to_owned();
    let section = text.split(";; ANSWER SECTION:").nth(1).unwrap_or("");
    let section = section.split("\n\n").next().unwrap_or("");
    let lines = section.lines().filter(|line| !line.trim().is_empty());
    let data = lines.filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect();
    Ok(Answer { status, data, text })
}

/// Until the records of an answer are these, in any order.
#[track_caller]
fn gives(host: &Host, words: &[&str], wanted: &[&str]) -> Answer {
    let mut wanted: Vec<&str> = wanted.to_vec();
    wanted.sort_unstable();
    until(&format!("{} on {}", words.join(" "), host.name), SOON, || {
        let answer = dig(host, words)?;
        let mut found: Vec<&str> = answer.data.iter().map(String::as_str).collect();
        found.sort_unstable();
        if found == wanted && answer.status == "NOERROR" { Ok(answer) } else { Err(answer.text) }
    })
}

/// An answer without records: its status, and the SOA that says for how long.
#[track_caller]
fn empty(host: &Host, words: &[&str], status: &str) {
    until(&format!("{} on {}", words.join(" "), host.name), SOON, || {
        let answer = dig(host, words)?;
        let good = answer.status == status && answer.data.is_empty() && answer.text.contains("SOA");
        if good { Ok(()) } else { Err(answer.text) }
    });
}

fn names() {
    let mesh = Mesh::start(3, "");
    let (near, far) = (mesh.lab.host(2), mesh.lab.host(1));
    let api = |id: &str, tag: &str| {
        json!({"ID": id, "Name": "api", "Port": 8080, "Tags": [tag], "Connect": {"SidecarService": {}},
            "Check": {"TTL": "1h", "Status": "passing"}})
    };
    mesh.on(2).register(&api("api-1", "v1"));
    mesh.on(3).register(&api("api-2", "v2"));
    mesh.on(3).register(&json!({"Name": "six", "Port": 9, "Address": "fd77::3"}));
    mesh.on(2).await_healthy("api", 2);

    for host in [near, far] {
        let both = ["10.77.0.2", "10.77.0.3"];
        for name in [
            "api.service.mesh.internal",
            "api.service.consul",
            "API.Service.Mesh.Internal",
            "api.service.dc1.consul",
        ] {
            gives(host, &[name], &both);
        }
        gives(host, &["+tcp", "api.service.mesh.internal"], &both);
        gives(host, &["+noedns", "api.service.mesh.internal"], &both);
        let large = gives(host, &["+bufsize=4096", "api.service.mesh.internal"], &both);
        assert!(large.text.contains("EDNS: version: 0"), "{}", large.text);
        gives(host, &["v1.api.service.mesh.internal"], &["10.77.0.2"]);
        gives(host, &["h3.node.mesh.internal"], &["10.77.0.3"]);
        gives(host, &["api.connect.mesh.internal"], &both);
        gives(host, &["six.service.mesh.internal", "AAAA"], &["fd77::3"]);

        let targets = ["h2.node.dc1.mesh.internal.", "h3.node.dc1.mesh.internal."];
        let listed = gives(host, &["_api._tcp.service.mesh.internal", "SRV"], &targets);
        assert!(listed.text.contains("8080") && listed.text.contains("10.77.0.3"), "{}", listed.text);
        gives(host, &["api.service.mesh.internal", "SRV"], &targets);
        gives(host, &["_api._v2.service.mesh.internal", "SRV"], &["h3.node.dc1.mesh.internal."]);

        empty(host, &["nosuch.service.mesh.internal"], "NXDOMAIN");
        empty(host, &["nosuch.node.mesh.internal"], "NXDOMAIN");
        empty(host, &["api.service.elsewhere.mesh.internal"], "NXDOMAIN");
        empty(host, &["v9.api.service.mesh.internal"], "NXDOMAIN");
        empty(host, &["api.service.mesh.internal", "AAAA"], "NOERROR");
        empty(host, &["six.service.mesh.internal", "A"], "NOERROR");
        let soa = dig(host, &["mesh.internal", "SOA"]).expect("an answer");
        assert!(soa.status == "NOERROR" && soa.text.contains("hostmaster.mesh.internal"), "{}", soa.text);
    }

    // Only healthy instances.
    let failed = mesh.on(3).put("/v1/agent/check/fail/service:api-2", "");
    assert_eq!(failed.map(|(status, _)| status), Ok(200));
    for host in [near, far] {
        gives(host, &["api.service.mesh.internal"], &["10.77.0.2"]);
    }
    mesh.on(2).purlin(&["services", "deregister", "-id=api-1"]);
    empty(near, &["api.service.mesh.internal"], "NXDOMAIN");
}

/// Answers every question of type A with 192.0.2.7, and nothing else.
const RESPONDER: &str = r#"
import socket, struct
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("10.77.0.3", 53))
print("ready", flush=True)
while True:
    packet, peer = udp.recvfrom(4096)
    end = 12
    while packet[end]:
        end += packet[end] + 1
    question = packet[12:end + 5]
    kind = struct.unpack("!H", question[-4:-2])[0]
    answers = 1 if kind == 1 else 0
    head = packet[:2] + struct.pack("!HHHHH", 0x8180, 1, answers, 0, 0)
    record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + bytes([192, 0, 2, 7])
    udp.sendto(head + question + record * answers, peer)
"#;

fn recursor(host: &Host) -> Process {
    let file = host.write("responder.py", RESPONDER);
    let process = host.spawn("responder", "python3", &[path_text(&file)]);
    until("the recursor is ready", SOON, || match process.log().contains("ready") {
        true => Ok(()),
        false => Err(process.log()),
    });
    process
}

fn others() {
    let mesh = Mesh::start(2, "");
    let refused = dig(mesh.lab.host(2), &["example.com"]).expect("an answer");
    assert_eq!(refused.status, "REFUSED", "{}", refused.text);

    let mesh = Mesh::start(3, "recursors = [\"10.77.0.3\"]");
    let host = mesh.lab.host(2);
    let servfail = || {
        let answer = dig(host, &["example.com"])?;
        if answer.status == "SERVFAIL" { Ok(()) } else { Err(answer.text) }
    };
    until("no recursor answers", Duration::from_secs(15), servfail);
    let mut responder = recursor(mesh.lab.host(3));
    gives(host, &["example.com"], &["192.0.2.7"]);
    // Names of ours never go there.
    empty(host, &["nosuch.service.mesh.internal"], "NXDOMAIN");
    responder.kill();
    until("the recursor is gone", Duration::from_secs(15), servfail);
}
