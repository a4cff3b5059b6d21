//! Servers that are killed, and how long it takes until all views are current again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::host::Host;
use super::servers::Servers;
use super::watch::Watch;
use super::{lagging, load_average};

/// For sessions to be where they are sent.
const GATHER: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(50);
/// For verdicts on hosts to be given, if there are any.
const VERDICTS: Duration = Duration::from_secs(15);

/// A follower with its share of the sessions dies, and comes back.
pub(crate) async fn one_of_three(
    servers: &mut Servers,
    hosts: &[Arc<Host>],
    watch: &Arc<Watch>,
) -> anyhow::Result<()> {
    let victim = (servers.leader()? + 1) % 3;
    killed(servers, hosts, watch, victim, "its share of the sessions").await?;
    let took = servers.start_again(victim).await?;
    println!("s{victim} started from its disk and serves: {:.2} s", took.as_secs_f64());
    Ok(())
}

/// All sessions are on one follower when it dies.
pub(crate) async fn all_on_one(
    servers: &mut Servers,
    hosts: &[Arc<Host>],
    watch: &Arc<Watch>,
) -> anyhow::Result<()> {
    let doors = Servers::doors();
    let victim = (servers.leader()? + 1) % 3;
    let begun = Instant::now();
    for host in hosts {
        host.learn(&doors[victim..=victim]);
        if host.session().server.as_deref() != Some(doors[victim].as_str()) {
            host.cut();
        }
    }
    let there = |host: &Arc<Host>| {
        host.is_current() && host.session().server.as_deref() == Some(doors[victim].as_str())
    };
    while !hosts.iter().all(there) && begun.elapsed() < GATHER {
        tokio::time::sleep(LOOK).await;
    }
    println!(
        "sessions on each server, sent to s{victim}: {:?} after {:.1} s",
        servers.sessions(),
        begun.elapsed().as_secs_f64()
    );
    for host in hosts {
        host.learn(&doors);
    }
    killed(servers, hosts, watch, victim, "all sessions").await
}

/// From the kill until every host has a change that was made after it.
async fn killed(
    servers: &mut Servers,
    hosts: &[Arc<Host>],
    watch: &Arc<Watch>,
    victim: usize,
    what: &str,
) -> anyhow::Result<()> {
    let (leader, term, cpu) = (servers.leader()?, servers.term(), servers.cpu());
    let had = servers.sessions()[victim];
    let opened = |hosts: &[Arc<Host>]| hosts.iter().map(|host| host.session().sessions).sum::<u64>();
    let before = opened(hosts);
    let begun = Instant::now();
    servers.kill(victim)?;
    let left = servers.cpu();
    let number = watch.next();
    hosts[0].change(number).await?;
    let written = begun.elapsed();
    let last = watch.all_have(number).await.with_context(|| lagging(hosts))?;
    while !hosts.iter().all(|host| host.is_current()) {
        tokio::time::sleep(LOOK).await;
    }
    let current = begun.elapsed();
    let spent = servers.cpu() - left;
    println!(
        "follower s{victim} killed with {what} ({had}): a write after {:.2} s, in the last view after {:.1} s, all \
         sessions current after {:.1} s",
        written.as_secs_f64(),
        (last - begun).as_secs_f64(),
        current.as_secs_f64()
    );
    tokio::time::sleep(VERDICTS).await;
    println!(
        "  leader s{leader} before, s{} after; term {term} before, {} after; sessions opened: {}; hosts held for failed: \
         {}; core-seconds of the servers: {spent:.1} of {cpu:.0} before; load average {}",
        servers.leader()?,
        servers.term(),
        opened(hosts) - before,
        servers.failed()?,
        load_average()
    );
    Ok(())
}
