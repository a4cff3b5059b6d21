//! Hosts that are gone leave the catalog: what a host that left had registered at once, the host itself after
//! `reconnect_timeout`, as with Consul.
//!
//! Time is that of this server, from when it first saw the host gone while it led: a change of leader gives hosts more
//! time, never less.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use purlin_model::command::Command;
use purlin_model::{Fault, FaultCode, NodeName};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::rpc::Service;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a command that was refused.
const RETRY: Duration = Duration::from_secs(30);

/// Since when each host is gone. Pure: time and the catalog are given.
#[derive(Debug, Default)]
struct Gone(BTreeMap<NodeName, Instant>);

impl Gone {
    /// Takes in which hosts are gone now; those that have been for so long.
    fn look<'a>(
        &mut self,
        gone: impl Iterator<Item = &'a NodeName>,
        now: Instant,
        long: Duration,
    ) -> Vec<NodeName> {
        self.0 = gone.map(|name| (name.clone(), self.0.get(name).copied().unwrap_or(now))).collect();
        let due = self.0.iter().filter(|(_, since)| now.saturating_duration_since(**since) >= long);
        due.map(|(name, _)| name.clone()).collect()
    }
}

/// Runs while this server leads.
pub(crate) async fn run(service: &Service) {
    let mut gone = Gone::default();
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let state = service.hub.state();
        let released = state.left_with_something().cloned();
        let mut commands: Vec<Command> = released.map(|node| Command::ReleaseNode { node }).collect();
        let long = gone.look(state.gone_agents(), Instant::now(), service.reconnect_timeout);
        commands.extend(long.into_iter().map(|node| Command::ReapNode { node }));
        for command in commands {
            match carry_out(service, command).await {
                Ok(()) => {}
                // It came back in this very moment.
                Err(fault) if fault.code == FaultCode::Conflict => {}
                Err(fault) => {
                    tracing::warn!(%fault, "a host that is gone stays in the catalog until the next try");
                    sleep(RETRY).await;
                    break;
                }
            }
        }
    }
}

async fn carry_out(service: &Service, command: Command) -> Result<(), Fault> {
    if let Command::ReapNode { node } = &command {
        tracing::info!(%node, "host is gone for long, the catalog forgets it");
    }
    service.propose_own(command).await?.result.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_due_when_it_was_gone_all_the_time() {
        let mut gone = Gone::default();
        let names = ["h1", "h2"].map(|name| NodeName::new(name).unwrap());
        let [h1, h2] = &names;
        let (start, hour) = (Instant::now(), Duration::from_secs(3_600));
        assert!(gone.look(names.iter(), start, hour).is_empty());
        // One comes back for a moment, and its time begins anew.
        assert!(gone.look([h1].into_iter(), start + hour / 2, hour).is_empty());
        assert!(gone.look(names.iter(), start + hour - Duration::from_millis(1), hour).is_empty());
        assert_eq!(gone.look(names.iter(), start + hour, hour), std::slice::from_ref(h1));
        assert_eq!(gone.look([h2].into_iter(), start + hour * 2, hour), std::slice::from_ref(h2));
        assert!(gone.look(std::iter::empty(), start + hour * 3, hour).is_empty());
        assert!(gone.0.is_empty());
    }
}
