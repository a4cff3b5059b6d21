//! Consul's JSON forms of what the mesh knows. Pure: facts in, values out; no other file spells a field name that a
//! client reads of a node, service, check, intention or certificate.

pub(super) mod certificate;
pub(super) mod check;
pub(super) mod event;
pub(super) mod intention;
pub(super) mod node;
pub(super) mod query;
pub(super) mod schema;
pub(super) mod service;
#[cfg(test)]
mod tests;

use purlin_model::Millis;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A wall-clock instant as Go writes it in JSON; what cannot be one is Go's zero time.
pub(super) fn instant(at: Millis) -> String {
    let seconds = i64::try_from(at.0 / 1000).unwrap_or(i64::MAX);
    let text = OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|time| {
        let time = time + std::time::Duration::from_millis(at.0 % 1000);
        time.format(&Rfc3339).ok()
    });
    match text {
        Some(text) if at.0 != 0 => text,
        _ => "0001-01-01T00:00:00Z".into(),
    }
}
