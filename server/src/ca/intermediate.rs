//! A server's own authority, certified by the root: signs leaves until it is renewed at half its life.

use std::time::Duration;

use purlin_model::identity::TrustDomain;
use purlin_model::topic::MeshInfo;
use purlin_model::{Millis, NodeName};
use purlin_wire::tls::{self, Validity};
use rcgen::{BasicConstraints, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{CaError, certify};

pub(crate) struct Intermediate {
    certificate: Vec<u8>,
    validity: Validity,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Intermediate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intermediate").field("validity", &self.validity).finish_non_exhaustive()
    }
}

impl Intermediate {
    /// A new key, certified by the root.
    pub(crate) fn create(
        root_pem: &str,
        root_key: &[u8],
        domain: &TrustDomain,
        node: &NodeName,
        now: Millis,
        life: Duration,
    ) -> Result<Self, CaError> {
        let root_der = CertificateDer::from_pem_slice(root_pem.as_bytes()).map_err(|_| CaError::Pem)?;
        let root = Issuer::from_ca_cert_der(&root_der, KeyPair::try_from(root_key)?)?;
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let not_after = now.plus(life).min(tls::validity(&root_der)?.not_after);
        let name = format!("Purlin Intermediate CA {node}");
        let mut params = certify::base(&name, &format!("spiffe://{domain}"), now, not_after)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.signed_by(&key, &root)?;
        Self::load(certificate.der().to_vec(), &key.serialize_der())
    }

    /// From a certificate, DER, and its key, PKCS#8 DER.
    pub(crate) fn load(certificate: Vec<u8>, key: &[u8]) -> Result<Self, CaError> {
        let validity = tls::validity(&certificate)?;
        let key = KeyPair::try_from(key)?;
        let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(certificate.as_slice()), key)?;
        Ok(Self { certificate, validity, issuer })
    }

    pub(crate) fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// PKCS#8, DER.
    pub(super) fn key(&self) -> Vec<u8> {
        self.issuer.key().serialize_der()
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// Whether the active root certified it, which one of a data directory that was used before would not be, and
    /// nobody revoked it.
    pub(crate) fn is_current(&self, mesh: &MeshInfo) -> bool {
        let root = mesh.active_root().map(|root| CertificateDer::from_pem_slice(root.pem.as_bytes()));
        let Some(Ok(root)) = root else { return false };
        tls::is_signed_by(&self.certificate, &root)
            && !mesh.distrust.names(&tls::hex(&tls::fingerprint(&self.certificate)))
    }

    /// For the log of the mesh.
    pub(crate) fn pem(&self) -> String {
        use base64::Engine;
        let text = base64::engine::general_purpose::STANDARD.encode(&self.certificate);
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    }

    pub(crate) fn not_after(&self) -> Millis {
        self.validity.not_after
    }

    /// From half of its life on a new one takes its place, so that every leaf has time to be renewed under it; and
    /// at once when it is not valid yet, because the clock was ahead when it was made.
    pub(crate) fn renewal_due(&self, now: Millis) -> bool {
        let half = self.validity.not_after.since(self.validity.not_before) / 2;
        now < self.validity.not_before || now >= self.validity.not_before.plus(half)
    }
}
