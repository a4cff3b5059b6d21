//! `/v1/connect/intentions`: one pair of source and destination at a time. They are kept as service-intentions
//! entries, one per destination, as `/v1/config` shows them.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use http::StatusCode;
use purlin_model::command::Command;
use purlin_model::config_entry::{ConfigBody, ConfigKind};
use purlin_model::definition::parse_config_entry;
use purlin_model::definition::reader::plain;
use purlin_model::intention::{Party, SourceIntention};
use purlin_model::topic::{Contents, Topic};
use purlin_model::{Fault, Namespace};
use serde_json::{Map, Value, json};

use super::Api;
use super::answer::{Answer, Failure};
use super::config::entries;
use super::members::write;
use super::read::{asked, filtered, followed};
use super::request::Request;
use super::shape;
use super::shape::intention::{Pair, pairs};
use super::shape::schema;

/// `GET connect/intentions`: all, the most exact first.
pub(super) async fn list(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let ([contents], source) =
        asked(api, request, [Topic::Config(ConfigKind::ServiceIntentions, None)]).await?;
    let shapes = ordered(entries(&contents).flat_map(pairs)).map(shape::intention::intention).collect();
    Ok(source.json(filtered(request, schema::intention, shapes)?.into()))
}

fn ordered<'a>(pairs: impl Iterator<Item = Pair<'a>>) -> impl Iterator<Item = Pair<'a>> {
    let mut pairs: Vec<Pair<'a>> = pairs.collect();
    pairs.sort_by_cached_key(Pair::order);
    pairs.into_iter()
}

/// `GET connect/intentions/match?by=source|destination&name=…`: for each name what concerns it, in deciding order.
pub(super) async fn matching(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let by_source = match request.query.filled("by") {
        None => return Err(Failure::invalid("required query parameter 'by' not set")),
        Some("source") => true,
        Some("destination") => false,
        Some(_) => return Err(Failure::invalid("'by' parameter must be one of 'source' or 'destination'")),
    };
    let mut names = BTreeMap::new();
    for text in request.query.all("name").filter(|text| !text.is_empty()) {
        names.insert(text.to_owned(), party(text)?);
    }
    if names.is_empty() {
        return Err(Failure::invalid("required query parameter 'name' not set"));
    }
    let ([contents], source) =
        followed(api, request, [Topic::Config(ConfigKind::ServiceIntentions, None)]).await?;
    let concerns = |pair: &Pair<'_>, party: &Party| {
        let side = if by_source { pair.source.source.clone() } else { pair.destination() };
        side == Party::Any || side == *party
    };
    let mut map = Map::new();
    for (text, party) in names {
        let found = entries(&contents).flat_map(pairs).filter(|pair| concerns(pair, &party));
        map.insert(text, ordered(found).map(shape::intention::intention).collect());
    }
    Ok(source.json(Value::Object(map)))
}

/// `GET connect/intentions/exact?source=…&destination=…`
pub(super) async fn get(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let (from, to) = sides(request)?;
    let topic = Topic::Config(ConfigKind::ServiceIntentions, Some(to.to_string()));
    let ([contents], source) = asked(api, request, [topic]).await?;
    Ok(match find(&contents, &from) {
        Some(pair) => source.json(shape::intention::intention(pair)),
        None => source.mark(Failure::not_found("Intention not found").into_answer()),
    })
}

fn find<'a>(contents: &'a Contents, source: &Party) -> Option<Pair<'a>> {
    entries(contents).flat_map(pairs).find(|pair| pair.source.source == *source)
}

/// `PUT connect/intentions/exact?source=…&destination=…`: put or replaced.
pub(super) async fn put(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let (from, to) = sides(request)?;
    let source = parse_intention(&request.json()?, &from, &to)?;
    let (destination, destination_namespace) = (to, Namespace::default());
    write(api, request, Command::PutIntention { destination, destination_namespace, source }).await?;
    Ok(Answer::json(true.into()))
}

/// `DELETE connect/intentions/exact?source=…&destination=…`
pub(super) async fn delete(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let (source, destination) = sides(request)?;
    write(api, request, Command::DeleteIntention { source, destination }).await?;
    Ok(Answer::json(true.into()))
}

/// `POST connect/intentions`, Consul's old way to create one: both sides stand in the body.
pub(super) async fn create(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let body = request.json()?;
    let side = |key: &str| {
        let fields = body.as_object().into_iter().flatten();
        let text = fields.filter(|(name, _)| plain(name) == key).find_map(|(_, value)| value.as_str());
        text.filter(|text| !text.is_empty()).map(party)
    };
    let missing = |name: &str| Failure::invalid(format!("{name} must be set to the name of a service"));
    let from = side("sourcename").ok_or_else(|| missing("SourceName"))??;
    let to = side("destinationname").ok_or_else(|| missing("DestinationName"))??;
    let source = parse_intention(&body, &from, &to)?;
    let topic = Topic::Config(ConfigKind::ServiceIntentions, Some(to.to_string()));
    let ([contents], _) = asked(api, request, [topic]).await?;
    if find(&contents, &from).is_some() {
        let text =
            format!("duplicate intention found: {from} -> {to} exists; PUT intentions/exact replaces it");
        return Err(Failure::new(StatusCode::CONFLICT, text));
    }
    let id = id_of(&from, &to);
    let (destination, destination_namespace) = (to, Namespace::default());
    write(api, request, Command::PutIntention { destination, destination_namespace, source }).await?;
    Ok(Answer::json(json!({"ID": id})))
}

/// The id of a pair: always the same, so that nothing has to remember it.
fn id_of(source: &Party, destination: &Party) -> String {
    let hash = digest(&SHA256, format!("{source}\0{destination}").as_bytes());
    let mut bytes = [0u8; 16];
    bytes.copy_from_slice(hash.as_ref().get(..16).unwrap_or(&[0; 16]));
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

/// `connect/intentions/:id`, Consul's old way to name one.
pub(super) async fn by_id(_api: &Api, _request: &Request) -> Result<Answer, Failure> {
    Err(Failure::invalid(
        "intentions are named by their source and destination: use /v1/connect/intentions/exact?source=…&destination=…",
    ))
}

fn sides(request: &Request) -> Result<(Party, Party), Failure> {
    let side = |name: &str| match request.query.filled(name) {
        None => Err(Failure::invalid(format!("required query parameter '{name}' not set"))),
        Some(text) => party(text),
    };
    Ok((side("source")?, side("destination")?))
}

fn party(text: &str) -> Result<Party, Failure> {
    let name = bare_name(text)?;
    Party::parse(name).map_err(|error| Failure::invalid(format!("{text:?} is invalid: {error}")))
}

/// `name` or `default/name`: there is one namespace.
pub(super) fn bare_name(text: &str) -> Result<&str, Failure> {
    match text.split('/').collect::<Vec<_>>().as_slice() {
        [name] | ["default", name] | ["default", "default", name] => Ok(name),
        _ => Err(Failure::invalid(format!(
            "{text:?} is invalid: write the name of a service, as this version has no namespace but \"default\""
        ))),
    }
}

/// What an intention of Consul's form has beside a source of a service-intentions entry.
const OF_THE_PAIR: [&str; 9] = [
    "id",
    "defaultaddr",
    "defaultport",
    "precedence",
    "createdat",
    "updatedat",
    "hash",
    "createindex",
    "modifyindex",
];

/// Consul has more namespaces and partitions, and this version has one.
const OF_ONE_VALUE: [&str; 6] =
    ["sourcens", "sourcepartition", "destinationns", "destinationpartition", "namespace", "partition"];

/// The text of a field; nothing where it is empty.
fn says<'a>(name: &str, value: &'a Value) -> Result<Option<&'a str>, Failure> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        _ => Err(Failure::invalid(format!("{name} must be a text"))),
    }
}

/// Reads the body of a pair as the one source of an entry, so that both ways to write it have the same rules.
fn parse_intention(body: &Value, from: &Party, to: &Party) -> Result<SourceIntention, Failure> {
    let Value::Object(fields) = body else {
        return Err(Failure::invalid("Request decode failed: the body must be an object"));
    };
    let mut source = Map::from_iter([("Name".to_owned(), Value::from(from.to_string()))]);
    let mut meta = BTreeMap::new();
    for (name, value) in fields {
        match plain(name).as_str() {
            "sourcetype" => {
                source.insert("Type".into(), value.clone());
            }
            "meta" => meta = texts(value)?,
            key @ ("sourcename" | "destinationname") => {
                let wanted = if key == "sourcename" { from } else { to };
                if says(name, value)?.is_some_and(|text| text != wanted.to_string()) {
                    return Err(Failure::invalid(format!(
                        "{name} {value} is not the one in the URL, \"{wanted}\""
                    )));
                }
            }
            key if OF_ONE_VALUE.contains(&key) => {
                if says(name, value)?.is_some_and(|text| text != "default") {
                    return Err(Failure::invalid(format!(
                        "{name} {value}: this version has no other than \"default\""
                    )));
                }
            }
            key if OF_THE_PAIR.contains(&key) => {}
            // Clients with fixed structures send these empty.
            _ if purlin_model::definition::reader::says_nothing(value) => {}
            _ => {
                source.insert(name.clone(), value.clone());
            }
        }
    }
    let entry = json!({"Kind": "service-intentions", "Name": to.to_string(), "Sources": [source]});
    let parsed = parse_config_entry(&entry)?;
    let ConfigBody::ServiceIntentions(intentions) = parsed.body else {
        return Err(Fault::internal("an intention was read as another kind of entry").into());
    };
    let mut sources = intentions.sources.into_iter();
    let mut source = sources.next().ok_or_else(|| Fault::internal("an intention was read as none"))?;
    source.legacy_meta = meta;
    Ok(source)
}

fn texts(value: &Value) -> Result<BTreeMap<String, String>, Failure> {
    if value.is_null() {
        return Ok(BTreeMap::new());
    }
    serde_json::from_value(value.clone()).map_err(|_| Failure::invalid("Meta must be a map of texts"))
}

#[cfg(test)]
mod tests {
    use purlin_model::intention::{Action, Rule};

    use super::*;

    fn parse(body: Value) -> Result<SourceIntention, Failure> {
        let (web, api) = (Party::parse("web").unwrap(), Party::parse("api").unwrap());
        parse_intention(&body, &web, &api)
    }

    #[test]
    fn bodies_of_clients_are_read() {
        let read = parse(json!({
            "ID": "", "Description": "front to back", "SourceNS": "", "SourceName": "web", "DestinationNS": "",
            "DestinationName": "api", "SourceType": "consul", "Action": "allow", "Meta": null, "Precedence": 0,
            "CreatedAt": "0001-01-01T00:00:00Z", "UpdatedAt": "0001-01-01T00:00:00Z", "CreateIndex": 0,
        }))
        .unwrap();
        assert_eq!(read.rule, Rule::L4(Action::Allow));
        assert_eq!(read.description, "front to back");
        assert_eq!(parse(json!({"action": "deny"})).unwrap().rule, Rule::L4(Action::Deny));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for body in [
            json!({}),
            json!({"Action": "perhaps"}),
            json!({"Action": "allow", "Actoin": "deny"}),
            json!({"Action": "allow", "SourceName": "other"}),
            json!({"Action": "allow", "Permissions": [{"Action": "allow", "HTTP": {"PathPrefix": "/"}}]}),
            json!({"Action": "allow", "SourceType": "other"}),
            json!({"Action": "allow", "SourceNS": "other"}),
            json!({"Action": "allow", "DestinationPartition": "other"}),
            json!({"Action": "allow", "DestinationNS": 1}),
            json!({"Action": "allow", "SourceName": ["web"]}),
            json!({"Action": "allow", "DestinationName": false}),
            json!({"Action": "allow", "Meta": {"a": 1}}),
            json!([]),
        ] {
            assert_eq!(
                parse(body.clone()).err().map(|failure| failure.status),
                Some(StatusCode::BAD_REQUEST),
                "{body}"
            );
        }
    }

    #[test]
    fn names_may_carry_the_one_namespace() {
        assert_eq!(bare_name("web"), Ok("web"));
        assert_eq!(bare_name("default/web"), Ok("web"));
        assert!(bare_name("other/web").is_err());
    }

    #[test]
    fn a_pair_has_one_id() {
        let (web, api) = (Party::parse("web").unwrap(), Party::parse("api").unwrap());
        assert_eq!(id_of(&web, &api), id_of(&web, &api));
        assert_ne!(id_of(&web, &api), id_of(&api, &web));
    }
}
