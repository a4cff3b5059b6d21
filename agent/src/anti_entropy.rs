//! Keeps the catalog in line with this host's registry: on every change of either side, and once a minute.
//!
//! Speaks for its own node only. It compares against what the server sent in this session, never against the disk.

use std::sync::Arc;
use std::time::Duration;

use purlin_model::Revision;
use purlin_model::command::{Command, RequestId};
use purlin_model::node::{Node, NodeStatus};
use purlin_model::topic::{Contents, Record, Topic};
use purlin_wire::rpc;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::core::SyncState;
use crate::metrics::{Metrics, ResultLabel};
use crate::mirror::Mirror;
use crate::reconcile::{OUTPUT_DELAY, Outputs, plan};
use crate::registry::Registry;
use crate::session::{Phase, SessionState};
use crate::uplink::Uplink;

#[cfg(test)]
mod tests;

/// A comparison takes place at least so often.
const EVERY: Duration = Duration::from_secs(60);
/// After a round that failed.
const RETRY: Duration = Duration::from_secs(1);
const MOST_RETRY: Duration = Duration::from_secs(30);
/// The same is not written again sooner, so that two who disagree do not fill the log.
const REPEAT: Duration = Duration::from_secs(5);
/// What was written must come back within this time, or the next round looks again.
const VISIBLE: Duration = Duration::from_secs(2);

/// How far a round came, and which requests it covers.
#[derive(Debug, Clone)]
struct Done {
    asked: u64,
    state: SyncState,
}

/// A handle to wait for a round. Cheap to clone.
#[derive(Clone)]
pub struct SyncDriver {
    asked: Arc<watch::Sender<u64>>,
    done: Arc<watch::Sender<Done>>,
    session: watch::Receiver<SessionState>,
}

/// What the task needs.
pub struct AntiEntropy {
    pub driver: SyncDriver,
    pub registry: Arc<Registry>,
    pub mirror: Mirror,
    pub uplink: Uplink,
    pub metrics: Metrics,
    /// This host, as it announces itself.
    pub own: Node,
    pub stop: CancellationToken,
}

impl SyncDriver {
    pub fn new(session: watch::Receiver<SessionState>) -> Self {
        let done = Done { asked: 0, state: SyncState::Pending };
        Self { asked: Arc::new(watch::Sender::new(0)), done: Arc::new(watch::Sender::new(done)), session }
    }

    /// Has a round made that covers everything registered before this call, and waits for it.
    pub async fn now(&self, wait: Duration) -> SyncState {
        let mut done = self.done.subscribe();
        let mut session = self.session.clone();
        let mut ticket = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            ticket = *asked;
        });
        tokio::select! {
            biased;
            covered = done.wait_for(|done| done.asked >= ticket) => {
                covered.map_or(SyncState::Offline, |done| done.state.clone())
            }
            _ = session.wait_for(|session| session.phase == Phase::Offline) => SyncState::Offline,
            () = tokio::time::sleep(wait) => SyncState::Pending,
        }
    }

    /// How far the last round came.
    pub fn state(&self) -> SyncState {
        if self.session.borrow().phase == Phase::Offline {
            return SyncState::Offline;
        }
        self.done.borrow().state.clone()
    }

    /// Tells of each round when it is over.
    pub(crate) fn rounds(&self) -> Rounds {
        Rounds(self.done.subscribe())
    }
}

/// Follows the rounds.
pub(crate) struct Rounds(watch::Receiver<Done>);

impl Rounds {
    /// Resolves when a round is over that was not seen before.
    pub(crate) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl AntiEntropy {
    /// Runs until told to stop.
    pub async fn run(self) {
        let mut local = self.registry.watch();
        let mut asked = self.driver.asked.subscribe();
        let mut catalog = self.mirror.changes();
        let mut session = self.uplink.session();
        let mut timing = Timing::default();
        loop {
            local.borrow_and_update();
            catalog.borrow_and_update();
            let covers = *asked.borrow_and_update();
            let connected = session.borrow_and_update().is_connected();
            let ready = connected && self.mirror.is_fresh(&self.topic());
            if ready {
                let state = self.round(&mut timing).await;
                self.driver.done.send_replace(Done { asked: covers, state });
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = local.changed() => {}
                _ = asked.changed() => {}
                _ = catalog.changed() => {}
                _ = session.changed() => {}
                // Without a session there is nothing to do at any time: what ends that is one of the changes above.
                () = sleep_until(timing.next()), if ready => {}
            }
        }
    }

    fn topic(&self) -> Topic {
        Topic::Node(self.own.name.clone())
    }

    /// One comparison and what follows from it.
    async fn round(&self, timing: &mut Timing) -> SyncState {
        let Some(catalog) = self.mirror.peek(&self.topic()) else { return SyncState::Pending };
        let plan = plan(&self.registry.local(), &self.own, &catalog, timing.outputs());
        timing.note_outputs(plan.outputs_differ);
        let announce = must_announce(&catalog, &self.own).then(|| Command::AnnounceNode(self.own.clone()));
        let commands: Vec<Command> = announce.into_iter().chain(plan.commands).collect();
        let state = match commands.as_slice() {
            [] => SyncState::Synced,
            same if timing.is_too_soon(same) => timing.verdict(),
            new => {
                timing.note_written(new);
                self.carry_out(commands, timing).await
            }
        };
        let result = match &state {
            SyncState::Synced => "synced",
            SyncState::Pending | SyncState::Offline => "interrupted",
            SyncState::Refused(_) => "refused",
        };
        self.metrics.own().sync_rounds.get_or_create(&ResultLabel { result }).inc();
        timing.after(&state);
        state
    }

    /// Writes in order; one that is refused does not keep the others back.
    async fn carry_out(&self, commands: Vec<Command>, timing: &mut Timing) -> SyncState {
        let mut newest = Revision(0);
        let mut refused: Vec<String> = Vec::new();
        for command in commands {
            let name = command.name();
            let request = RequestId(uuid::Uuid::new_v4());
            let outcome = tokio::select! {
                () = self.stop.cancelled() => return SyncState::Pending,
                outcome = self.uplink.write(rpc::Write { request, uid: None, command }) => outcome,
            };
            let fault = match outcome {
                Ok(outcome) => {
                    newest = newest.max(outcome.revision);
                    outcome.result.err()
                }
                Err(fault) => Some(fault),
            };
            let Some(fault) = fault else { continue };
            if fault.may_retry() {
                debug!(command = name, "the catalog is not in line yet: {fault}");
                timing.said = refused;
                return SyncState::Pending;
            }
            if !timing.said.contains(&fault.text) {
                warn!(command = name, "the servers refuse what this host registers: {fault}");
            }
            refused.push(fault.text);
        }
        timing.said.clone_from(&refused);
        if !self.mirror.visible(newest, VISIBLE).await {
            return SyncState::Pending;
        }
        refused.into_iter().next().map_or(SyncState::Synced, SyncState::Refused)
    }
}

/// Whether the catalog says something else of this host than the host does, or takes it for gone.
fn must_announce(catalog: &Contents, own: &Node) -> bool {
    let held = catalog.records.values().find_map(|record| match record {
        Record::Node(node) => Some(node),
        _ => None,
    });
    held.is_none_or(|held| held.status != NodeStatus::Alive || !held.same_content(own))
}

/// When the next round is due without any change.
#[derive(Debug)]
struct Timing {
    next: Instant,
    retry: Duration,
    outputs_due: Option<Instant>,
    written: Option<(Vec<Command>, Instant)>,
    /// What was refused in the last round, which is logged once.
    said: Vec<String>,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            next: Instant::now() + EVERY,
            retry: RETRY,
            outputs_due: None,
            written: None,
            said: Vec::new(),
        }
    }
}

impl Timing {
    fn next(&self) -> Instant {
        self.outputs_due.map_or(self.next, |due| due.min(self.next))
    }

    fn outputs(&self) -> Outputs {
        if self.outputs_due.is_some_and(|due| due <= Instant::now()) {
            Outputs::Now
        } else {
            Outputs::Deferred
        }
    }

    fn note_outputs(&mut self, differ: bool) {
        if self.outputs() == Outputs::Now || !differ {
            self.outputs_due = None;
        }
        if differ {
            self.outputs_due.get_or_insert(Instant::now() + OUTPUT_DELAY);
        }
    }

    fn is_too_soon(&self, commands: &[Command]) -> bool {
        self.written.as_ref().is_some_and(|(written, at)| written == commands && at.elapsed() < REPEAT)
    }

    /// What became of the last round that wrote.
    fn verdict(&self) -> SyncState {
        self.said.first().cloned().map_or(SyncState::Pending, SyncState::Refused)
    }

    fn note_written(&mut self, commands: &[Command]) {
        self.written = Some((commands.to_vec(), Instant::now()));
    }

    fn after(&mut self, state: &SyncState) {
        if *state == SyncState::Synced {
            self.retry = RETRY;
            self.next = Instant::now() + EVERY;
        } else {
            self.next = Instant::now() + self.retry;
            self.retry = (self.retry * 2).min(MOST_RETRY);
        }
    }
}
