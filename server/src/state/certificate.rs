//! Certificates of hosts: which each has, and which count no more because the host was removed or replaced.
//!
//! Bounded: of each host the newest are kept, and a revoked one is forgotten once it has expired by itself.

use imbl::{OrdMap, Vector};
use purlin_model::command::Done;
use purlin_model::{Fault, Millis, NodeName};
use serde::{Deserialize, Serialize};

use super::{Draft, State};

/// Of one host: more are not valid at one time, because each is renewed when two thirds of it are over.
const PER_NODE: usize = 8;
const REVOKED: usize = 50_000;
const SHA256_BYTES: usize = 32;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Certificates {
    of: OrdMap<NodeName, Vector<(Vec<u8>, Millis)>>,
    /// By SHA-256, with the time when each expires.
    revoked: OrdMap<Vec<u8>, Millis>,
}

impl State {
    /// Whether the certificate with that SHA-256 belonged to a host that is gone.
    pub(crate) fn is_revoked(&self, sha256: &[u8; SHA256_BYTES]) -> bool {
        self.certificates.revoked.contains_key(sha256.as_slice())
    }
}

impl Draft {
    pub(super) fn record_certificate(
        &mut self,
        node: &NodeName,
        sha256: &[u8],
        not_after: Millis,
    ) -> Result<Done, Fault> {
        if sha256.len() != SHA256_BYTES {
            return Err(Fault::invalid("a certificate is known by a SHA-256 of 32 bytes"));
        }
        if self.host(node).is_none() {
            return Err(Fault::not_found(format!("no node {node} in the catalog: it was removed meanwhile")));
        }
        let of_node = self.state.certificates.of.entry(node.clone()).or_default();
        of_node.push_back((sha256.to_vec(), not_after));
        while of_node.len() > PER_NODE {
            of_node.pop_front();
        }
        Ok(Done::Yes)
    }

    pub(super) fn revoke_certificates(&mut self, node: &NodeName) {
        let Some(certificates) = self.state.certificates.of.remove(node) else { return };
        let revoked = &mut self.state.certificates.revoked;
        let expired: Vec<Vec<u8>> =
            revoked.iter().filter(|(_, until)| **until < self.at).map(|(sha256, _)| sha256.clone()).collect();
        for sha256 in expired {
            revoked.remove(&sha256);
        }
        revoked.extend(certificates.into_iter().filter(|(_, until)| *until >= self.at));
        while revoked.len() > REVOKED {
            // The one that would expire first is missed least.
            let Some(first) =
                revoked.iter().min_by_key(|(_, until)| **until).map(|(sha256, _)| sha256.clone())
            else {
                break;
            };
            revoked.remove(&first);
        }
    }
}
