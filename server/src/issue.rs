//! Signing: certificates for services and nodes, from a request's public key and our own records alone.
//!
//! Whether the caller may have the certificate is decided before; here the request itself is judged, and how many are
//! signed in a second is limited, so that a storm of renewals does not starve the rest.

pub(crate) mod limiter;
mod request;

#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use purlin_model::identity::{Identity, Subject};
use purlin_model::{Fault, FaultCode, Millis};

use crate::ca::{Intermediate, Usage, certify_key};
use limiter::Limiter;
pub(crate) use request::key_sha256;

/// As Consul's CSRMaxPerSecond.
const PER_SECOND: u32 = 50;
/// A request waits so long for its turn before it is sent away, as with Consul.
const PATIENCE: Duration = Duration::from_millis(500);
/// Of a node's certificate.
pub(crate) const NODE_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// What a server says that is not able to sign: another one is.
fn cannot_sign() -> Fault {
    Fault::unavailable("this server cannot sign certificates yet: the root key is not sealed to it so far")
}

/// Signs with the newest intermediate.
#[derive(Debug)]
pub(crate) struct Issuer {
    /// None: this server cannot sign yet.
    intermediate: RwLock<Option<Arc<Intermediate>>>,
    limiter: Limiter,
}

impl Issuer {
    pub(crate) fn new(intermediate: Option<Intermediate>) -> Self {
        Self { intermediate: RwLock::new(intermediate.map(Arc::new)), limiter: Limiter::new(PER_SECOND) }
    }

    pub(crate) fn can_sign(&self) -> bool {
        self.intermediate().is_some()
    }

    pub(crate) fn intermediate(&self) -> Option<Arc<Intermediate>> {
        self.intermediate.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn replace(&self, intermediate: Intermediate) {
        *self.intermediate.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(intermediate));
    }

    /// Waits for this request's turn, at most for a moment.
    pub(crate) async fn turn(&self) -> Result<(), Fault> {
        match self.limiter.reserve(Instant::now(), PATIENCE) {
            Some(Duration::ZERO) => Ok(()),
            Some(wait) => {
                tokio::time::sleep(wait).await;
                Ok(())
            }
            None => Err(Fault::new(
                FaultCode::Busy,
                format!("more than {PER_SECOND} certificates a second are asked for; try again shortly"),
            )),
        }
    }

    /// The chain for `identity`: leaf first, then our intermediate; DER.
    pub(crate) fn sign(
        &self,
        csr: &[u8],
        identity: &Identity,
        life: Duration,
        now: Millis,
    ) -> Result<Vec<Vec<u8>>, Fault> {
        let key = request::public_key(csr)?;
        let intermediate = self.intermediate().ok_or_else(cannot_sign)?;
        let common_name = match &identity.subject {
            Subject::Service { service, .. } => service.as_str(),
            Subject::Agent { node, .. } | Subject::Server { node, .. } => node.as_str(),
        };
        let not_after = now.plus(life).min(intermediate.not_after());
        let usage = Usage { identity: identity.to_string(), common_name, now, not_after };
        let leaf = certify_key(&key, &usage, intermediate.issuer())
            .map_err(|why| Fault::internal(format!("cannot sign a certificate for {identity}: {why}")))?;
        Ok(vec![leaf, intermediate.certificate().to_vec()])
    }
}
