//! `purlin demo`: a mesh of three hosts in one process, three real services on it, and a tour of the main job.
//!
//! Hosts are addresses of 127.0.0.0/8, so that it needs neither root nor another machine. What is shown is what any
//! operator would see: the tour asks the same API, DNS and ports, and runs the same commands.

mod apps;
mod dig;
mod mesh;
mod ports;
mod relay;
mod report;
mod tour;

use std::process::ExitCode;

use anyhow::Context;

use crate::config::Log;
use crate::logging::Logs;
use mesh::Mesh;
use report::Report;

/// Workers of each proxy, and threads of the runtime: three hosts share one machine here.
const THREADS: usize = 2;

#[derive(Debug, Clone)]
pub struct Options {
    /// End after the tour.
    pub once: bool,
    /// Standard output gets the steps as JSON and nothing else.
    pub json: bool,
    pub log: Log,
}

/// Runs the demo; exit code 0 only if every step did what it says.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let logs = Logs::start(&options.log.filter, options.log.json).map_err(|why| anyhow::anyhow!(why))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let done = runtime.block_on(async { Box::pin(tell(options, &logs)).await });
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    done
}

async fn tell(options: &Options, logs: &Logs) -> anyhow::Result<ExitCode> {
    let mut report = Report::new(options.json);
    report.say("Starting a mesh of three hosts: a server with an agent on 127.0.0.1, agents on 127.0.0.2 and 127.0.0.3.");
    let mut mesh = Mesh::start(logs).await.context("the demo cannot start")?;
    for line in mesh.replaced_ports() {
        report.say(line);
    }
    tour::walk(&mut mesh.stage, &mut report).await;
    report.finish()?;
    if !options.once {
        mesh.revive().await?;
        report.say(&mesh.addresses());
        tokio::signal::ctrl_c().await?;
        report.say("\nStopping.");
    }
    mesh.stop().await;
    Ok(if report.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
