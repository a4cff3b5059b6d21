use std::time::Duration;

use purlin_model::identity::{Identity, Subject, TrustDomain};
use purlin_model::{Datacenter, FaultCode, Millis, NodeName, ServiceKey, ServiceName};
use purlin_wire::tls::{self, Credentials};
use rcgen::{CertificateParams, KeyPair, SanType};
use x509_parser::extensions::ParsedExtension;

use super::*;
use crate::ca::{Intermediate, NewRoot};

const NOW: Millis = Millis(1_700_000_000_000);

const LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

fn domain() -> TrustDomain {
    TrustDomain("11111111-2222-3333-4444-555555555555.mesh.internal".into())
}

fn web() -> Identity {
    Identity::service(domain(), Datacenter::default(), &ServiceKey::new(ServiceName::new("web").unwrap()))
}

fn issuer() -> (Issuer, NewRoot) {
    let root = NewRoot::create(&domain(), NOW).unwrap();
    let node = NodeName::new("s1").unwrap();
    let intermediate =
        Intermediate::create(&root.certificate.pem, &root.key, &domain(), &node, NOW, LIFE).unwrap();
    (Issuer::new(Some(intermediate)), root)
}

fn root_der(root: &NewRoot) -> Vec<u8> {
    use rustls_pki_types::pem::PemObject;
    rustls_pki_types::CertificateDer::from_pem_slice(root.certificate.pem.as_bytes()).unwrap().to_vec()
}

#[test]
fn a_leaf_says_what_our_records_say_whatever_the_request_asks_for() {
    let (issuer, root) = issuer();
    let key = KeyPair::generate().unwrap();
    let mut asks = CertificateParams::new(vec!["evil.example".into()]).unwrap();
    asks.subject_alt_names.push(SanType::URI("spiffe://other/ns/default/dc/dc1/svc/api".try_into().unwrap()));
    asks.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let csr = asks.serialize_request(&key).unwrap();
    let chain = issuer.sign(csr.der(), &web(), Duration::from_secs(3600), NOW).unwrap();
    assert_eq!(chain.len(), 2);
    assert_eq!(tls::spiffe_identity(&chain[0]).unwrap(), web());
    let validity = tls::validity(&chain[0]).unwrap();
    assert_eq!(
        (validity.not_before, validity.not_after),
        (Millis(NOW.0 - 300_000), NOW.plus(Duration::from_secs(3600)))
    );
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    assert!(!leaf.is_ca());
    let names = leaf.subject_alternative_name().unwrap().unwrap().value;
    assert_eq!(names.general_names.len(), 1);
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && usage.server_auth && !usage.any);
    assert!(
        leaf.extensions()
            .iter()
            .any(|e| matches!(e.parsed_extension(), ParsedExtension::AuthorityKeyIdentifier(_)))
    );
    // The chain holds together, and the key is the requester's.
    Credentials::from_der(chain, &key.serialize_der(), vec![root_der(&root)]).unwrap();
}

#[test]
fn no_leaf_outlives_its_issuer_and_no_two_share_a_serial() {
    let (issuer, _) = issuer();
    let (_, csr) = tls::new_key_and_csr().unwrap();
    let ten_years = Duration::from_secs(10 * 365 * 24 * 3600);
    let one = issuer.sign(&csr, &web(), ten_years, NOW).unwrap();
    let other = issuer.sign(&csr, &web(), ten_years, NOW).unwrap();
    assert_eq!(tls::validity(&one[0]).unwrap().not_after, issuer.intermediate().unwrap().not_after());
    let serial = |der: &[u8]| x509_parser::parse_x509_certificate(der).unwrap().1.raw_serial().to_vec();
    assert_ne!(serial(&one[0]), serial(&other[0]));
}

#[test]
fn node_certificates_name_the_node() {
    let (issuer, _) = issuer();
    let (_, csr) = tls::new_key_and_csr().unwrap();
    let node = NodeName::new("n".repeat(128)).unwrap();
    let subject = Subject::Agent { datacenter: Datacenter::default(), node };
    let identity = Identity { trust_domain: domain(), subject };
    let chain = issuer.sign(&csr, &identity, NODE_TTL, NOW).unwrap();
    assert_eq!(tls::spiffe_identity(&chain[0]).unwrap(), identity);
}

#[test]
fn requests_with_a_forged_signature_another_key_kind_or_no_sense_are_refused() {
    let (issuer, _) = issuer();
    let sign = |csr: &[u8]| issuer.sign(csr, &web(), NODE_TTL, NOW).map(|_| ());
    let (_, mut csr) = tls::new_key_and_csr().unwrap();
    let last = csr.len() - 1;
    csr[last] ^= 1;
    assert_eq!(sign(&csr).unwrap_err().code, FaultCode::Invalid);
    for noise in [&b""[..], b"\x30\x00", &[0x30; 64]] {
        assert_eq!(sign(noise).unwrap_err().code, FaultCode::Invalid);
    }
    assert_eq!(sign(&vec![0; 8 * 1024 + 1]).unwrap_err().code, FaultCode::TooLarge);
    let request = |key: &KeyPair| CertificateParams::default().serialize_request(key).unwrap().der().to_vec();
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    assert!(sign(&request(&rsa)).unwrap_err().text.contains("P-256"));
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let chain = issuer.sign(&request(&key), &web(), NODE_TTL, NOW).unwrap();
        let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
        assert_eq!(leaf.public_key().raw, rcgen::PublicKeyData::subject_public_key_info(&key));
    }
}
