//! The root of trust: made once, when the mesh is.

use std::time::Duration;

use aws_lc_rs::digest;
use purlin_model::identity::TrustDomain;
use purlin_model::topic::RootCertificate;
use purlin_model::{Millis, Revision};
use rcgen::{BasicConstraints, IsCa, KeyPair, KeyUsagePurpose, SerialNumber};

use super::{CaError, certify, random};

const LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A root with its private key, which must be sealed and forgotten.
pub(crate) struct NewRoot {
    pub(crate) certificate: RootCertificate,
    /// PKCS#8, DER.
    pub(crate) key: Vec<u8>,
}

impl NewRoot {
    pub(crate) fn create(domain: &TrustDomain, now: Millis) -> Result<Self, CaError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let not_after = now.plus(LIFE);
        let mut params = certify::base("Purlin Root CA", &format!("spiffe://{domain}"), now, not_after)?;
        // Consul shows a root's serial number as a number of 64 bits.
        let number = u64::from_be_bytes(random()?) >> 1 | 1 << 62;
        params.serial_number = Some(SerialNumber::from_slice(&number.to_be_bytes()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key)?;
        let validity = purlin_wire::tls::validity(certificate.der())?;
        let certificate = RootCertificate {
            id: root_id(certificate.der()),
            name: "Purlin Root CA".into(),
            pem: certificate.pem(),
            serial: number.to_string(),
            not_before: validity.not_before,
            not_after: validity.not_after,
            active: true,
            create_index: Revision(0),
            modify_index: Revision(0),
        };
        Ok(Self { certificate, key: key.serialize_der() })
    }
}

/// SHA-1 as hex with colons: Consul's id of a root. A name, not a proof.
fn root_id(der: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}
