//! One certificate for one public key: what every kind of leaf has in common.

use std::time::Duration;

use purlin_model::Millis;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType,
};

use super::{CaError, instant, serial};

/// Certificates begin so long before they are made, for hosts whose clocks are behind.
pub(crate) const BACKDATE: Duration = Duration::from_secs(300);

/// What a certificate says, all of it from our own records.
pub(crate) struct Usage<'a> {
    /// The one URI.
    pub(crate) identity: String,
    /// For people who look at it.
    pub(crate) common_name: &'a str,
    pub(crate) now: Millis,
    pub(crate) not_after: Millis,
}

/// A certificate for `key`, good for both ends of a connection, as DER.
pub(crate) fn certify_key(
    key: &impl PublicKeyData,
    usage: &Usage<'_>,
    issuer: &rcgen::Issuer<'_, KeyPair>,
) -> Result<Vec<u8>, CaError> {
    let mut params = base(usage.common_name, &usage.identity, usage.now, usage.not_after)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params.signed_by(key, issuer)?.der().to_vec())
}

/// What leaves and authorities have in common.
pub(super) fn base(
    common_name: &str,
    uri: &str,
    now: Millis,
    not_after: Millis,
) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    // RFC 5280 bounds a common name to 64 characters; the identity is the URI.
    let common_name: String = common_name.chars().take(64).collect();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    let backdate = u64::try_from(BACKDATE.as_millis()).unwrap_or(0);
    params.not_before = instant(Millis(now.0.saturating_sub(backdate)))?;
    params.not_after = instant(not_after)?;
    params.serial_number = Some(serial()?);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}
