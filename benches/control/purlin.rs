//! Three servers of the real binary on loopback, and how long nobody can write when their leader is gone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::Value;

use super::cluster::{Cluster, Process, Speech};
use super::load;

const BINARY: &str = env!("CARGO_BIN_EXE_purlin");
const WAIT: Duration = Duration::from_secs(90);
const OUTAGES: usize = 5;

fn address(node: usize) -> String {
    format!("127.0.83.{}", node + 1)
}

fn endpoint(node: usize) -> String {
    format!("{}:8500", address(node))
}

fn spawn(dir: &Path, node: usize, flags: &[&str]) -> anyhow::Result<Process> {
    let address = address(node);
    let mut command = Command::new(BINARY);
    command
        .args(["server", "--node", &format!("s{node}"), "--bind", &address, "--client", &address])
        .args(["--advertise", &address, "--log-level", "warn", "--data-dir"])
        .arg(dir.join(format!("s{node}")))
        .args(flags);
    Process::spawn(&mut command, &dir.join(format!("s{node}.log")))
}

pub(crate) async fn start(dir: &Path) -> anyhow::Result<Cluster> {
    std::fs::create_dir_all(dir)?;
    let mut processes = vec![spawn(dir, 0, &["--bootstrap"])?];
    until("the first server leads", async || Ok(!get(0, "/v1/status/leader").await?.is_null())).await?;
    let token = Command::new(BINARY)
        .args(["join-token", "create", "--role", "server", "--http-addr", &endpoint(0)])
        .output()?;
    anyhow::ensure!(token.status.success(), "{}", String::from_utf8_lossy(&token.stderr));
    let token = String::from_utf8(token.stdout)?;
    for node in 1..3 {
        processes.push(spawn(dir, node, &["--join", token.trim()])?);
    }
    until("three servers vote", async || {
        let peers = get(0, "/v1/operator/raft/configuration").await?;
        let servers = peers["Servers"].as_array().context("no servers")?;
        Ok(servers.iter().filter(|server| server["Voter"] == true).count() == 3)
    })
    .await?;
    let endpoints = (0..3).map(endpoint).collect();
    Ok(Cluster { speech: Speech::Purlin, processes, endpoints })
}

async fn until(what: &str, ready: impl AsyncFn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + WAIT;
    while !ready().await.unwrap_or(false) {
        anyhow::ensure!(Instant::now() < deadline, "{what}: not within {WAIT:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

async fn get(node: usize, path: &str) -> anyhow::Result<Value> {
    let mut sender = load::connect(&endpoint(node)).await?;
    let request = Request::builder().uri(path).header("host", "localhost").body(Full::<Bytes>::default())?;
    let answer = sender.send_request(request).await?;
    Ok(serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?)
}

/// The least, the median, the most, and of how many, in milliseconds.
type Outage = (u128, u128, u128, usize);

/// From the end of the leader until another server acknowledges a write.
pub(crate) async fn outages(mut cluster: Cluster) -> anyhow::Result<Vec<(String, Outage)>> {
    let mut all = Vec::new();
    for (what, signal) in
        [("leader killed to first write", "-KILL"), ("leader frozen to first write", "-STOP")]
    {
        let mut times = Vec::new();
        for round in 0..OUTAGES {
            let leader = leader().await?;
            let other = (leader + 1) % 3;
            cluster.processes[leader].signal(signal);
            let begun = Instant::now();
            while !load::put_once(&endpoint(other), &format!("outage/{round}")).await {
                anyhow::ensure!(begun.elapsed() < WAIT, "{what}: nobody takes writes");
            }
            times.push(begun.elapsed().as_millis());
            match signal {
                "-STOP" => cluster.processes[leader].signal("-CONT"),
                _ => cluster.processes[leader] = respawn(&cluster, leader)?,
            }
            until("all are back", async || {
                for node in 0..3 {
                    get(node, "/v1/kv/outage/0?consistent").await?;
                }
                Ok(true)
            })
            .await?;
        }
        times.sort_unstable();
        all.push((what.to_owned(), (times[0], times[times.len() / 2], times[times.len() - 1], times.len())));
    }
    Ok(all)
}

async fn leader() -> anyhow::Result<usize> {
    for node in 0..3 {
        if let Ok(Value::String(leader)) = get(node, "/v1/status/leader").await
            && let Some(node) = (0..3).find(|node| leader.starts_with(&format!("{}:", address(*node))))
        {
            return Ok(node);
        }
    }
    anyhow::bail!("nobody says who leads")
}

/// Starts it again from its data directory.
fn respawn(cluster: &Cluster, node: usize) -> anyhow::Result<Process> {
    let pid = cluster.processes[(node + 1) % 3].0.id();
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    let arguments: Vec<String> =
        arguments.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned()).collect();
    let own =
        arguments.iter().position(|argument| argument == "--data-dir").and_then(|at| arguments.get(at + 1));
    let dir: PathBuf = own.map(PathBuf::from).context("no data directory")?;
    spawn(dir.parent().context("no directory")?, node, &[])
}
