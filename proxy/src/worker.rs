//! One thread that moves traffic: its runtime, its listeners, its pools and its copy of the state. Nothing of it is
//! shared with another worker but what never changes.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::app::Apps;
use crate::authorize::authorize;
use crate::bond::Bonds;
use crate::config::Limits;
use crate::inbound::Slots;
use crate::listen::{self, Door, Doors};
use crate::live::Live;
use crate::relay::Scratch;
use crate::report::{Metrics, Reporter};
use crate::route::Routes;
use crate::state::{Changes, State};

/// What the owner tells a worker.
pub(crate) enum Order {
    /// Put this in force; answered when it is.
    Apply {
        state: State,
        changes: Arc<Changes>,
        open: Vec<(Door, std::net::TcpListener)>,
        close: Vec<Door>,
        done: oneshot::Sender<()>,
    },
    /// Take nothing new, end what is under way, then stop; what is left at the deadline is cut.
    Drain { deadline: Instant },
}

/// Orders that may wait.
pub(crate) const ORDERS: usize = 16;

/// All that the stages of a connection use.
pub(crate) struct Worker {
    pub(crate) limits: Limits,
    pub(crate) live: Rc<Live>,
    pub(crate) bonds: Bonds,
    pub(crate) routes: Routes,
    pub(crate) apps: Apps,
    pub(crate) report: Reporter,
    pub(crate) scratch: Scratch,
    pub(crate) drain: Flag,
    /// Wakes those whose connection may have lost its destination.
    pub(crate) locals_changed: Notify,
    /// Wakes those whose listener may be gone.
    pub(crate) listeners_changed: Notify,
    pub(crate) dice: RefCell<fastrand::Rng>,
    pub(crate) connections: Cell<usize>,
    pub(crate) handshakes: Slots,
    /// Counted on this thread alone: workers do not meet at one counter with each request.
    state: RefCell<Rc<State>>,
    epoch: Cell<u64>,
    idle: Notify,
}

/// Raised once, seen by all who wait for it.
#[derive(Default)]
pub(crate) struct Flag {
    raised: Cell<bool>,
    wake: Notify,
}

impl Flag {
    pub(crate) fn raise(&self) {
        self.raised.set(true);
        self.wake.notify_waiters();
    }

    pub(crate) async fn raised(&self) {
        loop {
            let wake = self.wake.notified();
            if self.raised.get() {
                return;
            }
            wake.await;
        }
    }
}

impl Worker {
    fn new(limits: Limits, metrics: Arc<Metrics>) -> Rc<Self> {
        Rc::new(Self {
            live: Rc::default(),
            bonds: Bonds::default(),
            routes: Routes::default(),
            apps: Apps::default(),
            report: Reporter::new(metrics, limits.edges),
            scratch: Scratch::default(),
            drain: Flag::default(),
            locals_changed: Notify::new(),
            listeners_changed: Notify::new(),
            dice: RefCell::new(fastrand::Rng::new()),
            connections: Cell::new(0),
            handshakes: Slots::default(),
            state: RefCell::default(),
            epoch: Cell::new(0),
            idle: Notify::new(),
            limits,
        })
    }

    pub(crate) fn state(&self) -> Rc<State> {
        self.state.borrow().clone()
    }

    /// Rises with each state, so that what was looked up can be kept until then.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.get()
    }

    /// Runs a connection's future to its end on this thread; a bug in it ends nothing else.
    pub(crate) fn spawn(self: &Rc<Self>, what: &'static str, work: impl Future<Output = ()> + 'static) {
        let worker = self.clone();
        tokio::task::spawn_local(async move {
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                worker.report.panicked(what);
            }
        });
    }

    /// As [`Worker::spawn`], for what a drain waits for.
    pub(crate) fn spawn_counted(
        self: &Rc<Self>,
        what: &'static str,
        work: impl Future<Output = ()> + 'static,
    ) {
        let open = Open::new(self.clone());
        self.spawn(what, async move {
            let _open = open;
            work.await;
        });
    }

    fn put_in_force(&self, state: State, changes: &Changes) {
        let state = Rc::new(state);
        *self.state.borrow_mut() = state.clone();
        self.epoch.set(self.epoch.get() + 1);
        self.routes.forget_gone(&state);
        self.apps.forget_gone(&state);
        if changes.revoked {
            let cut = self.bonds.cut(&state.revoked);
            if cut > 0 {
                tracing::warn!(
                    connections = cut,
                    "cut, because certificates of removed servers were revoked"
                );
            }
        }
        if !changes.policies.is_empty() {
            self.live.recheck(&changes.policies, |edge, call| {
                let guard = state.guards.get(&edge.destination);
                authorize(guard.map(AsRef::as_ref), &edge.source, &edge.destination, call)
            });
        }
        if changes.locals {
            self.locals_changed.notify_waiters();
        }
        if changes.listeners {
            self.listeners_changed.notify_waiters();
        }
    }
}

/// A connection that is open; a drain ends when there is none.
struct Open(Rc<Worker>);

impl Open {
    fn new(worker: Rc<Worker>) -> Self {
        worker.connections.set(worker.connections.get() + 1);
        Self(worker)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let left = self.0.connections.get().saturating_sub(1);
        self.0.connections.set(left);
        if left == 0 {
            self.0.idle.notify_waiters();
        }
    }
}

/// hyper's tasks on this thread.
#[derive(Clone)]
pub(crate) struct LocalExecutor(pub(crate) Rc<Worker>);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, work: F) {
        self.0.spawn("a task of an HTTP/2 connection", work);
    }
}

/// Starts a worker's thread. It ends after a drain, or when the owner is gone.
pub(crate) fn start(
    index: usize,
    limits: Limits,
    metrics: Arc<Metrics>,
    orders: mpsc::Receiver<Order>,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let runtime = move || -> std::io::Result<_> {
        Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
    };
    std::thread::Builder::new().name(format!("purlin-worker-{index}")).spawn(move || match runtime() {
        Ok(runtime) => runtime.block_on(run(Worker::new(limits, metrics), orders)),
        Err(error) => tracing::error!("worker {index} cannot start its runtime: {error}"),
    })
}

async fn run(worker: Rc<Worker>, mut orders: mpsc::Receiver<Order>) {
    let mut doors = Doors::default();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            _ = tick.tick() => {
                worker.apps.expire(Instant::now());
                continue;
            }
        };
        match order {
            Some(Order::Apply { state, changes, open, close, done }) => {
                for door in close {
                    doors.close(&door).await;
                }
                worker.put_in_force(state, &changes);
                for (door, socket) in open {
                    listen::open(&worker, &mut doors, door, socket);
                }
                // The owner may have gone; what it said holds all the same.
                let _ = done.send(());
            }
            Some(Order::Drain { deadline }) => return drain(&worker, doors, deadline).await,
            None => return,
        }
    }
}

async fn drain(worker: &Rc<Worker>, doors: Doors, deadline: Instant) {
    doors.close_all().await;
    worker.drain.raise();
    let emptied = async {
        loop {
            let idle = worker.idle.notified();
            if worker.connections.get() == 0 {
                return;
            }
            idle.await;
        }
    };
    if tokio::time::timeout_at(deadline.into(), emptied).await.is_err() {
        tracing::warn!("drain deadline passed, cutting {} connections", worker.connections.get());
    }
}

#[cfg(test)]
mod tests;
