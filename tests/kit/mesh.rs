//! A mesh on a lab: a server on host 1, agents on the others, all of the real binary.

use std::path::Path;
use std::time::Duration;

pub use super::apps::nginx;
use super::clock::days_ahead;
use super::host::{Host, Lab};
use super::process::Process;
use super::wait::{LONG, SOON, until};

pub const PURLIN: &str = env!("CARGO_BIN_EXE_purlin");

/// A running `purlin server` or `purlin agent`.
pub struct Agent {
    pub host: Host,
    pub process: Process,
    role: &'static str,
}

/// Its agents come first, because they tell what they logged before their disks go.
pub struct Mesh {
    /// Index 0 is the server on host 1.
    pub agents: Vec<Agent>,
    pub lab: Lab,
}

impl Mesh {
    /// A server on host 1 and an agent on each other host, joined and alive. `config` is added to each one's file.
    #[track_caller]
    pub fn start(hosts: usize, config: &str) -> Self {
        let lab = Lab::new(hosts);
        let server = Agent::server(lab.host(1), config);
        let mut mesh = Self { lab, agents: vec![server] };
        for number in 2..=hosts {
            mesh.join(number, config);
        }
        mesh.await_members(hosts);
        mesh
    }

    /// The agent on that host, counted from 1; the server's own is on host 1.
    #[track_caller]
    pub fn on(&self, host: usize) -> &Agent {
        let found = self.agents.iter().find(|agent| agent.host.number == host);
        found.unwrap_or_else(|| panic!("nothing of ours runs on host {host}"))
    }

    #[track_caller]
    pub fn on_mut(&mut self, host: usize) -> &mut Agent {
        let found = self.agents.iter_mut().find(|agent| agent.host.number == host);
        found.unwrap_or_else(|| panic!("nothing of ours runs on host {host}"))
    }

    pub fn token(&self) -> String {
        self.on(1).purlin(&["join-token", "create"])
    }

    pub fn join(&mut self, host: usize, config: &str) {
        let token = self.token();
        let agent = Agent::start(self.lab.host(host), "agent", config, &["--join", &token]);
        agent.await_ready();
        self.agents.push(agent);
    }

    #[track_caller]
    pub fn await_members(&self, count: usize) {
        until("all members alive", LONG, || {
            let members = self.on(1).get("/v1/agent/members")?;
            let alive = members.as_array().into_iter().flatten().filter(|one| one["Status"] == 1).count();
            if alive == count { Ok(()) } else { Err(format!("{alive} of {count} alive: {members}")) }
        });
    }
}

impl Agent {
    #[track_caller]
    pub fn server(host: &Host, config: &str) -> Self {
        let server = Self::start(host, "server", config, &["--bootstrap"]);
        server.await_ready();
        server
    }

    /// Writes `<role>.toml` (plain keys of `config` first, tables after) and starts the binary with it.
    pub fn start(host: &Host, role: &'static str, config: &str, flags: &[&str]) -> Self {
        Self::start_with_env(host, role, config, flags, &[])
    }

    pub fn start_with_env(
        host: &Host,
        role: &'static str,
        config: &str,
        flags: &[&str],
        env: &[(&str, &str)],
    ) -> Self {
        let text = format!(
            "node_name = \"{}\"\ndata_dir = \"{}\"\nadvertise_addr = \"{}\"\n{config}\n",
            host.name,
            host.dir.join("data").display(),
            host.ip
        );
        host.write(&format!("{role}.toml"), &text);
        Self::spawn(host, role, flags, env)
    }

    /// Starts it again with the file that is there.
    pub fn restart(host: &Host, role: &'static str, flags: &[&str]) -> Self {
        Self::spawn(host, role, flags, &[])
    }

    fn spawn(host: &Host, role: &'static str, flags: &[&str], env: &[(&str, &str)]) -> Self {
        let file = format!("{role}.toml");
        let mut command = host.command(PURLIN);
        command.args([role, "--config", &file]).args(flags).envs(env.iter().copied());
        let process = Process::start(host, role, command);
        Self { host: host.clone(), process, role }
    }

    /// As [`Agent::restart`], on a host whose clock is so many days ahead.
    pub fn restart_ahead(host: &Host, role: &'static str, days: u32, flags: &[&str]) -> Self {
        let mut command = host.command(PURLIN);
        command.args([role, "--config", &format!("{role}.toml")]).args(flags);
        days_ahead(host, &mut command, days);
        Self { host: host.clone(), process: Process::start(host, role, command), role }
    }

    /// Kills and starts it again, from its data directory.
    pub fn again(&mut self) {
        self.process.kill();
        *self = Self::restart(&self.host, self.role, &[]);
    }

    #[track_caller]
    pub fn await_ready(&self) {
        until("the agent answers", LONG, || {
            let leader = self.get("/v1/status/leader")?;
            if leader.as_str().unwrap_or_default().is_empty() {
                return Err(format!("no leader: {leader}\n{}", self.process.log()));
            }
            Ok(())
        });
    }

    /// Runs `purlin` with these words on this host.
    #[track_caller]
    pub fn purlin(&self, args: &[&str]) -> String {
        self.host.run(PURLIN, args)
    }

    pub fn try_purlin(&self, args: &[&str]) -> Result<String, String> {
        self.host.try_run(PURLIN, args)
    }

    /// A GET of the HTTP API on this host, as JSON.
    pub fn get(&self, path: &str) -> Result<serde_json::Value, String> {
        let (status, body) = self.host.curl(&[&format!("http://127.0.0.1:8500{path}")])?;
        if status != 200 {
            return Err(format!("GET {path}: {status} {body}"));
        }
        serde_json::from_str(&body).map_err(|error| format!("GET {path}: {error}: {body}"))
    }

    pub fn put(&self, path: &str, body: &str) -> Result<(u16, String), String> {
        self.host.curl(&["-X", "PUT", "-d", body, &format!("http://127.0.0.1:8500{path}")])
    }

    /// A figure of this host, added up over all its series that have these labels; 0 where there is none.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let url = "http://127.0.0.1:8500/v1/agent/metrics?format=prometheus";
        let (status, text) = self.host.curl(&[url]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(status, 200, "{text}");
        let wanted: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let series = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, labels) = series.split_once('{').unwrap_or((series, ""));
            let fits = found == name && wanted.iter().all(|label| labels.contains(label));
            fits.then(|| value.parse::<f64>().ok()).flatten()
        });
        series.sum()
    }

    /// Registers a service from a definition in JSON.
    #[track_caller]
    pub fn register(&self, definition: &serde_json::Value) {
        let answer = self.put("/v1/agent/service/register", &definition.to_string());
        assert_eq!(answer.as_ref().map(|(status, _)| *status), Ok(200), "{answer:?}");
    }

    /// Until this many healthy instances of a service are known here.
    #[track_caller]
    pub fn await_healthy(&self, service: &str, count: usize) {
        until(&format!("{count} healthy {service} seen from {}", self.host.name), SOON, || {
            let entries = self.get(&format!("/v1/health/service/{service}?passing"))?;
            let found = entries.as_array().map_or(0, Vec::len);
            if found == count { Ok(()) } else { Err(format!("{found}: {entries}")) }
        });
    }
}

pub fn path_text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// A request through an upstream's local port.
pub fn call(host: &Host, port: u16) -> Result<(u16, String), String> {
    host.curl(&[&format!("http://127.0.0.1:{port}/")])
}

/// Until a request through an upstream's local port is answered with this status; the body.
#[track_caller]
pub fn await_status(host: &Host, port: u16, wanted: u16, limit: Duration) -> String {
    until(&format!("status {wanted} on port {port} of {}", host.name), limit, || match call(host, port)? {
        (status, body) if status == wanted => Ok(body),
        (status, body) => Err(format!("{status} {body}")),
    })
}
