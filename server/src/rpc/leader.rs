//! The way to the leader: a write or the proof that a read is fresh goes there from whichever server was asked.
//!
//! A proposal keeps its request id through all its tries, so that it is carried out once; when it returns, this server
//! has applied it, so that who wrote here can read here.

use std::sync::Arc;
use std::time::Duration;

use purlin_model::command::{Actor, Command, Done, Envelope, Outcome, RequestId};
use purlin_model::session::SessionWrite;
use purlin_model::{Fault, FaultCode, Revision, SessionId};
use purlin_wire::rpc::{BARRIER, Barrier, Call, Consistency, PROPOSE, Proposal, Reached};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::authorize::{Access, Resource, authorize};
use super::{Conversation, Service};
use crate::raft::is_full;

/// How long a call waits for a leader, as Consul's does.
const LEADER_WAIT: Duration = Duration::from_secs(7);
/// When no other leader comes, who waits asks again after this long.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// A leader itself waits so long for a majority.
const LEADER_ANSWERS: Duration = Duration::from_secs(8);

/// Consul's words, which clients know.
const NO_LEADER: &str = "No cluster leader";

impl Service {
    /// Proposes a command of this server's own.
    pub(crate) async fn propose_own(&self, command: Command) -> Result<Outcome, Fault> {
        self.propose(RequestId(uuid::Uuid::new_v4()), Actor::default(), command).await
    }

    /// Puts a command into the log, wherever the leader is. May be dropped, but the command may then still happen.
    pub(crate) async fn propose(
        &self,
        request: RequestId,
        actor: Actor,
        command: Command,
    ) -> Result<Outcome, Fault> {
        let proposal = Proposal { request, actor, command };
        let proposal = &proposal;
        let outcome = self.until_led(move || self.propose_once(proposal)).await?;
        self.raft.reached(outcome.revision).await?;
        Ok(outcome)
    }

    async fn propose_once(&self, proposal: &Proposal) -> Result<Outcome, Fault> {
        if self.raft.is_leader() {
            return self.propose_here(proposal.clone()).await;
        }
        self.call_while_it_leads(PROPOSE, proposal).await
    }

    /// As the leader: by its own clock, and only what every server of the mesh understands.
    async fn propose_here(&self, proposal: Proposal) -> Result<Outcome, Fault> {
        let Proposal { request, actor, mut command } = proposal;
        let level = command.level();
        let state = self.hub.state();
        if level > state.level() {
            return Err(state.below(level));
        }
        if let Command::Session(SessionWrite::Renew(id)) = &command {
            return self.renew(id).await;
        }
        self.date(&mut command);
        let envelope = Envelope { level, request, actor, at: self.now(), command };
        Box::pin(self.raft.propose(envelope)).await
    }

    /// Starts the timer of a session anew. The leader alone keeps it, so it costs the log nothing.
    async fn renew(&self, id: &SessionId) -> Result<Outcome, Fault> {
        let revision = self.raft.read_barrier(Consistency::Default).await?;
        let lives = match self.hub.state().session(id).map(|session| session.ttl()) {
            Some(Some(ttl)) => self.expiry().renew(id, ttl, std::time::Instant::now()),
            Some(None) => true,
            None => false,
        };
        let gone = || Fault::not_found(format!("Session id '{id}' not found"));
        Ok(Outcome { revision, result: if lives { Ok(Done::Yes) } else { Err(gone()) } })
    }

    /// A token lives as long as its maker wanted, but by our clock: ours is the one that ends it.
    fn date(&self, command: &mut Command) {
        if let Command::CreateJoinToken(token) = command {
            let life = token.expires.since(token.created);
            token.created = self.now();
            token.expires = token.created.plus(life);
        }
    }

    /// Returns when what is applied here is as new as was asked for.
    pub(crate) async fn read_barrier(self: &Arc<Self>, consistency: Consistency) -> Result<(), Fault> {
        let batch = match consistency {
            Consistency::Stale => return Ok(()),
            // The leader's own lease is the proof, and costs nothing to ask for.
            Consistency::Default if self.raft.is_leader() => None,
            Consistency::Default => Some(&self.barriers.default),
            Consistency::Consistent => Some(&self.barriers.consistent),
        };
        let ask = move || async move {
            match batch {
                None => self.barrier_once(consistency).await,
                Some(batch) => {
                    let service = self.clone();
                    batch.join(move || async move { service.barrier_once(consistency).await }).await
                }
            }
        };
        // Also where this server led when it was asked: by now another may, which is ahead of what is applied here.
        let reached = self.until_led(ask).await?;
        self.raft.reached(reached).await
    }

    async fn barrier_once(&self, consistency: Consistency) -> Result<Revision, Fault> {
        if self.raft.is_leader() {
            return self.raft.read_barrier(consistency).await;
        }
        let reached: Reached = self.call_while_it_leads(BARRIER, &Barrier { consistency }).await?;
        Ok(reached.revision)
    }

    /// Calls the leader, which is another server. `Unavailable` where there is none, or it was lost.
    pub(crate) async fn call_leader<Q, A>(&self, method: &str, body: &Q) -> Result<A, Fault>
    where
        Q: Serialize + Sync + ?Sized,
        A: DeserializeOwned,
    {
        let leader = self.raft.leader().filter(|leader| leader.id != self.raft.id());
        let leader = leader.ok_or_else(|| Fault::unavailable(NO_LEADER))?;
        let name =
            purlin_model::NodeName::new(&leader.name).map_err(|why| Fault::internal(why.to_string()))?;
        self.peers.call(&name, &leader.address, method, body, LEADER_ANSWERS).await
    }

    /// As [`Service::call_leader`], for what may be asked twice: given up once another server leads, because one that
    /// died does not say so, and the time it is allowed is far longer than an election.
    async fn call_while_it_leads<Q, A>(&self, method: &str, body: &Q) -> Result<A, Fault>
    where
        Q: Serialize + Sync + ?Sized,
        A: DeserializeOwned,
    {
        let mut led = self.raft.leadership();
        let asked = self.raft.leader().map(|leader| leader.id);
        let replaced = led.wait_for(|now| {
            let leader = now.leader.as_ref().map(|leader| leader.id);
            leader.is_some() && leader != asked
        });
        tokio::select! {
            biased;
            answer = self.call_leader(method, body) => answer,
            Ok(_) = replaced => Err(Fault::unavailable("another server leads now")),
        }
    }

    /// Tries until there is a leader that answers, or the wait for one is over. A leader whose disk is full hands over,
    /// so that is no reason to stop, but to be told in the end.
    pub(crate) async fn until_led<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let give_up = Instant::now() + LEADER_WAIT;
        let mut full = None;
        loop {
            let mut led = self.raft.leadership();
            match Box::pin(attempt()).await {
                Err(fault) if fault.code == FaultCode::Unavailable => {
                    tracing::debug!(%fault, "no leader answered");
                    if is_full(&fault) {
                        full = Some(fault);
                    }
                    if Instant::now() >= give_up {
                        return Err(full.unwrap_or_else(|| Fault::unavailable(NO_LEADER)));
                    }
                    let again = (Instant::now() + ASK_AGAIN).min(give_up);
                    // Whether another leads now or the time is over: asked again.
                    let _ = timeout_at(again, led.changed()).await;
                }
                result => return result,
            }
        }
    }
}

impl Conversation {
    /// `propose`, which only a server may ask for another.
    pub(super) async fn proposed(&self, call: &Call) -> Result<Outcome, Fault> {
        self.only_servers()?;
        let proposal: Proposal = Self::decode(call)?;
        self.service.propose_here(proposal).await
    }

    /// `barrier`.
    pub(super) async fn barrier(&self, call: &Call) -> Result<Reached, Fault> {
        self.only_servers()?;
        let barrier: Barrier = Self::decode(call)?;
        let revision = self.service.raft.read_barrier(barrier.consistency).await?;
        Ok(Reached { revision })
    }

    pub(super) fn only_servers(&self) -> Result<(), Fault> {
        authorize(&self.service.hub.state(), &self.caller, &Resource::Internal, Access::Write)
    }
}
