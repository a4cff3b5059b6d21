//! What a running host hears from outside: signals, reloads, the wish to leave, and parts that failed.

use anyhow::bail;
use purlin_agent::config::Reload;
use purlin_agent::core::Trigger;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::{RunOptions, Running};

/// Why the host ends.
enum End {
    /// SIGTERM: the proxy goes on for the next agent.
    Stop,
    /// SIGINT: whoever started it by hand wants all of it gone.
    Interrupt,
    Leave,
    Failed(String),
}

/// Goes on until something ends the host, then ends it in order.
pub(super) async fn run(mut running: Running, options: &RunOptions) -> anyhow::Result<()> {
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let end = listen(&mut running, options).await?;
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    let Running { agent, server, .. } = running;
    match &end {
        End::Stop | End::Failed(_) => agent.stop().await,
        End::Interrupt => agent.stop_with_proxy().await,
        End::Leave => agent.leave().await,
    }
    if let Some(server) = server {
        if matches!(end, End::Leave) {
            server.leave().await;
        }
        server.stop().await;
    }
    match end {
        End::Failed(why) => bail!("{why}"),
        End::Stop | End::Interrupt | End::Leave => Ok(()),
    }
}

async fn listen(running: &mut Running, options: &RunOptions) -> anyhow::Result<End> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut filter = options.config.log.filter.clone();
    loop {
        tokio::select! {
            Some(()) = hangup.recv() => {
                if let Err(why) = reload(running, options, &mut filter).await {
                    let why = why.replace('\n', "; ");
                    warn!("reload refused, the old configuration stays in force: {why}");
                }
            }
            Some(trigger) = running.triggers.recv() => match trigger {
                Trigger::Reload(answer) => {
                    let done = reload(running, options, &mut filter).await;
                    let _ = answer.send(done);
                }
                Trigger::Leave(answer) => {
                    let _ = answer.send(());
                    return Ok(End::Leave);
                }
            },
            Some(()) = terminate.recv() => return Ok(End::Stop),
            Some(()) = interrupt.recv() => return Ok(End::Interrupt),
            name = running.agent.failed() => {
                return Ok(End::Failed(format!("a part of the agent ended by itself: {name}")));
            }
            why = dead(running.server.as_ref()) => return Ok(End::Failed(why)),
        }
    }
}

async fn dead(server: Option<&purlin_server::ServerHandle>) -> String {
    match server {
        Some(server) => server.dead().await,
        None => std::future::pending().await,
    }
}

/// Reads the configuration again and puts in force what may change while the host runs. `filter` is what the files
/// said of logs last: what somebody set by hand since stays unless they say something new.
async fn reload(running: &Running, options: &RunOptions, filter: &mut String) -> Result<(), String> {
    let sources = options.sources.clone();
    let read =
        tokio::task::spawn_blocking(move || sources.load()).await.map_err(|error| error.to_string())?;
    let (config, warnings) = read.map_err(|errors| errors.to_string())?;
    for warning in warnings {
        warn!("{warning}");
    }
    let reload = Reload { services: config.services.clone(), node_checks: config.checks.clone() };
    let waiting = options.config.restart_needed(&config).join(", ");
    running.agent.reload(reload).await.map_err(|fault| match waiting.as_str() {
        "" => fault.to_string(),
        // Perhaps it would be right with them in force.
        keys => format!("{fault}; restart to put {keys} in force first"),
    })?;
    if config.log.filter != *filter {
        running.agent.core().set_log_filter(&config.log.filter).map_err(|fault| fault.to_string())?;
        filter.clone_from(&config.log.filter);
    }
    if !waiting.is_empty() {
        warn!(keys = %waiting, "these changed too and need a restart");
    }
    info!("reloaded");
    Ok(())
}
