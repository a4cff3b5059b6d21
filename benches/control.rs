//! The control plane beside etcd, in one run on one disk: durable writes, reads in three modes, and how long nobody can
//! write when the leader is gone. Prints medians of interleaved rounds and a ratio; asserts nothing.
//!
//! `cargo bench --bench control -- [--secs N] [--rounds N] [--clients 1,16,64,256]`; etcd comes from Debian's
//! `etcd-server`, and is left out where it is not installed.

#[path = "control/cluster.rs"]
mod cluster;
#[path = "control/etcd.rs"]
mod etcd;
#[path = "control/load.rs"]
mod load;
#[path = "control/purlin.rs"]
mod purlin;

use std::time::Duration;

use anyhow::Context;
use cluster::Cluster;
use load::{Figures, Op};

/// What is measured.
struct Options {
    secs: Duration,
    rounds: usize,
    clients: Vec<usize>,
}

fn options() -> anyhow::Result<Options> {
    let mut options = Options { secs: Duration::from_secs(3), rounds: 3, clients: vec![1, 16, 64, 256] };
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(flag) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--secs" => options.secs = Duration::from_secs_f64(value.parse()?),
            "--rounds" => options.rounds = value.parse()?,
            "--clients" => {
                options.clients = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
            }
            _ => anyhow::bail!("unknown flag {flag}: --secs, --rounds, --clients"),
        }
    }
    Ok(options)
}

fn main() -> anyhow::Result<()> {
    let options = options()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(&options))
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let ours = purlin::start(&dir.path().join("purlin")).await?;
    let theirs = match etcd::start(&dir.path().join("etcd")).await {
        Ok(theirs) => Some(theirs),
        Err(why) => {
            eprintln!("etcd is left out: {why:#}");
            None
        }
    };
    println!(
        "{:<20} {:>7}  {:>9} {:>8} {:>8} {:>7}  {:>9} {:>8} {:>8} {:>7}  {:>6}",
        "operation",
        "clients",
        "purlin/s",
        "p50 us",
        "p99 us",
        "cpu us",
        "etcd/s",
        "p50 us",
        "p99 us",
        "cpu us",
        "ratio"
    );
    for (op, name, peer) in [
        (Op::Put, "write", Op::Put),
        (Op::Get, "read default", Op::GetStale),
        (Op::GetConsistent, "read consistent", Op::Get),
        (Op::GetStale, "read stale", Op::GetStale),
    ] {
        for clients in &options.clients {
            compare(options, name, *clients, (&ours, op), theirs.as_ref().map(|theirs| (theirs, peer)))
                .await?;
        }
    }
    for (what, figures) in purlin::outages(ours).await? {
        println!(
            "{what:<40} median {:>5} ms of {} ({} to {} ms)",
            figures.1, figures.3, figures.0, figures.2
        );
    }
    Ok(())
}

/// Rounds in turn, so that both meet the same weather.
async fn compare(
    options: &Options,
    name: &str,
    clients: usize,
    (ours, op): (&Cluster, Op),
    theirs: Option<(&Cluster, Op)>,
) -> anyhow::Result<()> {
    let (mut own, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        own.push(load::run(ours, op, clients, options.secs).await?);
        if let Some((theirs, op)) = theirs {
            peer.push(load::run(theirs, op, clients, options.secs).await?);
        }
    }
    let own = Figures::median(&own);
    let row =
        |f: &Figures| format!("{:>9.0} {:>8} {:>8} {:>7.0}", f.per_second, f.p50_us, f.p99_us, f.cpu_us);
    let (theirs, ratio) = if peer.is_empty() {
        (String::new(), String::new())
    } else {
        let peer = Figures::median(&peer);
        (row(&peer), format!("{:.2}", own.per_second / peer.per_second))
    };
    println!("{name:<20} {clients:>7}  {}  {theirs}  {ratio:>6}", row(&own));
    if own.errors > 0 {
        println!("  {} of our answers were errors", own.errors);
    }
    Ok(())
}
