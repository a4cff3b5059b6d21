//! What goes wrong in a run, dealt out by the seed, until everything is put right again at its end.

use std::sync::Arc;
use std::time::Duration;

use super::net::Weather;
use super::world::World;

/// Of the faults.
const ROUNDS: u64 = 14;

pub(super) async fn strike(world: &Arc<World>) {
    let ids: Vec<u64> = world.servers().keys().copied().collect();
    tokio::time::sleep(world.span(500..2_000)).await;
    for _ in 0..4 + world.below(ROUNDS) {
        one(world, &ids).await;
        tokio::time::sleep(world.span(20..1_500)).await;
    }
    world.net.mend();
    world.net.set_weather(Weather::default());
    for server in world.servers().values() {
        if server.life().is_none() {
            server.start(world).await;
        }
    }
}

async fn one(world: &Arc<World>, ids: &[u64]) {
    let victim = world.pick(ids).unwrap();
    let leader = world.lives().iter().find(|life| life.raft.metrics().leading).map(|life| life.raft.id());
    let victim = leader.filter(|_| world.permille(400)).unwrap_or(victim);
    match world.below(14) {
        0..2 => crash(world, &[victim]).await,
        2 | 3 | 13 => {
            let mut more: Vec<u64> = ids.to_vec();
            if world.permille(500) {
                more.retain(|_| world.permille(700));
            }
            // Most is lost where disks are behind while everybody works.
            if world.permille(700) {
                mend_first(world);
                world.tell(format_args!("disks are busy"));
                world.net.set_busy(100 + world.below(400));
                tokio::time::sleep(world.span(100..1_000)).await;
            }
            crash(world, &more).await;
            world.net.set_busy(0);
        }
        4 | 5 => {
            mend_first(world);
            world.tell(format_args!("server {victim} is cut off"));
            for id in ids.iter().filter(|id| **id != victim) {
                world.net.cut(victim, *id);
                world.net.cut(*id, victim);
            }
        }
        6 => {
            mend_first(world);
            let hears = world.permille(500);
            world.tell(format_args!("server {victim} is cut off one way, hears {hears}"));
            for id in ids.iter().filter(|id| **id != victim) {
                let (from, to) = if hears { (victim, *id) } else { (*id, victim) };
                world.net.cut(from, to);
            }
        }
        7 => {
            mend_first(world);
            let other = world.pick(ids).unwrap();
            world.tell(format_args!("the way from {victim} to {other} is cut"));
            world.net.cut(victim, other);
        }
        8 | 9 => {
            world.tell(format_args!("all ways are mended"));
            world.net.mend();
        }
        10 | 11 => {
            let weather = Weather {
                lost: world.below(150),
                doubled: world.below(150),
                late_ms: world.below(120),
                busy_ms: if world.permille(600) { world.below(400) } else { 0 },
            };
            world.tell(format_args!("{weather:?}"));
            world.net.set_weather(weather);
        }
        _ => {
            let to = world.pick(ids).unwrap();
            world.tell(format_args!("leadership is to go to {to}"));
            if let Some(life) = leader.and_then(|id| world.servers()[&id].life()) {
                let _ = tokio::time::timeout(Duration::from_secs(1), life.raft.transfer(Some(to))).await;
            }
        }
    }
}

/// A cluster that is cut in many places does nothing, which shows little.
fn mend_first(world: &World) {
    if world.permille(750) {
        world.net.mend();
    }
}

/// They come back one after another, or nearly at once.
async fn crash(world: &Arc<World>, ids: &[u64]) {
    for id in ids {
        world.servers()[id].crash(world);
    }
    for id in ids {
        tokio::time::sleep(world.span(1..1_200)).await;
        if world.servers()[id].life().is_none() {
            world.servers()[id].start(world).await;
        }
    }
}
