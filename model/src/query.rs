//! Prepared queries: a question about a service that is kept under a name, so that its asker need not know how it is
//! answered.
//!
//! Here are their form and its laws, which query a name means, and which instances one finds; templates stand in
//! `template.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::check::Status;
use crate::service::ServiceEntry;
use crate::{Fault, FaultCode, Revision, duration, limit};

mod template;
#[cfg(test)]
mod tests;

/// What stands in each text of a template; a plain name is at most `limit::SERVICE_NAME_BYTES`.
const TEXT_BYTES: usize = 512;
const CHECKS: usize = 256;
const DATACENTERS: usize = 64;
/// What Consul shows in place of a token; one who sends it back has lost the real one.
const HIDDEN: &str = "<hidden>";

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedQuery {
    pub id: Uuid,
    /// Unique without regard to case; of a template, what the names it answers begin with.
    #[serde(default)]
    pub name: String,
    /// The query goes with this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Uuid>,
    /// Kept for its owner; without effect until access control lands.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub token: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Template>,
    pub service: ServiceQuery,
    /// Of answers over DNS, as it was written; empty: that of the service.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ttl: String,
    #[serde(default)]
    pub create_index: Revision,
    #[serde(default)]
    pub modify_index: Revision,
}

/// Of the one kind that there is, `name_prefix_match`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// Whose groups `${match(N)}` stands for.
    #[serde(default)]
    pub regexp: String,
    /// Tags that come out empty are no condition.
    #[serde(default)]
    pub remove_empty_tags: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceQuery {
    pub service: String,
    #[serde(default)]
    pub failover: Failover,
    #[serde(default)]
    pub only_passing: bool,
    /// Checks that do not count.
    #[serde(default)]
    pub ignore_checks: Vec<String>,
    /// Whose instances come first: a node's name, `_agent` or `_ip`.
    #[serde(default)]
    pub near: String,
    /// All of them, and none of those with `!` before them.
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub node_meta: BTreeMap<String, String>,
    #[serde(default)]
    pub service_meta: BTreeMap<String, String>,
    /// Places in the mesh are wanted, not the application's own.
    #[serde(default)]
    pub connect: bool,
}

/// Where to look when nothing healthy is here. A mesh has one datacenter, so there is nowhere yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    #[serde(default)]
    pub nearest: u32,
    #[serde(default)]
    pub datacenters: Vec<String>,
    /// As `datacenters`, in Consul's newer form.
    #[serde(default)]
    pub targets: Vec<String>,
}

impl PreparedQuery {
    /// What a query must be for itself, wherever it comes from.
    pub fn check(&self) -> Result<(), Fault> {
        let refuse = |why: &str| Err(invalid(why));
        if self.name.is_empty() && self.template.is_none() && self.session.is_none() {
            return refuse("Must be bound to a session");
        }
        short("Name", &self.name, limit::QUERY_NAME_BYTES)?;
        if self.name.chars().any(char::is_control) {
            return refuse("Name has a control character");
        }
        short("Token", &self.token, limit::WORD_BYTES)?;
        if self.token == HIDDEN {
            return refuse(
                "Bad Token '<hidden>', it looks like a query definition with a redacted token was submitted",
            );
        }
        if !self.ttl.is_empty()
            && let Err(why) = duration::parse(&self.ttl)
        {
            return Err(invalid(&format!("Bad DNS TTL '{}': {why}", self.ttl)));
        }
        self.service.check()?;
        if let Some(template) = &self.template {
            short("Template.Regexp", &template.regexp, TEXT_BYTES)?;
            // The shortest name that it will ever be asked for.
            self.render(&self.name)?;
        }
        Ok(())
    }

    /// How long an answer over DNS may be remembered, where the query says so.
    pub fn dns_ttl(&self) -> Option<Duration> {
        duration::parse(&self.ttl).ok()
    }

    /// Same but for the revisions, which only the state machine writes.
    pub fn same_content(&self, other: &Self) -> bool {
        let at = |one: &Self| Self { create_index: Revision(0), modify_index: Revision(0), ..one.clone() };
        at(self) == at(other)
    }
}

impl ServiceQuery {
    fn check(&self) -> Result<(), Fault> {
        if self.service.is_empty() {
            return Err(invalid("Must provide a Service name to query"));
        }
        short("Service.Service", &self.service, TEXT_BYTES)?;
        short("Service.Near", &self.near, TEXT_BYTES)?;
        few("Service.Tags", self.tags.len(), limit::TAGS)?;
        few("Service.IgnoreCheckIDs", self.ignore_checks.len(), CHECKS)?;
        few("Service.NodeMeta", self.node_meta.len(), limit::META_PAIRS)?;
        few("Service.ServiceMeta", self.service_meta.len(), limit::META_PAIRS)?;
        let failover = &self.failover;
        few("Service.Failover.Datacenters", failover.datacenters.len(), DATACENTERS)?;
        few("Service.Failover.Targets", failover.targets.len(), DATACENTERS)?;
        if !failover.targets.is_empty() && (failover.nearest > 0 || !failover.datacenters.is_empty()) {
            return Err(invalid("Targets cannot be populated with NearestN or Datacenters"));
        }
        for text in self.tags.iter().chain(&self.ignore_checks) {
            short("a text of Service", text, TEXT_BYTES)?;
        }
        for (key, value) in self.node_meta.iter().chain(&self.service_meta) {
            if key.is_empty() {
                return Err(invalid("a key of metadata is empty"));
            }
            short("a key of metadata", key, limit::META_KEY_BYTES)?;
            short("a value of metadata", value, limit::META_VALUE_BYTES)?;
        }
        for name in failover.datacenters.iter().chain(&failover.targets) {
            short("the name of a datacenter", name, TEXT_BYTES)?;
        }
        Ok(())
    }

    /// Whether an instance is an answer: healthy enough, and all that was asked for.
    pub fn finds(&self, entry: &ServiceEntry) -> bool {
        let worst = if self.only_passing { Status::Passing } else { Status::Warning };
        let ignored = |id: &str| self.ignore_checks.iter().any(|ignored| ignored == id);
        let healthy = entry.checks.iter().all(|check| check.status <= worst || ignored(check.id.as_str()));
        let has = |meta: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>| {
            wanted.iter().all(|(key, value)| meta.get(key) == Some(value))
        };
        healthy
            && self.tags.iter().all(|wanted| fits(&entry.instance.tags, wanted))
            && has(&entry.node.meta, &self.node_meta)
            && has(&entry.instance.meta, &self.service_meta)
    }
}

/// Whether a tag is there, or with `!` before it is not; case does not count.
fn fits(tags: &[String], wanted: &str) -> bool {
    let (tag, there) = match wanted.strip_prefix('!') {
        Some(tag) => (tag, false),
        None => (wanted, true),
    };
    let tag = tag.to_lowercase();
    tags.iter().any(|own| own.to_lowercase() == tag) == there
}

/// The query that an id or a name means: by id, else by its whole name, else the template with the longest name that
/// this one begins with. A template comes out filled in.
pub fn resolve<'a>(
    queries: impl Iterator<Item = &'a PreparedQuery>,
    text: &str,
) -> Result<Option<PreparedQuery>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    let id = Uuid::try_parse(text).ok().filter(|_| text.len() == uuid::fmt::Hyphenated::LENGTH);
    let mut best: Option<&PreparedQuery> = None;
    for query in queries {
        if Some(query.id) == id {
            if query.template.is_some() {
                return Err(Fault::invalid(
                    "prepared query templates can only be resolved up by name, not by ID",
                ));
            }
            return Ok(Some(query.clone()));
        }
        if answers(query, text) && best.is_none_or(|best| best.name.len() < query.name.len()) {
            best = Some(query);
        }
    }
    match best {
        Some(query) if query.template.is_some() => query.render(text).map(Some),
        found => Ok(found.cloned()),
    }
}

fn answers(query: &PreparedQuery, text: &str) -> bool {
    match query.template {
        // One without a name is known by its id alone.
        None => query.name.eq_ignore_ascii_case(text),
        Some(_) => template::suffix(text, &query.name).is_some(),
    }
}

fn invalid(why: &str) -> Fault {
    Fault::invalid(format!("Invalid prepared query: {why}"))
}

fn too_large(why: String) -> Fault {
    Fault::new(FaultCode::TooLarge, format!("Invalid prepared query: {why}"))
}

fn short(what: &str, text: &str, most: usize) -> Result<(), Fault> {
    if text.len() > most {
        return Err(too_large(format!("{what} has {} bytes, at most {most} are allowed", text.len())));
    }
    Ok(())
}

fn few(what: &str, have: usize, most: usize) -> Result<(), Fault> {
    if have > most {
        return Err(too_large(format!("{what} has {have} entries, at most {most} are allowed")));
    }
    Ok(())
}
