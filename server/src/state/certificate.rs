//! Certificates of hosts: which each has, and which count no more because the host was removed or replaced.
//!
//! A host is let in by a certificate that stands here and by no other, so that none is forgotten when the host goes.
//! Bounded: of each host a few are kept, and a revoked one is forgotten once it has expired by itself.

use imbl::{OrdMap, Vector};
use purlin_model::command::Done;
use purlin_model::{Fault, Millis, NodeName};
use serde::{Deserialize, Serialize};

use super::{Draft, State};

/// Of one host: it needs two at a time, and some more when it asked again because an answer was lost.
const PER_NODE: usize = 8;
const REVOKED: usize = 50_000;
/// Hosts with certificates, those included that the catalog has forgotten and that may come back.
const HOSTS: usize = super::node::NODES + 20_000;
const SHA256_BYTES: usize = 32;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Certificates {
    of: OrdMap<NodeName, Vector<(Vec<u8>, Millis)>>,
    /// By SHA-256, with the time when each expires.
    revoked: OrdMap<Vec<u8>, Millis>,
    /// The SHA-256 of the key that each host joined with, by which it is known when it asks again.
    #[serde(default, skip_serializing_if = "OrdMap::is_empty")]
    joined_with: OrdMap<NodeName, Vec<u8>>,
}

impl Certificates {
    /// Whether a host was let in under that name.
    pub(super) fn has(&self, node: &NodeName) -> bool {
        self.of.contains_key(node)
    }

    /// What a host was given: SHA-256, and until when it is good.
    pub(super) fn of(&self, node: &NodeName) -> Vec<(Vec<u8>, Millis)> {
        self.of.get(node).into_iter().flatten().cloned().collect()
    }
}

impl State {
    /// Whether the certificate with that SHA-256 belonged to a host that is gone.
    pub(crate) fn is_revoked(&self, sha256: &[u8; SHA256_BYTES]) -> bool {
        self.certificates.revoked.contains_key(sha256.as_slice())
    }

    /// Whether a host that is in the catalog was given the certificate with that SHA-256.
    pub(crate) fn knows_certificate(&self, node: &NodeName, sha256: &[u8; SHA256_BYTES]) -> bool {
        let of_node = self.certificates.of.get(node);
        of_node.is_some_and(|of_node| of_node.iter().any(|(known, _)| known.as_slice() == sha256))
    }

    /// When the last certificate of a host expires, if the host joined with the key of that SHA-256 and was neither
    /// removed nor replaced since. The catalog may have forgotten it.
    pub(crate) fn joined_until(&self, node: &NodeName, key_sha256: &[u8]) -> Option<Millis> {
        self.certificates.joined_with.get(node).filter(|known| known.as_slice() == key_sha256)?;
        self.certificates.of.get(node)?.iter().map(|(_, until)| *until).max()
    }

    /// Whether a host joined and was not removed since, though the catalog may have forgotten it.
    pub(crate) fn has_joined(&self, node: &NodeName) -> bool {
        self.certificates.joined_with.contains_key(node)
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
        if self.host(node).is_none() && !self.state.has_joined(node) {
            return Err(Fault::not_found(format!("no node {node} in the catalog: it was removed meanwhile")));
        }
        let of_node = self.state.certificates.of.entry(node.clone()).or_default();
        if of_node.iter().any(|(known, _)| known.as_slice() == sha256) {
            return Ok(Done::Yes);
        }
        of_node.retain(|(_, until)| *until >= self.at);
        // The oldest stays: its host may not have been able to keep what it got since.
        while of_node.len() >= PER_NODE {
            of_node.pop_back();
        }
        of_node.push_back((sha256.to_vec(), not_after));
        Ok(Done::Yes)
    }

    pub(super) fn note_joining_key(&mut self, node: &NodeName, sha256: &[u8]) {
        self.state.certificates.joined_with.insert(node.clone(), sha256.to_vec());
    }

    /// Whether the host in the catalog joined with that key. Its id is no proof: everybody in the mesh may read it.
    pub(super) fn has_joined_with(&self, node: &NodeName, sha256: &[u8]) -> bool {
        self.state.certificates.joined_with.get(node).is_some_and(|known| known == sha256)
    }

    /// Keeps the table bounded: of the hosts that the catalog forgot, an eighth of the bound goes at once, those first
    /// whose certificates expire first.
    pub(super) fn forget_lapsed(&mut self) {
        let table = &self.state.certificates;
        if table.of.len() <= HOSTS {
            return;
        }
        let gone = table.of.iter().filter(|(name, _)| self.host(name).is_none());
        let mut gone: Vec<(Option<Millis>, NodeName)> =
            gone.map(|(name, of)| (of.iter().map(|(_, until)| *until).max(), name.clone())).collect();
        gone.sort_unstable();
        for (_, name) in gone.into_iter().take(HOSTS / 8) {
            self.state.certificates.of.remove(&name);
            self.state.certificates.joined_with.remove(&name);
        }
    }

    /// Tells whether there was anything to revoke.
    pub(super) fn revoke_certificates(&mut self, node: &NodeName) -> bool {
        self.state.certificates.joined_with.remove(node);
        let Some(certificates) = self.state.certificates.of.remove(node) else { return false };
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
        true
    }
}

#[cfg(test)]
mod tests {
    use purlin_model::Revision;

    use super::*;

    #[test]
    fn hosts_that_the_catalog_forgot_are_kept_up_to_a_bound() {
        let mut draft = State::new().draft(Revision(1), Millis(0));
        let name = |n: usize| NodeName::new(format!("h{n}")).unwrap();
        let add = |draft: &mut Draft, n: usize| {
            let until = Millis(u64::try_from(n).unwrap());
            draft.state.certificates.of.insert(name(n), Vector::unit((vec![1; 32], until)));
            draft.note_joining_key(&name(n), &[2; 32]);
        };
        (0..HOSTS).for_each(|n| add(&mut draft, n));
        draft.forget_lapsed();
        assert_eq!(draft.state.certificates.of.len(), HOSTS);
        add(&mut draft, HOSTS);
        draft.forget_lapsed();
        let table = &draft.state.certificates;
        assert_eq!(table.of.len(), HOSTS + 1 - HOSTS / 8);
        assert_eq!(table.joined_with.len(), table.of.len());
        assert!(!draft.state.has_joined(&name(0)) && draft.state.has_joined(&name(HOSTS)));
    }
}
