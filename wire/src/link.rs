//! The seam between what is said and how it travels: a link carries streams between two authenticated ends.
//!
//! `quic` is the one between hosts, `memory` the one inside a process; TLS over TCP can become a third without a
//! change above this line.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use purlin_model::NodeName;
use purlin_model::identity::Identity;
use tokio::io::{AsyncRead, AsyncWrite};

pub type ReadHalf = Box<dyn AsyncRead + Send + Sync + Unpin>;
pub type WriteHalf = Box<dyn AsyncWrite + Send + Sync + Unpin>;

/// One call or one long conversation, both ways.
///
/// Dropping a half ends it: a dropped `write` reads as the end of the stream at the other end, after all that was
/// written; a dropped `read` fails the writes of the other end. So dropping the whole cancels what goes on there.
/// The other end sees a stream only once something was written to it.
pub struct Stream {
    pub read: ReadHalf,
    pub write: WriteHalf,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

/// Who is at the other end, as its certificate proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    Member {
        identity: Identity,
        /// SHA-256 of the certificate.
        certificate: [u8; 32],
        /// SHA-256 of the authority's certificate that signed it, which came with it.
        issuer: Option<[u8; 32]>,
    },
    /// No certificate: may ask to join and nothing else.
    Stranger,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum LinkError {
    #[error("cannot reach {address}: {why}")]
    Unreachable { address: String, why: String },
    /// The other end is not who it should be, or does not take us for who we are.
    #[error("{address} is not trusted: {why}")]
    Untrusted { address: String, why: String },
    #[error("the connection is closed: {0}")]
    Closed(String),
}

/// An authenticated connection. Both ends may open streams.
pub trait Link: Send + Sync + fmt::Debug + 'static {
    fn open(&self) -> BoxFuture<'_, Result<Stream, LinkError>>;
    /// The next stream that the other end opened. Cancel safe.
    fn accept(&self) -> BoxFuture<'_, Result<Stream, LinkError>>;
    fn peer(&self) -> &Peer;
    /// For logs: the other end's address.
    fn remote(&self) -> String;
    fn close(&self, reason: &str);
    /// Resolves when the link is no more, with the reason.
    fn closed(&self) -> BoxFuture<'_, String>;
}

/// Makes links to any server of the mesh, the last good one first. Owned by an agent's uplink.
pub trait Connector: Send + Sync + fmt::Debug + 'static {
    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Link>, LinkError>>;
    /// A link to any server but the one at this address, beside the link that is there.
    fn elsewhere<'a>(&'a self, not: &'a str) -> BoxFuture<'a, Result<Arc<dyn Link>, LinkError>> {
        let address = format!("any server but {not}");
        Box::pin(async move { Err(LinkError::Unreachable { address, why: "no other is known".into() }) })
    }
    /// What is known of where servers are, told by a server; kept for the next start.
    fn learn(&self, servers: Vec<String>);
}

/// Makes links to one server that is meant, and to no other.
pub trait Dial: Send + Sync + fmt::Debug + 'static {
    /// `address`: `host:port`.
    fn dial<'a>(
        &'a self,
        server: &'a NodeName,
        address: &'a str,
    ) -> BoxFuture<'a, Result<Arc<dyn Link>, LinkError>>;
}
