//! Three servers of the real binary on loopback, and what they take.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use purlin_wire::token::JoinTokenText;
use serde_json::Value;

/// What is measured, unless `--binary` names another build.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_purlin");
const SERVERS: usize = 3;
const WAIT: Duration = Duration::from_secs(180);
const HTTP: Duration = Duration::from_secs(10);

pub(crate) struct Servers {
    binary: String,
    dir: PathBuf,
    processes: Vec<Child>,
}

fn address(node: usize) -> String {
    format!("127.0.84.{}", node + 1)
}

fn spawn(binary: &str, dir: &Path, node: usize, flags: &[&str]) -> anyhow::Result<Child> {
    let address = address(node);
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join(format!("s{node}.log")))?;
    let mut command = Command::new(binary);
    command
        .args(["server", "--node", &format!("s{node}"), "--bind", &address, "--client", &address])
        .args(["--advertise", &address, "--log-level", "warn", "--data-dir"])
        .arg(dir.join(format!("s{node}")))
        .args(flags);
    Ok(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?)
}

/// One request over a connection of its own.
fn get(node: usize, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect((address(node), 8500))?;
    stream.set_read_timeout(Some(HTTP))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    anyhow::ensure!(head.contains(" 200 "), "{path}: {}", head.lines().next().unwrap_or_default());
    Ok(body.to_owned())
}

fn json(node: usize, path: &str) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&get(node, path)?)?)
}

async fn until(what: &str, ready: impl Fn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + WAIT;
    while !ready().unwrap_or(false) {
        anyhow::ensure!(Instant::now() < deadline, "{what}: not within {WAIT:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

impl Servers {
    pub(crate) async fn start(binary: &str, dir: &Path) -> anyhow::Result<Self> {
        let first = spawn(binary, dir, 0, &["--bootstrap"])?;
        let mut servers = Self { binary: binary.to_owned(), dir: dir.to_owned(), processes: vec![first] };
        until("the first server leads", || Ok(json(0, "/v1/status/leader")?.is_string())).await?;
        let token = servers.token("server", SERVERS)?.encode()?;
        for node in 1..SERVERS {
            servers.processes.push(spawn(binary, dir, node, &["--join", &token])?);
        }
        until("three servers vote", || {
            let peers = json(0, "/v1/operator/raft/configuration")?;
            let servers = peers["Servers"].as_array().context("no servers")?;
            Ok(servers.iter().filter(|server| server["Voter"] == true).count() == SERVERS)
        })
        .await?;
        Ok(servers)
    }

    pub(crate) fn token(&self, role: &str, uses: usize) -> anyhow::Result<JoinTokenText> {
        let endpoint = format!("{}:8500", address(0));
        let token = Command::new(&self.binary)
            .args(["join-token", "create", "--role", role, "--uses", &uses.to_string()])
            .args(["--http-addr", &endpoint])
            .output()?;
        anyhow::ensure!(token.status.success(), "{}", String::from_utf8_lossy(&token.stderr));
        Ok(JoinTokenText::decode(&String::from_utf8(token.stdout)?)?)
    }

    /// Where agents reach them.
    pub(crate) fn doors() -> Vec<String> {
        (0..SERVERS).map(|node| format!("{}:8300", address(node))).collect()
    }

    fn alive(&self) -> impl Iterator<Item = usize> {
        let is_alive = |node: &usize| TcpStream::connect((address(*node), 8500)).is_ok();
        (0..SERVERS).filter(is_alive)
    }

    pub(crate) fn leader(&self) -> anyhow::Result<usize> {
        for node in self.alive() {
            if let Ok(Value::String(leader)) = json(node, "/v1/status/leader")
                && let Some(node) =
                    (0..SERVERS).find(|node| leader.starts_with(&format!("{}:", address(*node))))
            {
                return Ok(node);
            }
        }
        anyhow::bail!("nobody says who leads")
    }

    fn metric(node: usize, name: &str) -> f64 {
        let text = get(node, "/v1/agent/metrics?format=prometheus").unwrap_or_default();
        let line = text.lines().find(|line| line.split([' ', '{']).next() == Some(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(f64::NAN)
    }

    /// The highest term that a living server knows.
    pub(crate) fn term(&self) -> f64 {
        self.alive().map(|node| Self::metric(node, "purlin_server_raft_term")).fold(0.0, f64::max)
    }

    /// Open on each; one that is gone has none.
    pub(crate) fn sessions(&self) -> Vec<f64> {
        let alive: Vec<usize> = self.alive().collect();
        let sessions =
            |node| if alive.contains(&node) { Self::metric(node, "purlin_server_sessions") } else { 0.0 };
        (0..SERVERS).map(sessions).collect()
    }

    /// What each server measured of changes so far: seconds, and how many.
    pub(crate) fn propagation(&self) -> Vec<(f64, f64)> {
        let of = |node, what| Self::metric(node, &format!("purlin_server_propagation_seconds_{what}"));
        self.alive().map(|node| (of(node, "sum"), of(node, "count"))).collect()
    }

    /// Hosts that the catalog does not hold for alive.
    pub(crate) fn failed(&self) -> anyhow::Result<usize> {
        let members = json(self.leader()?, "/v1/agent/members")?;
        Ok(members
            .as_array()
            .context("no members")?
            .iter()
            .filter(|member| member["Status"] != 1 && is_agent(member))
            .count())
    }

    pub(crate) fn kill(&mut self, node: usize) -> anyhow::Result<()> {
        self.processes[node].kill()?;
        self.processes[node].wait()?;
        Ok(())
    }

    /// Starts it from its disk; how long until it answers for the shared service, and its log is applied.
    pub(crate) async fn start_again(&mut self, node: usize) -> anyhow::Result<Duration> {
        let leader = self.leader()?;
        let goal = Self::metric(leader, "purlin_server_raft_applied");
        let begun = Instant::now();
        self.processes[node] = spawn(&self.binary, &self.dir, node, &[])?;
        until("it serves again", || {
            let entries = json(node, "/v1/health/service/service-0?stale")?;
            let here = entries.as_array().is_some_and(|entries| !entries.is_empty());
            Ok(here && Self::metric(node, "purlin_server_raft_applied") >= goal)
        })
        .await?;
        Ok(begun.elapsed())
    }

    /// Processor time of all since they began, in seconds.
    pub(crate) fn cpu(&self) -> f64 {
        self.processes.iter().map(|process| cpu(process.id())).sum()
    }

    pub(crate) fn memory(&self) -> String {
        let one = |(node, process): (usize, &Child)| format!("s{node} {}", memory(process.id()));
        self.processes.iter().enumerate().map(one).collect::<Vec<_>>().join(", ")
    }
}

fn is_agent(member: &Value) -> bool {
    member["Name"].as_str().is_some_and(|name| name.starts_with("host-"))
}

impl Drop for Servers {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // One that is gone already needs no signal.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// User and system time of a process, in clock ticks of a hundredth of a second.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// What is in memory, and the share of it that is its own.
fn memory(pid: u32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let of = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    };
    format!("{:.0} MiB (PSS {:.0})", of("Rss:"), of("Pss:"))
}
