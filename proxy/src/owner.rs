//! The one task that owns what the workers share: it hears the agent, builds states, opens sockets, and tells the
//! workers. Whatever it waits for is in one list here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use purlin_wire::local::{FromProxy, PROTOCOL, ToProxy};
use tokio::sync::{mpsc, oneshot, watch};

use crate::agent::{AgentStream, Heard, Session};
use crate::config::Config;
use crate::listen::{self, Door, Side};
use crate::report::Metrics;
use crate::state::{Builder, Changes, State, Update};
use crate::worker::{self, Order};
use crate::{Applied, ProxyError};

/// Listeners that could not be opened are tried again that often.
const RETRY: Duration = Duration::from_secs(1);
const QUEUE: usize = 16;

/// What the one who started the proxy asks of it.
pub(crate) enum Request {
    /// Another agent takes over.
    Attach(Box<dyn AgentStream>),
    Drain {
        deadline: Option<Duration>,
    },
    Stop,
}

struct WorkerThread {
    orders: mpsc::Sender<Order>,
    thread: std::thread::JoinHandle<()>,
}

pub(crate) struct Owner {
    config: Config,
    workers: Vec<WorkerThread>,
    builder: Builder,
    pending: Option<Update>,
    open: BTreeSet<Door>,
    /// With the reason.
    failed: BTreeMap<Door, String>,
    session: Option<Session>,
    sessions: u64,
    heard: mpsc::Sender<Heard>,
    metrics: Arc<Metrics>,
    applied: watch::Sender<Applied>,
}

/// What wakes the owner.
enum Event {
    Heard(Heard),
    Asked(Option<Request>),
    Agent(std::io::Result<tokio::net::UnixStream>),
    Retry,
}

/// What becomes of the proxy.
enum Next {
    GoOn,
    Drain(Duration),
    Stop,
}

impl Owner {
    /// Starts the workers. `run` must follow.
    pub(crate) fn start(
        config: Config,
        metrics: Arc<Metrics>,
        applied: watch::Sender<Applied>,
    ) -> Result<(Self, mpsc::Receiver<Heard>), ProxyError> {
        let (heard, hear) = mpsc::channel(QUEUE);
        let mut workers = Vec::new();
        for index in 0..config.workers.max(1) {
            let (orders, queue) = mpsc::channel(worker::ORDERS);
            let thread = worker::start(index, config.limits.clone(), metrics.clone(), queue)
                .map_err(|source| ProxyError::Thread { source })?;
            workers.push(WorkerThread { orders, thread });
        }
        let owner = Self {
            config,
            workers,
            builder: Builder::default(),
            pending: None,
            open: BTreeSet::new(),
            failed: BTreeMap::new(),
            session: None,
            sessions: 0,
            heard,
            metrics,
            applied,
        };
        Ok((owner, hear))
    }

    pub(crate) async fn run(
        mut self,
        socket: Option<crate::socket::AgentSocket>,
        mut hear: mpsc::Receiver<Heard>,
        mut requests: mpsc::Receiver<Request>,
    ) -> Result<(), ProxyError> {
        let mut retry = tokio::time::interval(RETRY);
        let ended = loop {
            let event = tokio::select! {
                Some(heard) = hear.recv() => Event::Heard(heard),
                request = requests.recv() => Event::Asked(request),
                agent = next_agent(socket.as_ref()) => Event::Agent(agent),
                _ = retry.tick(), if !self.failed.is_empty() => Event::Retry,
            };
            match self.handle(event).await {
                Ok(Next::GoOn) => {}
                Ok(Next::Drain(span)) => break self.drain(span).await,
                Ok(Next::Stop) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.stop_workers().await;
        ended
    }

    async fn handle(&mut self, event: Event) -> Result<Next, ProxyError> {
        match event {
            Event::Heard(Heard::Frame(number, frame)) if self.is_current(number) => {
                return self.take(frame).await;
            }
            Event::Heard(Heard::Ended(number, why)) if self.is_current(number) => self.lose_agent(&why),
            // Of an agent that was replaced meanwhile.
            Event::Heard(_) => {}
            Event::Agent(Ok(stream)) => self.attach(Box::new(stream)),
            Event::Agent(Err(error)) => {
                tracing::warn!("cannot take an agent's connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Event::Asked(Some(Request::Attach(stream))) => self.attach(stream),
            Event::Asked(Some(Request::Drain { deadline })) => {
                return Ok(Next::Drain(deadline.unwrap_or(self.config.drain_deadline)));
            }
            Event::Asked(Some(Request::Stop) | None) => return Ok(Next::Stop),
            Event::Retry => self.retry_listeners().await?,
        }
        Ok(Next::GoOn)
    }

    fn is_current(&self, number: u64) -> bool {
        self.session.as_ref().is_some_and(|session| session.number == number)
    }

    /// The newer agent is the one that counts.
    fn attach(&mut self, stream: Box<dyn AgentStream>) {
        if self.session.take().is_some() {
            tracing::info!("another agent connected and replaces the one before");
        }
        self.pending = None;
        self.sessions += 1;
        self.session = Some(Session::start(self.sessions, stream, self.heard.clone()));
    }

    fn lose_agent(&mut self, why: &str) {
        self.session = None;
        self.pending = None;
        tracing::warn!(
            revision = self.builder.revision(),
            "the agent is gone: {why}; the last view stays in force"
        );
    }

    fn say(&mut self, frame: FromProxy) {
        if self.session.as_ref().is_some_and(|session| !session.say(frame)) {
            self.lose_agent("it does not read");
        }
    }

    async fn take(&mut self, frame: ToProxy) -> Result<Next, ProxyError> {
        match frame {
            ToProxy::Hello { version, protocol } => self.greet(&version, protocol),
            ToProxy::View { revision, reset, set, removed, last } => {
                let pending = self.pending.get_or_insert_with(Update::default);
                pending.revision = revision;
                if reset {
                    *pending = Update { revision, reset, ..Update::default() };
                }
                for key in removed {
                    pending.set.remove(&key);
                    pending.removed.insert(key);
                }
                for (key, part) in set {
                    pending.removed.remove(&key);
                    pending.set.insert(key, part);
                }
                if pending.set.len() + pending.removed.len() > self.config.limits.parts {
                    self.lose_agent("its view has more parts than the limit allows");
                } else if last {
                    self.put_in_force().await?;
                }
            }
            ToProxy::Scrape { id } => {
                let text = self.metrics.text();
                self.say(FromProxy::Metrics { id, text });
            }
            ToProxy::LogLevel { filter } => self.set_log_level(&filter),
            ToProxy::Drain { deadline_ms } => return Ok(Next::Drain(Duration::from_millis(deadline_ms))),
        }
        Ok(Next::GoOn)
    }

    fn greet(&mut self, version: &str, protocol: u16) {
        tracing::info!(version, protocol, "an agent connected");
        self.say(FromProxy::Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL,
            pid: std::process::id(),
            has_revision: self.builder.revision(),
        });
        if protocol < PROTOCOL {
            self.lose_agent("it speaks an older protocol than this proxy; upgrade the agent");
        }
    }

    fn set_log_level(&self, filter: &str) {
        match self.config.log_level.as_ref().map(|hook| hook(filter)) {
            Some(Ok(())) => tracing::info!(filter, "log filter changed"),
            Some(Err(why)) => tracing::warn!(filter, "log filter refused: {why}"),
            None => tracing::debug!(filter, "log filter ignored: this process has one of its own"),
        }
    }

    async fn put_in_force(&mut self) -> Result<(), ProxyError> {
        let Some(update) = self.pending.take() else { return Ok(()) };
        let (changes, problems) = self.builder.apply(update);
        for problem in problems {
            tracing::error!("a part of the view cannot be used: {problem}");
        }
        if self.builder.parts() > self.config.limits.parts {
            tracing::warn!("the view has {} parts, more than the limit", self.builder.parts());
        }
        self.tell_workers(changes).await?;
        self.announce();
        Ok(())
    }

    /// Opens and closes what differs, and has every worker put the state in force.
    async fn tell_workers(&mut self, changes: Changes) -> Result<(), ProxyError> {
        let state = self.builder.state();
        let wanted = doors(&state);
        let close: Vec<Door> = self.open.iter().filter(|door| !wanted.contains(*door)).cloned().collect();
        let changes = Arc::new(changes);
        // Closed first everywhere, so that an address is free for who gets it now.
        if !close.is_empty() {
            self.order(|_| (state.clone(), changes.clone(), Vec::new(), close.clone())).await?;
            self.open.retain(|door| wanted.contains(door));
        }
        self.failed.clear();
        let mut sockets = self.open_missing(&wanted);
        self.order(|index| {
            (
                state.clone(),
                changes.clone(),
                sockets.get_mut(index).map(std::mem::take).unwrap_or_default(),
                Vec::new(),
            )
        })
        .await
    }

    /// For each worker its sockets.
    fn open_missing(&mut self, wanted: &BTreeSet<Door>) -> Vec<Vec<(Door, std::net::TcpListener)>> {
        let mut sockets: Vec<Vec<_>> = self.workers.iter().map(|_| Vec::new()).collect();
        for door in wanted {
            if self.open.contains(door) {
                continue;
            }
            match listen::bind(door, self.workers.len()) {
                Ok(bound) => {
                    for (of_worker, socket) in sockets.iter_mut().zip(bound) {
                        of_worker.push((door.clone(), socket));
                    }
                    self.open.insert(door.clone());
                    tracing::info!(address = %door.bind, "listening");
                }
                Err(why) => {
                    if self.failed.get(door) != Some(&why) {
                        tracing::error!(address = %door.bind, "cannot listen: {why}; trying again every second");
                    }
                    self.failed.insert(door.clone(), why);
                }
            }
        }
        sockets
    }

    async fn retry_listeners(&mut self) -> Result<(), ProxyError> {
        let wanted: BTreeSet<Door> = self.failed.keys().cloned().collect();
        let before = wanted.len();
        let mut sockets = self.open_missing(&wanted);
        self.failed.retain(|door, _| !self.open.contains(door));
        if self.failed.len() == before {
            return Ok(());
        }
        let (state, changes) = (self.builder.state(), Arc::new(Changes::default()));
        self.order(|index| {
            (
                state.clone(),
                changes.clone(),
                sockets.get_mut(index).map(std::mem::take).unwrap_or_default(),
                Vec::new(),
            )
        })
        .await?;
        self.announce();
        Ok(())
    }

    /// Returns when every worker has done it.
    async fn order(&mut self, mut make: impl FnMut(usize) -> Instruction) -> Result<(), ProxyError> {
        let mut waiting = Vec::new();
        for (index, worker) in self.workers.iter().enumerate() {
            let (done, is_done) = oneshot::channel();
            let (state, changes, open, close) = make(index);
            let order = Order::Apply { state, changes, open, close, done };
            worker.orders.send(order).await.map_err(|_| ProxyError::WorkerDied)?;
            waiting.push(is_done);
        }
        for is_done in waiting {
            is_done.await.map_err(|_| ProxyError::WorkerDied)?;
        }
        Ok(())
    }

    fn announce(&mut self) {
        let failed: Vec<_> =
            self.failed.iter().map(|(door, why)| (door.bind.to_string(), why.clone())).collect();
        let revision = self.builder.revision();
        self.metrics.view(revision, failed.len(), self.builder.certificates());
        self.applied.send_replace(Applied { revision, failed_listeners: failed.clone() });
        self.say(FromProxy::Applied { revision, failed_listeners: failed });
    }

    async fn drain(&mut self, span: Duration) -> Result<(), ProxyError> {
        tracing::info!("draining for at most {} s", span.as_secs_f32());
        let deadline = Instant::now() + span;
        for worker in &self.workers {
            worker.orders.send(Order::Drain { deadline }).await.map_err(|_| ProxyError::WorkerDied)?;
        }
        Ok(())
    }

    /// A worker ends when its orders do, or when it has drained.
    async fn stop_workers(self) {
        let threads: Vec<_> = self.workers.into_iter().map(|worker| worker.thread).collect();
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().all(|one| one.join().is_ok()));
        match joined.await {
            Ok(true) => {}
            _ => tracing::error!("a worker ended by a bug"),
        }
    }
}

type Instruction = (State, Arc<Changes>, Vec<(Door, std::net::TcpListener)>, Vec<Door>);

/// Where a state wants connections to be taken.
fn doors(state: &State) -> BTreeSet<Door> {
    let inbound = state.settings.iter().flat_map(|settings| &settings.inbound);
    let inbound = inbound.map(|&bind| Door { side: Side::Inbound, bind, network_namespace: None });
    let outbound = state.listeners.values().map(|listener| Door {
        side: Side::Outbound,
        bind: listener.bind,
        network_namespace: listener.network_namespace.clone(),
    });
    inbound.chain(outbound).collect()
}

async fn next_agent(socket: Option<&crate::socket::AgentSocket>) -> std::io::Result<tokio::net::UnixStream> {
    match socket {
        Some(socket) => socket.accept().await,
        None => std::future::pending().await,
    }
}
