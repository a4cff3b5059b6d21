//! A signing request (PKCS#10): proves that the caller has the key. Nothing else in it counts.

use purlin_model::{Fault, FaultCode};
use rcgen::{CertificateSigningRequestParams, SubjectPublicKeyInfo};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

/// A request with one elliptic key takes some hundred bytes.
const REQUEST_BYTES: usize = 8 * 1024;

/// The request's public key, if the request is signed with it and its kind is one that we certify.
pub(super) fn public_key(csr: &[u8]) -> Result<SubjectPublicKeyInfo, Fault> {
    if csr.len() > REQUEST_BYTES {
        let text =
            format!("the signing request has {} bytes, at most {REQUEST_BYTES} are allowed", csr.len());
        return Err(Fault::new(FaultCode::TooLarge, text));
    }
    let refuse =
        |why: &dyn std::fmt::Display| Fault::invalid(format!("the signing request is refused: {why}"));
    CertificateSigningRequestParams::from_der(&csr.into()).map_err(|why| refuse(&why))?;
    let (_, parsed) = X509CertificationRequest::from_der(csr).map_err(|why| refuse(&why))?;
    let key = SubjectPublicKeyInfo::from_der(parsed.certification_request_info.subject_pki.raw)
        .map_err(|why| refuse(&why))?;
    let algorithm = rcgen::PublicKeyData::algorithm(&key);
    let taken = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
    if taken.contains(&algorithm) {
        return Ok(key);
    }
    Err(refuse(&"its key must be ECDSA P-256 or P-384, or Ed25519"))
}

/// SHA-256 of the request's public key, by which a joining host is known when it asks again.
pub(crate) fn key_sha256(csr: &[u8]) -> Result<Vec<u8>, Fault> {
    use aws_lc_rs::digest::{SHA256, digest};
    let key = rcgen::PublicKeyData::subject_public_key_info(&public_key(csr)?);
    Ok(digest(&SHA256, &key).as_ref().to_vec())
}
