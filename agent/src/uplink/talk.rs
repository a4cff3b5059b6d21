//! One open session: beats and orders go up, changes come down, and silence ends it.
//!
//! A server that falls silent, or asks for it, is given up for another only once that one has opened a session.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use purlin_model::Revision;
use purlin_model::topic::Topic;
use purlin_wire::frame::FrameError;
use purlin_wire::link::Link;
use purlin_wire::rpc::{Assembler, Down, SessionReceiver, SessionSender, Up};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, timeout};
use tracing::{debug, info};

use super::probe::Prober;
use super::{Keeper, Ready, jitter};
use crate::mirror::Mirror;

/// Without a sign of life for so long the session is dead.
const SILENCE: Duration = Duration::from_secs(5);
/// So many beats that did not come are reason to look for another server.
const QUIET_BEATS: u32 = 3;
/// To reach another server, and between two tries to.
const ELSEWHERE_DEADLINE: Duration = Duration::from_secs(5);
const ELSEWHERE_PAUSE: Duration = Duration::from_secs(10);
/// A frame that cannot be sent for so long means the same.
const SEND_DEADLINE: Duration = Duration::from_secs(5);
/// How long the server may take to see a goodbye.
const GOODBYE: Duration = Duration::from_secs(3);
/// Topics in one frame.
const FOLLOW_AT_ONCE: usize = 500;
/// Calls of the server that are answered at once.
const SERVER_CALLS: usize = 16;
/// Steps of progress that are told with one beat; of more, every other one.
const MARKS: usize = 16;
/// Limits of the beat that a server may ask for, in milliseconds.
const BEAT_MS: std::ops::RangeInclusive<u64> = 100..=60_000;

/// How a session ended.
pub(super) enum Ended {
    Broken(String),
    /// This host said goodbye.
    Left,
    /// Another server has opened a session.
    Moved(Ready),
}

/// What the halves of a session share.
struct Shared {
    pace: watch::Sender<Duration>,
    /// This host would be better off with another server.
    restless: Notify,
    marks: Mutex<Vec<(Revision, Instant)>>,
}

fn pace(beat_ms: u64) -> Duration {
    Duration::from_millis(beat_ms.clamp(*BEAT_MS.start(), *BEAT_MS.end()))
}

/// Runs the session.
pub(super) async fn talk(keeper: &Keeper, ready: Ready, follow: Vec<(Topic, Revision)>) -> Ended {
    let Ready { link, session } = ready;
    let link = link.as_ref();
    let shared = Shared {
        pace: watch::Sender::new(pace(session.opened.beat_ms)),
        restless: Notify::new(),
        marks: Mutex::default(),
    };
    let speak = speak(keeper, session.sender, follow, &shared);
    let listen = listen(&keeper.mirror, session.receiver, &shared);
    tokio::pin!(listen);
    tokio::select! {
        spoken = speak => match spoken {
            Err(why) => Ended::Broken(why),
            // The goodbye is on its way; the server ends the session when it has it.
            Ok(()) => {
                let _ = timeout(GOODBYE, listen).await;
                Ended::Left
            }
        },
        why = &mut listen => Ended::Broken(why),
        why = link.closed() => Ended::Broken(why),
        () = answer_server(link, &keeper.prober) => Ended::Broken("the link is closed".into()),
        ready = elsewhere(keeper, link, &shared) => Ended::Moved(ready),
    }
}

/// Looks for another server whenever this one gives reason to; resolves when one has opened a session.
async fn elsewhere(keeper: &Keeper, link: &dyn Link, shared: &Shared) -> Ready {
    let here = link.remote();
    loop {
        shared.restless.notified().await;
        let opened = async {
            let link = keeper.connector.elsewhere(&here).await.map_err(|error| error.to_string())?;
            keeper.open(link, true).await.map_err(|broken| broken.why)
        };
        match timeout(ELSEWHERE_DEADLINE, opened).await {
            Ok(Ok(ready)) => {
                info!(from = %here, to = %ready.link.remote(), "this host moves to another server");
                return ready;
            }
            Ok(Err(why)) => debug!(why, "no other server takes this host"),
            Err(_) => debug!("no other server answered in time"),
        }
        sleep(jitter(ELSEWHERE_PAUSE)).await;
    }
}

fn beats(pace: Duration, first: Instant) -> Interval {
    let mut beats = interval_at(first, pace);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats
}

/// Sends until the goodbye.
async fn speak(
    keeper: &Keeper,
    mut sender: SessionSender,
    follow: Vec<(Topic, Revision)>,
    shared: &Shared,
) -> Result<(), String> {
    send_follow(&mut sender, follow).await?;
    let mut paces = shared.pace.subscribe();
    let mut ticks = beats(*paces.borrow_and_update(), Instant::now());
    loop {
        tokio::select! {
            biased;
            () = keeper.leave.cancelled() => {
                send(&mut sender, &Up::Leave).await?;
                return sender.finish().await.map_err(|error| error.to_string());
            }
            Ok(()) = paces.changed() => {
                let pace = *paces.borrow_and_update();
                ticks = beats(pace, Instant::now() + pace);
            }
            _ = ticks.tick() => {
                let marks = shared.take_marks();
                if !marks.is_empty() {
                    send(&mut sender, &Up::Applied(marks)).await?;
                }
                send(&mut sender, &Up::Beat).await?;
            }
            orders = keeper.mirror.next_orders() => {
                for chunk in orders.unfollow.chunks(FOLLOW_AT_ONCE) {
                    send(&mut sender, &Up::Unfollow(chunk.to_vec())).await?;
                }
                send_follow(&mut sender, orders.follow).await?;
            }
        }
    }
}

impl Shared {
    fn mark(&self, revision: Revision) {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if marks.len() >= MARKS {
            let mut odd = false;
            marks.retain(|_| {
                odd = !odd;
                odd
            });
        }
        marks.push((revision, Instant::now()));
    }

    /// Each with how many milliseconds ago it was.
    fn take_marks(&self) -> Vec<(Revision, u64)> {
        let marks = std::mem::take(&mut *self.marks.lock().unwrap_or_else(PoisonError::into_inner));
        let ago = |at: Instant| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        marks.into_iter().map(|(revision, at)| (revision, ago(at))).collect()
    }
}

async fn send_follow(sender: &mut SessionSender, follow: Vec<(Topic, Revision)>) -> Result<(), String> {
    for chunk in follow.chunks(FOLLOW_AT_ONCE) {
        send(sender, &Up::Follow(chunk.to_vec())).await?;
    }
    Ok(())
}

async fn send(sender: &mut SessionSender, message: &Up) -> Result<(), String> {
    match timeout(SEND_DEADLINE, sender.send(message)).await {
        Ok(sent) => sent.map_err(|error| error.to_string()),
        Err(_) => Err(format!("the server took no frame for {} s", SEND_DEADLINE.as_secs())),
    }
}

/// Takes in what the server says until it says no more; tells why it ended.
async fn listen(mirror: &Mirror, mut receiver: SessionReceiver, shared: &Shared) -> String {
    let mut assembler = Assembler::default();
    let mut is_quiet = false;
    loop {
        let pace = *shared.pace.borrow();
        let silence = SILENCE.max(pace * 5);
        let quiet = pace * QUIET_BEATS;
        let wait = if is_quiet { silence.saturating_sub(quiet) } else { quiet };
        let message = match timeout(wait, receiver.next()).await {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return "the server ended it".into(),
            Ok(Err(error)) => return error.to_string(),
            Err(_) if !is_quiet => {
                is_quiet = true;
                shared.restless.notify_one();
                continue;
            }
            Err(_) => return format!("no sign of life for {} s", silence.as_secs()),
        };
        is_quiet = false;
        if let Err(error) = take_in(mirror, &mut assembler, message, shared) {
            return error.to_string();
        }
    }
}

fn take_in(
    mirror: &Mirror,
    assembler: &mut Assembler,
    message: Down,
    shared: &Shared,
) -> Result<(), FrameError> {
    match message {
        Down::Beat => {}
        Down::Delta(piece) => {
            if let Some(delta) = assembler.push(piece)? {
                mirror.absorb(delta);
            }
        }
        Down::Progress(revision) => {
            mirror.set_progress(revision);
            shared.mark(revision);
        }
        Down::Pace(beat_ms) => {
            shared.pace.send_replace(pace(beat_ms));
        }
        Down::Move => shared.restless.notify_one(),
        Down::History(history) => mirror.set_history(history),
    }
    Ok(())
}

/// Answers calls that the server makes.
async fn answer_server(link: &dyn Link, prober: &Prober) {
    let mut calls = JoinSet::new();
    while let Ok(stream) = link.accept().await {
        while calls.try_join_next().is_some() {}
        if calls.len() < SERVER_CALLS {
            calls.spawn(prober.clone().answer(stream));
        }
    }
}
