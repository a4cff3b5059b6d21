//! `/v1/kv`: the key-value tree, always as the servers have it. Agents keep nothing of it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::StatusCode;
use purlin_model::command::{Command, Done};
use purlin_model::kv::{self, Key, KvEntry, KvPut, KvTopic, KvWrite};
use purlin_model::topic::{Contents, Record, Topic};
use purlin_model::{Blob, Fault, FaultCode, Revision, SessionId};
use serde_json::{Value, json};

use super::Api;
use super::answer::{Answer, Content, Failure};
use super::read::{Source, asked};
use super::request::Request;

/// `GET kv/:key`, with `?raw`, `?recurse`, or `?keys` and `&separator=`.
pub(super) async fn get(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let key = request.parameter(0);
    if request.query.has("keys") {
        return keys(api, request, key).await;
    }
    let recurse = request.query.has("recurse");
    if recurse { kv::check_prefix(key) } else { kv::check_key(key) }?;
    let topic = if recurse { KvTopic::Tree(key.into()) } else { KvTopic::Key(key.into()) };
    let ([contents], source) = asked(api, request, [Topic::Kv(topic)]).await?;
    let mut entries = entries(&contents);
    if request.query.has("raw") && !recurse {
        let found = entries.next().map(raw);
        return Ok(source.mark(found.unwrap_or_else(nothing)));
    }
    let shapes: Vec<Value> = entries.map(shape).collect();
    if shapes.is_empty() {
        return Ok(source.mark(nothing()));
    }
    Ok(source.json(shapes.into()))
}

/// Consul says nothing about a key that is not there, but when it went.
fn nothing() -> Answer {
    Answer::empty().status(StatusCode::NOT_FOUND)
}

/// What is stored may be a web page: a browser shall not take it for one.
fn raw(entry: &KvEntry) -> Answer {
    let value = Bytes::copy_from_slice(&entry.value);
    Answer { content: Content::Bytes("text/plain", value), ..Answer::empty() }
        .header("x-content-type-options", "nosniff")
        .header("content-security-policy", "sandbox")
}

async fn keys(api: &Api, request: &Request, prefix: &str) -> Result<Answer, Failure> {
    kv::check_prefix(prefix)?;
    // Consul once misspelled it, and clients still may.
    let separator = request.query.get("separator").or_else(|| request.query.get("seperator"));
    let topic = KvTopic::Keys { prefix: prefix.into(), separator: separator.unwrap_or_default().into() };
    let ([contents], source): (_, Source) = asked(api, request, [Topic::Kv(topic)]).await?;
    let found: Vec<&String> = contents.records.keys().collect();
    if found.is_empty() && !prefix.is_empty() {
        return Ok(source.mark(nothing()));
    }
    Ok(source.json(json!(found)))
}

fn entries(contents: &Contents) -> impl Iterator<Item = &KvEntry> {
    contents.records.values().filter_map(|record| match record {
        Record::Kv(entry) => Some(entry),
        _ => None,
    })
}

/// An entry as Consul shows it; a value without bytes is null there.
pub(super) fn shape(entry: &KvEntry) -> Value {
    let value = if entry.value.is_empty() { Value::Null } else { STANDARD.encode(&*entry.value).into() };
    let mut shape = json!({
        "LockIndex": entry.lock_index,
        "Key": &*entry.key,
        "Flags": entry.flags,
        "Value": value,
        "CreateIndex": entry.create_index.0,
        "ModifyIndex": entry.modify_index.0,
    });
    if let Some(session) = &entry.session {
        shape["Session"] = session.as_str().into();
    }
    shape
}

/// `PUT kv/:key`, with `?flags=`, and one of `?cas=`, `?acquire=` and `?release=`.
pub(super) async fn put(api: &Api, request: &Request) -> Result<Answer, Failure> {
    one_of(request, &["cas", "acquire", "release"])?;
    let key = key(request)?;
    let flags = number(request, "flags")?.unwrap_or_default();
    let put = KvPut { key, value: Blob::from(&request.body[..]), flags };
    let session = |name: &str| request.query.get(name).map(SessionId::new);
    let change = if let Some(index) = number(request, "cas")? {
        KvWrite::Cas(put, Revision(index))
    } else if let Some(session) = session("acquire") {
        KvWrite::Lock(put, named(session)?)
    } else if let Some(session) = session("release") {
        KvWrite::Unlock(put, named(session)?)
    } else {
        KvWrite::Set(put)
    };
    write(api, request, change).await
}

fn named(session: SessionId) -> Result<SessionId, Failure> {
    match session.as_str() {
        "" => Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "missing session")),
        _ => Ok(session),
    }
}

/// `DELETE kv/:key`, with `?recurse` or `?cas=`.
pub(super) async fn delete(api: &Api, request: &Request) -> Result<Answer, Failure> {
    one_of(request, &["recurse", "cas"])?;
    let change = if request.query.has("recurse") {
        let prefix = request.parameter(0);
        kv::check_prefix(prefix)?;
        KvWrite::DeleteTree(prefix.into())
    } else {
        let key = key(request)?;
        match number(request, "cas")? {
            Some(index) => KvWrite::DeleteCas(key, Revision(index)),
            None => KvWrite::Delete(key),
        }
    };
    write(api, request, change).await
}

fn key(request: &Request) -> Result<Key, Failure> {
    let key = request.parameter(0);
    kv::check_key(key)?;
    Ok(key.into())
}

/// `true`, or `false` where the condition was not met.
async fn write(api: &Api, request: &Request, change: KvWrite) -> Result<Answer, Failure> {
    let outcome = api.core.commit(Command::Kv(change), request.peer.uid()).await?;
    let done = outcome.result.map_err(refused)?;
    Ok(Answer::json((done != Done::CasFailed).into()))
}

/// What the state does not allow is 500 in Consul, as it comes from behind the API.
pub(super) fn refused(fault: Fault) -> Failure {
    match fault.code {
        FaultCode::Invalid => Failure::new(StatusCode::INTERNAL_SERVER_ERROR, fault.text),
        _ => fault.into(),
    }
}

fn number(request: &Request, name: &str) -> Result<Option<u64>, Failure> {
    let read = |text: &str| {
        text.parse().map_err(|_| Failure::invalid(format!("Invalid {name} value: {text:?} is not a number")))
    };
    request.query.get(name).map(read).transpose()
}

fn one_of(request: &Request, names: &[&str]) -> Result<(), Failure> {
    let given: Vec<&str> = names.iter().copied().filter(|name| request.query.has(name)).collect();
    match given.len() {
        0 | 1 => Ok(()),
        _ => Err(Failure::invalid(format!("Conflicting flags: {}", given.join("&")))),
    }
}
