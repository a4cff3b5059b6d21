//! The one session to the servers, and every call to them: opened, kept, and opened anew for ever.
//!
//! Nobody else holds a link. A write keeps its request id through all its tries, so that it is carried out once.

mod probe;
mod renew;
mod servers;
mod snapshot;
mod talk;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use purlin_model::command::Outcome;
use purlin_model::topic::Contents;
use purlin_model::{Fault, FaultCode};
use purlin_wire::link::{Connector, Link, LinkError};
use purlin_wire::rpc;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::core::AskMeta;
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::session::{Phase, SessionState};
use talk::Ended;

pub use probe::{ProbePort, Prober};
pub use renew::{Renewal, renew_node_certificate};
pub(crate) use servers::tell_connector;

/// How long a call waits for a server that has a leader, as Consul does.
pub const LEADER_WAIT: Duration = Duration::from_secs(7);
/// How long one try of a call may take: a server itself waits for a leader as long as above.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Between two tries of one call.
const CALL_PAUSE: Duration = Duration::from_millis(100);
/// To connect and open a session, all servers tried once.
const CONNECT_DEADLINE: Duration = Duration::from_secs(15);
/// At most so long between two tries to reach a server.
const MOST_PAUSE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// A busy server may ask to be left alone for so long at most.
const MOST_REST: Duration = Duration::from_secs(30);
/// A session that held for so long is tried for again at once when it breaks; others are given more and more time.
const STEADY: Duration = Duration::from_secs(2);

/// Consul's words, which clients know.
pub const NO_LEADER: &str = "No cluster leader";

/// A handle for whoever calls a server. Cheap to clone.
#[derive(Clone)]
pub struct Uplink(Arc<Shared>);

struct Shared {
    session: watch::Sender<SessionState>,
    link: watch::Sender<Option<Arc<dyn Link>>>,
    clock: Clock,
}

/// What the task that keeps the session needs.
pub struct Keeper {
    pub uplink: Uplink,
    pub connector: Arc<dyn Connector>,
    pub mirror: Mirror,
    pub metrics: Metrics,
    pub prober: Prober,
    /// Of the software, told to the server.
    pub version: String,
    /// Ends the task.
    pub stop: CancellationToken,
    /// Says goodbye first; then the task ends.
    pub leave: CancellationToken,
}

/// Why there is no session.
#[derive(Debug, Clone)]
pub(crate) struct Broken {
    kind: BrokenKind,
    why: String,
    /// A busy server wants to be left alone for so long.
    rest: Option<Duration>,
}

/// A session that was opened and not yet begun.
struct Ready {
    link: Arc<dyn Link>,
    session: rpc::Session,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BrokenKind {
    Unreachable,
    Untrusted,
    Refused,
    Lost,
}

impl Uplink {
    pub fn new(clock: Clock) -> Self {
        let session = SessionState { since: clock.now(), ..SessionState::default() };
        Self(Arc::new(Shared { session: watch::Sender::new(session), link: watch::Sender::new(None), clock }))
    }

    pub fn session(&self) -> watch::Receiver<SessionState> {
        self.0.session.subscribe()
    }

    /// One call. Waits for a session; tried again on a new one until the wait for a leader is over.
    pub async fn call<Q, A>(&self, method: &str, body: &Q) -> Result<A, Fault>
    where
        Q: Serialize + Sync,
        A: DeserializeOwned,
    {
        let give_up = Instant::now() + LEADER_WAIT;
        loop {
            let link = self.link(give_up).await?;
            let answer = rpc::call(link.as_ref(), method, body, CALL_DEADLINE).await;
            match answer {
                Err(fault) if fault.may_retry() && Instant::now() < give_up => pause(link.as_ref()).await,
                answer => return answer,
            }
        }
    }

    /// Proposes a command; safe to try again because the request id stays.
    pub async fn write(&self, write: rpc::Write) -> Result<Outcome, Fault> {
        self.call(rpc::WRITE, &write).await
    }

    /// Reads a topic at a server.
    pub async fn ask(&self, question: rpc::Ask) -> Result<(Contents, AskMeta), Fault> {
        let give_up = Instant::now() + LEADER_WAIT;
        loop {
            let link = self.link(give_up).await?;
            match rpc::ask(link.as_ref(), &question, CALL_DEADLINE).await {
                Ok(answer) => {
                    let meta = AskMeta {
                        known_leader: answer.known_leader,
                        last_contact_ms: answer.last_contact_ms,
                    };
                    return Ok((answer.contents, meta));
                }
                Err(fault) if fault.may_retry() && Instant::now() < give_up => pause(link.as_ref()).await,
                Err(fault) => return Err(fault),
            }
        }
    }

    /// The link of the session, waiting for one until then.
    async fn link(&self, until: Instant) -> Result<Arc<dyn Link>, Fault> {
        let mut links = self.0.link.subscribe();
        let found = tokio::time::timeout_at(until, links.wait_for(Option::is_some)).await;
        let link = match found {
            Ok(Ok(link)) => link.clone(),
            _ => None,
        };
        link.ok_or_else(|| Fault::unavailable(NO_LEADER))
    }

    fn set_phase(&self, phase: Phase, server: Option<String>, reason: Option<String>) {
        let since = self.0.clock.now();
        self.0.session.send_modify(|session| {
            if session.phase != phase {
                session.since = since;
                session.sessions += u64::from(phase == Phase::Connected);
            }
            session.phase = phase;
            session.server = server.or(session.server.take());
            session.reason = reason;
        });
    }
}

/// A short rest before the next try, over at once when the link is.
async fn pause(link: &dyn Link) {
    tokio::select! {
        _ = link.closed() => {}
        () = sleep(jitter(CALL_PAUSE)) => {}
    }
}

/// Between half and five quarters of it, so that hosts do not come back in step.
fn jitter(span: Duration) -> Duration {
    span.mul_f64(0.5 + fastrand::f64() * 0.75)
}

impl Keeper {
    /// Keeps a session until told to stop or leave.
    pub async fn run(self) {
        let mut pause = FIRST_PAUSE;
        let mut said = None;
        let mut next = None;
        while !self.stop.is_cancelled() && !self.leave.is_cancelled() {
            let begun = Instant::now();
            let ended = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                ended = self.session(next.take()) => ended,
            };
            let broken = match ended {
                Ok(Some(ready)) => {
                    next = Some(ready);
                    continue;
                }
                Ok(None) => break,
                Err(broken) => broken,
            };
            if broken.kind != BrokenKind::Lost {
                self.metrics.own().session_failures.inc();
            } else if begun.elapsed() >= STEADY {
                pause = FIRST_PAUSE;
            }
            self.report(&broken, &mut said);
            let reason = Some(broken.why);
            self.uplink.set_phase(Phase::Offline, None, reason);
            let rest = broken.rest.unwrap_or_else(|| jitter(pause).min(MOST_PAUSE));
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = self.leave.cancelled() => break,
                () = sleep(rest) => {}
            }
            pause = (pause * 2).min(MOST_PAUSE);
        }
        self.uplink.0.link.send_replace(None);
        let why = if self.leave.is_cancelled() { "this host leaves the mesh" } else { "this agent stops" };
        self.uplink.set_phase(Phase::Offline, None, Some(why.into()));
    }

    /// One session from the first byte to the last. `Some`: another server has opened the next. `None`: it ended
    /// because this host leaves.
    async fn session(&self, ready: Option<Ready>) -> Result<Option<Ready>, Broken> {
        let ready = match ready {
            Some(ready) => ready,
            None => self.open(self.connect().await?, false).await?,
        };
        let link = ready.link.clone();
        let server = link.remote();
        let follow = self.mirror.begin_session(ready.session.opened.history);
        self.metrics.own().sessions.inc();
        info!(server = %server, "session with a server is open");
        self.uplink.set_phase(Phase::Connected, Some(server.clone()), None);
        self.uplink.0.link.send_replace(Some(link.clone()));
        let why = match Box::pin(talk::talk(self, ready, follow)).await {
            Ended::Moved(ready) => {
                // Calls that are under way are tried again over the next link.
                self.uplink.0.link.send_replace(Some(ready.link.clone()));
                link.close("this host moved to another server");
                return Ok(Some(ready));
            }
            Ended::Left => None,
            Ended::Broken(why) => Some(format!("session with {server}: {why}")),
        };
        self.uplink.0.link.send_replace(None);
        link.close("session is over");
        match why {
            Some(why) => Err(Broken { kind: BrokenKind::Lost, why, rest: None }),
            None => Ok(None),
        }
    }

    /// `moves`: there is a session elsewhere, which this one would take the place of.
    async fn open(&self, link: Arc<dyn Link>, moves: bool) -> Result<Ready, Broken> {
        let open = rpc::OpenSession { version: self.version.clone(), probe: self.prober.address(), moves };
        match rpc::open_session(link.as_ref(), &open, CONNECT_DEADLINE).await {
            Ok(session) => Ok(Ready { link, session }),
            Err(fault) => {
                link.close("no session");
                Err(Broken::refused(&link.remote(), &fault))
            }
        }
    }

    async fn connect(&self) -> Result<Arc<dyn Link>, Broken> {
        match timeout(CONNECT_DEADLINE, self.connector.connect()).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(error)) => Err(Broken::from(error)),
            Err(_) => {
                let why = format!("no server answered within {} s", CONNECT_DEADLINE.as_secs());
                Err(Broken { kind: BrokenKind::Unreachable, why, rest: None })
            }
        }
    }

    /// One line for each change of state, not for each try.
    fn report(&self, broken: &Broken, said: &mut Option<BrokenKind>) {
        let known = said.replace(broken.kind);
        match broken.kind {
            BrokenKind::Lost => {
                warn!(why = %broken.why, "the session with the servers is lost, going on with what is known here");
            }
            kind if known == Some(kind) => {}
            _ => warn!(why = %broken.why, "no session with a server, going on with what is known here"),
        }
    }
}

impl Broken {
    fn refused(server: &str, fault: &Fault) -> Self {
        let kind = match fault.code {
            FaultCode::Unavailable | FaultCode::Busy => BrokenKind::Unreachable,
            _ => BrokenKind::Refused,
        };
        let rest = fault.retry_ms.map(|ms| Duration::from_millis(ms).min(MOST_REST));
        Self { kind, why: format!("{server} opens no session: {fault}"), rest }
    }
}

impl From<LinkError> for Broken {
    fn from(error: LinkError) -> Self {
        let kind = match error {
            LinkError::Untrusted { .. } => BrokenKind::Untrusted,
            LinkError::Unreachable { .. } | LinkError::Closed(_) => BrokenKind::Unreachable,
        };
        Self { kind, why: error.to_string(), rest: None }
    }
}
