//! Calls: one stream each, a `Call` frame there, a `Reply` frame back. Both ends of it.

use std::fmt::Display;
use std::time::Duration;

use purlin_model::topic::Contents;
use purlin_model::{Fault, FaultCode, limit};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::{ASK, Ask, Asked, Call, PIECE_BYTES, Raw, Reply, TOPIC_BYTES, records};
use crate::frame::{self, FrameError};
use crate::link::{Link, LinkError, ReadHalf, Stream};

/// A call of one who is not a member yet.
pub const STRANGER_CALL_BYTES: usize = 32 * 1024;
/// How long a stream may lie open before its call is there.
const CALL_ARRIVES_WITHIN: Duration = Duration::from_secs(10);

impl Call {
    pub fn new<Q: Serialize + ?Sized>(method: &str, body: &Q) -> Result<Self, Fault> {
        let body = frame::encode_body(body).map_err(|e| our_fault(method, &e))?;
        Ok(Self { method: method.into(), body })
    }

    /// The body as that method has it.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        frame::decode_body(&self.body).map_err(|e| {
            Fault::invalid(format!("call {:?} has a body that is not its own: {e}", self.method))
        })
    }

    /// What to answer where no such method exists.
    pub fn unknown(&self) -> Fault {
        let method: String = self.method.chars().take(64).collect();
        Fault::not_found(format!("this server does not know the call {method:?}; upgrade the older side"))
    }
}

/// Calls and waits for the answer. Dropping the future cancels the call at the other end.
pub async fn call<Q, A>(link: &dyn Link, method: &str, body: &Q, deadline: Duration) -> Result<A, Fault>
where
    Q: Serialize + Sync + ?Sized,
    A: DeserializeOwned,
{
    try_call(link, method, body, deadline).await?
}

/// As [`call`], but tells a call that was lost on its way (the outer result) from one that was answered.
pub async fn try_call<Q, A>(
    link: &dyn Link,
    method: &str,
    body: &Q,
    deadline: Duration,
) -> Result<Reply<A>, Fault>
where
    Q: Serialize + Sync + ?Sized,
    A: DeserializeOwned,
{
    carry(link, &Call::new(method, body)?, deadline).await
}

/// A call whose body and answer are bytes in a form of their own.
pub async fn call_raw(
    link: &dyn Link,
    method: &str,
    body: Vec<u8>,
    deadline: Duration,
) -> Result<Raw, Fault> {
    carry(link, &Call { method: method.into(), body }, deadline).await?
}

async fn carry<A: DeserializeOwned>(
    link: &dyn Link,
    call: &Call,
    deadline: Duration,
) -> Result<Reply<A>, Fault> {
    within(link, &call.method, deadline, async {
        let mut stream = send(link, call).await?;
        receive(link, &call.method, &mut stream.read).await
    })
    .await
}

/// What `ask` brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    pub contents: Contents,
    pub known_leader: bool,
    pub last_contact_ms: u64,
    /// Records of kinds that this build does not know.
    pub skipped: usize,
}

/// Calls `ask` and puts the frames of the answer together. `deadline` is beside the wait that is asked for.
pub async fn ask(link: &dyn Link, question: &Ask, deadline: Duration) -> Result<Answer, Fault> {
    let call = Call::new(ASK, question)?;
    let deadline = deadline.saturating_add(Duration::from_millis(question.wait_ms));
    within(link, ASK, deadline, async {
        let mut stream = send(link, &call).await?;
        let mut asked: Asked = receive(link, ASK, &mut stream.read).await??;
        let mut answer = Answer::default();
        let mut bytes = 0;
        loop {
            bytes += asked.records.iter().map(super::Item::weight).sum::<usize>();
            if bytes > TOPIC_BYTES {
                return Err(our_fault(ASK, &FrameError::TooLong { length: bytes, limit: TOPIC_BYTES }));
            }
            let found = records(&asked.records).map_err(|e| our_fault(ASK, &e))?;
            answer.skipped += found.skipped;
            answer.contents.records.extend(found.records);
            if !asked.more {
                break;
            }
            asked = receive(link, ASK, &mut stream.read).await??;
        }
        answer.contents.revision = asked.revision;
        answer.known_leader = asked.known_leader;
        answer.last_contact_ms = asked.last_contact_ms;
        Ok(answer)
    })
    .await
}

/// Waits for `answer` so long, in words that name what was called and where.
pub(super) async fn within<A>(
    link: &dyn Link,
    method: &str,
    deadline: Duration,
    answer: impl Future<Output = Result<A, Fault>>,
) -> Result<A, Fault> {
    match timeout(deadline, answer).await {
        Ok(answer) => answer,
        Err(_) => {
            let ms = deadline.as_millis();
            Err(Fault::unavailable(format!("{} did not answer {method} within {ms} ms", link.remote())))
        }
    }
}

pub(super) async fn send(link: &dyn Link, call: &Call) -> Result<Stream, Fault> {
    let mut stream = link.open().await.map_err(|e| lost(link, &call.method, &e))?;
    frame::write(&mut stream.write, call).await.map_err(|e| failed(link, &call.method, &e))?;
    Ok(stream)
}

/// The outer result is of the way, the inner one is the answer.
pub(super) async fn receive<A: DeserializeOwned>(
    link: &dyn Link,
    method: &str,
    read: &mut ReadHalf,
) -> Result<Reply<A>, Fault> {
    match frame::read(read, limit::FRAME_BYTES).await {
        Ok(Some(reply)) => Ok(reply),
        Ok(None) => Err(lost(link, method, &"the stream ended before an answer")),
        Err(error) => Err(failed(link, method, &error)),
    }
}

fn failed(link: &dyn Link, method: &str, error: &FrameError) -> Fault {
    match error {
        FrameError::Io(_) | FrameError::Truncated => lost(link, method, error),
        other => our_fault(method, other),
    }
}

fn lost(link: &dyn Link, method: &str, why: &dyn Display) -> Fault {
    Fault::unavailable(format!("{method} to {} failed: {why}", link.remote()))
}

fn our_fault(method: &str, error: &FrameError) -> Fault {
    match error {
        FrameError::TooLong { .. } => Fault::new(FaultCode::TooLarge, format!("{method}: {error}")),
        other => Fault::internal(format!("{method}: {other}")),
    }
}

impl From<LinkError> for Fault {
    fn from(error: LinkError) -> Self {
        Self::unavailable(error.to_string())
    }
}

/// The call that a member's stream begins with. Reads no byte beyond it.
pub async fn read_call(stream: &mut Stream) -> Result<Call, FrameError> {
    read_call_within(stream, limit::FRAME_BYTES).await
}

/// As [`read_call`], with the small limit of one whom nobody vouches for.
pub async fn read_call_of_stranger(stream: &mut Stream) -> Result<Call, FrameError> {
    read_call_within(stream, STRANGER_CALL_BYTES).await
}

async fn read_call_within(stream: &mut Stream, limit: usize) -> Result<Call, FrameError> {
    let call = timeout(CALL_ARRIVES_WITHIN, frame::read(&mut stream.read, limit)).await;
    let call = call.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    call.ok_or(FrameError::Truncated)
}

/// The last word of a call: writes the answer and ends the stream. An answer over the limit becomes a fault.
pub async fn reply<T: Serialize + Sync>(stream: &mut Stream, reply: &Reply<T>) -> Result<(), FrameError> {
    let frame = match frame::encode(reply) {
        Err(error @ (FrameError::TooLong { .. } | FrameError::Unencodable(_))) => {
            frame::encode(&Reply::<()>::Err(our_fault("answer", &error)))?
        }
        encoded => encoded?,
    };
    frame::write_encoded(&mut stream.write, &frame).await?;
    finish(stream).await
}

/// Answers `ask`, in as many frames as it takes.
pub async fn reply_asked(stream: &mut Stream, asked: Reply<Asked>) -> Result<(), FrameError> {
    let whole = match asked {
        Err(fault) => return reply::<Asked>(stream, &Err(fault)).await,
        Ok(whole) => whole,
    };
    let head = Asked { records: Vec::new(), more: false, ..whole };
    let mut items = whole.records.into_iter().peekable();
    loop {
        let mut part = head.clone();
        let mut weight = 0;
        while let Some(item) = items.next_if(|item| weight == 0 || weight + item.weight() <= PIECE_BYTES) {
            weight += item.weight();
            part.records.push(item);
        }
        part.more = items.peek().is_some();
        frame::write(&mut stream.write, &Reply::Ok(&part)).await?;
        if !part.more {
            return finish(stream).await;
        }
    }
}

async fn finish(stream: &mut Stream) -> Result<(), FrameError> {
    tokio::io::AsyncWriteExt::shutdown(&mut stream.write).await?;
    Ok(())
}

/// Resolves when the caller gave up, which a long answer should be raced with. Cancel safe.
pub async fn cancelled(read: &mut ReadHalf) {
    let mut ignored = [0; 256];
    while let Ok(1..) = read.read(&mut ignored).await {}
}

#[cfg(test)]
mod tests;
