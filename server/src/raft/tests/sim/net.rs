//! The network between servers: late, lossy, and now and then cut, one way or both; what it delivers twice may come
//! long after what was sent later.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::invariant::{self, Speaker};
use super::world::World;
use crate::raft::{CallKind, ServerNode, Transport};

#[derive(Debug, Clone, Default)]
pub(super) struct Weather {
    /// Of a thousand messages, how many vanish, and how many come twice.
    pub lost: u64,
    pub doubled: u64,
    /// Beyond the usual millisecond.
    pub late_ms: u64,
    /// How long disks take, beyond what they usually do.
    pub busy_ms: u64,
}

#[derive(Default)]
pub(super) struct Net {
    weather: Mutex<Weather>,
    /// From, to.
    cut: Mutex<BTreeSet<(u64, u64)>>,
}

impl Net {
    pub(super) fn set_weather(&self, weather: Weather) {
        *self.weather.lock().unwrap() = weather;
    }

    pub(super) fn set_busy(&self, busy_ms: u64) {
        self.weather.lock().unwrap().busy_ms = busy_ms;
    }

    pub(super) fn busy_ms(&self) -> u64 {
        self.weather.lock().unwrap().busy_ms
    }

    pub(super) fn cut(&self, from: u64, to: u64) {
        self.cut.lock().unwrap().insert((from, to));
    }

    pub(super) fn mend(&self) {
        self.cut.lock().unwrap().clear();
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cut.lock().unwrap().contains(&(from, to))
    }

    /// How long one message takes; none: it never arrives.
    pub(super) fn travels(&self, world: &World) -> Option<Duration> {
        let weather = self.weather.lock().unwrap().clone();
        if world.permille(weather.lost) {
            return None;
        }
        let slow = if world.permille(20) { 200 } else { 0 };
        Some(world.span(1..3 + weather.late_ms + slow))
    }

    fn doubles(&self, world: &World) -> bool {
        let doubled = self.weather.lock().unwrap().doubled;
        world.permille(doubled)
    }
}

/// The ways from one server to the others.
pub(super) struct Way {
    pub world: Arc<World>,
    pub from: Speaker,
    /// Cancelled when it crashes: it says nothing more.
    pub over: CancellationToken,
}

impl Transport for Way {
    fn call(
        &self,
        target: &ServerNode,
        kind: CallKind,
        body: Bytes,
    ) -> BoxFuture<'static, io::Result<Bytes>> {
        let (world, from, over) = (self.world.clone(), self.from, self.over.clone());
        let to = target.address.trim_start_matches("server-").parse().unwrap();
        Box::pin(async move {
            if over.is_cancelled() {
                return std::future::pending().await;
            }
            let (answer, answered) = oneshot::channel();
            if world.net.doubles(&world) {
                let again = world.span(1..3_000);
                tokio::spawn(deliver(world.clone(), from, to, kind, body.clone(), again, None));
            }
            if let Some(travels) = world.net.travels(&world) {
                tokio::spawn(deliver(world, from, to, kind, body, travels, Some(answer)));
            } else {
                world.tell(format_args!("{}->{to} {kind:?} {} lost", from.0, body.len()));
                std::mem::forget(answer);
            }
            // Who waits for a lost message waits until it gives up.
            match answered.await {
                Ok(bytes) => Ok(bytes),
                Err(_) => std::future::pending().await,
            }
        })
    }

    fn forget(&self, _target: &ServerNode) {}
}

async fn deliver(
    world: Arc<World>,
    speaker: Speaker,
    to: u64,
    kind: CallKind,
    body: Bytes,
    travels: Duration,
    answer: Option<oneshot::Sender<Bytes>>,
) {
    tokio::time::sleep(travels).await;
    let from = speaker.0;
    let life = world.servers().get(&to).and_then(|server| server.life());
    let Some(life) = life.filter(|_| !world.net.is_cut(from, to)) else {
        return world.tell(format_args!("{from}->{to} {kind:?} {} unheard", body.len()));
    };
    world.tell(format_args!("{from}->{to} {kind:?} {}", body.len()));
    // Behind the number of whom it is for.
    invariant::heard(&world, speaker, kind, &body[8..]);
    let bytes = tokio::select! {
        biased;
        () = life.over.cancelled() => return,
        bytes = life.raft.serve(kind, &body) => bytes,
    };
    let (Some(answer), Some(travels)) = (answer, world.net.travels(&world)) else { return };
    tokio::time::sleep(travels).await;
    if !world.net.is_cut(to, from) {
        world.tell(format_args!("{from}<-{to} {kind:?} {}", bytes.len()));
        let _ = answer.send(bytes);
    }
}
