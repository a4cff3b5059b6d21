//! What runs as long as the server does: who ends by itself ends the server, because half of one is worse than none.

use std::sync::Arc;

use purlin_model::Revision;
use purlin_model::topic::Topic;
use purlin_wire::link::{Link, Peer};
use purlin_wire::memory::MemoryConnector;
use purlin_wire::node_store::{NodeFile, NodeStore};
use purlin_wire::quic::QuicServer;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ServerHandle;
use crate::autopilot;
use crate::govern::{Wishes, govern};
use crate::hosts;
use crate::keeper::{self, Keeper};
use crate::rpc::{self, Service, Whence};

/// Runs parts until the stop.
struct Parts {
    stop: CancellationToken,
    tasks: TaskTracker,
    failed: watch::Sender<Option<String>>,
}

impl Parts {
    /// One that ends before the stop, or panics, ends the server.
    fn spawn(&self, what: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        let (stop, failed) = (self.stop.clone(), self.failed.clone());
        let ended = Ended { what, stop: stop.clone(), failed };
        self.tasks.spawn(async move {
            stop.run_until_cancelled(part).await;
            drop(ended);
        });
    }
}

/// Tells, when it is dropped, that a part is no more.
struct Ended {
    what: &'static str,
    stop: CancellationToken,
    failed: watch::Sender<Option<String>>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            let what = self.what;
            let why = format!("the part of the server that {what} ended by itself: start the server again");
            self.failed.send_modify(|failed| {
                failed.get_or_insert(why);
            });
        }
    }
}

/// Starts the tasks. Each ends when the token is cancelled, and the handle waits for them.
pub(super) fn run(
    service: Arc<Service>,
    quic: Arc<QuicServer>,
    keeper: Keeper,
    wishes: Wishes,
    store: Arc<NodeStore>,
    already_bootstrapped: bool,
) -> ServerHandle {
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let failed = watch::Sender::new(None);
    let parts = Parts { stop: stop.clone(), tasks: tasks.clone(), failed: failed.clone() };
    let credentials = keeper.credentials();
    let me = {
        let credentials = credentials.borrow();
        let (identity, certificate) = (credentials.identity().clone(), credentials.fingerprint());
        Peer::Member { identity, certificate, issuer: None }
    };
    let (connector, local_links) = MemoryConnector::new(me.clone(), me);
    let local = accept_local(service.clone(), local_links, stop.clone(), tasks.clone());
    parts.spawn("takes links of this host", local);
    let remote = accept_remote(service.clone(), quic.clone(), stop.clone(), tasks.clone());
    parts.spawn("takes connections of other hosts", remote);
    let watched = service.clone();
    parts.spawn("watches hosts", async move { hosts::watch_hosts(&watched).await });
    let timed = service.clone();
    parts.spawn("ends sessions", async move { keeper::watch_sessions(&timed).await });
    parts.spawn("renews certificates", keeper.renew());
    parts.spawn("looks after the servers", autopilot::watch_servers(service.clone()));
    parts.spawn("remembers where servers are", remember_servers(service.clone(), store));
    let looked_after = service.clone();
    parts.spawn("looks after the certificate authority", async move {
        keeper::authority::look_after(&looked_after).await;
    });
    parts.spawn("keeps what is said of the mesh in force", govern(service.clone(), wishes));
    ServerHandle { service, quic, connector, credentials, already_bootstrapped, stop, tasks, failed }
}

/// Writes down where the servers of the mesh are, for the next start. Never ends.
async fn remember_servers(service: Arc<Service>, store: Arc<NodeStore>) {
    let subscription = service.hub.subscribe(None);
    if let Err(fault) = subscription.follow(Topic::Servers, Revision(0)) {
        tracing::warn!(%fault, "where servers are is not kept for the next start");
        return std::future::pending().await;
    }
    loop {
        let servers = subscription.take().state.server_addresses();
        let store = store.clone();
        let saved = tokio::task::spawn_blocking(move || match store.load()? {
            Some(file) if !servers.is_empty() && file.servers != servers => {
                store.save(&NodeFile { servers, ..file })
            }
            _ => Ok(()),
        });
        if let Ok(Err(error)) = saved.await {
            tracing::warn!(%error, "where servers are cannot be kept for the next start");
        }
        subscription.rung().await;
    }
}

async fn accept_local(
    service: Arc<Service>,
    mut links: mpsc::Receiver<Arc<dyn Link>>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    while let Some(link) = links.recv().await {
        spawn_link(&service, link, Whence::Here, &stop, &tasks);
    }
}

async fn accept_remote(
    service: Arc<Service>,
    quic: Arc<QuicServer>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    while let Some(link) = quic.accept().await {
        spawn_link(&service, link, Whence::Network, &stop, &tasks);
    }
}

fn spawn_link(
    service: &Arc<Service>,
    link: Arc<dyn Link>,
    whence: Whence,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) {
    let (service, stop) = (service.clone(), stop.clone());
    tasks.spawn(async move {
        if stop.run_until_cancelled(rpc::serve(service, link.clone(), whence)).await.is_none() {
            link.close("the server stops");
        }
    });
}
