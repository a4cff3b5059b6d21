//! What became of the last requests, so that a repeat acts once. Bounded by count: the oldest are forgotten.

use imbl::{OrdMap, Vector};
use purlin_model::command::{Done, Outcome, RequestId};
use purlin_model::txn::TxnResult;

/// Requests that are remembered, and what their outcomes may take: those of transactions hold what was read.
pub(super) const REQUESTS: usize = 10_000;
const BYTES: usize = 16 * 1024 * 1024;
/// About what something of the catalog takes.
const CATALOG_BYTES: usize = 2 * 1024;

#[derive(Debug, Clone, Default)]
pub(super) struct Requests {
    outcomes: OrdMap<RequestId, Outcome>,
    /// Oldest first.
    order: Vector<RequestId>,
    /// Of the results of transactions.
    bytes: usize,
}

fn weight(outcome: &Outcome) -> usize {
    let Ok(Done::Txn(done)) = &outcome.result else { return 0 };
    let value = |result: &TxnResult| match result {
        TxnResult::Kv(entry) => entry.key.len() + entry.value.len(),
        _ => CATALOG_BYTES,
    };
    done.results.iter().map(value).sum()
}

impl Requests {
    pub(super) fn get(&self, request: RequestId) -> Option<&Outcome> {
        self.outcomes.get(&request)
    }

    pub(super) fn remember(&mut self, request: RequestId, outcome: Outcome) {
        self.bytes += weight(&outcome);
        match self.outcomes.insert(request, outcome) {
            None => self.order.push_back(request),
            Some(before) => self.bytes = self.bytes.saturating_sub(weight(&before)),
        }
        while self.order.len() > REQUESTS || (self.bytes > BYTES && self.order.len() > 1) {
            let oldest = self.order.pop_front().and_then(|oldest| self.outcomes.remove(&oldest));
            self.bytes = self.bytes.saturating_sub(oldest.as_ref().map_or(0, weight));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Oldest first, for a snapshot.
    pub(super) fn to_list(&self) -> Vec<(RequestId, Outcome)> {
        let outcome = |id: &RequestId| self.outcomes.get(id).map(|outcome| (*id, outcome.clone()));
        self.order.iter().filter_map(outcome).collect()
    }

    pub(super) fn from_list(list: Vec<(RequestId, Outcome)>) -> Self {
        let mut requests = Self::default();
        for (id, outcome) in list {
            requests.remember(id, outcome);
        }
        requests
    }
}

#[cfg(test)]
mod tests {
    use purlin_model::Revision;
    use purlin_model::kv::KvEntry;
    use purlin_model::txn::TxnDone;

    use super::*;

    #[test]
    fn the_oldest_are_forgotten_at_the_limit() {
        let id = |n: usize| RequestId(uuid::Uuid::from_u128(n as u128));
        let mut requests = Requests::default();
        for n in 0..=REQUESTS {
            requests.remember(id(n), Outcome { revision: Revision(n as u64), result: Ok(Done::Yes) });
        }
        assert!(requests.get(id(0)).is_none());
        assert_eq!(requests.get(id(1)).map(|o| o.revision), Some(Revision(1)));
        assert_eq!(requests.outcomes.len(), REQUESTS);
        let again = Requests::from_list(requests.to_list());
        assert_eq!(again.to_list(), requests.to_list());
    }

    #[test]
    fn what_transactions_read_is_remembered_up_to_so_many_bytes() {
        let id = |n: usize| RequestId(uuid::Uuid::from_u128(n as u128));
        let entry = KvEntry {
            key: "k".into(),
            value: vec![0; 1024 * 1024 - 1].into(),
            flags: 0,
            lock_index: 0,
            session: None,
            create_index: Revision(1),
            modify_index: Revision(1),
        };
        let done = TxnDone { results: vec![TxnResult::Kv(entry)], errors: Vec::new() };
        let outcome = Outcome { revision: Revision(1), result: Ok(Done::Txn(Box::new(done))) };
        let mut requests = Requests::default();
        for n in 0..=BYTES / (1024 * 1024) {
            requests.remember(id(n), outcome.clone());
        }
        assert!(requests.get(id(0)).is_none() && requests.get(id(1)).is_some());
        assert_eq!((requests.len(), requests.bytes), (16, BYTES));
        assert_eq!(Requests::from_list(requests.to_list()).bytes, BYTES);
    }
}
