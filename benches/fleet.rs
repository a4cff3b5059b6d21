//! A whole fleet on one cluster: three servers, a catalog of many hosts and instances, and one session for each host,
//! kept by the agent's own code. Prints what the servers take in memory and time, how long a change needs to the last
//! session, and how long all sessions need to be current again when their server is killed. Asserts nothing.
//!
//! `cargo bench --bench fleet -- [--hosts 10000] [--instances 172000] [--changes 11] [--binary PATH]`; each host holds one socket, so
//! `ulimit -n` must be above their number.

#[path = "fleet/host.rs"]
mod host;
#[path = "fleet/layout.rs"]
mod layout;
#[path = "fleet/servers.rs"]
mod servers;
#[path = "fleet/storm.rs"]
mod storm;
#[path = "fleet/watch.rs"]
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::StreamExt;
use host::Host;
use layout::Layout;
use servers::Servers;
use watch::Watch;

/// Hosts that join at once; servers let 64 strangers in at a time.
const JOINING: usize = 96;
/// Between two changes, and to see what the servers take when nothing changes.
const PAUSE: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_secs(10);
/// For what happened before to settle.
const SETTLE: Duration = Duration::from_secs(20);

struct Options {
    layout: Layout,
    changes: usize,
    binary: String,
}

fn options() -> anyhow::Result<Options> {
    let mut layout = Layout { hosts: 10_000, instances: 172_000 };
    let (mut changes, mut binary) = (11, servers::BINARY.to_owned());
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(flag) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--hosts" => layout.hosts = value.parse()?,
            "--instances" => layout.instances = value.parse()?,
            "--changes" => changes = value.parse()?,
            "--binary" => binary = value,
            _ => anyhow::bail!("unknown flag {flag}: --hosts, --instances, --changes, --binary"),
        }
    }
    anyhow::ensure!(
        layout.hosts > 0 && layout.instances >= layout.hosts && changes > 0,
        "one instance a host and one change at least"
    );
    Ok(Options { layout, changes, binary })
}

fn main() -> anyhow::Result<()> {
    let options = options()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(options))
}

async fn run(options: Options) -> anyhow::Result<()> {
    let Options { layout, changes, binary } = options;
    let dir = tempfile::tempdir()?;
    let mut servers = Servers::start(&binary, dir.path()).await?;
    println!("three servers, empty: {}", servers.memory());
    let begun = Instant::now();
    let watch = Watch::new(layout.hosts);
    let hosts = come(&servers, layout, &watch).await?;
    println!(
        "{} hosts with {} instances have joined, registered and follow their topics: {:.0} s",
        layout.hosts,
        layout.instances,
        begun.elapsed().as_secs_f64()
    );
    tokio::time::sleep(SETTLE).await;
    println!("three servers, serving: {} (leader: s{})", servers.memory(), servers.leader()?);
    println!("sessions on each server: {:?}", servers.sessions());
    push(&servers, &hosts, &watch, changes).await?;
    storm::one_of_three(&mut servers, &hosts, &watch).await?;
    storm::all_on_one(&mut servers, &hosts, &watch).await?;
    println!("three servers, at the end: {}", servers.memory());
    Ok(())
}

/// All hosts join, open their sessions, register what they run, and have what they follow.
async fn come(servers: &Servers, layout: Layout, watch: &Arc<Watch>) -> anyhow::Result<Vec<Arc<Host>>> {
    let token = servers.token("agent", layout.hosts)?;
    let mut hosts = Vec::with_capacity(layout.hosts);
    let mut coming = futures_util::stream::iter(0..layout.hosts)
        .map(|index| Host::come(layout, index, &token, watch))
        .buffer_unordered(JOINING);
    while let Some(host) = coming.next().await {
        hosts.push(host?);
        if hosts.len().is_multiple_of(1_000) {
            eprintln!("{} hosts: {}", hosts.len(), servers.memory());
        }
    }
    drop(coming);
    hosts.sort_by_key(|host| host.index);
    for host in &hosts {
        host.settled().await?;
    }
    Ok(hosts)
}

/// From one instance's change until the last session that follows its service has it.
async fn push(
    servers: &Servers,
    hosts: &[Arc<Host>],
    watch: &Arc<Watch>,
    changes: usize,
) -> anyhow::Result<()> {
    let before = servers.cpu();
    tokio::time::sleep(IDLE).await;
    let idle = (servers.cpu() - before) / IDLE.as_secs_f64();
    println!("servers with nothing to tell: {idle:.2} core-seconds a second");
    let measured = servers.propagation();
    let (mut lasts, mut costs, mut written) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..changes {
        let (begun, cpu) = (Instant::now(), servers.cpu());
        let number = watch.next();
        hosts[0].change(number).await?;
        written.push(begun.elapsed().as_secs_f64());
        let last = watch.all_have(number).await.with_context(|| lagging(hosts))?;
        lasts.push((last - begun).as_secs_f64());
        tokio::time::sleep(PAUSE.saturating_sub(begun.elapsed())).await;
        costs.push(servers.cpu() - cpu - idle * begun.elapsed().as_secs_f64());
    }
    println!("change to its own acknowledgement: {}", spread(&mut written, "s"));
    println!("change to the last of {} sessions: {}", hosts.len(), spread(&mut lasts, "s"));
    println!("core-seconds of all servers for it: {}", spread(&mut costs, ""));
    println!("load average: {}", load_average());
    for (node, (before, now)) in measured.iter().zip(servers.propagation()).enumerate() {
        let (seconds, count) = (now.0 - before.0, now.1 - before.1);
        println!("as s{node} measures it: {count} changes, {:.3} s each", seconds / count);
    }
    Ok(())
}

/// Some hosts that have no session, or a new one that has not told all yet.
fn lagging(hosts: &[Arc<Host>]) -> String {
    let lagging: Vec<String> = hosts.iter().filter_map(|host| host.lags()).collect();
    format!("{} hosts lag: {}", lagging.len(), lagging.iter().take(5).cloned().collect::<Vec<_>>().join("; "))
}

/// Median, least and most.
fn spread(values: &mut [f64], unit: &str) -> String {
    values.sort_by(f64::total_cmp);
    let of = values.len();
    format!("median {:.3} {unit} of {of} ({:.3} to {:.3})", values[of / 2], values[0], values[of - 1])
}

fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
