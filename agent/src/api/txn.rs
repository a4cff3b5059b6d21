//! `/v1/txn`: operations on keys, sessions and the catalog that are carried out together or not at all.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use purlin_model::command::{Command, Done};
use purlin_model::definition::reader::{Problems, Table};
use purlin_model::kv::{self, KvPut, KvWrite};
use purlin_model::topic::{Contents, Record, Topic};
use purlin_model::txn::{Change, Txn, TxnDone, TxnError, TxnOp, TxnRead, TxnResult};
use purlin_model::{Blob, CheckId, Datacenter, Fault, InstanceId, NodeName, Revision, SessionId, limit};
use serde_json::{Map, Value, json};

use super::Api;
use super::answer::{Answer, Failure};
use super::catalog_write::{parse_check, parse_instance, parse_node};
use super::kv::refused;
use super::read::asked;
use super::request::Request;
use super::shape;
use super::shape::service::Shown;

/// `PUT txn`: 200 with the results, or 409 with what failed; then nothing was changed.
pub(super) async fn run(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let txn = parse(&request.json()?, &api.core.config().datacenter)?;
    if let Some(reads) = txn.reads() {
        let ([contents], source) = asked(api, request, [Topic::Txn(reads)]).await?;
        return Ok(source.mark(answer(&done(&contents))));
    }
    let outcome = api.core.write(Command::Txn(txn), request.peer.uid()).await?;
    match outcome.result.map_err(refused)? {
        Done::Txn(done) => Ok(answer(&done)),
        _ => Err(Fault::internal("the transaction was answered with something else").into()),
    }
}

/// The answer to reads comes as records: results in their order, and faults.
fn done(contents: &Contents) -> TxnDone {
    let mut done = TxnDone::default();
    for record in contents.records.values() {
        match record {
            Record::TxnResult(result) => done.results.push(result.clone()),
            Record::TxnError(error) => done.errors.push(error.clone()),
            _ => {}
        }
    }
    done
}

fn answer(done: &TxnDone) -> Answer {
    if done.errors.is_empty() {
        let results: Vec<Value> = done.results.iter().map(result).collect();
        return Answer::json(json!({"Results": results, "Errors": null}));
    }
    let error = |error: &TxnError| json!({"OpIndex": error.op, "What": error.what});
    let errors: Vec<Value> = done.errors.iter().map(error).collect();
    Answer::json(json!({"Results": null, "Errors": errors})).status(StatusCode::CONFLICT)
}

fn result(result: &TxnResult) -> Value {
    match result {
        TxnResult::Kv(entry) => json!({"KV": super::kv::shape(entry)}),
        TxnResult::Node(node) => json!({"Node": shape::node::node(node)}),
        TxnResult::Service(instance) => {
            let shown = Shown::registered(instance.clone().into());
            json!({"Service": shape::service::service(&shown)})
        }
        TxnResult::Check(check) => json!({"Check": shape::check::check(check)}),
    }
}

fn parse(body: &Value, own: &Datacenter) -> Result<Txn, Failure> {
    let Value::Array(items) = body else {
        return Err(Failure::invalid("Failed to parse body: a transaction is a list of operations"));
    };
    if items.len() > limit::TXN_OPS {
        let text = format!("Transaction contains too many operations ({} > {})", items.len(), limit::TXN_OPS);
        return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    let ops = items.iter().enumerate().map(|(n, item)| parse_op(n, item, own));
    Ok(Txn { ops: ops.collect::<Result<_, _>>()? })
}

/// An operation is an object with one key, which says what it is about.
fn parse_op(n: usize, item: &Value, own: &Datacenter) -> Result<TxnOp, Failure> {
    let wrong = |why: &str| Failure::invalid(format!("Failed to parse body: operation {n} {why}"));
    let given: Vec<(&String, &Value)> =
        item.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()).collect();
    let [(kind, body)] = given.as_slice() else {
        return Err(wrong("must have one of KV, Node, Service, Check and Session"));
    };
    let within = |failure: Failure| Failure { text: format!("operation {n}: {}", failure.text), ..failure };
    match kind.to_ascii_lowercase().as_str() {
        "kv" => parse_kv(body),
        "node" => parse_node_op(body, own),
        "service" => parse_service_op(body),
        "check" => parse_check_op(body),
        "session" => parse_session_op(body),
        _ => return Err(wrong("must have one of KV, Node, Service, Check and Session")),
    }
    .map_err(within)
}

/// Reads a table whole; what it refuses, and what is left in it, becomes the failure.
fn table<T>(body: &Value, root: &str, read: impl FnOnce(&Table<'_>) -> Option<T>) -> Result<T, Failure> {
    let problems = Problems::default();
    let found = Table::open(body, root, &problems).and_then(|table| {
        let found = read(&table);
        table.only(&["Namespace", "Partition"], "default");
        table.finish();
        found
    });
    let (faults, _) = problems.into_parts();
    match found {
        Some(found) if faults.is_empty() => Ok(found),
        _ if faults.is_empty() => Err(Failure::invalid(format!("the {root} is incomplete"))),
        _ => Err(Failure::from(faults)),
    }
}

fn parse_kv(body: &Value) -> Result<TxnOp, Failure> {
    let (verb, key, value, flags, index, session) = table(body, "KV", |table| {
        let value = table.text("Value").unwrap_or_default();
        let value =
            STANDARD.decode(value).map_err(|why| table.refuse("Value", format!("is not Base64: {why}")));
        Some((
            table.text("Verb").unwrap_or_default(),
            table.text("Key").unwrap_or_default(),
            Blob::from(value.ok()?),
            table.number("Flags", 0..=u64::MAX).unwrap_or_default(),
            Revision(table.number("Index", 0..=u64::MAX).unwrap_or_default()),
            table.filled("Session").map(|id| SessionId::new(&id)),
        ))
    })?;
    let whole = matches!(verb.as_str(), "get-tree" | "delete-tree");
    if whole { kv::check_prefix(&key) } else { kv::check_key(&key) }?;
    let key: kv::Key = key.as_str().into();
    let put = KvPut { key: key.clone(), value, flags };
    let named = || session.clone().ok_or_else(|| Failure::invalid("missing session"));
    let op = match verb.as_str() {
        "set" => TxnOp::Kv(KvWrite::Set(put)),
        "cas" => TxnOp::Kv(KvWrite::Cas(put, index)),
        "lock" => TxnOp::Kv(KvWrite::Lock(put, named()?)),
        "unlock" => TxnOp::Kv(KvWrite::Unlock(put, named()?)),
        "delete" => TxnOp::Kv(KvWrite::Delete(key)),
        "delete-cas" => TxnOp::Kv(KvWrite::DeleteCas(key, index)),
        "delete-tree" => TxnOp::Kv(KvWrite::DeleteTree(key)),
        "get" => TxnOp::Read(TxnRead::Get(key)),
        "get-or-empty" => TxnOp::Read(TxnRead::GetOrEmpty(key)),
        "get-tree" => TxnOp::Read(TxnRead::GetTree(key)),
        "check-index" => TxnOp::Read(TxnRead::CheckIndex(key, index)),
        "check-session" => TxnOp::Read(TxnRead::CheckSession(key, session)),
        "check-not-exists" => TxnOp::Read(TxnRead::CheckNotExists(key)),
        other => return Err(Failure::invalid(format!("unknown KV verb {other:?}"))),
    };
    if let TxnOp::Kv(write) = &op {
        write.check()?;
    }
    Ok(op)
}

/// The verb and the thing of an operation on the catalog, and the index that it wants the thing to have.
fn verb_and(
    body: &Value,
    kind: &'static str,
    beside: Option<&'static str>,
) -> Result<(String, Value, String, Revision), Failure> {
    let (verb, thing, beside) = table(body, kind, |table| {
        let text = beside.map(|key| table.text(key).unwrap_or_default()).unwrap_or_default();
        Some((table.text("Verb").unwrap_or_default(), table.value(kind)?.clone(), text))
    })?;
    let index = field(&thing, "ModifyIndex").and_then(Value::as_u64).unwrap_or_default();
    Ok((verb, thing, beside, Revision(index)))
}

/// A field of a body, whatever its case.
fn field<'a>(body: &'a Value, name: &str) -> Option<&'a Value> {
    body.as_object()?.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn text<'a>(body: &'a Value, name: &str) -> &'a str {
    field(body, name).and_then(Value::as_str).unwrap_or_default()
}

/// Without the fields that are read elsewhere, or shown only.
fn without(body: &Value, names: &[&str]) -> Map<String, Value> {
    let kept = |key: &String| !names.iter().any(|name| key.eq_ignore_ascii_case(name));
    let fields = body.as_object().into_iter().flatten().filter(|(key, _)| kept(key));
    fields.map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn change<T>(
    kind: &str,
    verb: &str,
    index: Revision,
    value: impl FnOnce() -> Result<T, Failure>,
) -> Result<Option<Change<T>>, Failure> {
    Ok(Some(match verb {
        "get" => return Ok(None),
        "set" => Change::Set(value()?),
        "cas" => Change::Cas(value()?, index),
        "delete" => Change::Delete,
        "delete-cas" => Change::DeleteCas(index),
        other => return Err(Failure::invalid(format!("unknown {kind} verb {other:?}"))),
    }))
}

fn name<T, E: std::fmt::Display>(parsed: Result<T, E>) -> Result<T, Failure> {
    parsed.map_err(|why| Failure::invalid(why.to_string()))
}

const SHOWN: [&str; 3] = ["CreateIndex", "ModifyIndex", "PeerName"];

fn parse_node_op(body: &Value, own: &Datacenter) -> Result<TxnOp, Failure> {
    let (verb, node, _, index) = verb_and(body, "Node", None)?;
    let named = name(NodeName::new(text(&node, "Node")))?;
    let read = || {
        let mut fields = without(&node, &SHOWN);
        // The catalog's registrations call it so.
        if let Some(meta) = fields.keys().find(|key| key.eq_ignore_ascii_case("Meta")).cloned()
            && let Some(value) = fields.remove(&meta)
        {
            fields.insert("NodeMeta".into(), value);
        }
        parse_node(&Value::Object(fields), own)
    };
    Ok(match change("Node", &verb, index, read)? {
        None => TxnOp::Read(TxnRead::Node(named)),
        Some(change) => TxnOp::Node { name: named, change },
    })
}

fn parse_service_op(body: &Value) -> Result<TxnOp, Failure> {
    let (verb, service, node, index) = verb_and(body, "Service", Some("Node"))?;
    let node = name(NodeName::new(node))?;
    let id = match text(&service, "ID") {
        "" => text(&service, "Service"),
        id => id,
    };
    let id = name(InstanceId::new(id))?;
    let read = || parse_instance(&Value::Object(without(&service, &SHOWN)));
    Ok(match change("Service", &verb, index, read)? {
        None => TxnOp::Read(TxnRead::Service(node, id)),
        Some(change) => TxnOp::Service { node, id, change },
    })
}

fn parse_check_op(body: &Value) -> Result<TxnOp, Failure> {
    let (verb, check, _, index) = verb_and(body, "Check", None)?;
    let node = name(NodeName::new(text(&check, "Node")))?;
    let id = match text(&check, "CheckID") {
        "" => text(&check, "Name"),
        id => id,
    };
    let id = name(CheckId::new(id))?;
    let read = || parse_check(&Value::Object(without(&check, &SHOWN)), &node);
    Ok(match change("Check", &verb, index, read)? {
        None => TxnOp::Read(TxnRead::Check(node.clone(), id)),
        Some(change) => TxnOp::Check { node: node.clone(), id, change },
    })
}

fn parse_session_op(body: &Value) -> Result<TxnOp, Failure> {
    let (verb, session, ..) = verb_and(body, "Session", None)?;
    match (verb.as_str(), text(&session, "ID")) {
        ("delete", "") => Err(Failure::invalid("the Session has no ID")),
        ("delete", id) => Ok(TxnOp::EndSession(SessionId::new(id))),
        (other, _) => Err(Failure::invalid(format!("unknown Session verb {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: Value) -> Result<Txn, Failure> {
        parse(&body, &Datacenter::default())
    }

    #[test]
    fn every_verb_is_read_and_reads_alone_need_no_place_in_the_log() {
        for verb in ["set", "cas", "lock", "unlock", "delete", "delete-cas", "delete-tree"] {
            let op = json!([{"KV": {"Verb": verb, "Key": "a", "Value": "MQ==", "Index": 3, "Session": "s"}}]);
            assert!(read(op).unwrap().reads().is_none(), "{verb}");
        }
        for verb in ["get", "get-or-empty", "get-tree", "check-index", "check-session", "check-not-exists"] {
            let op = json!([{"kv": {"verb": verb, "key": "a", "index": 3, "session": "s", "value": null}}]);
            assert_eq!(read(op).unwrap().reads().map(|reads| reads.len()), Some(1), "{verb}");
        }
        let node = json!({"Node": "db", "Address": "10.0.0.9", "Meta": {"k": "v"}, "ModifyIndex": 7});
        let service = json!({"ID": "db-1", "Service": "db", "Port": 5432});
        let check = json!({"Node": "db", "CheckID": "up", "Name": "up", "Status": "passing"});
        let txn = read(json!([
            {"Node": {"Verb": "cas", "Node": node}},
            {"Service": {"Verb": "set", "Node": "db", "Service": service}},
            {"Check": {"Verb": "set", "Check": check}},
            {"Service": {"Verb": "get", "Node": "db", "Service": {"ID": "db-1"}}},
            {"Session": {"Verb": "delete", "Session": {"ID": "s"}}},
        ]));
        let ops = txn.unwrap().ops;
        let TxnOp::Node { change: Change::Cas(node, Revision(7)), .. } = &ops[0] else { panic!("{ops:?}") };
        assert_eq!(node.meta.get("k").map(String::as_str), Some("v"));
        assert!(matches!(&ops[3], TxnOp::Read(TxnRead::Service(..))));
        assert_eq!(ops[4], TxnOp::EndSession(SessionId::new("s")));
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused_with_its_place() {
        for (op, words) in [
            (json!({"KV": {"Verb": "fly", "Key": "a"}}), "unknown KV verb"),
            (json!({"KV": {"Verb": "set", "Key": ""}}), "Missing key name"),
            (json!({"KV": {"Verb": "set", "Key": "a", "Value": "?"}}), "Base64"),
            (json!({"KV": {"Verb": "lock", "Key": "a"}}), "missing session"),
            (json!({"KV": {"Verb": "set", "Key": "a", "Colour": 1}}), "Colour"),
            (json!({"Node": {"Verb": "set", "Node": {"Node": "a"}}}), "Address"),
            (json!({"Session": {"Verb": "get", "Session": {"ID": "s"}}}), "unknown Session verb"),
            (json!({"Planet": {}}), "must have one of"),
            (json!({}), "must have one of"),
        ] {
            let failure = read(json!([{"KV": {"Verb": "get", "Key": "a"}}, op])).unwrap_err();
            assert_eq!(failure.status, StatusCode::BAD_REQUEST, "{op}");
            assert!(failure.text.contains(words) && failure.text.contains("operation 1"), "{}", failure.text);
        }
        let many = |count: usize| Value::Array(vec![json!({"KV": {"Verb": "get", "Key": "a"}}); count]);
        assert!(read(many(limit::TXN_OPS)).is_ok());
        assert_eq!(read(many(limit::TXN_OPS + 1)).unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(read(json!({})).is_err());
    }
}
