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
