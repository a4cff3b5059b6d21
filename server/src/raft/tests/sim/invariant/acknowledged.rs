//! No write is lost that somebody was told was done: its request is what was applied where it was said to be.

use std::collections::BTreeMap;
use std::sync::Mutex;

use purlin_model::Revision;
use purlin_model::command::RequestId;

use super::prefix::Prefix;

#[derive(Default)]
pub(super) struct Acknowledged {
    writes: Mutex<BTreeMap<Revision, RequestId>>,
}

impl Acknowledged {
    pub(super) fn note(&self, request: RequestId, revision: Revision) {
        self.writes.lock().unwrap().insert(revision, request);
    }

    pub(super) fn check(&self, prefix: &Prefix) -> Result<(), String> {
        for (revision, request) in self.writes.lock().unwrap().iter() {
            let there = prefix.request(*revision);
            if there != Some(*request) {
                return Err(format!(
                    "an acknowledged write is lost: {} was acknowledged at {revision}, where {there:?} is now",
                    request.0
                ));
            }
        }
        Ok(())
    }
}
