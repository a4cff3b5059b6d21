//! What a certificate says: its one identity, when it is valid, its fingerprint. Decides nothing about trust.

use purlin_model::Millis;
use purlin_model::identity::Identity;
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

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, TlsError> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|e| TlsError::BadCertificate(e.to_string()))?;
    if !rest.is_empty() {
        return Err(TlsError::BadCertificate("bytes follow it".into()));
    }
    Ok(certificate)
}
