//! A QUIC connection as a link.

use futures_util::future::BoxFuture;
use quinn::{Connection, RecvStream, SendStream};

use super::server::Visit;
use super::{CLOSED, error};
use crate::link::{Link, LinkError, Peer, Stream};

#[derive(Debug)]
pub(super) struct QuicLink {
    connection: Connection,
    peer: Peer,
    remote: String,
    /// Held for its drop.
    _visit: Option<Visit>,
}

impl QuicLink {
    pub(super) fn new(connection: Connection, peer: Peer, remote: String) -> Self {
        Self { connection, peer, remote, _visit: None }
    }

    /// Of one who joins: its place is free again when the link is dropped.
    pub(super) fn visiting(self, visit: Option<Visit>) -> Self {
        Self { _visit: visit, ..self }
    }
}

fn stream((write, read): (SendStream, RecvStream)) -> Stream {
    Stream { read: Box::new(read), write: Box::new(write) }
}

fn closed(reason: &quinn::ConnectionError) -> LinkError {
    LinkError::Closed(error::ended(reason))
}

impl Link for QuicLink {
    fn open(&self) -> BoxFuture<'_, Result<Stream, LinkError>> {
        Box::pin(async { self.connection.open_bi().await.map(stream).map_err(|e| closed(&e)) })
    }

    fn accept(&self) -> BoxFuture<'_, Result<Stream, LinkError>> {
        Box::pin(async { self.connection.accept_bi().await.map(stream).map_err(|e| closed(&e)) })
    }

    fn peer(&self) -> &Peer {
        &self.peer
    }

    fn remote(&self) -> String {
        self.remote.clone()
    }

    fn close(&self, reason: &str) {
        self.connection.close(CLOSED, reason.as_bytes());
    }

    fn closed(&self) -> BoxFuture<'_, String> {
        Box::pin(async { error::ended(&self.connection.closed().await) })
    }
}
