//! `/v1/config`: config entries of Consul's kinds.

use purlin_model::command::{Command, Done};
use purlin_model::config_entry::{ConfigEntry, ConfigKind};
use purlin_model::definition::{config_entry_to_json, parse_config_entry};
use purlin_model::topic::{Contents, Record, Topic};
use purlin_model::{Fault, Revision};
use serde_json::{Value, json};

use super::Api;
use super::answer::{Answer, Failure};
use super::members::write;
use super::read::{asked, filtered};
use super::request::Request;
use super::shape::schema;

/// `PUT config?cas=…`: `true`, or `false` for an index that does not match.
pub(super) async fn put(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let cas = cas(request)?;
    let entry = parse_config_entry(&request.json()?)?;
    let done = write(api, request, Command::PutConfig { entry, cas }).await?;
    Ok(Answer::json((done != Done::CasFailed).into()))
}

/// `GET config/:kind`
pub(super) async fn list(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let kind = kind(request)?;
    let ([contents], source) = asked(api, request, [Topic::Config(kind, None)]).await?;
    let shapes = entries(&contents).map(config_entry_to_json).collect();
    Ok(source.json(filtered(request, schema::config_entry, shapes)?.into()))
}

/// `GET config/:kind/:name`
pub(super) async fn get(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let kind = kind(request)?;
    let name = request.parameter(1);
    let topic = Topic::Config(kind, Some(name.to_owned()));
    let ([contents], source) = asked(api, request, [topic]).await?;
    match entries(&contents).next() {
        Some(entry) => Ok(source.json(config_entry_to_json(entry))),
        None => {
            let text = format!("Config entry not found for \"{kind}\" / \"{name}\"");
            Ok(source.mark(Failure::not_found(text).into_answer()))
        }
    }
}

/// `DELETE config/:kind/:name?cas=…`: `{}`, or with `cas` whether it was deleted.
pub(super) async fn delete(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let kind = kind(request)?;
    let cas = cas(request)?;
    let name = request.parameter(1).to_owned();
    let done = write(api, request, Command::DeleteConfig { kind, name, cas }).await?;
    Ok(Answer::json(match cas {
        None => json!({}),
        Some(_) => Value::Bool(matches!(done, Done::Yes | Done::Deleted { existed: true })),
    }))
}

pub(super) fn entries(contents: &Contents) -> impl Iterator<Item = &ConfigEntry> {
    contents.records.values().filter_map(|record| match record {
        Record::Config(entry) => Some(entry),
        _ => None,
    })
}

fn kind(request: &Request) -> Result<ConfigKind, Failure> {
    let text = request.parameter(0);
    ConfigKind::parse(text).ok_or_else(|| {
        let known = ConfigKind::ALL.map(ConfigKind::as_str).join(", ");
        Fault::invalid(format!("invalid config entry kind: {text}: this version knows {known}")).into()
    })
}

fn cas(request: &Request) -> Result<Option<Revision>, Failure> {
    request
        .query
        .filled("cas")
        .map(|text| {
            text.parse().map(Revision).map_err(|_| Failure::invalid(format!("Invalid cas value: {text}")))
        })
        .transpose()
}
