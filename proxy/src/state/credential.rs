//! A local service's certificate and key, as both sides of TLS use them.

use std::sync::Arc;

use purlin_model::Millis;
use purlin_model::identity::Identity;
use purlin_model::view::Credential;
use purlin_wire::tls::{self, Anchors, Credentials, Presence, TlsError};
use rustls::client::Resumption;
use rustls::server::ServerSessionMemoryCache;
use rustls::{ClientConfig, ServerConfig};

use crate::tunnel::{ALPN_H1, ALPN_H2, ALPN_TCP, ALPN_UPGRADE};

/// Sessions that a service's inbound side remembers.
const SERVER_SESSIONS: usize = 1024;
/// Names of one peer service whose sessions a worker remembers.
const CLIENT_SESSIONS: usize = 32;

/// Who a local service is. One object per certificate, so that its address tells a renewed one from the old.
pub(crate) struct LocalIdentity {
    pub(crate) uri: String,
    /// SHA-256 of the leaf, as `x-forwarded-client-cert` writes it.
    pub(crate) hash: String,
    pub(crate) not_after: Millis,
    credentials: Credentials,
    pub(crate) server: Arc<ServerConfig>,
}

impl LocalIdentity {
    pub(super) fn new(credential: &Credential, roots: &[Vec<u8>], trust: &Trust) -> Result<Self, TlsError> {
        let credentials = Credentials::from_der(credential.chain.clone(), &credential.key, roots.to_vec())?;
        let check = tls::service_of(trust.domain.clone());
        let verifier = tls::client_verifier(trust.anchors.clone(), Presence::Required, check)?;
        let mut server =
            tls::server_config(&credentials, verifier, &[ALPN_TCP, ALPN_H1, ALPN_H2, ALPN_UPGRADE])?;
        // A resumed session shows the certificate of the first one: the inbound side looks at it again each time.
        server.session_storage = ServerSessionMemoryCache::new(SERVER_SESSIONS);
        server.send_tls13_tickets = 1;
        Ok(Self {
            uri: credentials.identity().to_string(),
            hash: tls::hex(&credentials.fingerprint()),
            not_after: credentials.not_after(),
            server: Arc::new(server),
            credentials,
        })
    }

    /// For connections to one peer service; sessions are remembered within one configuration only, so never across
    /// identities.
    pub(crate) fn client(&self, anchors: &Anchors, peer: Identity) -> Result<ClientConfig, TlsError> {
        let verifier = tls::server_verifier(anchors.clone(), tls::exactly(peer));
        let mut config = tls::client_config(&self.credentials, verifier, &[])?;
        config.resumption = Resumption::in_memory_sessions(CLIENT_SESSIONS);
        Ok(config)
    }
}

/// Whom a mesh trusts.
pub(super) struct Trust {
    pub(super) domain: purlin_model::identity::TrustDomain,
    pub(super) anchors: Anchors,
}
