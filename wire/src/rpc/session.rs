//! The session: one long stream by which an agent shows that its host lives, says what it follows, and hears changes.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use bytes::Bytes;
use purlin_model::{Fault, limit};
use serde::Serialize;
use tokio::io::AsyncWriteExt;

use super::call::{receive, send, within};
use super::{Call, Down, OpenSession, Opened, Reply, SESSION, Up};
use crate::frame::{self, FrameError, FrameReader, Vocabulary};
use crate::link::{Link, ReadHalf, Stream, WriteHalf};

pub type SessionSender = Sender<Up>;
pub type SessionReceiver = Receiver<Down>;
pub type ServerSender = Sender<Down>;
pub type ServerReceiver = Receiver<Up>;

/// Says messages of one kind.
pub struct Sender<T> {
    write: WriteHalf,
    kind: PhantomData<fn(T)>,
}

/// Hears messages of one kind, passing over those it does not know.
pub struct Receiver<T> {
    frames: FrameReader<ReadHalf>,
    kind: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receiver")
    }
}

impl<T: Serialize + Sync> Sender<T> {
    pub fn new(write: WriteHalf) -> Self {
        Self { write, kind: PhantomData }
    }

    /// Not cancel safe: a task of its own should own the sender. Waits where the other end does not read.
    pub async fn send(&mut self, message: &T) -> Result<(), FrameError> {
        frame::write(&mut self.write, message).await
    }

    /// A frame that is shared by many. Not cancel safe.
    pub async fn send_encoded(&mut self, frame: &Bytes) -> Result<(), FrameError> {
        frame::write_encoded(&mut self.write, frame).await
    }

    /// Ends this side in order.
    pub async fn finish(mut self) -> Result<(), FrameError> {
        self.write.shutdown().await?;
        Ok(())
    }
}

impl<T: Vocabulary> Receiver<T> {
    pub fn new(read: ReadHalf) -> Self {
        Self { frames: FrameReader::new(read, limit::FRAME_BYTES), kind: PhantomData }
    }

    /// `None`: the other end finished in order. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<T>, FrameError> {
        self.frames.next_known().await
    }

    /// Messages of kinds that this build does not know.
    pub fn skipped(&self) -> u64 {
        self.frames.skipped()
    }
}

/// An agent's end of a session.
#[derive(Debug)]
pub struct Session {
    pub sender: SessionSender,
    pub receiver: SessionReceiver,
    pub opened: Opened,
}

/// Opens a session; the server takes it or says why not.
pub async fn open_session(link: &dyn Link, open: &OpenSession, deadline: Duration) -> Result<Session, Fault> {
    let call = Call::new(SESSION, open)?;
    within(link, SESSION, deadline, async {
        let mut stream = send(link, &call).await?;
        let opened: Opened = receive(link, SESSION, &mut stream.read).await??;
        Ok(Session { sender: Sender::new(stream.write), receiver: Receiver::new(stream.read), opened })
    })
    .await
}

/// The server's side, after it read the call: takes the session. To refuse, [`super::reply`] with a fault.
pub async fn accept_session(
    mut stream: Stream,
    opened: Opened,
) -> Result<(ServerSender, ServerReceiver), FrameError> {
    frame::write(&mut stream.write, &Reply::Ok(opened)).await?;
    Ok((Sender::new(stream.write), Receiver::new(stream.read)))
}
