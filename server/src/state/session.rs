//! Sessions, the checks that they hang on, and the delays that they leave on the keys they held.
//!
//! Whatever ends a session (its checks, its host, its maker, its time) lets its keys go in the same step,
//! and takes the prepared queries along that were bound to it.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use purlin_model::check::Status;
use purlin_model::command::Done;
use purlin_model::kv::Key;
use purlin_model::session::{LOCK_DELAY_MAX, Session, SessionWrite};
use purlin_model::topic::Topic;
use purlin_model::{CheckId, Fault, FaultCode, Millis, NodeName, SessionId, limit};
use serde::{Deserialize, Serialize};

use super::Draft;

/// Keys that nobody may lock yet. Each goes after a minute at most; the soonest go first when there are too many.
pub(super) const DELAYS: usize = 100_000;

#[derive(Debug, Clone, Default)]
pub(super) struct Sessions {
    by_id: OrdMap<SessionId, Arc<Session>>,
    by_node: OrdMap<NodeName, OrdSet<SessionId>>,
    by_check: OrdMap<(NodeName, CheckId), OrdSet<SessionId>>,
    delays: Delays,
}

/// Until when, by the leader's clock.
#[derive(Debug, Clone, Default)]
struct Delays {
    until: OrdMap<Key, Millis>,
    order: OrdSet<(Millis, Key)>,
}

impl Delays {
    fn put(&mut self, key: Key, until: Millis, now: Millis) {
        self.lift(&key);
        self.order.insert((until, key.clone()));
        self.until.insert(key, until);
        while let Some((end, key)) = self.order.get_min().cloned() {
            if end > now && self.until.len() <= DELAYS {
                break;
            }
            self.lift(&key);
        }
    }

    fn lift(&mut self, key: &Key) {
        if let Some(until) = self.until.remove(key) {
            self.order.remove(&(until, key.clone()));
        }
    }
}

fn add<K: Ord + Clone>(index: &mut OrdMap<K, OrdSet<SessionId>>, key: K, id: &SessionId) {
    index.entry(key).or_default().insert(id.clone());
}

fn take<K: Ord + Clone>(index: &mut OrdMap<K, OrdSet<SessionId>>, key: &K, id: &SessionId) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}

fn checks(session: &Session) -> impl Iterator<Item = &CheckId> {
    session.node_checks.iter().chain(&session.service_checks)
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn delays(&self) -> usize {
        self.delays.until.len()
    }

    pub(super) fn get(&self, id: &SessionId) -> Option<&Arc<Session>> {
        self.by_id.get(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.by_id.values()
    }

    pub(super) fn of_node<'a>(&'a self, node: &NodeName) -> impl Iterator<Item = &'a Arc<Session>> {
        self.by_node.get(node).into_iter().flatten().filter_map(|id| self.by_id.get(id))
    }

    fn of_check(&self, node: &NodeName, check: &CheckId) -> Vec<SessionId> {
        if self.by_check.is_empty() {
            return Vec::new();
        }
        let ids = self.by_check.get(&(node.clone(), check.clone()));
        ids.into_iter().flatten().cloned().collect()
    }

    /// Whether the one who held the key before may still be at work.
    pub(super) fn is_delayed(&self, key: &Key, now: Millis) -> bool {
        self.delays.until.get(key).is_some_and(|until| *until > now)
    }

    fn insert(&mut self, session: Arc<Session>) {
        add(&mut self.by_node, session.node.clone(), &session.id);
        for check in checks(&session) {
            add(&mut self.by_check, (session.node.clone(), check.clone()), &session.id);
        }
        self.by_id.insert(session.id.clone(), session);
    }

    fn remove(&mut self, id: &SessionId) -> Option<Arc<Session>> {
        let session = self.by_id.remove(id)?;
        take(&mut self.by_node, &session.node, id);
        for check in checks(&session) {
            take(&mut self.by_check, &(session.node.clone(), check.clone()), id);
        }
        Some(session)
    }
}

impl Draft {
    pub(super) fn write_session(&mut self, write: &SessionWrite) -> Result<Done, Fault> {
        match write {
            SessionWrite::Create(session) => self.create_session(session),
            SessionWrite::Destroy(id) => Ok(Done::Deleted { existed: self.end_session(id) }),
            SessionWrite::Renew(id) => match self.state.sessions.get(id) {
                Some(_) => Ok(Done::Yes),
                None => Err(Fault::not_found(format!("Session id '{id}' not found"))),
            },
        }
    }

    fn create_session(&mut self, session: &Session) -> Result<Done, Fault> {
        session.check()?;
        if self.state.sessions.get(&session.id).is_some() {
            return Err(Fault::conflict(format!("there is a session {} already", session.id)));
        }
        if self.state.sessions.len() >= limit::SESSIONS {
            let text = format!("there are {} sessions, which is all that there may be", limit::SESSIONS);
            return Err(Fault::new(FaultCode::Busy, text));
        }
        let Some(host) = self.host(&session.node).cloned() else {
            return Err(Fault::invalid("Missing node registration"));
        };
        for id in checks(session) {
            match host.checks.get(id) {
                None => return Err(Fault::invalid(format!("Missing check '{id}' registration"))),
                Some(check) if check.status == Status::Critical => {
                    return Err(Fault::invalid(format!("Check '{id}' is in critical state")));
                }
                Some(_) => {}
            }
        }
        let session = Session { create_index: self.revision, modify_index: self.revision, ..session.clone() };
        self.touch_session(&session);
        self.state.sessions.insert(Arc::new(session));
        Ok(Done::Yes)
    }

    /// Whether there was one.
    pub(super) fn end_session(&mut self, id: &SessionId) -> bool {
        let Some(session) = self.state.sessions.remove(id) else { return false };
        self.touch_session(&session);
        let changes = self.state.kv.end_session(self.revision, id, session.behavior);
        let delay = session.lock_delay.min(LOCK_DELAY_MAX);
        for key in changes {
            if !delay.is_zero() {
                self.state.sessions.delays.put(key.clone(), self.at.plus(delay), self.at);
            }
            self.kv.push(super::KvChange::Key(key));
        }
        self.delete_queries_of(id);
        true
    }

    pub(super) fn end_sessions_of_check(&mut self, node: &NodeName, check: &CheckId) {
        for id in self.state.sessions.of_check(node, check) {
            self.end_session(&id);
        }
    }

    pub(super) fn end_sessions_of_node(&mut self, node: &NodeName) {
        let ids: Vec<SessionId> = self.state.sessions.of_node(node).map(|one| one.id.clone()).collect();
        for id in ids {
            self.end_session(&id);
        }
    }

    fn touch_session(&mut self, session: &Session) {
        let id = session.id.as_str();
        self.touch(Topic::Sessions(None), id);
        self.touch(Topic::Sessions(Some(session.node.clone())), id);
        self.touch(Topic::Session(session.id.clone()), id);
    }
}

/// As it lies in a snapshot.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredSessions {
    sessions: Vec<Arc<Session>>,
    delays: Vec<(Key, Millis)>,
}

impl StoredSessions {
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.delays.is_empty()
    }
}

impl Sessions {
    pub(super) fn store(&self) -> StoredSessions {
        StoredSessions {
            sessions: self.by_id.values().cloned().collect(),
            delays: self.delays.until.iter().map(|(key, until)| (key.clone(), *until)).collect(),
        }
    }

    pub(super) fn load(stored: StoredSessions) -> Self {
        let mut sessions = Self::default();
        for session in stored.sessions {
            sessions.insert(session);
        }
        for (key, until) in stored.delays {
            sessions.delays.put(key, until, Millis(0));
        }
        sessions
    }
}
