//! Talks to this host's proxy: hands it the view, part by part, and hears what it applied and measured.
//!
//! The proxy outlives the agent. Whoever connects first sends the whole view once; after that only what changed. A
//! proxy that is gone is started again if it is ours to start.

mod child;
mod dial;
mod frames;
mod talk;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use purlin_model::view::View;
use purlin_wire::link::Stream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::metrics::Metrics;
use child::Child;

/// Name of the socket in the runtime directory.
pub const SOCKET: &str = "proxy.sock";
/// Questions that wait for the proxy.
const QUESTIONS: usize = 16;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MOST_PAUSE: Duration = Duration::from_secs(5);
/// A connection that held for so long is made anew at once; a proxy that keeps ending is given more and more time.
const STEADY: Duration = Duration::from_secs(10);

/// How this host's proxy is reached.
#[derive(Debug, Clone)]
pub enum ProxyPort {
    /// This host runs none.
    None,
    /// By its socket in that directory.
    Socket {
        runtime_dir: PathBuf,
        /// What to start where none listens; absent: somebody else does.
        spawn: Option<Spawn>,
    },
    /// In this process.
    Memory(Dialer),
}

/// A proxy to start: `<exe> proxy --runtime-dir <dir>` and then `args`.
#[derive(Debug, Clone)]
pub struct Spawn {
    pub exe: PathBuf,
    pub args: Vec<String>,
}

/// Makes a new connection to a proxy in this process.
#[derive(Clone)]
pub struct Dialer(pub Arc<dyn Fn() -> BoxFuture<'static, std::io::Result<Stream>> + Send + Sync>);

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dialer")
    }
}

/// What is known of the proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyState {
    pub connected: bool,
    pub version: String,
    pub pid: u32,
    /// Revision of the view that it has in force; zero: none of this agent's yet.
    pub applied: u64,
    /// Listeners that it could not open, with the reason.
    pub failed_listeners: Vec<(String, String)>,
    /// Why it is not connected.
    pub reason: Option<String>,
}

/// A handle to ask the proxy. Cheap to clone.
#[derive(Clone)]
pub struct ProxyHandle {
    state: Arc<watch::Sender<ProxyState>>,
    questions: mpsc::Sender<Question>,
    log_filter: Arc<watch::Sender<Option<String>>>,
}

enum Question {
    Scrape(oneshot::Sender<String>),
    Drain(Duration),
}

/// What the task that keeps the connection needs.
pub struct Keeper {
    handle: ProxyHandle,
    questions: mpsc::Receiver<Question>,
    port: ProxyPort,
    view: watch::Receiver<Arc<View>>,
    metrics: Metrics,
    /// Of the software, told to the proxy.
    version: String,
    stop: CancellationToken,
}

impl ProxyHandle {
    pub fn state(&self) -> ProxyState {
        self.state.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<ProxyState> {
        self.state.subscribe()
    }

    /// The proxy's figures; absent when there is none or it does not answer in time.
    pub async fn scrape(&self, wait: Duration) -> Option<String> {
        if !self.state.borrow().connected {
            return None;
        }
        let (answer, text) = oneshot::channel();
        self.questions.try_send(Question::Scrape(answer)).ok()?;
        timeout(wait, text).await.ok()?.ok()
    }

    /// For the proxy that is connected and each one after it.
    pub fn set_log_filter(&self, filter: &str) {
        self.log_filter.send_replace(Some(filter.to_owned()));
    }

    /// Has the proxy finish what is under way and end, and waits until it is gone, at most a little longer.
    pub async fn drain(&self, deadline: Duration) {
        let mut state = self.state.subscribe();
        if !state.borrow().connected || self.questions.send(Question::Drain(deadline)).await.is_err() {
            return;
        }
        let gone = state.wait_for(|state| !state.connected);
        let _ = timeout(deadline + Duration::from_secs(1), gone).await;
    }
}

impl Keeper {
    pub fn new(
        port: ProxyPort,
        view: watch::Receiver<Arc<View>>,
        metrics: Metrics,
        version: String,
        stop: CancellationToken,
    ) -> (ProxyHandle, Self) {
        let (sender, questions) = mpsc::channel(QUESTIONS);
        let handle = ProxyHandle {
            state: Arc::default(),
            questions: sender,
            log_filter: Arc::new(watch::Sender::new(None)),
        };
        (handle.clone(), Self { handle, questions, port, view, metrics, version, stop })
    }

    /// Runs until told to stop, or until a proxy that was told to end is gone.
    pub async fn run(mut self) {
        if matches!(self.port, ProxyPort::None) {
            return self.stop.cancelled().await;
        }
        let mut child = Child::default();
        let mut pause = FIRST_PAUSE;
        let mut said = None;
        let stop = self.stop.clone();
        loop {
            let begun = Instant::now();
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.once(&mut child) => ended,
            };
            let why = match ended {
                Ended::Drained => return self.set_gone("it was told to end"),
                Ended::Lost(why) => {
                    if begun.elapsed() >= STEADY {
                        pause = FIRST_PAUSE;
                    }
                    said = None;
                    why
                }
                Ended::NotReached(why) => why,
            };
            if said.as_ref() != Some(&why) {
                warn!(why = %why, "no connection to the proxy, it goes on with the view it has");
                said = Some(why.clone());
            }
            self.set_gone(&why);
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(MOST_PAUSE);
        }
    }

    /// One connection from the first byte to the last.
    async fn once(&mut self, child: &mut Child) -> Ended {
        let stream = match dial::dial(&self.port, child, &self.metrics).await {
            Ok(stream) => stream,
            Err(why) => return Ended::NotReached(why),
        };
        let conversation = match talk::greet(stream, &self.version).await {
            Ok(conversation) => conversation,
            Err(why) => return Ended::NotReached(why),
        };
        let proxy = conversation.peer().clone();
        info!(version = %proxy.version, pid = proxy.pid, "connected to the proxy");
        self.handle.state.send_replace(proxy);
        conversation.run(&mut self.view, &mut self.questions, &self.handle).await
    }

    fn set_gone(&self, why: &str) {
        self.handle.state.send_modify(|state| {
            state.connected = false;
            state.reason = Some(why.to_owned());
        });
    }
}

/// How a connection ended.
enum Ended {
    NotReached(String),
    Lost(String),
    /// The proxy was told to end.
    Drained,
}
