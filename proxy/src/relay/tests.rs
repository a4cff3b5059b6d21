use std::sync::Arc;

use purlin_model::{ServiceKey, ServiceName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::report::{Direction, Metrics, Reporter};

fn edge() -> Rc<Edge> {
    let key = |name| ServiceKey::new(ServiceName::new(name).unwrap());
    Reporter::new(Arc::new(Metrics::new(8)), 8).edge(&key("web"), &key("api"), Direction::Outbound)
}

/// The far ends of both connections, and the relay between.
async fn between<F: Future<Output = ()>>(
    size: usize,
    script: impl FnOnce(DuplexStream, DuplexStream) -> F,
) -> io::Result<()> {
    let (client, mut near) = duplex(size);
    let (server, mut far) = duplex(size);
    let (scratch, edge) = (Scratch::default(), edge());
    let (moved, ()) = tokio::join!(
        async {
            let moved = relay(&mut near, &mut far, &scratch, &edge).await;
            drop((near, far));
            moved
        },
        script(client, server)
    );
    moved
}

use std::future::Future;

#[tokio::test]
async fn more_than_fits_anywhere_arrives_whole() {
    let sent: Vec<u8> = (0..500_000u32).map(|at| (at % 251) as u8).collect();
    let expected = sent.clone();
    let moved = between(1000, |mut client, mut server| async move {
        let send = async {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "thanks");
        };
        let receive = async {
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.unwrap();
            assert!(got == expected);
            server.write_all(b"thanks").await.unwrap();
            server.shutdown().await.unwrap();
        };
        tokio::join!(send, receive);
    });
    moved.await.unwrap();
}

#[tokio::test]
async fn a_direction_that_ended_leaves_the_other_open() {
    let moved = between(64, |mut client, mut server| async move {
        server.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
        for _ in 0..3 {
            client.write_all(b"still").await.unwrap();
            let mut got = [0; 5];
            server.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"still");
        }
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
    });
    moved.await.unwrap();
}

#[tokio::test]
async fn an_end_that_is_gone_ends_the_relay() {
    let moved = between(64, |mut client, server| async move {
        drop(server);
        // The first bytes find nobody.
        let _ = client.write_all(&[0; 256]).await;
    });
    assert_eq!(moved.await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}
