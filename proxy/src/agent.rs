//! The conversation with the agent of this host: frames in, frames out. One that ends changes nothing.

use purlin_model::limit::FRAME_BYTES;
use purlin_wire::frame::{self, FrameReader};
use purlin_wire::local::{FromProxy, ToProxy};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// Frames that may wait to be written, and to be handled.
const QUEUE: usize = 16;
/// An agent says who it is within that, and takes a frame within that.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection that an agent can speak over.
pub trait AgentStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> AgentStream for T {}

/// What came from an agent, with the number of its session.
#[derive(Debug)]
pub(crate) enum Heard {
    Frame(u64, ToProxy),
    Ended(u64, String),
}

/// The agent of now. Dropping it hangs up.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) number: u64,
    out: mpsc::Sender<FromProxy>,
    reader: AbortHandle,
    writer: AbortHandle,
}

impl Session {
    pub(crate) fn start(number: u64, stream: Box<dyn AgentStream>, heard: mpsc::Sender<Heard>) -> Self {
        let (read, write) = tokio::io::split(stream);
        let (out, frames) = mpsc::channel(QUEUE);
        let reader = tokio::spawn(listen(number, FrameReader::new(read, FRAME_BYTES), heard.clone()));
        let writer = tokio::spawn(speak(number, write, frames, heard));
        Self { number, out, reader: reader.abort_handle(), writer: writer.abort_handle() }
    }

    /// False: it takes nothing, so it is of no use any more.
    pub(crate) fn say(&self, frame: FromProxy) -> bool {
        self.out.try_send(frame).is_ok()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
    }
}

async fn listen<R>(number: u64, mut frames: FrameReader<R>, heard: mpsc::Sender<Heard>)
where
    R: AsyncRead + Unpin,
{
    let first = match timeout(PATIENCE, frames.next_known::<ToProxy>()).await {
        Ok(first) => first.map_err(|error| error.to_string()),
        Err(_) => Err("it said nothing".into()),
    };
    let mut next = match first {
        Ok(Some(frame)) if !matches!(frame, ToProxy::Hello { .. }) => {
            Err("it did not say hello first".into())
        }
        other => other,
    };
    let why = loop {
        let frame = match next {
            Ok(Some(frame)) => frame,
            Ok(None) => break "it hung up".to_owned(),
            Err(why) => break why,
        };
        if heard.send(Heard::Frame(number, frame)).await.is_err() {
            return;
        }
        next = frames.next_known().await.map_err(|error| error.to_string());
    };
    // The owner may be gone, and then nobody needs to know.
    let _ = heard.send(Heard::Ended(number, why)).await;
}

async fn speak<W>(
    number: u64,
    mut write: W,
    mut frames: mpsc::Receiver<FromProxy>,
    heard: mpsc::Sender<Heard>,
) where
    W: AsyncWrite + Unpin,
{
    while let Some(frame) = frames.recv().await {
        let written = match timeout(PATIENCE, frame::write(&mut write, &frame)).await {
            Ok(written) => written.map_err(|error| error.to_string()),
            Err(_) => Err("it does not read".into()),
        };
        if let Err(why) = written {
            let _ = heard.send(Heard::Ended(number, why)).await;
            return;
        }
    }
}
