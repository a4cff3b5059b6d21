//! The replicated state of the mesh: a pure function of the log.
//!
//! Only `apply` changes it, and only the Raft folder calls `apply`. No clock, no randomness, no I/O: the same entries
//! give the same bytes on every server. A clone is cheap (the maps share structure), so that a snapshot or a reader
//! holds one while writing goes on. A command that is refused changes nothing but the table of requests.

mod adopt;
mod authority;
mod autopilot;
mod catalog;
mod certificate;
mod codec;
mod config;
mod entry;
mod event;
mod history;
mod intention;
mod kv;
mod level;
mod mesh;
mod node;
mod permission;
mod query;
mod read;
mod register;
mod request;
mod restore;
mod session;
mod token;
mod touch;
mod txn;
mod validate;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use purlin_model::command::{Command, Done, Envelope, Join, Outcome};
use purlin_model::kv::KvWrite;
use purlin_model::topic::Topic;
use purlin_model::{Fault, Millis, Revision};

pub(crate) use codec::HEADER_BYTES as STATE_HEADER_BYTES;
pub(crate) use kv::KvChange;
pub(crate) use restore::RESTORE_BYTES;
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
    kv: kv::Kv,
    events: event::Events,
    queries: query::Queries,
    sessions: session::Sessions,
    requests: request::Requests,
    touches: touch::Touches,
    history: history::History,
    restoring: restore::Restoring,
}

impl State {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Of the newest command that it holds; zero before the first.
    pub(crate) fn applied(&self) -> Revision {
        self.applied
    }

    /// When a record of `topic` last changed. A topic that nobody touched answers the floor.
    pub(crate) fn revision(&self, topic: &Topic) -> Revision {
        match topic {
            Topic::Kv(topic) => self.kv.revision(topic).max(self.touches.least()),
            // Nobody waits for these: they are read once, as the state then is.
            Topic::Txn(_) | Topic::At(_) => self.applied,
            topic => self.touches.revision(topic),
        }
    }

    /// Carries out the command at that position of the log. A repeated request returns what the first one did.
    pub(crate) fn apply(&mut self, index: Revision, envelope: &Envelope) -> (Outcome, Touched) {
        let revision = self.history.revision(index);
        self.applied = revision;
        self.restoring.forget_stale(envelope.at);
        self.touches.raise_floor();
        if let Some(first) = self.requests.get(envelope.request) {
            return (first.clone(), Touched { revision, ..Touched::default() });
        }
        let done = match &envelope.command {
            // It judges before it acts, so it needs no copy to work on.
            Command::Kv(write) => self.write_kv(revision, envelope.at, write).map(|(done, change)| {
                (done, Touched { revision, kv: change.into_iter().collect(), ..Touched::default() })
            }),
            command => self.apply_to_draft(revision, envelope.at, command),
        };
        let (result, touched) = match done {
            Ok((done, touched)) => (Ok(done), touched),
            Err(fault) => (Err(fault), Touched { revision, ..Touched::default() }),
        };
        // A restore may have gone on further than the log did.
        let outcome = Outcome { revision: touched.revision, result };
        self.requests.remember(envelope.request, outcome.clone());
        (outcome, touched)
    }

    fn apply_to_draft(
        &mut self,
        revision: Revision,
        at: Millis,
        command: &Command,
    ) -> Result<(Done, Touched), Fault> {
        let mut draft = self.draft(revision, at);
        let done = draft.carry_out(command)?;
        let Draft { state, revision, touched, kv, all, .. } = draft;
        let keys: Vec<_> = touched.into_iter().collect();
        *self = state;
        self.touches.record(revision, keys.iter().map(|(topic, _)| topic));
        Ok((done, Touched { revision, keys, kv, all }))
    }

    fn draft(&self, revision: Revision, at: Millis) -> Draft {
        Draft { state: self.clone(), revision, at, touched: BTreeSet::new(), kv: Vec::new(), all: false }
    }

    fn write_kv(
        &mut self,
        revision: Revision,
        at: Millis,
        write: &KvWrite,
    ) -> Result<(Done, Option<KvChange>), Fault> {
        if let KvWrite::Lock(put, session) = write {
            if self.sessions.get(session).is_none() {
                return Err(Fault::invalid(format!("invalid session \"{session}\"")));
            }
            if self.sessions.is_delayed(&put.key, at) {
                return Ok((Done::CasFailed, None));
            }
        }
        self.kv.write(revision, write)
    }
}

impl State {
    /// What a join would be answered now, without a place in the log: a stranger costs nothing until it has a token.
    pub(crate) fn would_join(&self, join: &Join, at: Millis) -> Result<(), Fault> {
        let mut draft = self.draft(self.applied, at);
        draft.join(join).map(|_| ())
    }
}

/// A copy of the state that one command works on, kept only if the command succeeds.
#[derive(Clone)]
struct Draft {
    state: State,
    revision: Revision,
    /// The leader's clock when it proposed.
    at: Millis,
    touched: BTreeSet<(Topic, String)>,
    kv: Vec<KvChange>,
    /// The state was replaced as a whole.
    all: bool,
}

impl Draft {
    fn touch(&mut self, topic: Topic, key: impl Into<String>) {
        self.touched.insert((topic, key.into()));
    }

    fn write_kv(&mut self, write: &KvWrite) -> Result<Done, Fault> {
        let (done, change) = self.state.write_kv(self.revision, self.at, write)?;
        self.kv.extend(change);
        Ok(done)
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
            Command::SealRootKey(sealed) => self.seal_root_key(sealed),
            Command::AddRoot { root, sealed_root_key } => self.add_root(root, sealed_root_key),
            Command::ActivateRoot { id } => self.activate_root(id),
            Command::RemoveRoot { id } => self.remove_root(id),
            Command::RevokeAuthorities { sha256 } => self.revoke_authorities(sha256),
            Command::SetCaConfig(config) => self.set_ca_config(config),
            Command::Join(join) => self.join(join),
            Command::AnnounceNode(node) => self.announce_node(node),
            Command::SetNodeStatus { node, status } => self.set_node_status(node, *status),
            Command::RemoveNode { node } => self.remove_node(node),
            Command::ReleaseNode { node } => self.release_node(node),
            Command::ReapNode { node } => self.reap_node(node),
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
            Command::Kv(write) => self.write_kv(write),
            Command::PutAutopilot { config, cas } => self.put_autopilot(config, *cas),
            Command::PutVoters { leader, voters } => self.put_voters(leader, voters),
            Command::ForgetServer { node } => self.drop_server(node),
            Command::Restore(restore) => self.restore(restore),
            Command::FireEvent(event) => self.fire_event(event),
            Command::PutQuery { query, create } => self.put_query(query, *create),
            Command::DeleteQuery { id } => self.delete_query(*id),
            Command::Session(write) => self.write_session(write),
            Command::Txn(txn) => self.txn(txn),
        }
    }
}
