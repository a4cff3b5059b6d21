//! Intentions, one pair at a time, as Consul's intention endpoints show them.

use purlin_model::config_entry::{ConfigBody, ConfigEntry};
use purlin_model::definition::permissions_to_json;
use purlin_model::intention::{Party, Rule, SourceIntention, precedence};
use serde_json::{Value, json};

use super::instant;

/// One pair with where it stands.
#[derive(Debug, Clone, Copy)]
pub(in crate::api) struct Pair<'a> {
    pub(in crate::api) entry: &'a ConfigEntry,
    pub(in crate::api) source: &'a SourceIntention,
}

/// The pairs of an entry; of other kinds of entry, none.
pub(in crate::api) fn pairs(entry: &ConfigEntry) -> impl Iterator<Item = Pair<'_>> {
    let sources = match &entry.body {
        ConfigBody::ServiceIntentions(intentions) => intentions.sources.as_slice(),
        ConfigBody::ServiceDefaults(_) | ConfigBody::ProxyDefaults(_) => &[],
    };
    sources.iter().map(move |source| Pair { entry, source })
}

impl Pair<'_> {
    pub(in crate::api) fn destination(&self) -> Party {
        // The name was parsed when the entry was written; `*` is the only one that is no service.
        Party::parse(&self.entry.name).unwrap_or(Party::Any)
    }

    pub(in crate::api) fn precedence(&self) -> u8 {
        precedence(&self.source.source, &self.destination())
    }

    /// By falling precedence, then by name.
    pub(in crate::api) fn order(&self) -> (std::cmp::Reverse<u8>, String, String) {
        (std::cmp::Reverse(self.precedence()), self.entry.name.clone(), self.source.source.to_string())
    }
}

pub(in crate::api) fn intention(pair: Pair<'_>) -> Value {
    let source = pair.source;
    let mut shape = json!({
        "SourceNS": source.source_namespace.as_str(),
        "SourceName": source.source.to_string(),
        "DestinationNS": pair.entry.namespace.as_str(),
        "DestinationName": pair.entry.name,
        "SourceType": "consul",
        "Precedence": pair.precedence(),
        "CreatedAt": instant(source.created_at),
        "UpdatedAt": instant(source.updated_at),
        "CreateIndex": pair.entry.create_index.0,
        "ModifyIndex": pair.entry.modify_index.0,
    });
    let Some(fields) = shape.as_object_mut() else { return shape };
    match &source.rule {
        Rule::L4(action) => fields.insert("Action".into(), action.as_str().into()),
        Rule::L7(permissions) => fields.insert("Permissions".into(), permissions_to_json(permissions)),
    };
    if !source.description.is_empty() {
        fields.insert("Description".into(), source.description.clone().into());
    }
    if !source.legacy_meta.is_empty() {
        fields.insert("Meta".into(), json!(source.legacy_meta));
    }
    shape
}
