//! `/v1/health`: checks, and instances with the checks that count for them.

use purlin_model::check::{Check, Status};
use purlin_model::topic::{Record, Topic};
use purlin_model::{NodeName, ServiceKey, ServiceName};
use serde_json::{Value, json};

use super::Api;
use super::answer::{Answer, Failure};
use super::lookup::{Want, has_meta, lines, near};
use super::read::{asked, filtered, followed};
use super::request::Request;
use super::shape::service::SIDECAR;
use super::shape::{self, schema};

/// `GET health/service/:service`
pub(super) async fn service(api: &Api, request: &Request) -> Result<Answer, Failure> {
    instances(api, request, Want::Named).await
}

/// `GET health/connect/:service`
pub(super) async fn connect(api: &Api, request: &Request) -> Result<Answer, Failure> {
    instances(api, request, Want::Connect).await
}

async fn instances(api: &Api, request: &Request, want: Want) -> Result<Answer, Failure> {
    let passing = request.query.flag("passing")?;
    let (lines, source) = lines(api, request, want).await?;
    let shapes = lines
        .iter()
        .filter(|line| !passing || line.entry.status() == Status::Passing)
        .map(|line| shape::service::entry(&line.entry, &line.shown))
        .collect();
    Ok(source.json(filtered(request, schema::entry, shapes)?.into()))
}

/// `GET health/node/:node`
pub(super) async fn node(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let Ok(name) = NodeName::new(request.parameter(0)) else {
        return Ok(Answer::json(json!([])).header("x-consul-index", "1"));
    };
    let topic = Topic::Node(name.clone());
    // A host always knows itself; others it asks for.
    let ([contents], source) = if name == api.core.config().node_name {
        followed(api, request, [topic]).await?
    } else {
        asked(api, request, [topic]).await?
    };
    let checks = contents.records.values().filter_map(check_of).map(shape::check::check).collect();
    Ok(source.json(filtered(request, schema::check, checks)?.into()))
}

/// `GET health/checks/:service`
pub(super) async fn checks(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let asked = request.parameter(0);
    let Ok(name) = ServiceName::new(asked.strip_suffix(SIDECAR).unwrap_or(asked)) else {
        return Ok(Answer::json(json!([])).header("x-consul-index", "1"));
    };
    let topic = Topic::Service(ServiceKey::new(name));
    let ([contents], source) = followed(api, request, [topic]).await?;
    let meta = request.query.pairs("node-meta");
    let mut checks: Vec<&Check> = Vec::new();
    for record in contents.records.values() {
        let Record::Entry(entry) = record else { continue };
        if has_meta(&entry.node.meta, &meta) {
            let own =
                entry.checks.iter().filter(|check| check.service_id.as_ref() == Some(&entry.instance.id));
            checks.extend(own.map(AsRef::as_ref));
        }
    }
    answer_checks(api, request, checks, source)
}

/// `GET health/state/:state`
pub(super) async fn state(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let status = match request.parameter(0) {
        "any" => None,
        text @ ("passing" | "warning" | "critical") => Status::parse(text),
        other => {
            let text = format!("{other:?} is not a state: it is one of any, passing, warning, critical");
            return Err(Failure::invalid(text));
        }
    };
    let topic = Topic::Checks(status);
    let meta = request.query.pairs("node-meta");
    if meta.is_empty() {
        let ([contents], source) = asked(api, request, [topic]).await?;
        let checks = contents.records.values().filter_map(check_of).collect();
        return answer_checks(api, request, checks, source);
    }
    let ([contents, nodes], source) = asked(api, request, [topic, Topic::Nodes]).await?;
    let on_wanted = |check: &&Check| match nodes.records.get(check.node.as_str()) {
        Some(Record::Node(node)) => has_meta(&node.meta, &meta),
        _ => false,
    };
    let checks = contents.records.values().filter_map(check_of).filter(on_wanted).collect();
    answer_checks(api, request, checks, source)
}

fn answer_checks(
    api: &Api,
    request: &Request,
    mut checks: Vec<&Check>,
    source: super::read::Source,
) -> Result<Answer, Failure> {
    near(api, request, &mut checks, |check| &check.node);
    let shapes: Vec<Value> = checks.into_iter().map(shape::check::check).collect();
    Ok(source.json(filtered(request, schema::check, shapes)?.into()))
}

fn check_of(record: &Record) -> Option<&Check> {
    match record {
        Record::Check(check) => Some(check),
        _ => None,
    }
}
