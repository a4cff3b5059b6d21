//! A user event as clients read it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use purlin_model::event::{UserEvent, VERSION};
use serde_json::{Value, json};

pub(in crate::api) fn event(event: &UserEvent) -> Value {
    let payload = match event.payload.as_slice() {
        [] => Value::Null,
        bytes => STANDARD.encode(bytes).into(),
    };
    json!({
        "ID": event.id.to_string(),
        "Name": event.name,
        "Payload": payload,
        "NodeFilter": event.node_filter,
        "ServiceFilter": event.service_filter,
        "TagFilter": event.tag_filter,
        "Version": VERSION,
        "LTime": event.ltime,
    })
}
