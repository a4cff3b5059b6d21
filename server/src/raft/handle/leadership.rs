//! Who leads, where the members are, and whether this server still runs: what is read off openraft's own metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use openraft::metrics::RaftMetrics;
use tokio::sync::watch;

use crate::raft::network::Book;
use crate::raft::types::{MetricsWatch, TypeConfig};

/// A server that leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    pub id: u64,
    pub name: String,
    pub address: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    pub term: u64,
    pub leader: Option<Leader>,
    /// Whether it is this server.
    pub here: bool,
}

impl Leadership {
    fn of(metrics: &RaftMetrics<TypeConfig>) -> Self {
        let members = &metrics.membership_config;
        let leader = metrics.current_leader.and_then(|id| {
            let node = members.get_node(&id)?;
            Some(Leader { id, name: node.name.clone(), address: node.address.clone() })
        });
        let here = leader.as_ref().is_some_and(|leader| leader.id == metrics.id);
        Self { term: metrics.current_term, leader, here }
    }
}

/// Says once why this server cannot go on.
pub(super) fn die(dead: &watch::Sender<Option<String>>, why: String) {
    dead.send_if_modified(|reason| {
        if reason.is_some() {
            return false;
        }
        tracing::error!(reason = %why, "raft stopped, this process must end");
        *reason = Some(why);
        true
    });
}

/// Follows the metrics until Raft ends; the task's owner is Raft itself, whose end ends it.
pub(super) fn follow(
    mut metrics: MetricsWatch,
    book: Book,
    dead: watch::Sender<Option<String>>,
    stopping: Arc<AtomicBool>,
) -> watch::Receiver<Leadership> {
    let (publish, leadership) = watch::channel(Leadership::of(&metrics.borrow_watched()));
    tokio::spawn(async move {
        let mut written = None;
        let reason = loop {
            let (now, running) = {
                let metrics = metrics.borrow_watched();
                let members = &metrics.membership_config;
                if written != *members.log_id() {
                    written = *members.log_id();
                    book.write(members.nodes().map(|(id, node)| (*id, node.clone())).collect());
                }
                (Leadership::of(&metrics), metrics.running_state.clone())
            };
            let changed = publish.send_if_modified(|known| {
                let changed = *known != now;
                known.clone_from(&now);
                changed
            });
            if changed {
                let leader = now.leader.as_ref().map(|leader| leader.name.as_str());
                tracing::info!(term = now.term, leader, here = now.here, "leadership changed");
            }
            match running {
                Ok(()) => {}
                Err(Fatal::Stopped) => break "it was stopped".to_owned(),
                Err(error) => break error.to_string(),
            }
            if metrics.changed().await.is_err() {
                break "its core failed, which is a defect: report it".to_owned();
            }
        };
        publish.send_modify(|known| {
            known.leader = None;
            known.here = false;
        });
        if !stopping.load(Ordering::SeqCst) {
            die(&dead, reason);
        }
    });
    leadership
}
