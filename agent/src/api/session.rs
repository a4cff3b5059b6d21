//! `/v1/session`: what holds locks. Made and ended at the servers, and read there.

use std::time::Duration;

use purlin_model::check::NODE_ALIVE;
use purlin_model::command::{Command, Done};
use purlin_model::definition::reader::{Problems, Table};
use purlin_model::session::{Behavior, LOCK_DELAY_DEFAULT, Session, SessionWrite};
use purlin_model::topic::{Contents, Record, Topic};
use purlin_model::{CheckId, FaultCode, NodeName, Revision, SessionId, duration};
use purlin_wire::rpc::{Ask, Consistency};
use serde_json::{Value, json};

use super::Api;
use super::answer::{Answer, Failure};
use super::kv::refused;
use super::read::{asked, filtered};
use super::request::Request;
use super::shape::schema;

/// Below this a number is seconds, not Go's nanoseconds: people mean seconds.
const SECONDS_BELOW: u64 = 1_000;

/// `PUT session/create`
pub(super) async fn create(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let own = &api.core.config().node_name;
    let id = SessionId::new(&uuid::Uuid::new_v4().to_string());
    let session = parse(&request.json_or_empty()?, id.clone(), own)?;
    write(api, request, SessionWrite::Create(session)).await?;
    Ok(Answer::json(json!({"ID": id.as_str()})))
}

fn parse(body: &Value, id: SessionId, own: &NodeName) -> Result<Session, Failure> {
    let problems = Problems::default();
    let read = Table::open(body, "session", &problems).and_then(|table| {
        let node = match table.filled("Node").map(NodeName::new) {
            None => Some(own.clone()),
            Some(Ok(node)) => Some(node),
            Some(Err(why)) => {
                table.refuse("Node", why.to_string());
                None
            }
        };
        let behavior = Behavior::parse(&table.text("Behavior").unwrap_or_default());
        if behavior.is_none() {
            table.refuse("Behavior", "must be \"release\" or \"delete\"");
        }
        let node_checks = node_checks(&table);
        let service_checks = table.children("ServiceChecks");
        let service_checks = service_checks.iter().filter_map(|check| {
            check.only(&["Namespace"], "default");
            let id = check.filled("ID").and_then(|id| check_id(check, "ID", &id));
            check.finish();
            id
        });
        let session = Session {
            id,
            name: table.text("Name").unwrap_or_default(),
            node: node?,
            lock_delay: lock_delay(&table),
            behavior: behavior?,
            ttl: table.text("TTL").unwrap_or_default(),
            node_checks,
            service_checks: service_checks.collect(),
            create_index: Revision(0),
            modify_index: Revision(0),
        };
        table.ignore(&["ID", "CreateIndex", "ModifyIndex"]);
        table.only(&["Namespace", "Partition"], "default");
        table.finish();
        Some(session)
    });
    let (faults, _) = problems.into_parts();
    read.filter(|_| faults.is_empty()).ok_or_else(|| Failure::from(faults))
}

/// Those of the body, under the old name or the new; where it names none, the host's own heartbeat.
fn node_checks(table: &Table<'_>) -> Vec<CheckId> {
    let given = table.value("Checks").is_some() | table.value("NodeChecks").is_some();
    let ids = if given {
        [table.texts("Checks"), table.texts("NodeChecks")].concat()
    } else {
        vec![NODE_ALIVE.to_owned()]
    };
    ids.iter().filter_map(|id| check_id(table, "NodeChecks", id)).collect()
}

fn check_id(table: &Table<'_>, key: &'static str, id: &str) -> Option<CheckId> {
    CheckId::new(id).map_err(|why| table.refuse(key, why.to_string())).ok()
}

fn lock_delay(table: &Table<'_>) -> Duration {
    let delay = match table.value("LockDelay") {
        None => Some(LOCK_DELAY_DEFAULT),
        Some(Value::String(text)) => duration::parse(text).ok(),
        Some(value) => value.as_u64().or_else(|| whole(value)).map(|number| {
            if number < SECONDS_BELOW { Duration::from_secs(number) } else { Duration::from_nanos(number) }
        }),
    };
    delay.unwrap_or_else(|| {
        table.refuse("LockDelay", "must be a duration such as \"15s\", or a number of seconds");
        Duration::ZERO
    })
}

/// Languages without integers write 15.0.
fn whole(value: &Value) -> Option<u64> {
    value.as_f64().filter(|real| real.fract() == 0.0 && (0.0..9e15).contains(real)).map(|real| real as u64)
}

/// `PUT session/destroy/:id`: `true`, whether there was one or not.
pub(super) async fn destroy(api: &Api, request: &Request) -> Result<Answer, Failure> {
    write(api, request, SessionWrite::Destroy(id(request))).await?;
    Ok(Answer::json(true.into()))
}

/// `PUT session/renew/:id`: the session, whose time begins anew.
pub(super) async fn renew(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let id = id(request);
    let gone = || Failure::not_found(format!("Session id '{id}' not found"));
    let renewed = api.core.commit(session(SessionWrite::Renew(id.clone())), request.peer.uid()).await?;
    match renewed.result {
        Ok(_) => {}
        Err(fault) if fault.code == FaultCode::NotFound => return Err(gone()),
        Err(fault) => return Err(refused(fault)),
    }
    let topic = Topic::Session(id.clone());
    let ask = Ask { topic, consistency: Consistency::Default, after: Revision(0), wait_ms: 0 };
    let (contents, _) = api.core.ask(ask).await?;
    let shapes: Vec<Value> = sessions(&contents).map(shape).collect();
    if shapes.is_empty() { Err(gone()) } else { Ok(Answer::json(shapes.into())) }
}

/// `GET session/info/:id`: a list of one, or of none.
pub(super) async fn info(api: &Api, request: &Request) -> Result<Answer, Failure> {
    list_of(api, request, Topic::Session(id(request))).await
}

/// `GET session/node/:node`
pub(super) async fn of_node(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let node = NodeName::new(request.parameter(0)).map_err(|why| Failure::invalid(why.to_string()))?;
    list_of(api, request, Topic::Sessions(Some(node))).await
}

/// `GET session/list`
pub(super) async fn list(api: &Api, request: &Request) -> Result<Answer, Failure> {
    list_of(api, request, Topic::Sessions(None)).await
}

async fn list_of(api: &Api, request: &Request, topic: Topic) -> Result<Answer, Failure> {
    let ([contents], source) = asked(api, request, [topic]).await?;
    let shapes = sessions(&contents).map(shape).collect();
    Ok(source.json(filtered(request, schema::session, shapes)?.into()))
}

fn id(request: &Request) -> SessionId {
    SessionId::new(request.parameter(0))
}

fn session(write: SessionWrite) -> Command {
    Command::Session(write)
}

async fn write(api: &Api, request: &Request, write: SessionWrite) -> Result<Done, Failure> {
    let outcome = api.core.commit(session(write), request.peer.uid()).await?;
    outcome.result.map_err(refused)
}

fn sessions(contents: &Contents) -> impl Iterator<Item = &Session> {
    contents.records.values().filter_map(|record| match record {
        Record::Session(session) => Some(session),
        _ => None,
    })
}

/// Lists without content are null in Consul's answers.
fn shape(session: &Session) -> Value {
    let ids = |checks: &[CheckId], shape: fn(&CheckId) -> Value| match checks {
        [] => Value::Null,
        checks => checks.iter().map(shape).collect(),
    };
    json!({
        "ID": session.id.as_str(),
        "Name": session.name,
        "Node": session.node,
        "LockDelay": u64::try_from(session.lock_delay.as_nanos()).unwrap_or(u64::MAX),
        "Behavior": session.behavior.as_str(),
        "TTL": session.ttl,
        "NodeChecks": ids(&session.node_checks, |id| id.as_str().into()),
        "ServiceChecks": ids(&session.service_checks, |id| json!({"ID": id, "Namespace": ""})),
        "CreateIndex": session.create_index.0,
        "ModifyIndex": session.modify_index.0,
    })
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn read(body: Value) -> Result<Session, Failure> {
        parse(&body, SessionId::new("s"), &NodeName::new("host-1").unwrap())
    }

    #[test]
    fn an_empty_body_is_a_session_of_this_host() {
        let session = read(json!({})).unwrap();
        assert_eq!((session.node.as_str(), session.lock_delay), ("host-1", Duration::from_secs(15)));
        assert_eq!((session.behavior, session.ttl.as_str()), (Behavior::Release, ""));
        assert_eq!(shape(&session)["NodeChecks"], json!(["serfHealth"]));
        assert_eq!(shape(&session)["ServiceChecks"], Value::Null);
        assert_eq!(shape(&session)["LockDelay"], json!(15_000_000_000u64));
    }

    #[test]
    fn lock_delays_are_read_as_clients_write_them() {
        for (given, seconds) in [
            (json!("10s"), 10),
            (json!(10), 10),
            (json!(10_000_000_000u64), 10),
            (json!(0), 0),
            (json!(5.0), 5),
        ] {
            assert_eq!(read(json!({"lockdelay": given})).unwrap().lock_delay, Duration::from_secs(seconds));
        }
        for given in [json!("soon"), json!(-1), json!([1]), json!(1.5)] {
            assert!(read(json!({"LockDelay": given})).is_err(), "{given}");
        }
    }

    #[test]
    fn whoever_names_checks_has_no_others() {
        let ids = |body| {
            let session = read(body).unwrap();
            let names = |ids: &[CheckId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            (names(&session.node_checks), names(&session.service_checks))
        };
        assert_eq!(ids(json!({"Checks": ["a", "serfHealth"]})), ("a,serfHealth".into(), String::new()));
        assert_eq!(ids(json!({"NodeChecks": []})), (String::new(), String::new()));
        let both = json!({"NodeChecks": ["a"], "ServiceChecks": [{"ID": "service:web"}]});
        assert_eq!(ids(both), ("a".into(), "service:web".into()));
    }

    #[test]
    fn unknown_words_are_refused() {
        for body in [json!({"Behavior": "keep"}), json!({"Lock": "1s"}), json!({"Node": "a b"}), json!([])] {
            let failure = read(body.clone()).map(|_| ()).unwrap_err();
            assert_eq!(failure.status, StatusCode::BAD_REQUEST, "{body}");
        }
    }
}
