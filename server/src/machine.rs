//! The state as Raft drives it.

use purlin_model::Revision;
use purlin_model::command::{Envelope, Outcome};

use crate::raft::Machine;
use crate::state::{State, Touched};

impl Machine for State {
    type Touched = Touched;

    fn apply(&mut self, revision: Revision, envelope: &Envelope) -> (Outcome, Touched) {
        Self::apply(self, revision, envelope)
    }

    fn encode(&self) -> Vec<u8> {
        Self::encode(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        Self::decode(bytes).map_err(|why| why.to_string())
    }
}
