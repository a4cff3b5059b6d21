//! TLS as the mesh speaks it: version 1.3 only, post-quantum key exchange first, identities from SPIFFE ids.
//!
//! Beside `quic` the only place of this crate that names rustls. Nothing here reads or sets the provider of the
//! process: each configuration gets its own. Session resumption is off, because a resumed session skips the check of
//! certificates; whoever turns it on must check identity and expiry again on every connection.

mod certificate;
mod key;
mod verify;

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use purlin_model::Millis;
use purlin_model::identity::Identity;

pub use certificate::{
    Validity, fingerprint, fingerprint_of_hex, hex, is_below, is_distrusted, is_signed_by, revoked_of,
    spiffe_identity, validity,
};
pub use key::{csr_for_key, new_key, new_key_and_csr};
pub use verify::{
    Anchors, IdentityCheck, Presence, Revoked, any_of_domain, client_verifier, exactly, explain, member_of,
    pinned_ca_verifier, server_of, server_verifier, service_of,
};
pub(crate) use verify::{explain_alert, recorded};

/// Members among themselves, both with certificates.
pub const ALPN_MEMBER: &[u8] = b"purlin/1";
/// One who has no certificate yet and asks to join.
pub const ALPN_JOIN: &[u8] = b"purlin-join/1";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    #[error("certificate cannot be read: {0}")]
    BadCertificate(String),
    #[error("certificate has no usable identity: {0}")]
    NoIdentity(String),
    #[error("private key cannot be used: {0}")]
    BadKey(String),
    #[error("private key does not belong to the certificate of {0}")]
    KeyMismatch(Identity),
    #[error("no root certificate to trust")]
    NoRoots,
    #[error("tls cannot be set up: {0}")]
    Setup(String),
}

/// What one proves who it is with, and whom it trusts. Passed around as `watch::Receiver<Arc<Credentials>>`, so that
/// a renewal reaches every user. Has no `Debug` that shows the key.
pub struct Credentials {
    identity: Identity,
    validity: Validity,
    roots: Vec<CertificateDer<'static>>,
    root_store: Arc<RootCertStore>,
    revoked: Revoked,
    certified: Arc<CertifiedKey>,
    /// The same with the roots behind it, for one who knows a root by its fingerprint only.
    certified_with_roots: Arc<CertifiedKey>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Credentials {
    /// `chain`: leaf first, then intermediates. `key`: PKCS#8, DER. Refuses what does not fit together.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: &[u8],
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, TlsError> {
        let leaf = chain.first().ok_or_else(|| TlsError::BadCertificate("the chain is empty".into()))?;
        let identity = spiffe_identity(leaf)?;
        let validity = validity(leaf)?;
        let root_store = root_store(&roots)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
        let key =
            provider().key_provider.load_private_key(key).map_err(|e| TlsError::BadKey(e.to_string()))?;
        let certified = CertifiedKey::new(chain.clone(), key.clone());
        certified.keys_match().map_err(|_| TlsError::KeyMismatch(identity.clone()))?;
        let with_roots = CertifiedKey::new(chain.into_iter().chain(roots.iter().cloned()).collect(), key);
        Ok(Self {
            identity,
            validity,
            roots,
            root_store,
            revoked: Revoked::default(),
            certified: Arc::new(certified),
            certified_with_roots: Arc::new(with_roots),
        })
    }

    /// As in [`Credentials::new`], from certificates as they travel in messages.
    pub fn from_der(chain: Vec<Vec<u8>>, key: &[u8], roots: Vec<Vec<u8>>) -> Result<Self, TlsError> {
        let certificates = |all: Vec<Vec<u8>>| all.into_iter().map(CertificateDer::from).collect();
        Self::new(certificates(chain), key, certificates(roots))
    }

    /// The same, and these certificates are not trusted though a root vouches for them.
    pub fn distrusting(self, revoked: Revoked) -> Self {
        Self { revoked, ..self }
    }

    pub fn revoked(&self) -> &Revoked {
        &self.revoked
    }

    pub fn anchors(&self) -> Anchors {
        Anchors::new(self.root_store.clone(), self.revoked.clone())
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Leaf first, then intermediates.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    pub fn root_store(&self) -> Arc<RootCertStore> {
        self.root_store.clone()
    }

    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }

    pub fn not_before(&self) -> Millis {
        self.validity.not_before
    }

    pub fn not_after(&self) -> Millis {
        self.validity.not_after
    }

    /// SHA-256 of the leaf.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.chain().first().map_or([0; 32], |leaf| fingerprint(leaf))
    }
}

/// The cryptography of every configuration here.
pub fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::kx_group::{SECP256R1, X25519, X25519MLKEM768};
    let kx_groups = vec![X25519MLKEM768, X25519, SECP256R1];
    Arc::new(CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() })
}

/// Roots to trust. An empty or unreadable set is refused: it would trust nobody, silently.
pub fn root_store(roots: &[CertificateDer<'_>]) -> Result<Arc<RootCertStore>, TlsError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone().into_owned()).map_err(|e| TlsError::BadCertificate(e.to_string()))?;
    }
    if store.is_empty() {
        return Err(TlsError::NoRoots);
    }
    Ok(Arc::new(store))
}

/// A client that shows a certificate.
pub fn client_config(
    credentials: &Credentials,
    verifier: Arc<dyn ServerCertVerifier>,
    alpn: &[&[u8]],
) -> Result<ClientConfig, TlsError> {
    let certificate = Arc::new(SingleCertAndKey::from(credentials.certified_key()));
    let builder = client_builder(verifier)?;
    Ok(finish_client(builder.with_client_cert_resolver(certificate), alpn))
}

/// A client without a certificate, which only joining may be.
pub fn anonymous_client_config(
    verifier: Arc<dyn ServerCertVerifier>,
    alpn: &[&[u8]],
) -> Result<ClientConfig, TlsError> {
    Ok(finish_client(client_builder(verifier)?.with_no_client_auth(), alpn))
}

type ClientBuilder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn client_builder(verifier: Arc<dyn ServerCertVerifier>) -> Result<ClientBuilder, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| TlsError::Setup(e.to_string()))?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier))
}

fn finish_client(mut config: ClientConfig, alpn: &[&[u8]]) -> ClientConfig {
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config
}

/// A server with one certificate for every name.
pub fn server_config(
    credentials: &Credentials,
    verifier: Arc<dyn ClientCertVerifier>,
    alpn: &[&[u8]],
) -> Result<ServerConfig, TlsError> {
    let certificate = Arc::new(SingleCertAndKey::from(credentials.certified_key()));
    server_config_with(certificate, verifier, alpn)
}

/// A server that chooses its certificate by what the client says, such as the name it asks for.
pub fn server_config_with(
    certificates: Arc<dyn ResolvesServerCert>,
    verifier: Arc<dyn ClientCertVerifier>,
    alpn: &[&[u8]],
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| TlsError::Setup(e.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificates);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The certificate of a server of the mesh: with its root for one who joins, who has none yet.
#[derive(Debug)]
pub(crate) struct ControlCertificate {
    member: Arc<CertifiedKey>,
    joiner: Arc<CertifiedKey>,
}

impl ControlCertificate {
    pub(crate) fn new(credentials: &Credentials) -> Self {
        Self { member: credentials.certified.clone(), joiner: credentials.certified_with_roots.clone() }
    }
}

impl ResolvesServerCert for ControlCertificate {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let joins = hello.alpn().is_some_and(|mut names| names.any(|name| name == ALPN_JOIN));
        Some(if joins { self.joiner.clone() } else { self.member.clone() })
    }
}

#[cfg(test)]
mod tests;
