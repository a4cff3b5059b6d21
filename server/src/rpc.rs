//! What agents may ask of a server: one task a link, one a call, and one `authorize` that every call passes.
//!
//! A link's calls are bounded, and a caller that hangs up ends what it asked for. Nothing here changes state but by a
//! command through Raft.

mod admission;
mod admit;
mod ask;
mod authorize;
mod batch;
mod doors;
mod join;
mod leader;
mod operator;
mod roster;
mod session;
mod sign;
mod snapshot;
mod write;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use purlin_model::identity::TrustDomain;
use purlin_model::node::NodeRole;
use purlin_model::{Datacenter, Fault, FaultCode, Millis, NodeName};
use purlin_wire::frame::FrameError;
use purlin_wire::link::{Link, Peer, Stream};
use purlin_wire::rpc::{self, Call, Consistency, Raw, Reply};
use serde::Serialize;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::autopilot::Stand;
use crate::ca::CaStore;
use crate::expiry::Expiry;
use crate::feed::Hub;
use crate::hosts::Touch;
use crate::issue::Issuer;
use crate::liveness::{Liveness, Sessions};
use crate::metrics::Metrics;
use crate::peers::{self, Peers};
use crate::raft::{CallKind, RaftHandle};
use crate::state::State;
pub(crate) use admission::Admission;
pub(crate) use authorize::Caller;
pub(crate) use batch::Barriers;
pub(crate) use doors::Doors;
pub(crate) use join::roots;
pub(crate) use sign::record;

/// Calls of one link that are under way; who has more waits to be heard.
const CALLS_OF_MEMBER: usize = 1_024;
const CALLS_OF_STRANGER: usize = 4;
/// Of those, the ones that may wait for a change, so that they leave room for others.
const WAITS_OF_LINK: usize = 768;

/// The wall clock, given from outside.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// What every call works with.
pub(crate) struct Service {
    /// This server's own host.
    pub(crate) node: NodeName,
    pub(crate) datacenter: Datacenter,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) raft: RaftHandle<State>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) barriers: Barriers,
    pub(crate) hub: Arc<Hub>,
    pub(crate) issuer: Issuer,
    pub(crate) ca: Arc<CaStore>,
    /// Of the leader; without meaning elsewhere.
    pub(crate) liveness: Mutex<Liveness>,
    /// How the servers stand, while this one leads.
    pub(crate) stands: Mutex<BTreeMap<u64, Stand>>,
    pub(crate) sessions: Mutex<Sessions>,
    pub(crate) doors: Doors,
    pub(crate) admission: Admission,
    pub(crate) touch: Touch,
    /// The timers of sessions, while this server leads.
    pub(crate) expiry: Mutex<Expiry>,
    /// Rung when the leader must look at hosts before the next tick.
    pub(crate) look: Notify,
    /// Rung when the leader must hear of the sessions here before the next beat.
    pub(crate) news: Notify,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    /// Held by whoever restores a snapshot: one at a time.
    pub(crate) restoring: tokio::sync::Mutex<()>,
    /// After which hosts that are gone leave the catalog.
    pub(crate) reconnect_timeout: Duration,
}

impl Service {
    pub(crate) fn now(&self) -> Millis {
        (self.clock)()
    }

    pub(crate) fn liveness(&self) -> MutexGuard<'_, Liveness> {
        // The machine is whole after each of its methods, so a panic elsewhere does not spoil it.
        self.liveness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stands(&self) -> MutexGuard<'_, BTreeMap<u64, Stand>> {
        self.stands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something happened to a session that the leader must know at once.
    pub(crate) fn tell_news(&self) {
        self.look.notify_one();
        self.news.notify_one();
    }

    pub(crate) fn expiry(&self) -> MutexGuard<'_, Expiry> {
        self.expiry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A link and who is at its other end.
struct Conversation {
    service: Arc<Service>,
    link: Arc<dyn Link>,
    caller: Caller,
    whence: Whence,
    waits: Arc<Semaphore>,
}

/// Where a link comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whence {
    /// From this very process, which needs no certificate to be believed.
    Here,
    Network,
}

/// For a server that is behind to hear of a host that has just joined.
const CATCH_UP: Duration = Duration::from_secs(2);

/// Whether who comes is one of the mesh. A server that does not know the host asks how new it must be to be sure.
async fn welcome(service: &Arc<Service>, peer: &Peer, whence: Whence) -> Result<(), Fault> {
    let known = still_welcome(service, peer, whence);
    if known.is_ok() || service.raft.is_leader() {
        return known;
    }
    let caught_up = timeout(CATCH_UP, service.read_barrier(Consistency::Default)).await;
    if !matches!(caught_up, Ok(Ok(()))) {
        return Err(Fault::unavailable("this server is behind and does not know this host: ask another"));
    }
    still_welcome(service, peer, whence)
}

/// Whether who is at the other end counts as who its certificate says.
fn still_welcome(service: &Service, peer: &Peer, whence: Whence) -> Result<(), Fault> {
    match whence {
        Whence::Here => Ok(()),
        Whence::Network => authorize::not_revoked(&service.hub.state(), peer),
    }
}

/// Answers a link until it closes. Dropping the future ends every call of it.
pub(crate) async fn serve(service: Arc<Service>, link: Arc<dyn Link>, whence: Whence) {
    let caller = match welcome(&service, link.peer(), whence)
        .await
        .and_then(|()| Caller::of(link.peer(), &service.trust_domain))
    {
        Ok(caller) => caller,
        Err(fault) => {
            service.metrics.refused(if link.peer() == &Peer::Stranger { "stranger" } else { "certificate" });
            tracing::warn!(remote = link.remote(), %fault, "link refused");
            return link.close(&fault.text);
        }
    };
    let most = if caller.is_stranger() { CALLS_OF_STRANGER } else { CALLS_OF_MEMBER };
    let room = Arc::new(Semaphore::new(most));
    let waits = Arc::new(Semaphore::new(WAITS_OF_LINK));
    let conversation = Arc::new(Conversation { service, link: link.clone(), caller, whence, waits });
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            accepted = next(&link, &room) => match accepted {
                Some((stream, place)) => {
                    let conversation = conversation.clone();
                    calls.spawn(async move {
                        Box::pin(conversation.answer(stream)).await;
                        drop(place);
                    });
                }
                None => break,
            },
            Some(ended) = calls.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(remote = link.remote(), "a call failed inside the server: report this defect");
                }
            }
        }
    }
}

/// Why bytes were not taken for a call, as a label.
fn unreadable(error: &FrameError) -> &'static str {
    match error {
        FrameError::TooLong { .. } => "oversized",
        FrameError::Io(_) | FrameError::Truncated => "cut_short",
        _ => "malformed",
    }
}

async fn next(link: &Arc<dyn Link>, room: &Arc<Semaphore>) -> Option<(Stream, OwnedSemaphorePermit)> {
    let place = room.clone().acquire_owned().await.ok()?;
    let stream = link.accept().await.ok()?;
    Some((stream, place))
}

impl Conversation {
    async fn answer(&self, mut stream: Stream) {
        let call = if self.caller.is_stranger() {
            rpc::read_call_of_stranger(&mut stream).await
        } else {
            rpc::read_call(&mut stream).await
        };
        let call = match call {
            Ok(call) => call,
            Err(error) => {
                let reason = unreadable(&error);
                self.service.metrics.call("none", Some("unreadable"));
                self.service.metrics.refused(reason);
                if reason == "cut_short" {
                    tracing::debug!(remote = self.link.remote(), %error, "stream without a call");
                } else {
                    tracing::warn!(remote = self.link.remote(), %error, reason, "what is no call was refused");
                }
                return;
            }
        };
        if let Err(fault) = self.still_welcome() {
            self.service.metrics.call("any", Some("revoked"));
            self.service.metrics.refused("certificate");
            tracing::warn!(remote = self.link.remote(), %fault, "link cut");
            return self.link.close(&fault.text);
        }
        let answered = match call.method.as_str() {
            rpc::WRITE => self.one(&mut stream, rpc::WRITE, self.write(&call)).await,
            rpc::ASK => self.answer_ask(&mut stream, &call).await,
            rpc::SIGN_LEAF => self.one(&mut stream, rpc::SIGN_LEAF, self.sign_leaf(&call)).await,
            rpc::RENEW_NODE => self.one(&mut stream, rpc::RENEW_NODE, self.renew_node(&call)).await,
            rpc::RENEW_BY_KEY => self.one(&mut stream, rpc::RENEW_BY_KEY, self.renew_by_key(&call)).await,
            rpc::JOIN => self.one(&mut stream, rpc::JOIN, self.join(&call)).await,
            rpc::SESSION => self.session(stream, &call).await,
            rpc::SNAPSHOT_SAVE => self.save_snapshot(stream, &call).await,
            rpc::SNAPSHOT_RESTORE => self.restore_snapshot(stream, &call).await,
            rpc::PROPOSE => self.one(&mut stream, rpc::PROPOSE, self.proposed(&call)).await,
            rpc::BARRIER => self.one(&mut stream, rpc::BARRIER, self.barrier(&call)).await,
            rpc::ADMIT => self.one(&mut stream, rpc::ADMIT, self.admit(&call)).await,
            rpc::MEMBERS => self.one(&mut stream, rpc::MEMBERS, self.members(&call)).await,
            rpc::OPERATE => self.one(&mut stream, rpc::OPERATE, self.operate(&call)).await,
            rpc::USAGE => self.one(&mut stream, rpc::USAGE, self.usage()).await,
            rpc::ROSTER => self.one(&mut stream, rpc::ROSTER, self.roster(&call)).await,
            rpc::PROBE_VIA => self.one(&mut stream, rpc::PROBE_VIA, self.probe_via(&call)).await,
            rpc::CERTIFY => self.one(&mut stream, rpc::CERTIFY, self.certify(&call)).await,
            method if let Some(kind) = peers::kind(method) => {
                self.one(&mut stream, peers::method(kind), self.raft(kind, call.body)).await
            }
            _ => self.one::<()>(&mut stream, "unknown", async { Err(call.unknown()) }).await,
        };
        if let Err(error) = answered {
            tracing::debug!(remote = self.link.remote(), method = call.method, %error, "caller did not hear the answer");
        }
    }

    /// A call with one answer.
    async fn one<T: Serialize + Sync>(
        &self,
        stream: &mut Stream,
        method: &'static str,
        answer: impl Future<Output = Reply<T>>,
    ) -> Result<(), FrameError> {
        let reply = Box::pin(answer).await;
        self.count(method, reply.as_ref().err());
        rpc::reply(stream, &reply).await
    }

    /// A server from before a recovery has an old disk: its votes and entries are of another history.
    fn not_left_behind(&self) -> Result<(), Fault> {
        let state = self.service.hub.state();
        let known = self.caller.node().and_then(|name| state.node(name));
        if state.recoveries().is_empty() || known.is_some_and(|node| node.role == NodeRole::Server) {
            return Ok(());
        }
        let name = self.caller.node().map(ToString::to_string).unwrap_or_default();
        Err(Fault::forbidden(format!(
            "this mesh was recovered without server {name}, whose data is of before: empty its data_dir and let it join \
             again with a join token"
        )))
    }

    /// What Raft of another server asks of ours.
    async fn raft(&self, kind: CallKind, body: Vec<u8>) -> Reply<Raw> {
        self.only_servers()?;
        self.not_left_behind()?;
        Ok(Raw(Box::pin(self.service.raft.serve(kind, &body)).await.into()))
    }

    fn count(&self, method: &'static str, fault: Option<&Fault>) {
        if fault.is_some_and(|fault| fault.code == FaultCode::Forbidden) {
            let caller = self.link.remote();
            self.service.metrics.refused("role");
            tracing::warn!(
                method,
                remote = caller,
                fault = fault.map(tracing::field::display),
                "call refused"
            );
        }
        self.service.metrics.call(method, fault.map(|fault| code_name(fault.code)));
        if let Some(fault) = fault.filter(|fault| fault.code == FaultCode::Internal) {
            tracing::error!(method, %fault, "a call failed inside the server");
        }
    }

    /// Whether the other end still counts as who it was when the link was made.
    fn still_welcome(&self) -> Result<(), Fault> {
        still_welcome(&self.service, self.link.peer(), self.whence)
    }

    fn decode<T: serde::de::DeserializeOwned>(call: &Call) -> Result<T, Fault> {
        call.decode()
    }
}

fn code_name(code: FaultCode) -> &'static str {
    match code {
        FaultCode::Invalid => "invalid",
        FaultCode::Forbidden => "forbidden",
        FaultCode::NotFound => "not_found",
        FaultCode::Conflict => "conflict",
        FaultCode::TooLarge => "too_large",
        FaultCode::Busy => "busy",
        FaultCode::Unavailable => "unavailable",
        FaultCode::Internal => "internal",
    }
}
