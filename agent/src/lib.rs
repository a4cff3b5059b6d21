//! One agent a host: speaks for its services, checks them, answers DNS and the HTTP API, steers the proxy.
//!
//! Everything that a host answers comes from memory, fed by one session to the servers and kept on disk, so that it
//! goes on answering when no server can be reached.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod agent;
pub mod anti_entropy;
pub mod api;
pub mod check;
pub mod clock;
pub mod config;
pub mod core;
pub mod dns;
pub mod filter;
pub mod join;
pub mod metrics;
pub mod mirror;
pub mod proxy_port;
pub mod reconcile;
pub mod registry;
pub mod session;
pub mod store;
#[cfg(test)]
pub(crate) mod testing;
pub mod uplink;
pub mod view;
pub mod workload;
