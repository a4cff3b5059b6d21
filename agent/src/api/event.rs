//! `/v1/event`: user events, fired into the log and listed as they concern this host.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use purlin_model::command::Command;
use purlin_model::event::{Filter, UserEvent};
use purlin_model::topic::{Contents, Record, Topic};
use serde_json::Value;
use uuid::Uuid;

use super::Api;
use super::answer::{Answer, Failure};
use super::members::write;
use super::read::{Mode, filtered, view_source};
use super::request::Request;
use super::shape::{self, schema};
use crate::registry::LocalState;

/// `PUT event/fire/:name?node=…&service=…&tag=…`, the payload as body.
pub(super) async fn fire(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let text = |name: &str| request.query.get(name).unwrap_or_default().to_owned();
    let event = UserEvent {
        id: Uuid::new_v4(),
        name: request.parameter(0).to_owned(),
        payload: request.body.to_vec(),
        node_filter: text("node"),
        service_filter: text("service"),
        tag_filter: text("tag"),
        ltime: 0,
    };
    event.check()?;
    let shape = shape::event::event(&event);
    write(api, request, Command::FireEvent(event)).await?;
    Ok(Answer::json(shape))
}

/// `event/fire/` without a name.
pub(super) async fn nameless(_api: &Api, _request: &Request) -> Result<Answer, Failure> {
    Err(Failure::invalid("Missing name"))
}

/// `GET event/list?name=…&node=…&service=…&tag=…`, oldest first. `?index` waits until the newest is another one: the
/// index is made of its id and does not rise.
pub(super) async fn list(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let text = |name: &str| request.query.get(name).unwrap_or_default();
    let wanted = Filter::parse(text("node"), text("service"), text("tag"))?;
    let name = request.query.filled("name");
    let mode = Mode::of(&request.query, fastrand::f64())?;
    let deadline = Instant::now() + mode.wait;
    let mut contents = api.core.contents(&Topic::Events).await?;
    loop {
        let local = api.core.registry().local();
        let node = api.core.config().node_name.as_str();
        let here = concerns(&wanted, node, &local);
        let events = api.deliveries.of(&contents, node, &local);
        let events: Vec<&UserEvent> =
            events.into_iter().filter(|event| here && name.is_none_or(|name| event.name == name)).collect();
        let index = events.last().map_or(1, |event| event.index().max(1));
        let left = deadline.saturating_duration_since(Instant::now());
        if index != mode.after.0 || left.is_zero() {
            let shapes: Vec<Value> = events.into_iter().map(shape::event::event).collect();
            let answer = filtered(request, schema::event, shapes)?;
            return Ok(view_source(api, &[], mode.cached).at(index).json(answer.into()));
        }
        let revision = contents.revision;
        contents = api.core.wait_past(&Topic::Events, revision, left).await?;
    }
}

fn concerns(filter: &Filter, node: &str, local: &LocalState) -> bool {
    filter.concerns(
        node,
        local.services.iter().map(|(id, service)| {
            let instance = &service.instance;
            ([id.as_str(), instance.name.as_str()], instance.tags.as_slice())
        }),
    )
}

/// Which events concern this host, judged once for each event and each set of services.
#[derive(Debug, Default)]
pub(super) struct Deliveries(Mutex<Verdicts>);

#[derive(Debug, Default)]
struct Verdicts {
    /// The services that they were found with.
    definitions: u64,
    of: BTreeMap<Uuid, bool>,
}

impl Deliveries {
    /// The events that concern this host, in the order in which they were fired.
    fn of<'a>(&self, contents: &'a Contents, node: &str, local: &LocalState) -> Vec<&'a UserEvent> {
        let mut verdicts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if verdicts.definitions != local.definitions {
            *verdicts = Verdicts { definitions: local.definitions, of: BTreeMap::new() };
        }
        let mut now = BTreeMap::new();
        let mut found = Vec::new();
        for record in contents.records.values() {
            let Record::Event(event) = record else { continue };
            let verdict = verdicts.of.get(&event.id).copied().unwrap_or_else(|| {
                // One that cannot be understood was not checked by the server that took it: nobody's.
                Filter::parse(&event.node_filter, &event.service_filter, &event.tag_filter)
                    .is_ok_and(|filter| concerns(&filter, node, local))
            });
            now.insert(event.id, verdict);
            if verdict {
                found.push(event);
            }
        }
        verdicts.of = now;
        found
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use purlin_model::{InstanceId, Revision};
    use serde_json::json;

    use super::*;
    use crate::registry::{LocalService, Origin};

    fn local(definitions: u64, services: &[&str]) -> LocalState {
        let mut local = LocalState { definitions, ..LocalState::default() };
        for name in services {
            let instance = serde_json::from_value(json!({"id": name, "name": name, "tags": ["v1"]})).unwrap();
            let service = LocalService { instance: Arc::new(instance), origin: Origin::Api };
            local.services.insert(InstanceId::new(name).unwrap(), Arc::new(service));
        }
        local
    }

    #[test]
    fn a_host_is_told_what_concerns_it_and_what_it_runs_now() {
        let event = |ltime, node: &str, service: &str| UserEvent {
            id: Uuid::from_u128(u128::from(ltime)),
            name: format!("e{ltime}"),
            node_filter: node.into(),
            service_filter: service.into(),
            ltime,
            ..UserEvent::default()
        };
        // An order that is not that of the ids.
        let events = [event(10, "", ""), event(9, "^h1$", ""), event(11, "^h2$", ""), event(12, "", "web")];
        let records = events.map(|event| (event.key(), Record::Event(event))).into();
        let contents = Contents { revision: Revision(1), records };
        let deliveries = Deliveries::default();
        let names = |local: &LocalState| -> Vec<String> {
            deliveries.of(&contents, "h1", local).iter().map(|event| event.name.clone()).collect()
        };
        assert_eq!(names(&local(1, &[])), ["e9", "e10"]);
        assert_eq!(names(&local(1, &[])), ["e9", "e10"]);
        assert_eq!(names(&local(2, &["web"])), ["e9", "e10", "e12"]);
        assert_eq!(names(&local(3, &["db"])), ["e9", "e10"]);
    }
}
