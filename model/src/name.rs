//! Names and ids: parsed at the door, bounded, ordered, cheap to clone.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limit;

/// Why a text is not a name of the asked kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {text:?} {why}")]
pub struct NameError {
    kind: &'static str,
    text: String,
    why: &'static str,
}

fn check(
    kind: &'static str,
    text: &str,
    max: usize,
    allowed: fn(char) -> bool,
    charset: &'static str,
) -> Result<(), NameError> {
    let refuse = |why| {
        let text = text.chars().take(80).collect();
        Err(NameError { kind, text, why })
    };
    if text.is_empty() {
        return refuse("is empty");
    }
    if text.len() > max {
        return refuse("is too long");
    }
    if !text.chars().all(allowed) {
        return refuse(charset);
    }
    Ok(())
}

fn label_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

fn printable(c: char) -> bool {
    !c.is_control()
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, $kind:literal, $max:expr, $allowed:expr, $charset:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses `text`, refusing what is empty, too long or has a character that does not belong.
            pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
                let text = text.as_ref();
                check($kind, text, $max, $allowed, $charset)?;
                Ok(Self(text.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}

names! {
    /// The name by which a service is found: `web`.
    ServiceName, "service name", limit::SERVICE_NAME_BYTES, label_char,
        "may only have letters, digits, '-', '_' and '.'";
    /// The name of a host in the catalog.
    NodeName, "node name", limit::NODE_NAME_BYTES, label_char,
        "may only have letters, digits, '-', '_' and '.'";
    /// A datacenter, a label of DNS names and identities.
    Datacenter, "datacenter", limit::LABEL_BYTES, |c| label_char(c) && c != '.',
        "may only have letters, digits, '-' and '_'";
    /// A namespace; `default` unless somebody says otherwise.
    Namespace, "namespace", limit::LABEL_BYTES, |c| label_char(c) && c != '.',
        "may only have letters, digits, '-' and '_'";
    /// One instance of a service, unique on its node.
    InstanceId, "service id", limit::INSTANCE_ID_BYTES, printable,
        "has a control character";
    /// One check, unique on its node.
    CheckId, "check id", limit::CHECK_ID_BYTES, printable,
        "has a control character";
}

impl ServiceName {
    /// Whether the name can be a label of a DNS name, which an identity and an SNI need.
    pub fn is_dns_label(&self) -> bool {
        let text = self.as_str();
        text.len() <= limit::LABEL_BYTES
            && !text.starts_with('-')
            && !text.ends_with('-')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self("default".into())
    }
}

impl Default for Datacenter {
    fn default() -> Self {
        Self("dc1".into())
    }
}

/// The identity of a host, kept in its data directory; names and addresses may change, this does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub uuid::Uuid);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A service as policy and discovery know it: a namespace and a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceKey {
    #[serde(default)]
    pub namespace: Namespace,
    pub name: ServiceName,
}

impl ServiceKey {
    pub fn new(name: ServiceName) -> Self {
        Self { namespace: Namespace::default(), name }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.as_str() == "default" {
            return self.name.fmt(f);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
