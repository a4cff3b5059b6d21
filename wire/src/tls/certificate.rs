//! What a certificate says: its one identity, when it is valid, its fingerprint. Decides nothing about trust.

use std::sync::Arc;

use purlin_model::Millis;
use purlin_model::identity::Identity;
use purlin_model::topic::Distrust;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::TlsError;

/// When a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before: Millis,
    pub not_after: Millis,
}

/// The identity that a certificate stands for: exactly one URI among its subject alternative names, in the mesh's form.
pub fn spiffe_identity(certificate: &[u8]) -> Result<Identity, TlsError> {
    let certificate = parse(certificate)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|e| TlsError::NoIdentity(e.to_string()))?
        .ok_or_else(|| TlsError::NoIdentity("it has no subject alternative name".into()))?;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Identity::parse(uri).map_err(|e| TlsError::NoIdentity(e.to_string())),
        (None, _) => Err(TlsError::NoIdentity("it has no URI".into())),
        (Some(_), Some(_)) => Err(TlsError::NoIdentity("it has more than one URI".into())),
    }
}

pub fn validity(certificate: &[u8]) -> Result<Validity, TlsError> {
    let certificate = parse(certificate)?;
    let span = certificate.validity();
    let millis = |seconds: i64| Millis(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
    Ok(Validity {
        not_before: millis(span.not_before.timestamp()),
        not_after: millis(span.not_after.timestamp()),
    })
}

/// SHA-256 of a certificate.
pub fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

/// Bytes in lower-case hex, as fingerprints are written.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A fingerprint as `hex` writes it; anything else is none.
pub fn fingerprint_of_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// Whether the key in `issuer` signed `certificate`. Says nothing about either being valid.
pub fn is_signed_by(certificate: &[u8], issuer: &[u8]) -> bool {
    let (Ok(certificate), Ok(issuer)) = (parse(certificate), parse(issuer)) else { return false };
    certificate.verify_signature(Some(issuer.public_key())).is_ok()
}

/// What is revoked, as verifiers take it.
pub fn revoked_of(distrust: &Distrust) -> super::Revoked {
    Arc::new(distrust.revoked.iter().filter_map(|text| fingerprint_of_hex(text)).collect())
}

/// Whether a chain should be replaced: one of the authorities in it is, or soon will be, trusted no more.
pub fn is_distrusted<C: AsRef<[u8]>>(chain: &[C], distrust: &Distrust) -> bool {
    !distrust.is_empty() && chain.iter().any(|one| distrust.names(&hex(&fingerprint(one.as_ref()))))
}

/// Whether a chain ends below that root, PEM.
pub fn is_below<C: AsRef<[u8]>>(chain: &[C], root_pem: &str) -> bool {
    let root = CertificateDer::from_pem_slice(root_pem.as_bytes());
    let (Ok(root), Some(last)) = (root, chain.last()) else { return false };
    is_signed_by(last.as_ref(), &root)
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, TlsError> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|e| TlsError::BadCertificate(e.to_string()))?;
    if !rest.is_empty() {
        return Err(TlsError::BadCertificate("bytes follow it".into()));
    }
    Ok(certificate)
}
