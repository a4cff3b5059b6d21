//! User events: a name, a few bytes, and whom they concern.
//!
//! They go through the log like every other fact, and the newest of them stay in a ring that agents follow. Whether an
//! event concerns a host is for its agent to say, which alone knows what runs there now.

use regex::Regex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Fault, FaultCode, limit, pattern};

/// The form of an event's message that Consul calls its version.
pub const VERSION: u64 = 1;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserEvent {
    pub id: Uuid,
    pub name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub payload: Vec<u8>,
    /// Regular expressions; empty: everybody.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_filter: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service_filter: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tag_filter: String,
    /// Counts the events of the mesh. Written where it is applied, zero before.
    #[serde(default)]
    pub ltime: u64,
}

impl UserEvent {
    /// What an event must be before it is fired.
    pub fn check(&self) -> Result<(), Fault> {
        if self.name.is_empty() {
            return Err(Fault::invalid("User event missing name"));
        }
        if self.name.chars().any(char::is_control) {
            return Err(Fault::invalid("the name of a user event has a control character"));
        }
        for (what, bytes, most) in [
            ("the name", self.name.len(), limit::EVENT_NAME_BYTES),
            ("the payload", self.payload.len(), limit::EVENT_PAYLOAD_BYTES),
        ] {
            if bytes > most {
                return Err(Fault::new(
                    FaultCode::TooLarge,
                    format!("{what} of the user event has {bytes} bytes, at most {most} are allowed"),
                ));
            }
        }
        Filter::parse(&self.node_filter, &self.service_filter, &self.tag_filter).map(|_| ())
    }

    /// What `X-Consul-Index` says of a list that ends with this event: Consul's figure, which rises and falls.
    pub fn index(&self) -> u64 {
        let (high, low) = self.id.as_u64_pair();
        high ^ low
    }

    /// The key under which the topic of events has it: in the order in which they were fired.
    pub fn key(&self) -> String {
        format!("{:020}", self.ltime)
    }
}

/// Whom an event concerns; each expression that is absent concerns everybody.
#[derive(Debug, Clone)]
pub struct Filter {
    node: Option<Regex>,
    service: Option<Regex>,
    tag: Option<Regex>,
}

impl Filter {
    pub fn parse(node: &str, service: &str, tag: &str) -> Result<Self, Fault> {
        if !tag.is_empty() && service.is_empty() {
            return Err(Fault::invalid("Cannot provide tag filter without service filter"));
        }
        Ok(Self {
            node: expression("node", node)?,
            service: expression("service", service)?,
            tag: expression("tag", tag)?,
        })
    }

    /// Whether it concerns a host of that name which runs these services: each with the texts that name it (its id and
    /// its name) and its tags.
    pub fn concerns<'a>(
        &self,
        node: &str,
        mut services: impl Iterator<Item = ([&'a str; 2], &'a [String])>,
    ) -> bool {
        if self.node.as_ref().is_some_and(|wanted| !wanted.is_match(node)) {
            return false;
        }
        let Some(service) = &self.service else { return true };
        services.any(|(names, tags)| {
            names.iter().any(|name| service.is_match(name))
                && self.tag.as_ref().is_none_or(|wanted| tags.iter().any(|tag| wanted.is_match(tag)))
        })
    }
}

fn expression(what: &str, text: &str) -> Result<Option<Regex>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > limit::EVENT_FILTER_BYTES {
        return Err(Fault::new(
            FaultCode::TooLarge,
            format!(
                "the {what} filter has {} bytes, at most {} are allowed",
                text.len(),
                limit::EVENT_FILTER_BYTES
            ),
        ));
    }
    pattern::compile(text).map(Some).map_err(|why| Fault::invalid(format!("Invalid {what} filter: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str) -> UserEvent {
        UserEvent { name: name.into(), ..UserEvent::default() }
    }

    fn concerns(node: &str, service: &str, tag: &str) -> bool {
        let tags = ["v1".to_owned(), "blue".to_owned()];
        let services = [(["web-1", "web"], &tags[..]), (["db-1", "db"], &[][..])];
        Filter::parse(node, service, tag).unwrap().concerns("host-1", services.into_iter())
    }

    #[test]
    fn an_event_concerns_who_fits_every_expression() {
        assert!(concerns("", "", ""));
        assert!(concerns("^host-[12]$", "", ""));
        assert!(!concerns("^host$", "", ""));
        assert!(concerns("", "^web$", ""), "by its name");
        assert!(concerns("", "^web-1$", ""), "by its id");
        assert!(!concerns("", "cache", ""));
        assert!(concerns("", "web", "^v1$"));
        assert!(!concerns("", "db", "v1"), "a tag of another service does not count");
        assert!(!concerns("other", "web", "v1"));
    }

    #[test]
    fn what_could_not_be_delivered_is_refused() {
        assert_eq!(event("deploy").check(), Ok(()));
        let refused = |event: UserEvent| event.check().unwrap_err();
        assert_eq!(refused(event("")).text, "User event missing name");
        assert!(refused(event("a\nb")).text.contains("control"));
        let tag = UserEvent { tag_filter: "v1".into(), ..event("deploy") };
        assert_eq!(refused(tag).text, "Cannot provide tag filter without service filter");
        let broken = refused(UserEvent { node_filter: "(".into(), ..event("deploy") });
        assert!(broken.text.starts_with("Invalid node filter: "), "{broken}");
        assert!(!broken.text.contains('\n'), "{broken}");
    }

    #[test]
    fn limits_hold_at_their_edge() {
        let name = |bytes| event(&"n".repeat(bytes)).check();
        assert_eq!(name(limit::EVENT_NAME_BYTES), Ok(()));
        assert_eq!(name(limit::EVENT_NAME_BYTES + 1).unwrap_err().code, FaultCode::TooLarge);
        let payload = |bytes| UserEvent { payload: vec![7; bytes], ..event("deploy") }.check();
        assert_eq!(payload(limit::EVENT_PAYLOAD_BYTES), Ok(()));
        assert_eq!(payload(limit::EVENT_PAYLOAD_BYTES + 1).unwrap_err().code, FaultCode::TooLarge);
        let filter = |bytes| UserEvent { node_filter: "n".repeat(bytes), ..event("deploy") }.check();
        assert_eq!(filter(limit::EVENT_FILTER_BYTES), Ok(()));
        assert_eq!(filter(limit::EVENT_FILTER_BYTES + 1).unwrap_err().code, FaultCode::TooLarge);
        let huge = UserEvent { node_filter: "(a{1000}){1000}".into(), ..event("deploy") }.check();
        assert_eq!(huge.unwrap_err().code, FaultCode::Invalid);
    }

    #[test]
    fn the_index_is_of_the_id() {
        let id = Uuid::from_u64_pair(0xffff_0000_ffff_0000, 0x0000_ffff_0000_0001);
        assert_eq!(UserEvent { id, ..event("deploy") }.index(), 0xffff_ffff_ffff_0001);
    }
}
