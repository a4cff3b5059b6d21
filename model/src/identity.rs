//! Who somebody is: SPIFFE ids in Consul's form, and the trust domain they belong to.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Datacenter, Namespace, NodeName, ServiceKey, ServiceName};

/// `<uuid>.<domain>`, fixed when the mesh is made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TrustDomain(pub String);

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An identity of this or another mesh; its text is the one URI in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Identity {
    pub trust_domain: TrustDomain,
    pub subject: Subject,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Subject {
    Service { namespace: Namespace, datacenter: Datacenter, service: ServiceName },
    Agent { datacenter: Datacenter, node: NodeName },
    Server { datacenter: Datacenter, node: NodeName },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an identity of a mesh (spiffe://<trust domain>/ns/<ns>/dc/<dc>/svc/<service>)")]
pub struct IdentityError(String);

impl Identity {
    pub fn service(trust_domain: TrustDomain, datacenter: Datacenter, key: &ServiceKey) -> Self {
        let (namespace, service) = (key.namespace.clone(), key.name.clone());
        Self { trust_domain, subject: Subject::Service { namespace, datacenter, service } }
    }

    /// The service this identity stands for, if it is one.
    pub fn service_key(&self) -> Option<ServiceKey> {
        match &self.subject {
            Subject::Service { namespace, service, .. } => {
                Some(ServiceKey { namespace: namespace.clone(), name: service.clone() })
            }
            Subject::Agent { .. } | Subject::Server { .. } => None,
        }
    }

    pub fn parse(uri: &str) -> Result<Self, IdentityError> {
        let refuse = || IdentityError(uri.chars().take(200).collect());
        let rest = uri.strip_prefix("spiffe://").ok_or_else(refuse)?;
        let (domain, path) = rest.split_once('/').ok_or_else(refuse)?;
        if domain.is_empty() || domain.len() > 255 {
            return Err(refuse());
        }
        let parts: Vec<&str> = path.split('/').collect();
        let subject = match parts.as_slice() {
            ["ns", namespace, "dc", dc, "svc", service] => Subject::Service {
                namespace: Namespace::new(namespace).map_err(|_| refuse())?,
                datacenter: Datacenter::new(dc).map_err(|_| refuse())?,
                service: ServiceName::new(service).map_err(|_| refuse())?,
            },
            ["agent", "client", "dc", dc, "id", node] => Subject::Agent {
                datacenter: Datacenter::new(dc).map_err(|_| refuse())?,
                node: NodeName::new(node).map_err(|_| refuse())?,
            },
            ["agent", "server", "dc", dc, "id", node] => Subject::Server {
                datacenter: Datacenter::new(dc).map_err(|_| refuse())?,
                node: NodeName::new(node).map_err(|_| refuse())?,
            },
            _ => return Err(refuse()),
        };
        Ok(Self { trust_domain: TrustDomain(domain.into()), subject })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}", self.trust_domain)?;
        match &self.subject {
            Subject::Service { namespace, datacenter, service } => {
                write!(f, "/ns/{namespace}/dc/{datacenter}/svc/{service}")
            }
            Subject::Agent { datacenter, node } => write!(f, "/agent/client/dc/{datacenter}/id/{node}"),
            Subject::Server { datacenter, node } => write!(f, "/agent/server/dc/{datacenter}/id/{node}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_read_back_as_written() {
        for uri in [
            "spiffe://11111111-2222-3333-4444-555555555555.mesh.internal/ns/default/dc/dc1/svc/web",
            "spiffe://a.mesh.internal/agent/client/dc/dc1/id/host-1",
            "spiffe://a.mesh.internal/agent/server/dc/dc1/id/host-1",
        ] {
            assert_eq!(Identity::parse(uri).map(|id| id.to_string()).as_deref(), Ok(uri));
        }
    }

    #[test]
    fn other_uris_are_refused() {
        for uri in [
            "",
            "https://a/b",
            "spiffe:///ns/default/dc/dc1/svc/web",
            "spiffe://a/ns/default/dc/dc1/svc/",
            "spiffe://a/x",
        ] {
            assert!(Identity::parse(uri).is_err(), "{uri}");
        }
    }
}
