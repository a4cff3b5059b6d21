//! A small machine, and servers in one process, for the tests of this folder.

mod cluster;
mod codec;
mod damage;
mod kit;
mod log;
mod members;
mod power_cut;
mod recover;
mod restart;
pub(super) mod sim;
mod single;
mod snapshot;
mod space;
mod suite;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use purlin_model::command::{Actor, Command, Done, Envelope, FIRST_LEVEL, Outcome, RequestId};
use purlin_model::{Millis, Revision};

use super::machine::Machine;
use super::network::Alone;
use super::{RaftHandle, RaftOptions, StartError};

/// Remembers which text was said where in the log. The command that carries a text is one of the model's smallest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub said: Arc<BTreeMap<String, u64>>,
}

impl Machine for Ledger {
    type Touched = String;

    fn apply(&mut self, revision: Revision, envelope: &Envelope) -> (Outcome, String) {
        let Command::RevokeJoinToken { id } = &envelope.command else { panic!("not a text") };
        assert_ne!(id, "panic", "as told");
        Arc::make_mut(&mut self.said).insert(id.clone(), revision.0);
        (Outcome { revision, result: Ok(Done::Yes) }, id.clone())
    }

    fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(&*self.said).unwrap()
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let said: BTreeMap<String, u64> = rmp_serde::from_slice(bytes).map_err(|e| e.to_string())?;
        Ok(Self { said: Arc::new(said) })
    }
}

pub(crate) fn say(text: &str) -> Envelope {
    Envelope {
        level: FIRST_LEVEL,
        request: RequestId(uuid::Uuid::new_v4()),
        actor: Actor::default(),
        at: Millis(1),
        command: Command::RevokeJoinToken { id: text.to_owned() },
    }
}

/// A server of its own in `dir`, not yet initialized.
pub(crate) async fn start(dir: &Path) -> Result<RaftHandle<Ledger>, StartError> {
    start_with(RaftOptions::new(dir, 1, "one", "127.0.0.1:1")).await
}

pub(crate) async fn start_with(options: RaftOptions) -> Result<RaftHandle<Ledger>, StartError> {
    RaftHandle::start(options, Ledger::default(), Arc::new(Alone), Arc::new(())).await
}

/// A runtime that ends with all its tasks when it is dropped, as a killed process does.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
