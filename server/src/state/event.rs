//! User events: the newest of them, in the order in which they were fired.

use std::sync::Arc;

use imbl::Vector;
use purlin_model::command::Done;
use purlin_model::event::UserEvent;
use purlin_model::topic::Topic;
use purlin_model::{Fault, limit};
use serde::{Deserialize, Serialize};

use super::Draft;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Events {
    /// Oldest first.
    ring: Vector<Arc<UserEvent>>,
    /// Events fired so far; that of the newest.
    fired: u64,
}

impl Events {
    pub(super) fn is_empty(&self) -> bool {
        self.fired == 0
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &UserEvent> {
        self.ring.iter().map(AsRef::as_ref)
    }

    pub(super) fn get(&self, key: &str) -> Option<&UserEvent> {
        self.iter().find(|event| event.key() == key)
    }
}

impl Draft {
    pub(super) fn fire_event(&mut self, event: &UserEvent) -> Result<Done, Fault> {
        event.check()?;
        let events = &mut self.state.events;
        if events.iter().any(|known| known.id == event.id) {
            return Err(Fault::conflict(format!("user event {} was fired before", event.id)));
        }
        events.fired += 1;
        let event = UserEvent { ltime: events.fired, ..event.clone() };
        let mut keys = vec![event.key()];
        events.ring.push_back(Arc::new(event));
        while events.ring.len() > limit::EVENTS {
            keys.extend(events.ring.pop_front().map(|oldest| oldest.key()));
        }
        for key in keys {
            self.touch(Topic::Events, key);
        }
        Ok(Done::Yes)
    }
}
