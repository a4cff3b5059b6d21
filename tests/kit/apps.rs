//! Real applications on a host, and what their services are registered as.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::host::Host;
use super::mesh::path_text;
use super::process::Process;
use super::wait::{SOON, until};

/// A service in the mesh.
pub fn meshed(name: &str, port: u16) -> Value {
    json!({"Name": name, "Port": port, "Connect": {"SidecarService": {}}})
}

/// A service in the mesh that calls others, each found on a local port.
pub fn client(name: &str, upstreams: &[(&str, u16)]) -> Value {
    let upstreams: Vec<Value> = upstreams
        .iter()
        .map(|(name, port)| json!({"DestinationName": name, "LocalBindPort": port}))
        .collect();
    json!({"Name": name, "Port": 80, "Connect": {"SidecarService": {"Proxy": {"Upstreams": upstreams}}}})
}

/// A web server on a host: nginx with a page that says `text`.
pub fn nginx(host: &Host, port: u16, text: &str) -> Process {
    let page = format!("location / {{ default_type text/plain; return 200 \"{text}\\n\"; }}");
    nginx_with(host, &port.to_string(), &page)
}

/// nginx with the given `listen` (a port of loopback, or `unix:<name>`, and words after it) and locations.
pub fn nginx_with(host: &Host, listen: &str, locations: &str) -> Process {
    let port = listen.split(' ').next().unwrap_or(listen);
    let dir = host.dir.join(format!("nginx-{port}"));
    let place = match listen.strip_prefix("unix:") {
        Some(name) => format!("unix:{}/{name}", dir.display()),
        None => format!("127.0.0.1:{listen}"),
    };
    std::fs::create_dir_all(dir.join("logs")).expect("a directory");
    let config = format!(
        "user root root; daemon off; master_process off; pid {0}/pid; error_log {0}/error.log;\n\
         events {{ worker_connections 256; }}\n\
         http {{ access_log {0}/access.log; client_body_temp_path {0}/body; proxy_temp_path {0}/proxy;\n\
         fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s; client_max_body_size 0;\n\
         server {{ listen {place}; keepalive_requests 100000;\n{locations} }} }}\n",
        dir.display()
    );
    let file = host.write(&format!("nginx-{port}/nginx.conf"), &config);
    let process = host.spawn(&format!("nginx-{port}"), "nginx", &["-c", path_text(&file)]);
    if let Some(name) = listen.strip_prefix("unix:") {
        let socket = dir.join(name);
        until("nginx has its socket", SOON, || socket.metadata().map_err(|error| error.to_string()));
    } else {
        await_open(host, port);
    }
    process
}

/// Until something listens on a port of this host's loopback.
pub fn await_open(host: &Host, port: &str) {
    let address = format!("127.0.0.1:{port}");
    until(&format!("{address} of {} is open", host.name), SOON, || {
        host.dial(&address).map_err(|error| error.to_string())
    });
}

pub fn redis(host: &Host, port: u16) -> Process {
    let port = port.to_string();
    let args = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    let process = host.spawn(&format!("redis-{port}"), "redis-server", &args);
    await_open(host, &port);
    process
}

/// PostgreSQL will not run as root: it gets a user namespace in which it is somebody else.
pub fn postgres(host: &Host, port: u16) -> Process {
    const SOMEBODY: [&str; 4] = ["--user", "--map-user=1000", "--map-group=1000", "--"];
    let bin = postgres_bin();
    let (initdb, postgres) = (bin.join("initdb"), bin.join("postgres"));
    let mut args = SOMEBODY.to_vec();
    args.extend([path_text(&initdb), "-D", "pg", "-U", "postgres", "--auth=trust", "--no-sync"]);
    host.run("unshare", &args);
    let port = port.to_string();
    let mut args = SOMEBODY.to_vec();
    args.extend([path_text(&postgres), "-D", "pg", "-p", &port, "-c", "listen_addresses=127.0.0.1"]);
    args.extend(["-c", "unix_socket_directories=", "-c", "fsync=off"]);
    let process = host.spawn("postgres", "unshare", &args);
    until("PostgreSQL answers", SOON, || psql(host, &port, "select 1"));
    process
}

fn postgres_bin() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL (run tests/setup test)");
    let mut found: Vec<PathBuf> = versions.flatten().map(|version| version.path().join("bin")).collect();
    found.sort();
    found.pop().expect("PostgreSQL (run tests/setup test)")
}

pub fn psql(host: &Host, port: &str, statement: &str) -> Result<String, String> {
    let whence = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres connect_timeout=5");
    host.try_run("psql", &[&whence, "-XAtq", "-c", statement])
}

/// The Python with the clients that `tests/setup test` installed.
pub fn python() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let venv =
        std::env::var_os("PURLIN_TEST_VENV").map_or_else(|| root.join("target/test-venv"), PathBuf::from);
    root.join(venv).join("bin/python").display().to_string()
}

/// A script of the stories.
pub fn script(name: &str) -> String {
    format!("{}/tests/story/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Runs a client that is not ours on a host, as a script of the stories that says of each step that it is ok.
#[track_caller]
pub fn client_passes(host: &Host, name: &str, steps: usize) {
    let output = host.output("timeout", &["300", &python(), &script(name)]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert_eq!(out.lines().filter(|line| line.ends_with(": ok")).count(), steps, "{out}");
}
