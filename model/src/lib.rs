//! Nouns and laws of the mesh: what things are and which rules hold between them.
//!
//! No clock, no I/O, no async: a function here gets all it needs as arguments, so that the same law holds on a
//! server, on an agent and in a test. Everything that is stored or sent is built from these types.

pub mod autopilot;
pub mod blob;
pub mod check;
pub mod command;
pub mod config_entry;
pub mod definition;
pub mod duration;
pub mod event;
pub mod fault;
pub mod history;
pub mod identity;
pub mod intention;
pub mod kv;
pub mod limit;
pub mod name;
pub mod node;
pub mod pattern;
pub mod query;
pub mod revision;
pub mod service;
pub mod session;
pub mod topic;
pub mod txn;
pub mod view;

pub use blob::Blob;
pub use fault::{Fault, FaultCode};
pub use history::HistoryId;
pub use name::{CheckId, Datacenter, InstanceId, Namespace, NodeId, NodeName, ServiceKey, ServiceName};
pub use revision::{Millis, Revision};
pub use session::SessionId;
