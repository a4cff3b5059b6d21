//! Bytes between processes: TLS and QUIC, frames and their codec, the link and its in-memory twin, and the messages
//! that servers, agents and proxies say to each other. Knows the nouns of `model`; decides nothing about them.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod file;
pub mod frame;
pub mod link;
pub mod local;
pub mod memory;
pub mod node_store;
pub mod quic;
pub mod rpc;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tls;
pub mod token;
