//! A small certificate authority for tests, here and in other crates. Not part of the product.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot make its fixtures shall stop"
)]

use std::time::{Duration, SystemTime};

use purlin_model::identity::{Identity, Subject, TrustDomain};
use purlin_model::{Datacenter, NodeName, ServiceKey, ServiceName};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
    SerialNumber,
};
use rustls_pki_types::CertificateSigningRequestDer;

use crate::tls::{self, Credentials};

/// A trust domain with a root and an intermediate, whose keys live as long as the value.
pub struct TestCa {
    pub trust_domain: TrustDomain,
    root: CertifiedIssuer<'static, KeyPair>,
    intermediate: CertifiedIssuer<'static, KeyPair>,
}

impl TestCa {
    pub fn new(trust_domain: &str) -> Self {
        let root = CertifiedIssuer::self_signed(authority("root"), key()).unwrap();
        let intermediate = CertifiedIssuer::signed_by(authority("intermediate"), key(), &root).unwrap();
        Self { trust_domain: TrustDomain(trust_domain.into()), root, intermediate }
    }

    pub fn root_der(&self) -> Vec<u8> {
        self.root.der().to_vec()
    }

    /// SHA-256 of the root.
    pub fn fingerprint(&self) -> [u8; 32] {
        tls::fingerprint(self.root.der())
    }

    pub fn server(&self, name: &str) -> Identity {
        let subject =
            Subject::Server { datacenter: Datacenter::default(), node: NodeName::new(name).unwrap() };
        Identity { trust_domain: self.trust_domain.clone(), subject }
    }

    pub fn agent(&self, name: &str) -> Identity {
        let subject =
            Subject::Agent { datacenter: Datacenter::default(), node: NodeName::new(name).unwrap() };
        Identity { trust_domain: self.trust_domain.clone(), subject }
    }

    pub fn service(&self, name: &str) -> Identity {
        let key = ServiceKey::new(ServiceName::new(name).unwrap());
        Identity::service(self.trust_domain.clone(), Datacenter::default(), &key)
    }

    /// Credentials that are good for an hour.
    pub fn issue(&self, identity: &Identity) -> Credentials {
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        self.issue_within(&[&identity.to_string()], now - hour / 12, now + hour)
            .expect("a certificate with one identity is usable")
    }

    /// Credentials with those URIs, good between those instants.
    pub fn issue_within(
        &self,
        uris: &[&str],
        not_before: SystemTime,
        not_after: SystemTime,
    ) -> Result<Credentials, tls::TlsError> {
        let (key, csr) = tls::new_key_and_csr().unwrap();
        let chain = self.sign_within(&csr, uris, not_before, not_after);
        Credentials::from_der(chain, &key, vec![self.root_der()])
    }

    /// The chain for a signing request, good for an hour.
    pub fn sign(&self, csr: &[u8], identity: &Identity) -> Vec<Vec<u8>> {
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        self.sign_within(csr, &[&identity.to_string()], now - hour / 12, now + hour)
    }

    pub fn sign_within(
        &self,
        csr: &[u8],
        uris: &[&str],
        not_before: SystemTime,
        not_after: SystemTime,
    ) -> Vec<Vec<u8>> {
        let csr =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr)).unwrap();
        let mut params = leaf();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        let leaf = params.signed_by(&csr.public_key, &self.intermediate).unwrap();
        vec![leaf.der().to_vec(), self.intermediate.der().to_vec()]
    }
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(SerialNumber::from(fastrand::u64(1..)));
    params
}

fn leaf() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(SerialNumber::from(fastrand::u64(1..)));
    params
}
