//! Who a service is: certificates that renew themselves unseen, and doors that open to nobody else.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::intentions::ping;
use crate::kit::apps::{client, meshed, nginx, redis};
use crate::kit::mesh::await_status;
use crate::kit::net::{App, read_answer, read_head, rest};
use crate::kit::wait::{LONG, SOON};
use crate::kit::{Agent, Host, Lab, Mesh, until};

pub const STORIES: &[(&str, fn())] = &[
    ("certificates::renewal", renewal),
    ("certificates::leaf_and_disk", leaf_and_disk),
    ("certificates::strangers", strangers),
    ("certificates::servers_come_and_go", servers_come_and_go),
];

const SHORTEST: &str = "connect = { ca_config = { leaf_cert_ttl = \"10s\" } }";

fn leaf(agent: &Agent, service: &str) -> Result<Value, String> {
    agent.get(&format!("/v1/agent/connect/ca/leaf/{service}"))
}

/// In plain lower-case digits, however it was written.
fn plain(serial: &str) -> String {
    let digits: String = serial.chars().filter(char::is_ascii_hexdigit).collect();
    digits.trim_start_matches('0').to_ascii_lowercase()
}

fn renewal() {
    let mesh = Mesh::start(3, SHORTEST);
    let (web, far) = (mesh.lab.host(2), mesh.lab.host(3));
    assert!(mesh.on(1).process.log().contains("leaf_cert_ttl"), "no warning of so short a life");
    let (_nginx, _redis) = (nginx(far, 8080, "hello"), redis(far, 6379));
    mesh.on(3).register(&meshed("api", 8080));
    mesh.on(3).register(&meshed("cache", 6379));
    mesh.on(2).register(&client("web", &[("api", 9191), ("cache", 9001)]));
    mesh.on(2).purlin(&["intention", "create", "web", "*"]);
    await_status(web, 9191, 200, SOON);
    let mut old = until("redis answers", SOON, || {
        let mut line = web.dial("127.0.0.1:9001").map_err(|error| error.to_string())?;
        ping(&mut line).map(|()| line)
    });

    let over = AtomicBool::new(false);
    let (asked, failed) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let steady = |ask: fn(&Host, &mut Option<TcpStream>) -> Result<(), String>| {
            let (over, asked, failed) = (&over, &asked, &failed);
            scope.spawn(move || {
                let mut line = None;
                while !over.load(Ordering::Relaxed) {
                    asked.fetch_add(1, Ordering::Relaxed);
                    if let Err(error) = ask(web, &mut line) {
                        failed.fetch_add(1, Ordering::Relaxed);
                        eprintln!("a request failed: {error}");
                        line = None;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        };
        steady(ask_anew);
        steady(ask_again);
        steady(ping_anew);
        let renewed = std::panic::catch_unwind(|| {
            for service in [(2, "web"), (3, "api")] {
                await_renewals(mesh.on(service.0), service.1, 4);
            }
        });
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = renewed {
            std::panic::resume_unwind(panic);
        }
    });
    let (asked, failed) = (asked.into_inner(), failed.into_inner());
    assert_eq!(failed, 0, "of {asked} requests");
    assert!(asked > 300, "only {asked} requests: traffic was not steady");
    ping(&mut old).expect("a connection older than its certificates goes on");
}

/// Until the leaf of a service has been seen with so many serial numbers.
#[track_caller]
fn await_renewals(agent: &Agent, service: &str, count: usize) {
    let mut seen = std::collections::BTreeSet::new();
    until(&format!("{count} certificates of {service}"), LONG, || {
        seen.insert(leaf(agent, service)?["SerialNumber"].to_string());
        if seen.len() >= count { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: api\r\n";

/// A request on a connection of its own.
fn ask_anew(web: &Host, _: &mut Option<TcpStream>) -> Result<(), String> {
    let mut line = web.dial("127.0.0.1:9191").map_err(|error| error.to_string())?;
    line.write_all(format!("{REQUEST}Connection: close\r\n\r\n").as_bytes())
        .map_err(|error| error.to_string())?;
    let answer = rest(&line);
    if answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello\n") { Ok(()) } else { Err(answer) }
}

/// A request on the connection of the one before.
fn ask_again(web: &Host, line: &mut Option<TcpStream>) -> Result<(), String> {
    if line.is_none() {
        *line = Some(web.dial("127.0.0.1:9191").map_err(|error| error.to_string())?);
    }
    let Some(line) = line else { return Err("no connection".into()) };
    line.write_all(format!("{REQUEST}\r\n").as_bytes()).map_err(|error| error.to_string())?;
    let answer = read_answer(line)?;
    if answer == "hello\n" { Ok(()) } else { Err(answer) }
}

/// A TCP connection of its own, so a handshake between the proxies each time.
fn ping_anew(web: &Host, _: &mut Option<TcpStream>) -> Result<(), String> {
    let mut line = web.dial("127.0.0.1:9001").map_err(|error| error.to_string())?;
    ping(&mut line)
}

fn leaf_and_disk() {
    const WARNING: &str = "expire soon and no server can be reached";
    let open = "client_addr = \"0.0.0.0\"\nhttp_config = { allow_plaintext = true }";
    let mut mesh = Mesh::start(3, &format!("{open}\n{SHORTEST}"));
    let (web, far) = (mesh.lab.host(2).clone(), mesh.lab.host(3).clone());
    let _nginx = nginx(&far, 8080, "hello");
    mesh.on(3).register(&meshed("api", 8080));
    mesh.on(2).register(&client("web", &[("api", 9191)]));
    mesh.on(2).purlin(&["intention", "create", "web", "api"]);
    await_status(&web, 9191, 200, SOON);

    // What the proxy shows to a caller is what the API gives, also after a renewal.
    let roots = mesh.on(3).get("/v1/agent/connect/ca/roots").expect("the roots");
    let domain = roots["TrustDomain"].as_str().expect("a trust domain").to_owned();
    let first = until("the proxy shows the leaf of the API", SOON, || same_leaf(&mesh, &domain));
    until("after a renewal too", LONG, || match same_leaf(&mesh, &domain)? {
        serial if serial == first => Err(serial),
        _ => Ok(()),
    });
    let one = leaf(mesh.on(3), "api").expect("a leaf");
    assert_eq!(one["ServiceURI"], format!("spiffe://{domain}/ns/default/dc/dc1/svc/api"));
    assert!(one["PrivateKeyPEM"].as_str().is_some_and(|key| key.contains("PRIVATE KEY")), "no key");

    // To others than this host's own processes: everything else, but no key.
    let ask = |path: &str| web.curl(&[&format!("http://10.77.0.3:8500{path}")]).expect("an answer");
    assert_eq!(ask("/v1/status/leader").0, 200);
    let (status, body) = ask("/v1/agent/connect/ca/leaf/api");
    assert_eq!(status, 403, "{body}");
    assert!(!body.contains("PRIVATE KEY"));

    // Nobody else can read what lies on disk. The log's own files are made by its store: their directory is closed.
    for host in mesh.lab.hosts() {
        let mut find = vec!["data", "-path", "data/raft/*", "-prune", "-o"];
        find.extend(["-perm", "/077", "-not", "-type", "l", "-printf", "%m %p\n"]);
        let open = host.run("find", &find);
        assert_eq!(open, "", "readable by others on {}", host.name);
    }

    // How long things would go on is a figure.
    for (name, labels, least, most) in [
        ("purlin_agent_static_stability_seconds", None, 0.5, 10.0),
        ("purlin_agent_leaf_expiry_seconds", Some(("service", "api")), 0.5, 10.0),
        ("purlin_proxy_certificate_expiry_seconds", Some(("service", "api")), 0.5, 10.0),
        ("purlin_agent_node_certificate_expiry_seconds", None, 86_400.0 * 29.0, 86_400.0 * 31.0),
    ] {
        let labels: Vec<(&str, &str)> = labels.into_iter().collect();
        let value = mesh.on(3).metric(name, &labels);
        assert!((least..=most).contains(&value), "{name} is {value}");
    }

    // With servers there it is nothing to worry about; without them it is.
    assert!(!mesh.on(3).process.log().contains(WARNING), "{}", mesh.on(3).process.log());
    mesh.on_mut(1).process.kill();
    until("a warning that time runs out", LONG, || match mesh.on(3).process.log() {
        log if log.contains(WARNING) => Ok(()),
        log => Err(log),
    });
}

/// The serial number of `api`'s leaf, where API and proxy agree on it.
fn same_leaf(mesh: &Mesh, domain: &str) -> Result<String, String> {
    let given = plain(leaf(mesh.on(3), "api")?["SerialNumber"].as_str().unwrap_or_default());
    let name = format!("api.default.dc1.internal.{domain}");
    let command = format!(
        "openssl s_client -connect 10.77.0.3:20000 -servername {name} -tls1_3 </dev/null 2>/dev/null \
         | openssl x509 -noout -serial"
    );
    let shown = mesh.lab.host(2).try_run("sh", &["-c", &command])?;
    let shown = plain(shown.trim_start_matches("serial="));
    if !given.is_empty() && given == shown { Ok(given) } else { Err(format!("API {given}, proxy {shown}")) }
}

fn strangers() {
    let mesh = Mesh::start(2, "");
    let (far, web) = (mesh.lab.host(1), mesh.lab.host(2));
    let app = App::start(far, "127.0.0.1:8080", |mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecret");
    });
    mesh.on(1).register(&meshed("api", 8080));
    mesh.on(2).register(&client("web", &[("api", 9191)]));
    mesh.on(2).purlin(&["intention", "create", "*", "*"]);
    assert_eq!(await_status(web, 9191, 200, SOON), "secret");
    let known = app.connections();
    let refused = || mesh.on(1).metric("purlin_proxy_connections_refused_total", &[("reason", "handshake")]);
    let before = refused();

    let roots = mesh.on(2).get("/v1/agent/connect/ca/roots").expect("the roots");
    let domain = roots["TrustDomain"].as_str().expect("a trust domain");
    // All but the signature is right about it.
    let request = format!(
        "[req]\ndistinguished_name = dn\nx509_extensions = ext\n[dn]\n[ext]\n\
         subjectAltName = URI:spiffe://{domain}/ns/default/dc/dc1/svc/web\n\
         basicConstraints = critical, CA:FALSE\nextendedKeyUsage = clientAuth, serverAuth\n"
    );
    web.write("stranger.cnf", &request);
    let mut make =
        vec!["req", "-x509", "-config", "stranger.cnf", "-subj", "/CN=web", "-nodes", "-days", "2"];
    make.extend(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    make.extend(["-keyout", "stranger.key", "-out", "stranger.pem"]);
    web.run("openssl", &make);

    let name = format!("api.default.dc1.internal.{domain}");
    let knock = |flags: &str| {
        // -quiet goes on after the end of its input, until the other side closes.
        let command = format!(
            "printf 'GET / HTTP/1.1\\r\\nHost: api\\r\\n\\r\\n' \
             | timeout 10 openssl s_client -quiet -connect 10.77.0.1:20000 -servername {name} {flags} 2>&1"
        );
        let output = web.output("sh", &["-c", &command]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let own = leaf(mesh.on(2), "web").expect("a leaf");
    let text = |key: &str| own[key].as_str().unwrap_or_default().to_owned();
    web.write("web.pem", &text("CertPEM"));
    web.write("web.key", &text("PrivateKeyPEM"));
    let stranger = "-cert stranger.pem -key stranger.key";
    for alpn in ["purlin/h1", "purlin/h2", "purlin/tcp", "http/1.1"] {
        for flags in [stranger, ""] {
            let got = knock(&format!("{flags} -alpn {alpn}"));
            assert!(!got.contains("secret") && !got.contains("HTTP/1.1"), "{alpn} {flags}: {got}");
        }
    }
    let old = knock("-cert web.pem -cert_chain web.pem -key web.key -tls1_2 -alpn http/1.1");
    assert!(!old.contains("secret"), "{old}");
    let mut plain = web.dial("10.77.0.1:20000").expect("a connection");
    plain.write_all(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n").expect("written");
    let got = rest(&plain);
    assert!(!got.contains("HTTP"), "{got:?}");
    assert_eq!(app.connections(), known, "somebody got through to the application");
    until("the doors count who was turned away", SOON, || match refused() - before {
        count if count >= 9.0 => Ok(()),
        count => Err(count.to_string()),
    });

    // The same words with a certificate of the mesh open the door: it was the stranger who was turned away.
    let got = knock("-cert web.pem -cert_chain web.pem -key web.key -alpn http/1.1");
    assert!(got.contains("secret"), "{got}");
}

/// Who signed the leaf of a service: the common names of its chain.
fn signers(agent: &Agent, service: &str) -> Result<String, String> {
    let leaf = leaf(agent, service)?;
    agent.host.write("chain.pem", leaf["CertPEM"].as_str().unwrap_or_default());
    let show = "openssl crl2pkcs7 -nocrl -certfile chain.pem | openssl pkcs7 -print_certs -noout";
    agent.host.try_run("sh", &["-c", show])
}

fn servers_come_and_go() {
    let lab = Lab::new(4);
    let first = Agent::server(lab.host(1), SHORTEST);
    let mut mesh = Mesh { agents: vec![first], lab };
    for number in [2, 3] {
        let token = mesh.on(1).purlin(&["join-token", "create", "--role", "server"]);
        let server = Agent::start(mesh.lab.host(number), "server", "", &["--join", &token]);
        server.await_ready();
        mesh.agents.push(server);
    }
    mesh.join(4, "");
    for number in 1..=3 {
        until(&format!("server {number} signs by itself"), LONG, || {
            match mesh.on(number).metric("purlin_server_can_sign", &[]) {
                can if can >= 1.0 => Ok(()),
                _ => Err(mesh.on(number).process.log()),
            }
        });
    }
    mesh.on(4).register(&meshed("web", 8080));
    await_renewals(mesh.on(4), "web", 2);

    mesh.on_mut(1).process.kill();
    await_renewals(mesh.on(4), "web", 4);
    until("the dead server is removed", LONG, || mesh.on(2).try_purlin(&["node", "remove", "h1"]));
    until("no leaf is of the removed server", LONG, || {
        let signers = signers(mesh.on(4), "web")?;
        if signers.contains("Intermediate CA h1") { Err(signers) } else { Ok(()) }
    });
    until("its authority is revoked", LONG, || {
        let figure = |name: &str| mesh.on(2).metric(name, &[]);
        match (figure("purlin_server_certificates_retiring"), figure("purlin_server_certificates_revoked")) {
            (retiring, revoked) if retiring == 0.0 && revoked >= 2.0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    await_renewals(mesh.on(4), "web", 2);

    // Back from its disk, it is nobody's server any more.
    mesh.on_mut(1).again();
    until("the removed server is turned away", LONG, || {
        let refused = |number: usize| {
            mesh.on(number).metric("purlin_server_refused_total", &[("reason", "certificate")])
        };
        match refused(2) + refused(3) {
            count if count >= 1.0 => Ok(()),
            _ => Err(mesh.on(1).process.log()),
        }
    });
}
