//! What became of the last requests, so that a repeat acts once. Bounded by count: the oldest are forgotten.

use imbl::{OrdMap, Vector};
use purlin_model::command::{Outcome, RequestId};

/// Requests that are remembered.
pub(super) const REQUESTS: usize = 10_000;

#[derive(Debug, Clone, Default)]
pub(super) struct Requests {
    outcomes: OrdMap<RequestId, Outcome>,
    /// Oldest first.
    order: Vector<RequestId>,
}

impl Requests {
    pub(super) fn get(&self, request: RequestId) -> Option<&Outcome> {
        self.outcomes.get(&request)
    }

    pub(super) fn remember(&mut self, request: RequestId, outcome: Outcome) {
        if self.outcomes.insert(request, outcome).is_none() {
            self.order.push_back(request);
        }
        while self.order.len() > REQUESTS {
            if let Some(oldest) = self.order.pop_front() {
                self.outcomes.remove(&oldest);
            }
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
    use purlin_model::command::Done;

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
}
