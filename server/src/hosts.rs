//! Drives the liveness of hosts: looks for silence among the sessions here, tells the leader, and leads if it must.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures_util::StreamExt;
use purlin_model::NodeName;
use purlin_model::command::Command;
use purlin_model::node::NodeStatus;
use purlin_wire::rpc::Consistency;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::liveness::{BEAT, TICK};
use crate::reap;
use crate::rpc::Service;

/// What happens within this time is looked at together: in a storm each look at all hosts costs milliseconds.
const TOGETHER: Duration = Duration::from_millis(50);
/// Verdicts on their way into the log at once.
const VERDICTS_AT_ONCE: usize = 64;
/// A server that was in touch with no leader for so long sends its hosts to others.
const OUT_OF_TOUCH: Duration = Duration::from_secs(5);
/// Leader and number of sessions must have been calm for so long before hosts are moved to even out the load.
const CALM: Duration = Duration::from_secs(30);
/// Sessions above the fair share that are not worth moving, and that part of it.
const SLACK: u64 = 2;
const SLACK_PART: u64 = 10;
/// Hosts that are asked to move in one second.
const MOVES_A_SECOND: u64 = 64;

/// How this server stands to the leader.
#[derive(Debug)]
pub(crate) struct Touch {
    /// When it last was in touch with a leader that has a majority.
    at: watch::Sender<Instant>,
    /// Sessions that each server would have if all had the same; zero where it is not known.
    fair_share: AtomicU64,
}

impl Touch {
    pub(crate) fn new() -> Self {
        Self { at: watch::Sender::new(Instant::now()), fair_share: AtomicU64::new(0) }
    }

    fn touched(&self, fair_share: u64) {
        self.at.send_replace(Instant::now());
        if fair_share > 0 {
            self.fair_share.store(fair_share, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.at.borrow().elapsed() >= OUT_OF_TOUCH
    }

    pub(crate) fn fair_share(&self) -> u64 {
        self.fair_share.load(Ordering::Relaxed)
    }
}

/// Never ends.
pub(crate) async fn watch_hosts(service: &Arc<Service>) {
    tokio::join!(look(service), report(service), lead(service));
}

/// Looks for silence, and for hosts that would be better off elsewhere.
async fn look(service: &Service) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut leadership = service.raft.leadership();
    let mut calm_since = Instant::now();
    let mut second = 0_u32;
    loop {
        ticks.tick().await;
        let news = {
            let mut sessions = service.sessions();
            sessions.look(Instant::now());
            sessions.has_news()
        };
        if news {
            service.news.notify_one();
        }
        if leadership.has_changed().unwrap_or(false) {
            leadership.borrow_and_update();
            calm_since = Instant::now();
        }
        second = (second + 1) % 4;
        if second == 0 {
            let count = to_move(service, calm_since.elapsed() >= CALM);
            if count > 0 {
                service.doors.move_some(count, &service.node);
            }
        }
    }
}

/// How many hosts should look for another server now.
fn to_move(service: &Service, is_calm: bool) -> usize {
    let open = service.sessions().open() as u64;
    let excess = if service.touch.is_lost() {
        open
    } else {
        let share = service.touch.fair_share();
        let slack = SLACK.max(share / SLACK_PART);
        if share == 0 || !is_calm || open <= share + slack { 0 } else { open - share }
    };
    usize::try_from(excess.min(MOVES_A_SECOND)).unwrap_or(0)
}

/// Tells the leader of the sessions here, at once when something changed and else once a beat.
async fn report(service: &Service) {
    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The leader and term that heard all there was.
    let mut told: Option<(u64, u64)> = None;
    loop {
        tokio::select! { _ = beats.tick() => {}, () = service.news.notified() => sleep(TOGETHER).await }
        let (term, leader, here) = {
            let leadership = service.raft.leadership();
            let now = leadership.borrow();
            (now.term, now.leader.as_ref().map(|leader| leader.id), now.here)
        };
        if here {
            told = None;
            let led = timeout(BEAT, service.raft.read_barrier(Consistency::Default)).await;
            if matches!(led, Ok(Ok(_))) {
                service.touch.touched(0);
            }
            continue;
        }
        let Some(leader) = leader else { continue };
        match tell(service, told == Some((term, leader))).await {
            Ok(true) => told = Some((term, leader)),
            Ok(false) => told = None,
            Err(fault) => {
                tracing::debug!(%fault, "the leader was not told of the sessions here");
                told = None;
            }
        }
    }
}

/// Whether the leader knows all now.
async fn tell(service: &Service, knows: bool) -> Result<bool, purlin_model::Fault> {
    let rosters = {
        let mut sessions = service.sessions();
        if knows { sessions.changes(Instant::now()) } else { sessions.whole(Instant::now()) }
    };
    for roster in rosters {
        let taken = service.tell_leader(&roster).await?;
        if taken.tell_all {
            service.news.notify_one();
            return Ok(false);
        }
        service.touch.touched(taken.fair_share);
    }
    Ok(true)
}

/// Judges while this server leads.
async fn lead(service: &Arc<Service>) {
    let mut leadership = service.raft.leadership();
    loop {
        if leadership.wait_for(|now| now.here).await.is_err() {
            return std::future::pending().await;
        }
        service.liveness().led();
        let lost = async {
            // An error means that Raft ended, which the handle reports.
            let _ = leadership.wait_for(|now| !now.here).await;
        };
        tokio::select! { () = lost => {}, () = judge(service) => {}, () = reap::run(service) => {} }
        service.liveness().led();
    }
}

async fn judge(service: &Arc<Service>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut errands: JoinSet<(NodeName, Option<NodeName>)> = JoinSet::new();
    let mut cut_off: Vec<NodeName> = Vec::new();
    let mut rng = Rng::new();
    let mut knows = false;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = service.look.notified() => sleep(TOGETHER).await,
            Some(done) = errands.join_next() => {
                let Ok((node, helper)) = done else { continue };
                service.metrics.probe(helper.is_some());
                if let Some(helper) = helper {
                    reached(service, &mut cut_off, node, &helper);
                }
                continue;
            }
        }
        knows = take_own(service, knows);
        let due = verdicts(service);
        futures_util::stream::iter(due)
            .for_each_concurrent(VERDICTS_AT_ONCE, |(node, status)| write_down(service, node, status))
            .await;
        for errand in service.liveness().errands(Instant::now(), &mut rng) {
            let service = service.clone();
            errands.spawn(async move {
                let node = errand.node.clone();
                (node, Box::pin(service.run_errand(errand)).await)
            });
        }
        back(service, &mut cut_off);
    }
}

/// The sessions of the leader itself.
fn take_own(service: &Service, knows: bool) -> bool {
    let now = Instant::now();
    let rosters = {
        let mut sessions = service.sessions();
        if knows { sessions.changes(now) } else { sessions.whole(now) }
    };
    let mut liveness = service.liveness();
    rosters.into_iter().all(|roster| {
        let taken = liveness.roster(&service.node, roster, now);
        service.touch.fair_share.store(taken.fair_share, Ordering::Relaxed);
        !taken.tell_all
    })
}

fn verdicts(service: &Service) -> Vec<(NodeName, NodeStatus)> {
    let state = service.hub.state();
    let now = Instant::now();
    let mut liveness = service.liveness();
    liveness.catalog(state.members(), now);
    liveness.verdicts(now)
}

async fn write_down(service: &Service, node: NodeName, status: NodeStatus) {
    let name = match status {
        NodeStatus::Alive => "alive",
        NodeStatus::Failed => "failed",
        NodeStatus::Left => "left",
    };
    tracing::info!(%node, status = name, "host changed its status");
    service.metrics.verdict(name);
    let proposed = service.propose_own(Command::SetNodeStatus { node: node.clone(), status }).await;
    if let Err(fault) = proposed.and_then(|outcome| outcome.result) {
        tracing::warn!(%node, %fault, "the status of a host cannot be written down, will try again");
    }
}

/// A host that no server hears lives all the same.
fn reached(service: &Service, cut_off: &mut Vec<NodeName>, node: NodeName, helper: &NodeName) {
    service.liveness().reached(&node, Instant::now());
    if !cut_off.contains(&node) && service.liveness().cut_off().any(|one| *one == node) {
        tracing::warn!(%node, %helper, "host is cut off from the servers, but others reach it: it stays alive");
        cut_off.push(node);
    }
}

/// Tells once of each host that is cut off no more.
fn back(service: &Service, known: &mut Vec<NodeName>) {
    if known.is_empty() {
        return;
    }
    let liveness = service.liveness();
    known.retain(|node| {
        let still = liveness.cut_off().any(|one| one == node);
        if !still {
            tracing::info!(%node, "host is cut off from the servers no more");
        }
        still
    });
}
