//! Clients that send too much, or never end.

use purlin_model::limit;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::host::Host;

#[tokio::test]
async fn a_body_that_is_told_to_be_too_large_is_refused_unseen() {
    let host = Host::start().await;
    let mut client = host.connect().await;
    let head = format!(
        "PUT /v1/agent/service/register HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        limit::API_BODY_BYTES + 1
    );
    client.write_all(head.as_bytes()).await.unwrap();
    let mut start = [0; 12];
    client.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");
}

/// A client that sends first and looks for the answer after: it must not find a broken connection.
#[tokio::test]
async fn who_is_refused_while_sending_still_hears_why() {
    let host = Host::start().await;
    for (path, length, said) in [
        ("/v1/kv/large", 8 << 20, "HTTP/1.1 413"),
        ("/v1/kv/elsewhere?dc=none", 400 << 10, "HTTP/1.1 500"),
        ("/v1/snapshot", 8 << 20, "HTTP/1.1 404"),
    ] {
        let mut client = host.connect().await;
        let head = format!("PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&vec![b'x'; length]).await.unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut start = [0; 12];
        client.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, said.as_bytes(), "{path}");
    }
}
