//! A client that is refused while it still sends must find the answer, not a broken connection: what it sends is taken
//! for a while, and dropped.

use std::time::Duration;

use http::HeaderMap;
use http::header::EXPECT;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout, timeout_at};

/// How much is taken: most clients have then sent all.
const BYTES: u64 = 64 << 20;
/// How long it may take altogether, and between two pieces.
const TIME: Duration = Duration::from_secs(30);
const PIECE_TIME: Duration = Duration::from_secs(5);

/// Takes the rest of a body whose request is being refused. A client that asked first sends nothing.
pub(super) fn linger(body: Incoming, headers: &HeaderMap) {
    if !hyper::body::Body::is_end_stream(&body) && !headers.contains_key(EXPECT) {
        tokio::spawn(timeout_at(Instant::now() + TIME, take(body)));
    }
}

async fn take(mut body: Incoming) {
    let mut left = BYTES;
    while let Ok(Some(Ok(piece))) = timeout(PIECE_TIME, body.frame()).await {
        let bytes = piece.data_ref().map_or(0, bytes::Bytes::len);
        let Some(rest) = left.checked_sub(bytes as u64) else { return };
        left = rest;
    }
}
