//! The mesh's certificate authority: one root for all, and an intermediate of its own for each server.
//!
//! The root's private key exists in the open only while it signs: it is kept as ciphertext that only a server's
//! sealing key opens. An intermediate's key never leaves the server that made it.

mod certify;
mod intermediate;
mod root;
mod seal;
mod store;

#[cfg(test)]
mod tests;

pub(crate) use certify::{Usage, certify_key};
pub(crate) use intermediate::Intermediate;
pub(crate) use root::NewRoot;
pub(crate) use seal::{SealingKey, seal};
pub(crate) use store::CaStore;

use purlin_model::Millis;
use purlin_wire::tls::TlsError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CaError {
    #[error("a certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("a certificate cannot be read: {0}")]
    Unreadable(#[from] TlsError),
    #[error("the root key cannot be sealed or opened: {0}")]
    Seal(rustls::Error),
    #[error(
        "the root key is not sealed to this server: data_dir/ca/sealing is not the one that the mesh knows"
    )]
    NotSealedToUs,
    #[error("the time {0} ms is out of range")]
    Time(u64),
    #[error("the system's source of randomness failed")]
    Random,
    #[error("the root certificate is not readable PEM")]
    Pem,
    #[error(transparent)]
    Store(#[from] purlin_wire::file::FileError),
}

/// A certificate's instants have whole seconds.
fn instant(at: Millis) -> Result<time::OffsetDateTime, CaError> {
    let seconds = i64::try_from(at.0 / 1000).map_err(|_| CaError::Time(at.0))?;
    time::OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| CaError::Time(at.0))
}

fn random<const N: usize>() -> Result<[u8; N], CaError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| CaError::Random)?;
    Ok(bytes)
}

/// Positive, never zero, and so random that none is used twice.
fn serial() -> Result<rcgen::SerialNumber, CaError> {
    let mut bytes: [u8; 16] = random()?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(rcgen::SerialNumber::from_slice(&bytes))
}
