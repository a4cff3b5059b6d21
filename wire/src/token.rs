//! Join tokens as text: all that a host needs to find a mesh, recognise it and be let in.
//!
//! `purlin-join-v1.` and then, in base64url, the length of the content (u16), its CRC-32 (u32) and the content
//! (MessagePack), so that a token that was cut short or mistyped is known as such before anything is asked.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::{DecodeError, alphabet};
use purlin_model::identity::TrustDomain;
use purlin_model::node::NodeRole;
use serde::{Deserialize, Serialize};

const FAMILY: &str = "purlin-join-v";
const PREFIX: &str = "purlin-join-v1.";
/// Of a whole token; a longer text is none.
const TEXT_BYTES: usize = 16 * 1024;
const HEADER_BYTES: usize = 6;
const SECRET_BYTES: usize = 32;

/// Lenient about what follows the last whole byte, because the length tells whether anything is missing.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error(
        "this is not a join token: it should begin with {PREFIX}; make one with: purlin join-token create"
    )]
    NotAToken,
    #[error("the join token is cut short ({found} of {whole} characters); copy all of it")]
    Truncated { found: usize, whole: usize },
    #[error("the join token is mistyped or damaged ({0}); copy it again")]
    Damaged(&'static str),
    #[error("the join token is of a newer version ({0}) than this build knows; upgrade this host")]
    Newer(String),
    #[error("the join token cannot be made: {0}")]
    Unencodable(String),
}

/// What lets a host in. Has neither `Debug` nor `Display`, so that it gets into no log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// A new one, of 256 random bits.
    pub fn generate() -> Result<Self, TokenError> {
        let mut bytes = [0; SECRET_BYTES];
        aws_lc_rs::rand::fill(&mut bytes)
            .map_err(|_| TokenError::Unencodable("the system gives no random bytes".into()))?;
        Ok(Self(BASE64.encode(bytes)))
    }

    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, to be sent to a server that was recognised.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What servers keep and compare.
    pub fn sha256(&self) -> Vec<u8> {
        Self::sha256_of(&self.0)
    }

    /// Of a secret as it came in a request.
    pub fn sha256_of(text: &str) -> Vec<u8> {
        digest(&SHA256, text.as_bytes()).as_ref().to_vec()
    }
}

/// What a join token says.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokenText {
    /// `host:port` of every server.
    pub servers: Vec<String>,
    /// SHA-256 of the root certificate.
    pub ca_fingerprint: [u8; 32],
    pub trust_domain: TrustDomain,
    pub role: NodeRole,
    /// By which the token is listed and revoked.
    pub id: String,
    pub secret: Secret,
}

impl JoinTokenText {
    pub fn encode(&self) -> Result<String, TokenError> {
        let body = rmp_serde::to_vec_named(self).map_err(|e| TokenError::Unencodable(e.to_string()))?;
        let too_long = || TokenError::Unencodable("it would name too many servers".into());
        let length = u16::try_from(body.len()).map_err(|_| too_long())?;
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend(crc32fast::hash(&body).to_be_bytes());
        bytes.extend(body);
        let text = format!("{PREFIX}{}", BASE64.encode(bytes));
        if text.len() > TEXT_BYTES { Err(too_long()) } else { Ok(text) }
    }

    pub fn decode(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let bytes = decode_text(text)?;
        let Some((header, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            let whole = text_length(HEADER_BYTES + 1);
            return Err(TokenError::Truncated { found: text.len(), whole });
        };
        let [l1, l2, crc @ ..] = *header;
        let length = usize::from(u16::from_be_bytes([l1, l2]));
        if body.len() < length {
            let whole = text_length(HEADER_BYTES + length);
            return Err(TokenError::Truncated { found: text.len(), whole });
        }
        if body.len() > length {
            return Err(TokenError::Damaged("something follows it"));
        }
        if crc32fast::hash(body) != u32::from_be_bytes(crc) {
            return Err(TokenError::Damaged("its checksum does not match"));
        }
        rmp_serde::from_slice(body).map_err(|_| TokenError::Damaged("its content cannot be read"))
    }
}

fn decode_text(text: &str) -> Result<Vec<u8>, TokenError> {
    if let Some(encoded) = text.strip_prefix(PREFIX) {
        if text.len() > TEXT_BYTES {
            return Err(TokenError::Damaged("it is too long"));
        }
        return decode_base64(encoded);
    }
    if PREFIX.starts_with(text) && text.len() > FAMILY.len() / 2 {
        return Err(TokenError::Truncated { found: text.len(), whole: text_length(HEADER_BYTES + 1) });
    }
    let version = text.strip_prefix(FAMILY).and_then(|rest| rest.split_once('.')).map(|(version, _)| version);
    match version {
        Some(version) if version.parse::<u16>().is_ok_and(|version| version > 1) => {
            Err(TokenError::Newer(version.to_owned()))
        }
        _ => Err(TokenError::NotAToken),
    }
}

fn decode_base64(encoded: &str) -> Result<Vec<u8>, TokenError> {
    match BASE64.decode(encoded) {
        // One character alone holds no byte: the token was cut behind a whole group.
        Err(DecodeError::InvalidLength(_)) => {
            let whole = encoded.get(..encoded.len().saturating_sub(1)).unwrap_or_default();
            BASE64.decode(whole).map_err(|_| TokenError::Damaged(STRANGE))
        }
        decoded => decoded.map_err(|_| TokenError::Damaged(STRANGE)),
    }
}

const STRANGE: &str = "it has a character that does not belong there";

/// Characters of a token whose header and content have so many bytes.
fn text_length(bytes: usize) -> usize {
    PREFIX.len() + (bytes * 4).div_ceil(3)
}

#[cfg(test)]
mod tests;
