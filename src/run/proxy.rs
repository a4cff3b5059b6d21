//! The host's data plane, as a process of its own or inside another one.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use purlin_agent::proxy_port::Dialer;
use purlin_proxy::{Proxy, ProxyHandle};
use purlin_wire::link::Stream;
use sd_notify::NotifyState;
use tokio::io::DuplexStream;

use super::drive;
use crate::config::Log;
use crate::logging::Logs;

/// Frames on their way between an agent and a proxy of the same process.
const PIPE_BYTES: usize = 256 * 1024;

/// What `purlin proxy` is started with.
#[derive(Debug, Clone)]
pub struct ProxyOptions {
    pub runtime_dir: PathBuf,
    /// Absent: one a core.
    pub workers: Option<usize>,
    pub log: Log,
}

fn config(workers: Option<usize>, logs: Option<&Logs>) -> purlin_proxy::Config {
    let default = purlin_proxy::Config::default();
    purlin_proxy::Config {
        workers: workers.unwrap_or(default.workers),
        log_level: logs.map(Logs::hook),
        ..default
    }
}

/// Runs the proxy of a host until SIGTERM, then lets what is under way finish.
pub fn proxy(options: ProxyOptions) -> anyhow::Result<ExitCode> {
    drive(&options.log.clone(), |logs| async move {
        let config = purlin_proxy::Config {
            runtime_dir: Some(options.runtime_dir),
            ..config(options.workers, Some(&logs))
        };
        purlin_proxy::run(config, || {
            let _ = sd_notify::notify(&[NotifyState::Ready]);
        })
        .await
        .context("the proxy cannot go on")
    })
}

/// A proxy in this process: the same frames, through memory.
pub(crate) struct InProcess {
    proxy: Arc<ProxyHandle>,
    /// The agent's end of the connection that the proxy was started with; the first dial takes it.
    first: Arc<Mutex<Option<DuplexStream>>>,
}

impl InProcess {
    pub(crate) fn start(workers: Option<usize>, logs: Option<&Logs>) -> anyhow::Result<Self> {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let proxy = Arc::new(Proxy::start_with_stream(config(workers, logs), far)?);
        Ok(Self { proxy, first: Arc::new(Mutex::new(Some(near))) })
    }

    /// Makes connections to it, for its agent.
    pub(crate) fn dialer(&self) -> Dialer {
        let (proxy, first) = (self.proxy.clone(), self.first.clone());
        Dialer(Arc::new(move || {
            let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            let near = first.unwrap_or_else(|| {
                let (near, far) = tokio::io::duplex(PIPE_BYTES);
                proxy.attach(far);
                near
            });
            Box::pin(async move {
                let (read, write) = tokio::io::split(near);
                Ok(Stream { read: Box::new(read), write: Box::new(write) })
            })
        }))
    }

    pub(crate) async fn stop(self) {
        // Whoever still holds a dialer has nobody to talk to any more.
        if let Some(proxy) = Arc::into_inner(self.proxy)
            && let Err(error) = proxy.stop().await
        {
            tracing::warn!("the proxy did not end in order: {error}");
        }
    }
}
