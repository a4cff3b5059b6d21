use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use purlin_model::identity::Identity;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::{MemoryConnector, PENDING_STREAMS, PIPE_BYTES, pair, pair_with_faults};
use crate::link::{Connector, Link, LinkError, Peer, Stream};

fn peer(node: &str) -> Peer {
    let uri = format!("spiffe://a.mesh.internal/agent/client/dc/dc1/id/{node}");
    Peer::Member { identity: Identity::parse(&uri).unwrap(), certificate: [7; 32], issuer: None }
}

async fn streams(near: &Arc<dyn Link>, far: &Arc<dyn Link>) -> (Stream, Stream) {
    (near.open().await.unwrap(), far.accept().await.unwrap())
}

#[tokio::test]
async fn each_end_sees_who_the_other_is() {
    let (a, b) = pair(peer("a"), Peer::Stranger);
    assert_eq!(*a.peer(), Peer::Stranger);
    assert_eq!(*b.peer(), peer("a"));
}

#[tokio::test]
async fn both_ends_open_streams_and_bytes_go_both_ways() {
    let (a, b) = pair(peer("a"), peer("b"));
    for (near, far) in [(&a, &b), (&b, &a)] {
        let (mut here, mut there) = streams(near, far).await;
        here.write.write_all(b"ping").await.unwrap();
        there.write.write_all(b"pong").await.unwrap();
        here.write.shutdown().await.unwrap();
        drop(there.write);
        let (mut heard, mut answered) = (Vec::new(), Vec::new());
        there.read.read_to_end(&mut heard).await.unwrap();
        here.read.read_to_end(&mut answered).await.unwrap();
        assert_eq!((heard.as_slice(), answered.as_slice()), (&b"ping"[..], &b"pong"[..]));
    }
}

#[tokio::test]
async fn to_write_nothing_is_not_to_end() {
    let (a, b) = pair(peer("a"), peer("b"));
    let (mut here, mut there) = streams(&a, &b).await;
    assert_eq!(here.write.write(b"").await.unwrap(), 0);
    here.write.write_all(b"x").await.unwrap();
    assert_eq!(there.read.read(&mut [0; 8]).await.unwrap(), 1);
}

#[tokio::test]
async fn a_dropped_stream_ends_reads_and_fails_writes() {
    let (a, b) = pair(peer("a"), peer("b"));
    let (here, mut there) = streams(&a, &b).await;
    drop(here);
    assert_eq!(there.read.read(&mut [0; 8]).await.unwrap(), 0);
    assert!(there.write.write_all(b"x").await.is_err());
}

#[tokio::test]
async fn a_stream_that_is_not_read_holds_its_writer() {
    let (a, b) = pair(peer("a"), peer("b"));
    let (mut here, mut there) = streams(&a, &b).await;
    let more = vec![1; PIPE_BYTES + 1];
    let mut writing = Box::pin(async move {
        here.write.write_all(&more).await.unwrap();
        here
    });
    assert!(writing.as_mut().now_or_never().is_none());
    there.read.read_exact(&mut [0; 1]).await.unwrap();
    writing.await;
}

#[tokio::test]
async fn streams_that_nobody_accepts_are_bounded() {
    let (a, b) = pair(peer("a"), peer("b"));
    let mut open = Vec::new();
    for _ in 0..PENDING_STREAMS {
        open.push(a.open().await.unwrap());
    }
    assert!(a.open().now_or_never().is_none());
    b.accept().await.unwrap();
    assert!(a.open().now_or_never().is_some());
}

#[tokio::test]
async fn a_cut_fails_everything_at_once() {
    let (a, b, faults) = pair_with_faults(peer("a"), peer("b"));
    let (mut here, mut there) = streams(&a, &b).await;
    let mut byte = [0];
    let reading = there.read.read(&mut byte);
    let accepting = a.accept();
    faults.cut();
    assert!(reading.await.is_err());
    assert!(here.write.write_all(b"x").await.is_err());
    assert!(matches!(accepting.await, Err(LinkError::Closed(_))));
    assert!(matches!(b.open().await, Err(LinkError::Closed(_))));
    assert_eq!(a.closed().await, "the link was cut");
    assert_eq!(b.closed().await, "the link was cut");
}

#[tokio::test]
async fn closing_gives_the_first_reason_to_both() {
    let (a, b) = pair(peer("a"), peer("b"));
    a.close("done");
    b.close("too late");
    assert_eq!((a.closed().await, b.closed().await), ("done".to_owned(), "done".to_owned()));
}

#[tokio::test]
async fn a_link_ends_when_its_last_user_is_gone() {
    let (a, b) = pair(peer("a"), peer("b"));
    let (mut here, mut there) = streams(&a, &b).await;
    drop(a);
    here.write.write_all(b"x").await.unwrap();
    there.read.read_exact(&mut [0; 1]).await.unwrap();
    assert!(b.closed().now_or_never().is_none());
    drop(here);
    b.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_delay_holds_back_bytes_and_keeps_their_order() {
    let (a, b, faults) = pair_with_faults(peer("a"), peer("b"));
    let (mut here, mut there) = streams(&a, &b).await;
    faults.delay(Duration::from_millis(300));
    let before = Instant::now();
    here.write.write_all(b"one").await.unwrap();
    here.write.write_all(b"two").await.unwrap();
    let mut heard = [0; 6];
    there.read.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"onetwo");
    let passed = before.elapsed();
    assert!(passed >= Duration::from_millis(300) && passed < Duration::from_millis(400), "{passed:?}");
}

#[tokio::test]
async fn a_connector_hands_over_links_until_it_is_told_to_refuse() {
    let (connector, mut accepted) = MemoryConnector::new(peer("a"), peer("s"));
    let near = connector.connect().await.unwrap();
    let far = accepted.recv().await.unwrap();
    assert_eq!((near.peer(), far.peer()), (&peer("s"), &peer("a")));
    connector.refuse(true);
    assert!(matches!(connector.connect().await, Err(LinkError::Unreachable { .. })));
    connector.cut();
    near.closed().await;
    far.closed().await;
    connector.refuse(false);
    drop(accepted);
    assert!(matches!(connector.connect().await, Err(LinkError::Unreachable { .. })));
}
