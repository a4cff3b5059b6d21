//! The other servers: one link to each, made when it is first needed, and made anew beside the old one when a call
//! was lost, so that a peer that started again is found at once and what is under way elsewhere is not disturbed.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use purlin_model::{Fault, FaultCode, NodeName};
use purlin_wire::link::{Dial, Link, LinkError};
use purlin_wire::rpc::{self, Raw};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::task::AbortOnDropHandle;

use crate::raft::{CallKind, ServerNode, Transport};

/// Peers that are remembered; a cluster has no more servers.
const PEERS_MAX: usize = 64;
/// One call of Raft; its own deadlines are far below.
const RAFT_DEADLINE: Duration = Duration::from_secs(60);

type Dialing = Shared<BoxFuture<'static, Result<Arc<dyn Link>, LinkError>>>;

pub(crate) struct Peers {
    /// Set once this server has a certificate to dial with.
    dial: OnceLock<Arc<dyn Dial>>,
    ways: Mutex<BTreeMap<NodeName, Way>>,
    /// The refusal that was told last.
    said: Mutex<Option<Fault>>,
    /// For the tasks that dial.
    me: Weak<Self>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").finish_non_exhaustive()
    }
}

/// The way to one peer.
struct Way {
    address: String,
    link: Option<Arc<dyn Link>>,
    /// A call over the link was lost: it may be dead without knowing.
    doubted: bool,
    dialing: Option<Dialing>,
    /// The last attempt failed, and that was said.
    failing: bool,
}

impl Peers {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            dial: OnceLock::new(),
            ways: Mutex::default(),
            said: Mutex::default(),
            me: me.clone(),
        })
    }

    /// How peers are reached from now on; the first one stays.
    pub(crate) fn dial_with(&self, dial: Arc<dyn Dial>) {
        let _ = self.dial.set(dial);
    }

    /// Calls a peer. `Unavailable` where it could not be reached or did not answer in time.
    pub(crate) async fn call<Q, A>(
        &self,
        peer: &NodeName,
        address: &str,
        method: &str,
        body: &Q,
        deadline: Duration,
    ) -> Result<A, Fault>
    where
        Q: Serialize + Sync + ?Sized,
        A: DeserializeOwned,
    {
        let link = self.link(peer, address).await?;
        match rpc::try_call(link.as_ref(), method, body, deadline).await {
            Ok(reply) => reply,
            Err(lost) => {
                self.doubt(peer);
                Err(lost)
            }
        }
    }

    /// The link to a peer, which is made if there is none.
    pub(crate) async fn link(&self, peer: &NodeName, address: &str) -> Result<Arc<dyn Link>, LinkError> {
        let dialing = {
            let mut ways = self.ways();
            if ways.len() >= PEERS_MAX && !ways.contains_key(peer) {
                let why = format!("more than {PEERS_MAX} servers");
                return Err(LinkError::Unreachable { address: address.into(), why });
            }
            let way = ways.entry(peer.clone()).or_insert_with(|| Way::to(address));
            if way.address != address {
                *way = Way::to(address);
            }
            if way.link.as_ref().is_some_and(|link| link.closed().now_or_never().is_some()) {
                way.link = None;
            }
            match &way.link {
                Some(link) if !way.doubted => return Ok(link.clone()),
                Some(link) => {
                    let link = link.clone();
                    way.dialing.get_or_insert_with(|| self.dial(peer, address));
                    return Ok(link);
                }
                None => way.dialing.get_or_insert_with(|| self.dial(peer, address)).clone(),
            }
        };
        dialing.await
    }

    /// A call to that peer was lost: another link is made, beside this one.
    pub(crate) fn doubt(&self, peer: &NodeName) {
        if let Some(way) = self.ways().get_mut(peer) {
            way.doubted = true;
        }
    }

    /// Dials in a task of its own, so that a caller with little time does not cut the attempt short for all.
    fn dial(&self, peer: &NodeName, address: &str) -> Dialing {
        let (me, dial) = (self.me.clone(), self.dial.get().cloned());
        let (peer, address) = (peer.clone(), address.to_owned());
        let dialed = address.clone();
        let task = tokio::spawn(async move {
            let made = match dial {
                Some(dial) => dial.dial(&peer, &address).await,
                None => Err(LinkError::Unreachable { address: address.clone(), why: "too early".into() }),
            };
            if let Some(me) = me.upgrade() {
                me.dialed(&peer, &address, &made);
            }
            made
        });
        let task = AbortOnDropHandle::new(task);
        async move {
            task.await.unwrap_or_else(|_| {
                let why = "the attempt was given up".into();
                Err(LinkError::Unreachable { address: dialed, why })
            })
        }
        .boxed()
        .shared()
    }

    fn dialed(&self, peer: &NodeName, address: &str, made: &Result<Arc<dyn Link>, LinkError>) {
        let mut ways = self.ways();
        let Some(way) = ways.get_mut(peer).filter(|way| way.address == address) else { return };
        way.dialing = None;
        match made {
            Ok(link) => {
                way.link = Some(link.clone());
                way.doubted = false;
                if std::mem::take(&mut way.failing) {
                    tracing::info!(%peer, "a server can be reached again");
                }
            }
            Err(error) if !std::mem::replace(&mut way.failing, true) => {
                tracing::warn!(%peer, %error, "a server cannot be reached, will go on trying");
            }
            Err(error) => tracing::debug!(%peer, %error, "a server still cannot be reached"),
        }
    }

    /// Says once what another server has against this one: nobody else would hear of it.
    fn tell_refusal(&self, peer: &NodeName, fault: &Fault) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if fault.code == FaultCode::Forbidden && said.as_ref() != Some(fault) {
            tracing::error!(server = %peer, %fault, "another server refuses what this one says");
            *said = Some(fault.clone());
        }
    }

    fn ways(&self) -> MutexGuard<'_, BTreeMap<NodeName, Way>> {
        // A way is whole after each statement under this lock, so a panic elsewhere does not spoil it.
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Way {
    fn to(address: &str) -> Self {
        Self { address: address.to_owned(), link: None, doubted: false, dialing: None, failing: false }
    }
}

/// Carries Raft's calls over the same links.
pub(crate) struct PeerTransport(pub(crate) Arc<Peers>);

impl Transport for PeerTransport {
    fn call(
        &self,
        target: &ServerNode,
        kind: CallKind,
        body: Bytes,
    ) -> BoxFuture<'static, io::Result<Bytes>> {
        let (peers, target) = (self.0.clone(), target.clone());
        Box::pin(async move {
            let name = NodeName::new(&target.name)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            let link = peers.link(&name, &target.address).await.map_err(io::Error::other)?;
            let answered = rpc::call_raw(link.as_ref(), method(kind), body.into(), RAFT_DEADLINE).await;
            let answer: Raw = answered.map_err(|fault| {
                peers.tell_refusal(&name, &fault);
                io::Error::other(fault)
            })?;
            Ok(answer.0.into())
        })
    }

    fn forget(&self, target: &ServerNode) {
        if let Ok(name) = NodeName::new(&target.name) {
            self.0.doubt(&name);
        }
    }
}

/// How a call of Raft is named on the wire.
pub(crate) fn method(kind: CallKind) -> &'static str {
    match kind {
        CallKind::Append => "raft-append",
        CallKind::Vote => "raft-vote",
        CallKind::PreVote => "raft-pre-vote",
        CallKind::Snapshot => "raft-snapshot",
        CallKind::TransferLeader => "raft-transfer-leader",
    }
}

pub(crate) fn kind(method: &str) -> Option<CallKind> {
    let kinds =
        [CallKind::Append, CallKind::Vote, CallKind::PreVote, CallKind::Snapshot, CallKind::TransferLeader];
    kinds.into_iter().find(|kind| self::method(*kind) == method)
}
