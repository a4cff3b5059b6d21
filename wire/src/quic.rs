//! QUIC between hosts: mutual TLS among members, and a door for those who join.
//!
//! One connection is one link, one stream one call. A connection counts as made only when the server welcomed it,
//! because in TLS 1.3 a client is done before the server has looked at the client's certificate.

mod client;
mod error;
mod link;
mod probe;
mod server;
mod socket;

use std::sync::Arc;
use std::time::Duration;

use quinn::{IdleTimeout, TransportConfig, VarInt};

pub use client::{QuicConnector, QuicDialer, join_link};
pub use probe::{Alive, ProbeEndpoint};
pub use server::{BindError, QuicServer};

/// A connection over which nothing is heard for so long is lost.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an idle connection shows that it lives; also keeps bindings of NATs open.
pub const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// For one server to answer and welcome us.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// Streams that the other end may have open.
const MEMBER_STREAMS: u32 = 1024;
const STRANGER_STREAMS: u32 = 2;
/// Bytes that may be on their way and not yet read, of a stream and of a connection.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
const IDLE_TIMEOUT_MS: u32 = 5_000;

const _: () = assert!(IDLE_TIMEOUT.as_millis() == IDLE_TIMEOUT_MS as u128);

/// Why one end closed a connection, beside the text.
const CLOSED: VarInt = VarInt::from_u32(0);
const REFUSED: VarInt = VarInt::from_u32(1);

/// The one byte that a server says on a stream of its own when it takes a connection.
const WELCOME: u8 = 1;

/// `uni`: streams one way that the other end may open; a client lets the server open the one for its welcome.
fn transport(uni: u32) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(MEMBER_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(uni))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .datagram_receive_buffer_size(None);
    Arc::new(config)
}

#[cfg(test)]
mod tests;
