//! Handshakes under way: so many and no more. Who fills all places with connections that say nothing keeps nobody out,
//! because the newest takes the place of the oldest: a handshake takes milliseconds, one that waits is not missed.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use tokio::sync::Notify;

/// The places of one worker, the oldest first.
#[derive(Default)]
pub(crate) struct Slots(RefCell<VecDeque<Weak<Notify>>>);

/// A place among them, until dropped.
pub(super) struct Slot(Rc<Notify>);

impl Slots {
    /// A place, if need be that of the oldest.
    pub(super) fn take(&self, most: usize) -> Slot {
        let mut places = self.0.borrow_mut();
        if places.len() >= most.max(1) {
            places.retain(|place| place.strong_count() > 0);
        }
        while places.len() >= most.max(1) {
            if let Some(oldest) = places.pop_front().and_then(|place| place.upgrade()) {
                oldest.notify_one();
            }
        }
        let place = Rc::new(Notify::new());
        places.push_back(Rc::downgrade(&place));
        Slot(place)
    }
}

impl Slot {
    /// Resolves when another took the place.
    pub(super) async fn lost(&self) {
        self.0.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn is_lost(slot: &Slot) -> bool {
        slot.lost().now_or_never().is_some()
    }

    #[test]
    fn the_newest_takes_the_place_of_the_oldest() {
        let slots = Slots::default();
        let (first, second) = (slots.take(2), slots.take(2));
        let third = slots.take(2);
        assert_eq!([&first, &second, &third].map(is_lost), [true, false, false]);
    }

    #[test]
    fn a_place_that_was_given_back_is_taken_before_one_in_use() {
        let slots = Slots::default();
        let (first, second) = (slots.take(2), slots.take(2));
        drop(second);
        let third = slots.take(2);
        assert_eq!([&first, &third].map(is_lost), [false, false]);
        assert_eq!(slots.0.borrow().len(), 2);
    }
}
