//! Private keys, made where they are used, and the requests that ask a server to certify them.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::PrivatePkcs8KeyDer;

use super::TlsError;

/// A new P-256 key, PKCS#8 DER, and a signing request for it, PKCS#10 DER.
///
/// The request names nobody: a server takes its public key only and builds the names from its own records.
pub fn new_key_and_csr() -> Result<(Vec<u8>, Vec<u8>), TlsError> {
    let key = generate()?;
    let csr = request(&key)?;
    Ok((key.serialize_der(), csr))
}

/// A new P-256 key, PKCS#8 DER.
pub fn new_key() -> Result<Vec<u8>, TlsError> {
    Ok(generate()?.serialize_der())
}

/// A signing request for a key that is already there.
pub fn csr_for_key(key: &[u8]) -> Result<Vec<u8>, TlsError> {
    let key = PrivatePkcs8KeyDer::from(key);
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256).map_err(bad_key)?;
    request(&key)
}

fn generate() -> Result<KeyPair, TlsError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(bad_key)
}

fn request(key: &KeyPair) -> Result<Vec<u8>, TlsError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key).map_err(bad_key)?.der().to_vec())
}

fn bad_key(error: rcgen::Error) -> TlsError {
    TlsError::BadKey(error.to_string())
}
