//! The state as bytes, for snapshots: exact, versioned, and refused when anything in them is not understood.
//!
//! Only the tables are written, in their order; the indices are rebuilt. Equal states have equal bytes.

use std::io::{self, Read, Write};
use std::sync::Arc;

use imbl::OrdMap;
use purlin_model::Revision;
use purlin_model::check::Check;
use purlin_model::command::{LEVEL, Outcome, RequestId};
use purlin_model::node::Node;
use purlin_model::query::PreparedQuery;
use purlin_model::service::Instance;
use serde::{Deserialize, Serialize};

use super::State;
use super::catalog::{Catalog, Host};
use super::certificate::Certificates;
use super::entry::Entries;
use super::event::Events;
use super::history::History;
use super::kv::{Kv, StoredKv};
use super::mesh::MeshTable;
use super::query::Queries;
use super::request::Requests;
use super::restore::Restoring;
use super::session::{Sessions, StoredSessions};
use super::token::Tokens;
use super::touch::Touches;

const MAGIC: &[u8; 8] = b"PURLINST";
/// Of the frame around the body, not of what is in it: that is the command level.
const FORMAT: u16 = 1;
pub(crate) const HEADER_BYTES: usize = MAGIC.len() + 2 + 2;

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
    LeftOver(u64),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredHost {
    pub(super) node: Arc<Node>,
    pub(super) instances: Vec<Arc<Instance>>,
    pub(super) checks: Vec<Arc<Check>>,
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
    #[serde(default, skip_serializing_if = "Events::is_empty")]
    events: Events,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    queries: Vec<Arc<PreparedQuery>>,
    requests: Vec<(RequestId, Outcome)>,
    touches: Touches,
    #[serde(default, skip_serializing_if = "StoredKv::is_empty")]
    kv: StoredKv,
    #[serde(default, skip_serializing_if = "History::is_first")]
    history: History,
    #[serde(default, skip_serializing_if = "Restoring::is_idle")]
    restoring: Restoring,
    #[serde(default, skip_serializing_if = "StoredSessions::is_empty")]
    sessions: StoredSessions,
}

impl State {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 * 1024);
        // Writing to memory cannot fail, and every type here can be written: a golden test holds that. Were it
        // otherwise, no snapshot is better than a wrong one: who makes snapshots takes this panic for a failure.
        if let Err(why) = self.encode_into(&mut bytes) {
            panic!("the state cannot be encoded: {why}");
        }
        bytes
    }

    /// As `encode`, piece by piece. An error is the writer's.
    pub(crate) fn encode_into(&self, out: &mut impl Write) -> io::Result<()> {
        let stored = Stored {
            applied: self.applied,
            hosts: self.catalog.hosts.values().map(|host| store(host)).collect(),
            entries: self.entries.clone(),
            tokens: self.tokens.clone(),
            mesh: self.mesh.clone(),
            certificates: self.certificates.clone(),
            events: self.events.clone(),
            queries: self.queries.iter().cloned().collect(),
            requests: self.requests.to_list(),
            touches: self.touches.clone(),
            kv: self.kv.store(),
            history: self.history.clone(),
            restoring: self.restoring.clone(),
            sessions: self.sessions.store(),
        };
        out.write_all(MAGIC)?;
        out.write_all(&FORMAT.to_be_bytes())?;
        // What the mesh never used is not in it, so a server of that level can read it.
        out.write_all(&self.level().to_be_bytes())?;
        rmp_serde::encode::write_named(out, &stored).map_err(io::Error::other)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_from(&mut { bytes })
    }

    /// Reads to the end: what is left over is an error.
    pub(crate) fn decode_from(input: &mut impl Read) -> Result<Self, DecodeError> {
        let mut header = [0; HEADER_BYTES];
        input.read_exact(&mut header).map_err(|_| DecodeError::NotASnapshot)?;
        let [magic @ .., f0, f1, l0, l1] = header;
        if magic != *MAGIC {
            return Err(DecodeError::NotASnapshot);
        }
        let (format, level) = (u16::from_be_bytes([f0, f1]), u16::from_be_bytes([l0, l1]));
        if format != FORMAT || level > LEVEL {
            return Err(DecodeError::TooNew { format, level });
        }
        let stored: Stored = rmp_serde::decode::from_read(&mut *input)?;
        match io::copy(input, &mut io::sink()) {
            Ok(0) => {}
            Ok(left) => return Err(DecodeError::LeftOver(left)),
            Err(error) => return Err(rmp_serde::decode::Error::InvalidDataRead(error).into()),
        }
        Ok(Self {
            applied: stored.applied,
            catalog: index(stored.hosts),
            entries: stored.entries,
            tokens: stored.tokens,
            mesh: stored.mesh,
            certificates: stored.certificates,
            events: stored.events,
            queries: Queries::load(stored.queries),
            requests: Requests::from_list(stored.requests),
            touches: stored.touches,
            kv: Kv::load(stored.kv),
            history: stored.history,
            restoring: stored.restoring,
            sessions: Sessions::load(stored.sessions),
        })
    }
}

pub(super) fn store(host: &Host) -> StoredHost {
    StoredHost {
        node: host.node.clone(),
        instances: host.instances.values().cloned().collect(),
        checks: host.checks.values().cloned().collect(),
    }
}

pub(super) fn index(hosts: impl IntoIterator<Item = StoredHost>) -> Catalog {
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
