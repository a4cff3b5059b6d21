//! One open session: beats and orders go up, changes come down, and silence ends it.

use std::time::Duration;

use purlin_model::Revision;
use purlin_model::topic::Topic;
use purlin_wire::frame::FrameError;
use purlin_wire::link::{Link, Stream};
use purlin_wire::rpc::{self, Assembler, Down, Session, SessionReceiver, SessionSender, Up};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::debug;

use super::Keeper;
use crate::mirror::Mirror;

/// Without a sign of life for so long the session is dead.
const SILENCE: Duration = Duration::from_secs(5);
/// A frame that cannot be sent for so long means the same.
const SEND_DEADLINE: Duration = Duration::from_secs(5);
/// How long the server may take to see a goodbye.
const GOODBYE: Duration = Duration::from_secs(3);
/// Topics in one frame.
const FOLLOW_AT_ONCE: usize = 500;
/// Calls of the server that are answered at once.
const SERVER_CALLS: usize = 16;

/// Runs the session. Returns why it broke; `None` when this host said goodbye.
pub(super) async fn talk(
    keeper: &Keeper,
    link: &dyn Link,
    session: Session,
    follow: Vec<(Topic, Revision)>,
) -> Option<String> {
    let beat = Duration::from_millis(session.opened.beat_ms.clamp(100, 60_000));
    let silence = SILENCE.max(beat * 5);
    let speak = speak(keeper, session.sender, follow, beat);
    let listen = listen(&keeper.mirror, session.receiver, silence);
    tokio::pin!(listen);
    tokio::select! {
        spoken = speak => match spoken {
            Err(why) => Some(why),
            // The goodbye is on its way; the server ends the session when it has it.
            Ok(()) => {
                let _ = timeout(GOODBYE, listen).await;
                None
            }
        },
        why = &mut listen => Some(why),
        why = link.closed() => Some(why),
        () = answer_server(link) => Some("the link is closed".into()),
    }
}

/// Sends until the goodbye.
async fn speak(
    keeper: &Keeper,
    mut sender: SessionSender,
    follow: Vec<(Topic, Revision)>,
    beat: Duration,
) -> Result<(), String> {
    send_follow(&mut sender, follow).await?;
    let mut beats = interval(beat);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = keeper.leave.cancelled() => {
                send(&mut sender, &Up::Leave).await?;
                return sender.finish().await.map_err(|error| error.to_string());
            }
            _ = beats.tick() => send(&mut sender, &Up::Beat).await?,
            orders = keeper.mirror.next_orders() => {
                for chunk in orders.unfollow.chunks(FOLLOW_AT_ONCE) {
                    send(&mut sender, &Up::Unfollow(chunk.to_vec())).await?;
                }
                send_follow(&mut sender, orders.follow).await?;
            }
        }
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
async fn listen(mirror: &Mirror, mut receiver: SessionReceiver, silence: Duration) -> String {
    let mut assembler = Assembler::default();
    loop {
        let message = match timeout(silence, receiver.next()).await {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return "the server ended it".into(),
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return format!("no sign of life for {} s", silence.as_secs()),
        };
        if let Err(error) = take_in(mirror, &mut assembler, message) {
            return error.to_string();
        }
    }
}

fn take_in(mirror: &Mirror, assembler: &mut Assembler, message: Down) -> Result<(), FrameError> {
    match message {
        Down::Beat => {}
        Down::Delta(piece) => {
            if let Some(delta) = assembler.push(piece)? {
                mirror.absorb(delta);
            }
        }
        Down::Progress(revision) => mirror.set_progress(revision),
    }
    Ok(())
}

/// Answers calls that the server makes. This build knows none, and says so.
async fn answer_server(link: &dyn Link) {
    let mut calls = JoinSet::new();
    while let Ok(stream) = link.accept().await {
        while calls.try_join_next().is_some() {}
        if calls.len() < SERVER_CALLS {
            calls.spawn(refuse(stream));
        }
    }
}

async fn refuse(mut stream: Stream) {
    let Ok(call) = rpc::read_call(&mut stream).await else { return };
    debug!(method = %call.method, "the server made a call that this build does not know");
    let _ = rpc::reply::<()>(&mut stream, &Err(call.unknown())).await;
}
