//! The state as bytes, for snapshots: exact, versioned, and refused when anything in them is not understood.
//!
//! Only the tables are written, in their order; the indices are rebuilt. Equal states have equal bytes.

use std::sync::Arc;

use imbl::OrdMap;
use purlin_model::Revision;
use purlin_model::check::Check;
use purlin_model::command::{LEVEL, Outcome, RequestId};
use purlin_model::node::Node;
use purlin_model::service::Instance;
use serde::{Deserialize, Serialize};

use super::State;
use super::catalog::{Catalog, Host};
use super::certificate::Certificates;
use super::entry::Entries;
use super::kv::{Kv, StoredKv};
use super::mesh::MeshTable;
use super::request::Requests;
use super::token::Tokens;
use super::touch::Touches;

const MAGIC: &[u8; 8] = b"PURLINST";
/// Of the frame around the body, not of what is in it: that is the command level.
const FORMAT: u16 = 1;
const HEADER_BYTES: usize = MAGIC.len() + 2 + 2;

#[derive(Debug, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("it is not a snapshot of a mesh")]
    NotASnapshot,
    #[error(
        "it has format {format} and level {level}, this build knows {FORMAT} and {LEVEL}: use a newer build"
    )]
    TooNew { format: u16, level: u16 },
    #[error("it cannot be read: {0}")]
    Broken(#[from] rmp_serde::decode::Error),
    #[error("{0} bytes are left over after it")]
    LeftOver(usize),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredHost {
    node: Arc<Node>,
    instances: Vec<Arc<Instance>>,
    checks: Vec<Arc<Check>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    applied: Revision,
    hosts: Vec<StoredHost>,
    entries: Entries,
    tokens: Tokens,
    mesh: MeshTable,
    certificates: Certificates,
    requests: Vec<(RequestId, Outcome)>,
    touches: Touches,
    #[serde(default, skip_serializing_if = "StoredKv::is_empty")]
    kv: StoredKv,
}

impl State {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let stored = Stored {
            applied: self.applied,
            hosts: self.catalog.hosts.values().map(|host| store(host)).collect(),
            entries: self.entries.clone(),
            tokens: self.tokens.clone(),
            mesh: self.mesh.clone(),
            certificates: self.certificates.clone(),
            requests: self.requests.to_list(),
            touches: self.touches.clone(),
            kv: self.kv.store(),
        };
        let mut bytes = Vec::with_capacity(64 * 1024);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_be_bytes());
        // What the mesh never used is not in it, so a server of that level can read it.
        bytes.extend_from_slice(&self.level().to_be_bytes());
        // Writing to memory cannot fail, and every type here can be written: a golden test holds that. Were it
        // otherwise, no snapshot is better than a wrong one: who makes snapshots takes this panic for a failure.
        if let Err(why) = rmp_serde::encode::write_named(&mut bytes, &stored) {
            panic!("the state cannot be encoded: {why}");
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(DecodeError::NotASnapshot)?;
        let (format, rest) = rest.split_first_chunk::<2>().ok_or(DecodeError::NotASnapshot)?;
        let (level, mut rest) = rest.split_first_chunk::<2>().ok_or(DecodeError::NotASnapshot)?;
        if magic != MAGIC {
            return Err(DecodeError::NotASnapshot);
        }
        let (format, level) = (u16::from_be_bytes(*format), u16::from_be_bytes(*level));
        if format != FORMAT || level > LEVEL {
            return Err(DecodeError::TooNew { format, level });
        }
        debug_assert_eq!(bytes.len() - rest.len(), HEADER_BYTES);
        let stored: Stored = rmp_serde::decode::from_read(&mut rest)?;
        if !rest.is_empty() {
            return Err(DecodeError::LeftOver(rest.len()));
        }
        Ok(Self {
            applied: stored.applied,
            catalog: index(stored.hosts),
            entries: stored.entries,
            tokens: stored.tokens,
            mesh: stored.mesh,
            certificates: stored.certificates,
            requests: Requests::from_list(stored.requests),
            touches: stored.touches,
            kv: Kv::load(stored.kv),
        })
    }
}

fn store(host: &Host) -> StoredHost {
    StoredHost {
        node: host.node.clone(),
        instances: host.instances.values().cloned().collect(),
        checks: host.checks.values().cloned().collect(),
    }
}

fn index(hosts: Vec<StoredHost>) -> Catalog {
    let mut catalog = Catalog::default();
    for stored in hosts {
        let name = stored.node.name.clone();
        if let Some(id) = stored.node.id {
            catalog.by_id.insert(id, name.clone());
        }
        let mut host = Host::new(stored.node);
        host.instances =
            stored.instances.iter().map(|one| (one.id.clone(), one.clone())).collect::<OrdMap<_, _>>();
        for instance in &stored.instances {
            catalog.count_instance(&name, instance);
        }
        for check in stored.checks {
            host.insert_check(check);
        }
        catalog.hosts.insert(name, Arc::new(host));
    }
    catalog
}
