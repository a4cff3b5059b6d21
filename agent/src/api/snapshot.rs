//! `/v1/snapshot`: the whole state of the mesh as a file, and back.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use purlin_model::Revision;
use purlin_wire::rpc::{Consistency, SnapshotRestored};
use tokio::time::timeout;
use tracing::warn;

use super::Api;
use super::answer::{Answer, Content, Failure};
use super::linger::linger;
use super::read::{Mode, Source};
use super::request::Request;

/// Its body is not held in memory.
pub(super) const PATH: &str = "/v1/snapshot";
/// For the client to send the next piece.
const PIECE_TIME: Duration = Duration::from_secs(30);

/// `GET snapshot`: from the leader, confirmed by a majority; with `?stale` from whichever server is asked.
pub(super) async fn save(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let mode = Mode::of(&request.query, 0.0)?;
    let consistency = match mode.consistency {
        Consistency::Stale => Consistency::Stale,
        Consistency::Default | Consistency::Consistent => Consistency::Consistent,
    };
    let saving = api.core.save_snapshot(consistency).await?;
    let saved = saving.saved;
    let source = Source {
        index: saved.revision.max(Revision(1)),
        known_leader: saved.known_leader,
        last_contact_ms: saved.last_contact_ms,
        server: Some(consistency),
        cached: false,
    };
    let pieces = stream::unfold(Some(saving), |saving| async move {
        let mut saving = saving?;
        match saving.next().await {
            Ok(Some(bytes)) => Some((Ok::<_, Infallible>(Frame::data(bytes)), Some(saving))),
            Ok(None) => None,
            // The length was told, so that the client sees that something is missing.
            Err(fault) => {
                warn!(%fault, "a snapshot was not sent whole");
                None
            }
        }
    });
    let mut answer = source.mark(Answer {
        status: StatusCode::OK,
        headers: vec![(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))],
        content: Content::Stream(StreamBody::new(Box::pin(pieces)).boxed_unsync()),
    });
    answer.headers.push((CONTENT_LENGTH, HeaderValue::from(saved.bytes)));
    Ok(answer)
}

/// `PUT snapshot`: the body is a file of `GET snapshot`. Answers when it is the state, with what an operator should know.
pub(super) async fn restore(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let Some(mut body) = request.upload.take() else {
        return Err(Failure::invalid("the body must be a snapshot"));
    };
    let restored = match feed(api, &mut body).await {
        Ok(restored) => restored,
        Err(failure) => {
            linger(body, &request.headers);
            return Err(failure);
        }
    };
    api.core.visible(restored.revision).await;
    let answer =
        if restored.notes.is_empty() { Answer::empty() } else { Answer::text(restored.notes.join("\n")) };
    Ok(answer.header("x-consul-index", restored.revision.0.to_string()))
}

async fn feed(api: &Api, body: &mut Incoming) -> Result<SnapshotRestored, Failure> {
    let mut restoring = api.core.restore_snapshot(body.size_hint().exact()).await?;
    loop {
        let piece = timeout(PIECE_TIME, body.frame()).await.map_err(|_| {
            let text = format!("the snapshot did not arrive within {} s", PIECE_TIME.as_secs());
            Failure::new(StatusCode::REQUEST_TIMEOUT, text)
        })?;
        let Some(piece) = piece else { break };
        let piece = piece.map_err(|error| {
            Failure::invalid(format!("the snapshot did not arrive whole, nothing was changed: {error}"))
        })?;
        let bytes: Bytes = piece.into_data().unwrap_or_default();
        restoring.send(bytes).await?;
    }
    Ok(restoring.finish().await?)
}
