//! What operators write, turned into what the mesh knows: services, checks and config entries in Consul's forms.
//!
//! Keys match without regard to case and underscores, so that HCL, TOML, JSON files and HTTP bodies share one reader.
//! A parser says everything that is wrong, never only the first thing; what it does not know it refuses.

mod check;
mod connect;
mod entry;
mod entry_json;
mod intentions;
pub mod reader;
mod service;
#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::Fault;
use crate::check::CheckDefinition;
use crate::config_entry::ConfigEntry;
use crate::service::{Instance, ServiceDefinition};

pub use entry_json::{config_entry_to_json, permissions_to_json};
pub use intentions::parse_permissions;
pub use service::{read_locality, unfit_meta};

use reader::{Problems, Table};

/// What was read, and what its writer should know of it although nothing is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted<T> {
    pub value: T,
    pub warnings: Vec<String>,
}

/// A service definition or the body of a registration.
pub fn parse_service(value: &Value) -> Result<ServiceDefinition, Vec<Fault>> {
    parse_service_noted(value).map(|noted| noted.value)
}

/// As `parse_service`, with warnings.
pub fn parse_service_noted(value: &Value) -> Result<Noted<ServiceDefinition>, Vec<Fault>> {
    let problems = Problems::default();
    let read = read_service(value, &problems);
    conclude(read, problems)
}

/// For a service that stands in something larger: what is wrong goes to `problems`.
pub fn read_service(value: &Value, problems: &Problems) -> Option<ServiceDefinition> {
    let root = label("service", value);
    Table::open(value, &root, problems).and_then(|table| service::read(&table))
}

/// For a check of the host, or of the service that its `service_id` names, that stands in something larger.
pub fn read_check(value: &Value, problems: &Problems) -> Option<CheckDefinition> {
    let root = label("check", value);
    Table::open(value, &root, problems).and_then(|table| check::read(&table, None))
}

/// A check of `service`, or of the host (or of the service that its `service_id` names) when there is none.
pub fn parse_check(value: &Value, service: Option<&Instance>) -> Result<CheckDefinition, Vec<Fault>> {
    parse_check_noted(value, service).map(|noted| noted.value)
}

/// As `parse_check`, with warnings.
pub fn parse_check_noted(
    value: &Value,
    service: Option<&Instance>,
) -> Result<Noted<CheckDefinition>, Vec<Fault>> {
    let problems = Problems::default();
    let root = label("check", value);
    let owner = service.map(|one| check::Owner { id: one.id.as_str(), name: one.name.as_str(), place: None });
    let read = Table::open(value, &root, &problems).and_then(|table| check::read(&table, owner));
    conclude(read, problems)
}

/// A config entry of one of Consul's kinds that this version enforces.
pub fn parse_config_entry(value: &Value) -> Result<ConfigEntry, Vec<Fault>> {
    let problems = Problems::default();
    let root = match (text_of(value, "kind"), text_of(value, "name")) {
        (Some(kind), Some(name)) => format!("{kind} {name:?}"),
        _ => "config entry".into(),
    };
    let read = Table::open(value, &root, &problems).and_then(|table| entry::read(&table));
    conclude(read, problems).map(|noted| noted.value)
}

fn conclude<T>(read: Option<T>, problems: Problems) -> Result<Noted<T>, Vec<Fault>> {
    let (faults, warnings) = problems.into_parts();
    match read {
        Some(value) if faults.is_empty() => Ok(Noted { value, warnings }),
        // A reader that gives up has said why; should one ever not, the input is still not accepted.
        _ if faults.is_empty() => Err(vec![Fault::invalid("not understood")]),
        _ => Err(faults),
    }
}

/// `service "web"`, by which the messages name what they speak of.
fn label(noun: &str, value: &Value) -> String {
    match text_of(value, "name").or_else(|| text_of(value, "id")) {
        Some(name) => format!("{noun} {name:?}"),
        None => noun.into(),
    }
}

fn text_of(value: &Value, key: &str) -> Option<String> {
    let value = match value {
        Value::Array(items) => items.first()?,
        other => other,
    };
    let found = value.as_object()?.iter().find(|(name, _)| reader::plain(name) == key)?;
    found.1.as_str().map(|text| text.chars().take(80).collect())
}
