//! A DNS question over UDP, answered as text like `dig +noall +answer`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::Name;
pub(crate) use hickory_proto::rr::RecordType;
use tokio::net::UdpSocket;

const TIMEOUT: Duration = Duration::from_secs(3);

/// The answer section, a record a line; empty for no such name.
pub(crate) async fn ask(server: SocketAddr, name: &str, kind: RecordType) -> anyhow::Result<Vec<String>> {
    let mut question = Message::new(fastrand::u16(..), MessageType::Query, OpCode::Query);
    question.add_query(Query::query(Name::from_ascii(format!("{name}."))?, kind));
    question.metadata.recursion_desired = true;
    let socket = UdpSocket::bind((server.ip(), 0)).await?;
    socket.connect(server).await?;
    socket.send(&question.to_vec()?).await?;
    let mut buffer = vec![0; 4096];
    let count = tokio::time::timeout(TIMEOUT, socket.recv(&mut buffer))
        .await
        .with_context(|| format!("no answer from {server} within {TIMEOUT:?}"))??;
    let answer = Message::from_vec(&buffer[..count])?;
    Ok(answer.answers.iter().map(ToString::to_string).collect())
}
