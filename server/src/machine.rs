//! The state as Raft drives it.

use std::io::{self, Read, Write};

use purlin_model::Revision;
use purlin_model::command::{Envelope, Outcome};

use crate::raft::Machine;
use crate::state::{State, Touched};

impl Machine for State {
    type Touched = Touched;

    fn apply(&mut self, revision: Revision, envelope: &Envelope) -> (Outcome, Touched) {
        Self::apply(self, revision, envelope)
    }

    fn revision(&self, index: Revision) -> Revision {
        Self::revision_at(self, index)
    }

    fn encode(&self) -> Vec<u8> {
        Self::encode(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        Self::decode(bytes).map_err(|why| why.to_string())
    }

    fn encode_into(&self, mut out: &mut dyn Write) -> io::Result<()> {
        Self::encode_into(self, &mut out)
    }

    fn decode_from(mut input: &mut dyn Read) -> Result<Self, String> {
        Self::decode_from(&mut input).map_err(|why| why.to_string())
    }
}
