//! Prepared queries: made, replaced and deleted; names stand for one query each.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use purlin_model::command::Done;
use purlin_model::query::PreparedQuery;
use purlin_model::topic::Topic;
use purlin_model::{Fault, FaultCode, SessionId, limit};
use uuid::Uuid;

use super::{Draft, validate};

#[derive(Debug, Clone, Default)]
pub(super) struct Queries {
    by_id: OrdMap<Uuid, Arc<PreparedQuery>>,
    /// A session, and a query that goes with it.
    of_session: OrdSet<(Uuid, Uuid)>,
}

impl Queries {
    pub(super) fn load(stored: Vec<Arc<PreparedQuery>>) -> Self {
        let mut queries = Self::default();
        stored.into_iter().for_each(|query| queries.insert(query));
        queries
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn get(&self, id: Uuid) -> Option<&Arc<PreparedQuery>> {
        self.by_id.get(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<PreparedQuery>> {
        self.by_id.values()
    }

    pub(super) fn insert(&mut self, query: Arc<PreparedQuery>) {
        self.remove(query.id);
        if let Some(session) = query.session {
            self.of_session.insert((session, query.id));
        }
        self.by_id.insert(query.id, query);
    }

    fn remove(&mut self, id: Uuid) -> bool {
        let Some(old) = self.by_id.remove(&id) else { return false };
        if let Some(session) = old.session {
            self.of_session.remove(&(session, id));
        }
        true
    }

    fn of_session(&self, session: Uuid) -> Vec<Uuid> {
        self.of_session.range((session, Uuid::nil())..=(session, Uuid::max())).map(|(_, id)| *id).collect()
    }
}

impl Draft {
    pub(super) fn put_query(&mut self, query: &PreparedQuery, create: bool) -> Result<Done, Fault> {
        query.check()?;
        let bytes = validate::encoded_bytes(query)?;
        if bytes > limit::QUERY_BYTES {
            return Err(Fault::new(
                FaultCode::TooLarge,
                format!("the prepared query has {bytes} bytes, at most {} are allowed", limit::QUERY_BYTES),
            ));
        }
        let old = self.state.queries.get(query.id).cloned();
        match (&old, create) {
            (Some(_), true) => return Err(Fault::conflict(format!("prepared query {} exists", query.id))),
            (None, false) => return Err(unknown(query.id)),
            (None, true) if self.state.queries.len() >= limit::QUERIES => {
                return Err(validate::too_many("prepared queries", limit::QUERIES + 1, limit::QUERIES));
            }
            _ => {}
        }
        self.check_name(query)?;
        if let Some(session) = query.session
            && self.state.sessions.get(&SessionId::new(&session.to_string())).is_none()
        {
            return Err(Fault::invalid(format!("invalid session '{session}'")));
        }
        let create_index = old.as_ref().map_or(self.revision, |old| old.create_index);
        let query = PreparedQuery { create_index, modify_index: self.revision, ..query.clone() };
        if !old.is_some_and(|old| old.same_content(&query)) {
            self.touch_query(query.id);
            self.state.queries.insert(Arc::new(query));
        }
        Ok(Done::Yes)
    }

    /// Nobody else has the name, nor is it the id of a query, whose place it would take.
    fn check_name(&self, query: &PreparedQuery) -> Result<(), Fault> {
        let name = &query.name;
        let others = || self.state.queries.iter().filter(|other| other.id != query.id);
        if name.is_empty() {
            if query.template.is_some()
                && others().any(|other| other.template.is_some() && other.name.is_empty())
            {
                return Err(Fault::conflict("a query template with an empty name already exists"));
            }
            return Ok(());
        }
        if others().any(|other| other.name.eq_ignore_ascii_case(name)) {
            return Err(Fault::conflict(format!("name '{name}' aliases an existing query name")));
        }
        if Uuid::try_parse(name).is_ok_and(|id| self.state.queries.get(id).is_some()) {
            return Err(Fault::conflict(format!("name '{name}' aliases an existing query ID")));
        }
        Ok(())
    }

    pub(super) fn delete_query(&mut self, id: Uuid) -> Result<Done, Fault> {
        if !self.state.queries.remove(id) {
            return Err(unknown(id));
        }
        self.touch_query(id);
        Ok(Done::Deleted { existed: true })
    }

    /// Those that were to live as long as the session that ended.
    pub(super) fn delete_queries_of(&mut self, session: &SessionId) {
        let Ok(session) = Uuid::try_parse(session.as_str()) else { return };
        for id in self.state.queries.of_session(session) {
            self.state.queries.remove(id);
            self.touch_query(id);
        }
    }

    fn touch_query(&mut self, id: Uuid) {
        self.touch(Topic::Queries(None), id.to_string());
        self.touch(Topic::Queries(Some(id)), id.to_string());
    }
}

fn unknown(id: Uuid) -> Fault {
    Fault::not_found(format!("Cannot modify non-existent prepared query: '{id}'"))
}
