//! The replicated state of the mesh: a pure function of the log.
//!
//! Only `apply` changes it, and only the Raft folder calls `apply`. No clock, no randomness, no I/O: the same entries
//! give the same bytes on every server. A clone is cheap (the maps share structure), so that a snapshot or a reader
//! holds one while writing goes on. A command that is refused changes nothing but the table of requests.

mod catalog;
mod certificate;
mod codec;
mod config;
mod entry;
mod intention;
mod level;
mod mesh;
mod node;
mod permission;
mod read;
mod register;
mod request;
mod token;
mod touch;
mod validate;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use purlin_model::command::{Command, Done, Envelope, Join, Outcome};
use purlin_model::topic::Topic;
use purlin_model::{Fault, Millis, Revision};

pub(crate) use touch::Touched;

/// See the module. Its parts are tables of one subject each.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// Of the last command that was applied.
    applied: Revision,
    catalog: catalog::Catalog,
    entries: entry::Entries,
    tokens: token::Tokens,
    mesh: mesh::MeshTable,
    certificates: certificate::Certificates,
    requests: request::Requests,
    touches: touch::Touches,
}

impl State {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The log position of the newest command that it holds; zero before the first.
    pub(crate) fn applied(&self) -> Revision {
        self.applied
    }

    /// When a record of `topic` last changed. A topic that nobody touched answers the floor.
    pub(crate) fn revision(&self, topic: &Topic) -> Revision {
        self.touches.revision(topic)
    }

    /// Carries out one command of the log. A repeated request returns what the first one did.
    pub(crate) fn apply(&mut self, revision: Revision, envelope: &Envelope) -> (Outcome, Touched) {
        self.applied = revision;
        self.touches.raise_floor();
        if let Some(first) = self.requests.get(envelope.request) {
            return (first.clone(), Touched { revision, keys: Vec::new() });
        }
        let mut draft = Draft { state: self.clone(), revision, at: envelope.at, touched: BTreeSet::new() };
        let result = draft.carry_out(&envelope.command);
        let mut keys = Vec::new();
        if result.is_ok() {
            keys.extend(draft.touched);
            *self = draft.state;
            self.touches.record(revision, keys.iter().map(|(topic, _)| topic));
        }
        let outcome = Outcome { revision, result };
        self.requests.remember(envelope.request, outcome.clone());
        (outcome, Touched { revision, keys })
    }
}

impl State {
    /// What a join would be answered now, without a place in the log: a stranger costs nothing until it has a token.
    pub(crate) fn would_join(&self, join: &Join, at: Millis) -> Result<(), Fault> {
        let mut draft = Draft { state: self.clone(), revision: self.applied, at, touched: BTreeSet::new() };
        draft.join(join).map(|_| ())
    }
}

/// A copy of the state that one command works on, kept only if the command succeeds.
struct Draft {
    state: State,
    revision: Revision,
    /// The leader's clock when it proposed.
    at: Millis,
    touched: BTreeSet<(Topic, String)>,
}

impl Draft {
    fn touch(&mut self, topic: Topic, key: impl Into<String>) {
        self.touched.insert((topic, key.into()));
    }

    fn carry_out(&mut self, command: &Command) -> Result<Done, Fault> {
        match command {
            Command::CreateMesh(create) => self.create_mesh(create),
            Command::UpdateMesh { default_intention, leaf_ttl_ms } => {
                self.update_mesh(*default_intention, *leaf_ttl_ms)
            }
            Command::PutIntermediate { node, certificate_pem } => {
                self.put_intermediate(node, certificate_pem)
            }
            Command::RecordCertificate { node, sha256, not_after } => {
                self.record_certificate(node, sha256, *not_after)
            }
            Command::AnnounceServer(server) => self.announce_server(server),
            Command::Join(join) => self.join(join),
            Command::AnnounceNode(node) => self.announce_node(node),
            Command::SetNodeStatus { node, status } => self.set_node_status(node, *status),
            Command::RemoveNode { node } => self.remove_node(node),
            Command::Register(register) => self.register(register),
            Command::Deregister(deregister) => self.deregister(deregister),
            Command::PutConfig { entry, cas } => self.put_config(entry, *cas),
            Command::DeleteConfig { kind, name, cas } => self.delete_config(*kind, name, *cas),
            Command::PutIntention { destination, destination_namespace, source } => {
                self.put_intention(destination, destination_namespace, source)
            }
            Command::DeleteIntention { source, destination } => self.delete_intention(source, destination),
            Command::CreateJoinToken(token) => self.create_token(token),
            Command::RevokeJoinToken { id } => self.revoke_token(id),
        }
    }
}
