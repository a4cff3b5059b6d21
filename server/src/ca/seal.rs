//! The key that opens what is sealed to this server (HPKE, RFC 9180: X25519, HKDF-SHA256, AES-256-GCM).

use purlin_model::NodeName;
use purlin_model::command::SealedKey;
use purlin_model::identity::TrustDomain;
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as HPKE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey};

use super::CaError;

/// What the ciphertext is for; it opens for nothing else.
const PURPOSE: &[u8] = b"purlin root key 1";

pub(crate) struct SealingKey {
    public: Vec<u8>,
    private: HpkePrivateKey,
}

/// Seals the key of a root (by its id; empty: the one that founded the mesh) to a server's sealing key, for a mesh
/// whose name is bound to it.
pub(crate) fn seal(
    recipient: &[u8],
    node: &NodeName,
    domain: &TrustDomain,
    root: &str,
    secret: &[u8],
) -> Result<SealedKey, CaError> {
    let (encapsulated, ciphertext) = HPKE
        .seal(PURPOSE, domain.0.as_bytes(), secret, &HpkePublicKey(recipient.to_vec()))
        .map_err(CaError::Seal)?;
    Ok(SealedKey {
        node: node.clone(),
        recipient: recipient.to_vec(),
        encapsulated: encapsulated.0,
        ciphertext,
        root: root.to_owned(),
    })
}

impl SealingKey {
    pub(super) fn generate() -> Result<Self, CaError> {
        let (public, private) = HPKE.generate_key_pair().map_err(CaError::Seal)?;
        Ok(Self { public: public.0, private })
    }

    pub(super) fn from_parts(public: Vec<u8>, private: Vec<u8>) -> Self {
        Self { public, private: private.into() }
    }

    pub(super) fn parts(&self) -> (&[u8], &[u8]) {
        (&self.public, self.private.secret_bytes())
    }

    /// The half by which others seal to us.
    pub(crate) fn public(&self) -> &[u8] {
        &self.public
    }

    pub(crate) fn open(&self, sealed: &SealedKey, domain: &TrustDomain) -> Result<Vec<u8>, CaError> {
        let encapsulated = EncapsulatedSecret(sealed.encapsulated.clone());
        HPKE.open(&encapsulated, PURPOSE, domain.0.as_bytes(), &sealed.ciphertext, &self.private)
            .map_err(CaError::Seal)
    }
}
