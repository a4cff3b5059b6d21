//! The links over which hosts have their sessions here: to ask an agent something, or to send it on to another server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use purlin_model::NodeName;
use purlin_wire::link::Link;
use tokio::sync::Notify;

/// One for each host with a session; the newest where it has two.
#[derive(Debug, Default)]
pub(crate) struct Doors(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    doors: HashMap<NodeName, (u64, Door)>,
    next: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) link: Arc<dyn Link>,
    /// Rung when the host should look for another server.
    pub(crate) moves: Arc<Notify>,
}

/// Held as long as the session is; dropping it closes the door.
pub(crate) struct OpenDoor<'a> {
    doors: &'a Doors,
    node: NodeName,
    id: u64,
    pub(crate) moves: Arc<Notify>,
}

impl Doors {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn open(&self, node: &NodeName, link: Arc<dyn Link>) -> OpenDoor<'_> {
        let moves = Arc::new(Notify::new());
        let mut inner = self.lock();
        inner.next += 1;
        let id = inner.next;
        inner.doors.insert(node.clone(), (id, Door { link, moves: moves.clone() }));
        OpenDoor { doors: self, node: node.clone(), id, moves }
    }

    pub(crate) fn link(&self, node: &NodeName) -> Option<Arc<dyn Link>> {
        self.lock().doors.get(node).map(|(_, door)| door.link.clone())
    }

    /// Asks so many hosts, but not `own`, to look for another server; drawn by chance.
    pub(crate) fn move_some(&self, count: usize, own: &NodeName) {
        let inner = self.lock();
        let others = inner.doors.iter().filter(|(node, _)| *node != own).map(|(_, (_, door))| door);
        for door in fastrand::choose_multiple(others, count) {
            door.moves.notify_one();
        }
    }
}

impl Drop for OpenDoor<'_> {
    fn drop(&mut self) {
        let mut inner = self.doors.lock();
        if inner.doors.get(&self.node).is_some_and(|(id, _)| *id == self.id) {
            inner.doors.remove(&self.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use purlin_wire::link::Peer;
    use purlin_wire::memory::pair;

    use super::*;

    #[tokio::test]
    async fn the_newest_door_of_a_host_counts_and_an_older_one_does_not_close_it() {
        let doors = Doors::default();
        let node = NodeName::new("a").unwrap();
        let (first, _far) = pair(Peer::Stranger, Peer::Stranger);
        let (second, _other) = pair(Peer::Stranger, Peer::Stranger);
        let old = doors.open(&node, first);
        let new = doors.open(&node, second.clone());
        drop(old);
        assert!(doors.link(&node).is_some_and(|link| Arc::ptr_eq(&link, &second)));
        doors.move_some(5, &NodeName::new("own").unwrap());
        new.moves.notified().await;
        drop(new);
        assert!(doors.link(&node).is_none());
    }
}
