//! Config entries as Consul's `GET /v1/config` shows them; what is shown can be written back.

use serde_json::{Map, Value, json};

use crate::config_entry::{ConfigBody, ConfigEntry, ProxyDefaults, ServiceDefaults, ServiceIntentions};
use crate::intention::{HeaderForm, HeaderMatch, Party, PathForm, Permission, Rule, precedence};

pub fn config_entry_to_json(entry: &ConfigEntry) -> Value {
    let mut map = Map::new();
    map.insert("Kind".into(), entry.kind().as_str().into());
    map.insert("Name".into(), entry.name.as_str().into());
    match &entry.body {
        ConfigBody::ServiceDefaults(body) => put_service_defaults(&mut map, body),
        ConfigBody::ProxyDefaults(body) => put_proxy_defaults(&mut map, body),
        ConfigBody::ServiceIntentions(body) => {
            let destination = Party::parse(&entry.name).unwrap_or(Party::Any);
            map.insert("Sources".into(), sources(body, &destination));
        }
    }
    if !entry.meta.is_empty() {
        map.insert("Meta".into(), json!(entry.meta));
    }
    map.insert("CreateIndex".into(), entry.create_index.0.into());
    map.insert("ModifyIndex".into(), entry.modify_index.0.into());
    Value::Object(map)
}

/// Clients with fixed structures expect these blocks.
fn put_empty_blocks(map: &mut Map<String, Value>) {
    for name in ["TransparentProxy", "MeshGateway", "Expose"] {
        map.insert(name.into(), json!({}));
    }
}

fn put_service_defaults(map: &mut Map<String, Value>, body: &ServiceDefaults) {
    if let Some(protocol) = body.protocol {
        map.insert("Protocol".into(), protocol.as_str().into());
    }
    put_empty_blocks(map);
    let numbers = [
        ("LocalConnectTimeoutMs", body.local_connect_timeout_ms),
        ("LocalRequestTimeoutMs", body.local_request_timeout_ms),
        ("MaxInboundConnections", body.max_inbound_connections.map(u64::from)),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            map.insert(name.into(), number.into());
        }
    }
}

fn put_proxy_defaults(map: &mut Map<String, Value>, body: &ProxyDefaults) {
    let mut config = Map::new();
    if let Some(protocol) = body.protocol {
        config.insert("protocol".into(), protocol.as_str().into());
    }
    if let Some(timeout) = body.detection_timeout_ms {
        config.insert("protocol_detection_timeout_ms".into(), timeout.into());
    }
    map.insert("Config".into(), Value::Object(config));
    put_empty_blocks(map);
}

/// Most exact first, as Consul orders them.
fn sources(body: &ServiceIntentions, destination: &Party) -> Value {
    let mut sources: Vec<_> = body.sources.iter().collect();
    sources.sort_by_key(|one| std::cmp::Reverse(precedence(&one.source, destination)));
    let shown = sources.into_iter().map(|one| {
        let mut map = Map::new();
        map.insert("Name".into(), one.source.to_string().into());
        match &one.rule {
            Rule::L4(action) => map.insert("Action".into(), action.as_str().into()),
            Rule::L7(permissions) => map.insert("Permissions".into(), permissions_to_json(permissions)),
        };
        map.insert("Precedence".into(), precedence(&one.source, destination).into());
        map.insert("Type".into(), "consul".into());
        if !one.description.is_empty() {
            map.insert("Description".into(), one.description.as_str().into());
        }
        Value::Object(map)
    });
    shown.collect()
}

pub fn permissions_to_json(permissions: &[Permission]) -> Value {
    permissions.iter().map(permission).collect()
}

fn permission(one: &Permission) -> Value {
    let mut http = Map::new();
    match &one.path {
        PathForm::Any => None,
        PathForm::Exact(text) => http.insert("PathExact".into(), text.as_str().into()),
        PathForm::Prefix(text) => http.insert("PathPrefix".into(), text.as_str().into()),
        PathForm::Regex(text) => http.insert("PathRegex".into(), text.as_str().into()),
    };
    if !one.headers.is_empty() {
        http.insert("Header".into(), one.headers.iter().map(header).collect());
    }
    if !one.methods.is_empty() {
        http.insert("Methods".into(), json!(one.methods));
    }
    json!({ "Action": one.action.as_str(), "HTTP": http })
}

fn header(one: &HeaderMatch) -> Value {
    let mut map = Map::new();
    map.insert("Name".into(), one.name.as_str().into());
    match &one.form {
        HeaderForm::Present => map.insert("Present".into(), true.into()),
        HeaderForm::Exact(text) => map.insert("Exact".into(), text.as_str().into()),
        HeaderForm::Prefix(text) => map.insert("Prefix".into(), text.as_str().into()),
        HeaderForm::Suffix(text) => map.insert("Suffix".into(), text.as_str().into()),
        HeaderForm::Contains(text) => map.insert("Contains".into(), text.as_str().into()),
        HeaderForm::Regex(text) => map.insert("Regex".into(), text.as_str().into()),
    };
    if one.invert {
        map.insert("Invert".into(), true.into());
    }
    if one.ignore_case {
        map.insert("IgnoreCase".into(), true.into());
    }
    Value::Object(map)
}
