//! `/v1/agent/service…`: the services of this host. A registration is durable here before it is answered, and in the
//! catalog too unless no server can be reached.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use http::StatusCode;
use purlin_model::InstanceId;
use purlin_model::definition::parse_service;
use purlin_model::definition::reader::plain;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::Api;
use super::answer::{Answer, Failure};
use super::read::{Mode, filter_of};
use super::request::Request;
use super::shape::service::{SIDECAR, Shown};
use super::shape::{self, schema};
use crate::core::SyncState;
use crate::registry::{LocalState, Origin};

/// How long a registration waits to be in the catalog; as long as a write waits for a leader.
const IN_CATALOG: Duration = Duration::from_secs(7);

/// `GET agent/services`: a map by id.
pub(super) async fn list(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let filter = filter_of(request, schema::service)?;
    let local = api.core.registry().local();
    let datacenter = api.core.config().datacenter.as_str();
    let mut map = Map::new();
    for shown in shown(api, &local) {
        let shape = shape::service::local(&shown, datacenter);
        if filter.as_ref().is_none_or(|filter| filter.keeps(&shape)) {
            map.insert(shown.id(), shape);
        }
    }
    Ok(Answer::json(Value::Object(map)))
}

/// The services of this host with their proxies.
pub(super) fn shown<'a>(api: &Api, local: &'a LocalState) -> impl Iterator<Item = Shown> + 'a {
    let mesh_port = api.core.config().ports.mesh;
    local.services.values().flat_map(move |service| Shown::both(&service.instance, mesh_port))
}

/// `GET agent/service/:id`, with `?hash=` until it changes.
pub(super) async fn one(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let id = request.parameter(0);
    let known = request.query.filled("hash");
    let deadline = Instant::now() + Mode::of(&request.query, fastrand::f64())?.wait;
    let mut changes = api.core.registry().watch();
    loop {
        let local = changes.borrow_and_update().clone();
        let found = shown(api, &local).find(|shown| shown.id() == id);
        let Some(found) = found else {
            return Err(Failure::not_found(format!("unknown service ID: {id}")));
        };
        let mut shape = shape::service::local(&found, api.core.config().datacenter.as_str());
        let hash = content_hash(&shape);
        let over = Instant::now() >= deadline;
        if known != Some(hash.as_str()) || over {
            if let Some(fields) = shape.as_object_mut() {
                fields.insert("ContentHash".into(), hash.clone().into());
            }
            return Ok(Answer::json(shape).header("x-consul-contenthash", hash));
        }
        // Either way the answer is computed anew; a registry that is gone ends the wait.
        if let Ok(Err(_)) = timeout_at(deadline, changes.changed()).await {
            return Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the agent is stopping"));
        }
    }
}

fn content_hash(shape: &Value) -> String {
    let hash = digest(&SHA256, shape.to_string().as_bytes());
    hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// `PUT agent/service/register`
pub(super) async fn register(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let body = request.json()?;
    refuse_nameless(&body, &["name"], "Missing service name")?;
    refuse_derived(&body)?;
    let definition = parse_service(&body)?;
    let registry = api.core.registry();
    let id = definition.instance.id.clone();
    if request.query.flag("replace-existing-checks")? {
        registry.register_replacing(definition, Origin::Api).await?;
    } else {
        registry.register(definition, Origin::Api).await?;
    }
    if let Some(why) = registry.shadowed(&id) {
        return Ok(Answer::empty().header("x-purlin-sync", format!("shadowed: {why}")));
    }
    Ok(synced(api).await)
}

/// What has none of these keys is refused in Consul's words.
pub(super) fn refuse_nameless(body: &Value, keys: &[&str], words: &'static str) -> Result<(), Failure> {
    let Some(fields) = body.as_object() else { return Ok(()) };
    let is_empty = |value: &Value| value.is_null() || value.as_str() == Some("");
    let is_named = fields.iter().any(|(key, value)| keys.contains(&plain(key).as_str()) && !is_empty(value));
    if is_named { Ok(()) } else { Err(Failure::invalid(words)) }
}

/// Proxies are not registered: they follow from the service.
pub(super) fn refuse_derived(body: &Value) -> Result<(), Failure> {
    let fields = body.as_object().into_iter().flatten();
    for (_, value) in fields.filter(|(name, _)| matches!(plain(name).as_str(), "id" | "name" | "service")) {
        if let Some(base) = value.as_str().and_then(|text| text.strip_suffix(SIDECAR)) {
            return Err(derived(base));
        }
    }
    Ok(())
}

fn derived(base: &str) -> Failure {
    Failure::invalid(format!(
        "\"{base}{SIDECAR}\" is derived from service \"{base}\" and read-only: change \"{base}\" and its \"connect\" \
         block instead"
    ))
}

/// `PUT agent/service/deregister/:id`
pub(super) async fn deregister(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let id = instance_id(api, request)?;
    api.core.registry().deregister(&id).await?;
    Ok(synced(api).await)
}

/// `PUT agent/service/maintenance/:id?enable=…&reason=…`
pub(super) async fn maintenance(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let reason = super::agent::maintenance_reason(request)?;
    let id = instance_id(api, request)?;
    api.core.registry().set_service_maintenance(&id, reason).await?;
    Ok(synced(api).await)
}

/// The instance that the path names; a derived proxy cannot be changed.
fn instance_id(api: &Api, request: &Request) -> Result<InstanceId, Failure> {
    let text = request.parameter(0);
    let id = InstanceId::new(text).map_err(|error| Failure::invalid(error.to_string()))?;
    let local = api.core.registry().local();
    if let Some(base) = text.strip_suffix(SIDECAR)
        && !local.services.contains_key(&id)
        && local.services.contains_key(base)
    {
        return Err(derived(base));
    }
    Ok(id)
}

/// Waits until the catalog has it; the registry keeps at it where that cannot be now.
pub(super) async fn synced(api: &Api) -> Answer {
    let state = match api.core.sync_now(IN_CATALOG).await {
        SyncState::Synced => "synced".to_owned(),
        SyncState::Pending => "pending".to_owned(),
        SyncState::Offline => "offline".to_owned(),
        SyncState::Refused(why) => {
            warn!(why, "a server refused a part of what this host registered");
            let line: String =
                why.chars().filter(char::is_ascii).filter(|c| !c.is_control()).take(512).collect();
            format!("refused: {line}")
        }
    };
    Answer::empty().header("x-purlin-sync", state)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn derived_proxies_are_not_registered() {
        assert!(refuse_derived(&json!({"Name": "web"})).is_ok());
        let failure = refuse_derived(&json!({"name": "web-sidecar-proxy"})).unwrap_err();
        assert_eq!(failure.status, StatusCode::BAD_REQUEST);
        assert!(failure.text.contains("derived from service \"web\""), "{}", failure.text);
        assert!(refuse_derived(&json!({"Name": "web", "ID": "web-1-sidecar-proxy"})).is_err());
    }

    #[test]
    fn the_hash_follows_the_content() {
        let one = content_hash(&json!({"Port": 1}));
        assert_eq!(one.len(), 16);
        assert_ne!(one, content_hash(&json!({"Port": 2})));
    }
}
