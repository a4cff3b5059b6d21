//! Who may talk to whom: intentions, their precedence, and the verdict on one call.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Millis, Namespace, ServiceKey, ServiceName};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Allow,
    Deny,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// One side of an intention: a service, or all of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Party {
    Any,
    Service(ServiceName),
}

impl Party {
    pub fn matches(&self, name: &ServiceName) -> bool {
        match self {
            Self::Any => true,
            Self::Service(own) => own == name,
        }
    }

    /// `*`, or the name of a service.
    pub fn parse(text: &str) -> Result<Self, crate::name::NameError> {
        match text {
            "*" => Ok(Self::Any),
            name => ServiceName::new(name).map(Self::Service),
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Service(name) => name.fmt(f),
        }
    }
}

/// How a header must look. Exactly one of the forms, as in Consul.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeaderForm {
    Present,
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Regex(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderMatch {
    pub name: String,
    pub form: HeaderForm,
    #[serde(default)]
    pub invert: bool,
    #[serde(default)]
    pub ignore_case: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathForm {
    #[default]
    Any,
    Exact(String),
    Prefix(String),
    Regex(String),
}

/// One L7 rule; the first that matches a request decides. A request that none matches is denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    pub action: Action,
    #[serde(default)]
    pub path: PathForm,
    #[serde(default)]
    pub headers: Vec<HeaderMatch>,
    /// Empty: any.
    #[serde(default)]
    pub methods: Vec<String>,
}

/// What an intention says: one word for every connection, or rules for requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rule {
    L4(Action),
    L7(Vec<Permission>),
}

/// One source of a service-intentions entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceIntention {
    pub source: Party,
    #[serde(default)]
    pub source_namespace: Namespace,
    pub rule: Rule,
    #[serde(default)]
    pub description: String,
    /// Consul's id of an intention made through the old endpoints; ours are always derived, never asked for.
    #[serde(default)]
    pub legacy_meta: BTreeMap<String, String>,
    #[serde(default)]
    pub created_at: Millis,
    #[serde(default)]
    pub updated_at: Millis,
}

/// Consul's precedence of a pair: more exact is higher, and the destination counts more.
pub fn precedence(source: &Party, destination: &Party) -> u8 {
    match (source, destination) {
        (Party::Service(_), Party::Service(_)) => 9,
        (Party::Any, Party::Service(_)) => 8,
        (Party::Service(_), Party::Any) => 6,
        (Party::Any, Party::Any) => 5,
    }
}

/// One intention as it stands in a policy: from, to, what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intention {
    pub source: Party,
    #[serde(default)]
    pub source_namespace: Namespace,
    pub destination: Party,
    pub rule: Rule,
}

impl Intention {
    pub fn precedence(&self) -> u8 {
        precedence(&self.source, &self.destination)
    }
}

impl fmt::Display for Intention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match &self.rule {
            Rule::L4(Action::Allow) => "allow",
            Rule::L4(Action::Deny) => "deny",
            Rule::L7(_) => "L7 permissions",
        };
        write!(f, "{} -> {} ({word}, precedence {})", self.source, self.destination, self.precedence())
    }
}

/// All intentions that can concern one destination, most exact first, and what holds when none matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub destination: ServiceKey,
    pub default: Action,
    /// Ordered by falling precedence.
    pub intentions: Vec<Intention>,
}

impl Policy {
    pub fn new(destination: ServiceKey, default: Action, mut intentions: Vec<Intention>) -> Self {
        intentions.sort_by_key(|one| std::cmp::Reverse(one.precedence()));
        Self { destination, default, intentions }
    }

    /// The intention that decides calls of `source`; none: the default does.
    pub fn deciding(&self, source: &ServiceKey) -> Option<&Intention> {
        self.intentions
            .iter()
            .find(|one| one.source_namespace == source.namespace && one.source.matches(&source.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(text: &str) -> Party {
        Party::parse(text).expect("a name")
    }

    #[test]
    fn the_most_exact_intention_decides() {
        let web = ServiceKey::new(ServiceName::new("web").expect("a name"));
        let intention = |source: &str, destination: &str, action| Intention {
            source: party(source),
            source_namespace: Namespace::default(),
            destination: party(destination),
            rule: Rule::L4(action),
        };
        let policy = Policy::new(
            ServiceKey::new(ServiceName::new("api").expect("a name")),
            Action::Deny,
            vec![
                intention("*", "*", Action::Allow),
                intention("*", "api", Action::Deny),
                intention("web", "api", Action::Allow),
            ],
        );
        assert_eq!(policy.deciding(&web).map(Intention::precedence), Some(9));
        let other = ServiceKey::new(ServiceName::new("other").expect("a name"));
        assert_eq!(policy.deciding(&other).map(Intention::precedence), Some(8));
    }
}
