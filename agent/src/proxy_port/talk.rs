//! One connection to the proxy: greeting, views down, acknowledgements and figures up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use purlin_model::limit;
use purlin_model::view::View;
use purlin_wire::frame::{self, FrameReader};
use purlin_wire::link::{ReadHalf, Stream, WriteHalf};
use purlin_wire::local::{FromProxy, PROTOCOL, ToProxy};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tracing::{info, warn};

use super::frames::frames;
use super::{Ended, ProxyHandle, ProxyState, QUESTIONS, Question};

/// For the greeting.
const GREETING: Duration = Duration::from_secs(5);
/// A frame that the proxy does not take for so long means that it hangs.
const SEND_DEADLINE: Duration = Duration::from_secs(10);

/// An open connection.
pub(super) struct Conversation {
    read: FrameReader<ReadHalf>,
    write: WriteHalf,
    peer: ProxyState,
}

/// Says hello and hears it back.
pub(super) async fn greet(stream: Stream, version: &str) -> Result<Conversation, String> {
    let Stream { read, mut write } = stream;
    let mut read = FrameReader::new(read, limit::FRAME_BYTES);
    send(&mut write, &ToProxy::Hello { version: version.to_owned(), protocol: PROTOCOL }).await?;
    let hello = timeout(GREETING, read.next_known::<FromProxy>()).await;
    let hello = hello.map_err(|_| format!("the proxy said nothing for {} s", GREETING.as_secs()))?;
    match hello.map_err(|error| format!("the proxy's greeting: {error}"))? {
        Some(FromProxy::Hello { version, protocol: PROTOCOL, pid, .. }) => {
            let peer = ProxyState { connected: true, version, pid, ..ProxyState::default() };
            Ok(Conversation { read, write, peer })
        }
        Some(FromProxy::Hello { version, protocol, .. }) => Err(format!(
            "the proxy (version {version}) speaks protocol {protocol}, this agent {PROTOCOL}: restart purlin-proxy"
        )),
        Some(_) => Err("the proxy did not begin with a greeting".into()),
        None => Err("the proxy closed the connection at once".into()),
    }
}

impl Conversation {
    pub(super) fn peer(&self) -> &ProxyState {
        &self.peer
    }

    /// Runs until the connection ends.
    pub(super) async fn run(
        self,
        view: &mut watch::Receiver<Arc<View>>,
        questions: &mut mpsc::Receiver<Question>,
        handle: &ProxyHandle,
    ) -> Ended {
        let (scrapes, asked) = mpsc::channel(QUESTIONS);
        let hear = hear(self.read, asked, handle);
        tokio::pin!(hear);
        let say = say(self.write, view, questions, handle, scrapes);
        tokio::select! {
            why = &mut hear => Ended::Lost(why),
            said = say => match said {
                Ok(drain) => {
                    // Until it is done the proxy holds the connection open.
                    let _ = timeout(drain, hear).await;
                    Ended::Drained
                }
                Err(why) => Ended::Lost(why),
            },
        }
    }
}

/// Sends what is to be sent; ends when the proxy was told to end, with how long that may take.
async fn say(
    mut write: WriteHalf,
    view: &mut watch::Receiver<Arc<View>>,
    questions: &mut mpsc::Receiver<Question>,
    handle: &ProxyHandle,
    scrapes: mpsc::Sender<(u64, oneshot::Sender<String>)>,
) -> Result<Duration, String> {
    let mut log_filter = handle.log_filter.subscribe();
    log_filter.mark_changed();
    let mut sent: Option<Arc<View>> = None;
    let mut next_scrape = 0;
    view.mark_changed();
    loop {
        tokio::select! {
            changed = view.changed() => {
                changed.map_err(|_| "this agent ends".to_string())?;
                let new = view.borrow_and_update().clone();
                // A view without parts is none yet: the proxy keeps what it has.
                if new.parts.is_empty() {
                    continue;
                }
                for frame in frames(&new, sent.as_deref()) {
                    send(&mut write, &frame).await?;
                }
                sent = Some(new);
            }
            changed = log_filter.changed() => {
                changed.map_err(|_| "this agent ends".to_string())?;
                let filter = log_filter.borrow_and_update().clone();
                if let Some(filter) = filter {
                    send(&mut write, &ToProxy::LogLevel { filter }).await?;
                }
            }
            question = questions.recv() => match question {
                None => return Err("this agent ends".into()),
                Some(Question::Scrape(answer)) => {
                    next_scrape += 1;
                    // One that finds no room is dropped, and its asker hears that at once.
                    if scrapes.try_send((next_scrape, answer)).is_ok() {
                        send(&mut write, &ToProxy::Scrape { id: next_scrape }).await?;
                    }
                }
                Some(Question::Drain(deadline)) => {
                    let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
                    send(&mut write, &ToProxy::Drain { deadline_ms }).await?;
                    return Ok(deadline + Duration::from_secs(1));
                }
            },
        }
    }
}

/// Takes in what the proxy says; tells why it ended.
async fn hear(
    mut read: FrameReader<ReadHalf>,
    mut asked: mpsc::Receiver<(u64, oneshot::Sender<String>)>,
    handle: &ProxyHandle,
) -> String {
    let mut waiting: BTreeMap<u64, oneshot::Sender<String>> = BTreeMap::new();
    loop {
        let message = match read.next_known::<FromProxy>().await {
            Ok(Some(message)) => message,
            Ok(None) => return "the proxy closed the connection".into(),
            Err(error) => return format!("connection to the proxy: {error}"),
        };
        match message {
            FromProxy::Hello { .. } => {}
            FromProxy::Applied { revision, failed_listeners } => applied(handle, revision, failed_listeners),
            FromProxy::Metrics { id, text } => {
                while let Ok((id, answer)) = asked.try_recv() {
                    waiting.insert(id, answer);
                }
                if let Some(answer) = waiting.remove(&id) {
                    let _ = answer.send(text);
                }
                waiting.retain(|_, answer| !answer.is_closed());
            }
        }
    }
}

fn applied(handle: &ProxyHandle, revision: u64, failed: Vec<(String, String)>) {
    let before = handle.state.borrow().failed_listeners.clone();
    for (listener, why) in failed.iter().filter(|one| !before.contains(one)) {
        warn!(listener = %listener, why = %why, "the proxy cannot open a listener: free the address or choose another");
    }
    for (listener, _) in
        before.iter().filter(|(listener, _)| failed.iter().all(|(other, _)| other != listener))
    {
        info!(listener = %listener, "the proxy has opened the listener now, or it is not wanted any more");
    }
    handle.state.send_modify(|state| {
        state.applied = revision;
        state.failed_listeners = failed;
    });
}

async fn send(write: &mut WriteHalf, message: &ToProxy) -> Result<(), String> {
    match timeout(SEND_DEADLINE, frame::write(write, message)).await {
        Ok(sent) => sent.map_err(|error| format!("connection to the proxy: {error}")),
        Err(_) => Err(format!("the proxy took no frame for {} s", SEND_DEADLINE.as_secs())),
    }
}
