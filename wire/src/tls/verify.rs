//! Who may be at the other end: the chain leads to a trusted root, and the one SPIFFE id passes the caller's check.
//!
//! A mesh certificate has no DNS name, so the name a client asks for is never compared; the identity is.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, OnceLock};

use purlin_model::identity::{Identity, Subject, TrustDomain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{TlsError, fingerprint, provider, root_store, spiffe_identity};

/// Certificates that one end may send: a longer chain is none of ours.
const CHAIN_MAX: usize = 16;

/// Whom to trust: roots, and certificates under them that count no more, by SHA-256.
#[derive(Clone)]
pub struct Anchors {
    roots: Arc<RootCertStore>,
    revoked: Revoked,
}

/// Certificates by SHA-256.
pub type Revoked = Arc<BTreeSet<[u8; 32]>>;

impl Anchors {
    pub fn new(roots: Arc<RootCertStore>, revoked: Revoked) -> Self {
        Self { roots, revoked }
    }

    /// Refuses a chain with a revoked certificate in it. The one that signed the leaf must be there to be believed.
    fn check(&self, leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), Error> {
        if self.revoked.is_empty() {
            return Ok(());
        }
        let mut chain = std::iter::once(leaf).chain(others);
        if chain.any(|certificate| self.revoked.contains(&fingerprint(certificate))) {
            return Err(Error::InvalidCertificate(CertificateError::Revoked));
        }
        Ok(())
    }
}

impl From<Arc<RootCertStore>> for Anchors {
    fn from(roots: Arc<RootCertStore>) -> Self {
        Self { roots, revoked: Revoked::default() }
    }
}

/// Says whether an identity is welcome, or why it is not.
pub type IdentityCheck = Arc<dyn Fn(&Identity) -> Result<(), String> + Send + Sync>;

/// Whether a client must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Required,
    Optional,
}

/// Only that identity.
pub fn exactly(expected: Identity) -> IdentityCheck {
    Arc::new(
        move |found| {
            if *found == expected { Ok(()) } else { Err(format!("it is {found}, not {expected}")) }
        },
    )
}

/// A server of that mesh.
pub fn server_of(domain: TrustDomain) -> IdentityCheck {
    of(domain, "a server", |subject| matches!(subject, Subject::Server { .. }))
}

/// A server or an agent of that mesh; not a service, whose key lies with the proxy.
pub fn member_of(domain: TrustDomain) -> IdentityCheck {
    of(domain, "a member", |subject| matches!(subject, Subject::Server { .. } | Subject::Agent { .. }))
}

/// A service of that mesh.
pub fn service_of(domain: TrustDomain) -> IdentityCheck {
    of(domain, "a service", |subject| matches!(subject, Subject::Service { .. }))
}

/// Anybody of that mesh.
pub fn any_of_domain(domain: TrustDomain) -> IdentityCheck {
    of(domain, "somebody", |_| true)
}

fn of(domain: TrustDomain, what: &'static str, is: fn(&Subject) -> bool) -> IdentityCheck {
    Arc::new(move |found| {
        if found.trust_domain == domain && is(&found.subject) {
            return Ok(());
        }
        Err(format!("it is {found}, not {what} of {domain}"))
    })
}

/// For a client: the server's chain leads to one of `roots`, and `check` takes its identity.
pub fn server_verifier(anchors: impl Into<Anchors>, check: IdentityCheck) -> Arc<dyn ServerCertVerifier> {
    Arc::new(VerifyServer { trust: Trust::Anchors(anchors.into()), check, algorithms: algorithms() })
}

/// For one who joins: the server shows its chain with the root, which must have that fingerprint and is then the only
/// one trusted; and it is a server.
pub fn pinned_ca_verifier(ca_fingerprint: [u8; 32]) -> Arc<dyn ServerCertVerifier> {
    let check: IdentityCheck = Arc::new(|found| match found.subject {
        Subject::Server { .. } => Ok(()),
        _ => Err(format!("it is {found}, not a server")),
    });
    Arc::new(VerifyServer { trust: Trust::Fingerprint(ca_fingerprint), check, algorithms: algorithms() })
}

/// For a server: the client's chain leads to one of `roots`, and `check` takes its identity.
pub fn client_verifier(
    anchors: impl Into<Anchors>,
    presence: Presence,
    check: IdentityCheck,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let anchors = anchors.into();
    let builder = WebPkiClientVerifier::builder_with_provider(anchors.roots.clone(), provider())
        .clear_root_hint_subjects();
    let builder = match presence {
        Presence::Required => builder,
        Presence::Optional => builder.allow_unauthenticated(),
    };
    let chain = builder.build().map_err(|e| TlsError::Setup(e.to_string()))?;
    Ok(Arc::new(VerifyClient { chain, anchors, check }))
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

enum Trust {
    Anchors(Anchors),
    Fingerprint([u8; 32]),
}

struct VerifyServer {
    trust: Trust,
    check: IdentityCheck,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for VerifyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerifyServer")
    }
}

impl VerifyServer {
    fn roots(&self, sent: &[CertificateDer<'_>]) -> Result<Arc<RootCertStore>, Error> {
        let wanted = match &self.trust {
            Trust::Anchors(anchors) => return Ok(anchors.roots.clone()),
            Trust::Fingerprint(wanted) => wanted,
        };
        let root = sent.iter().find(|certificate| fingerprint(certificate) == *wanted);
        let root = root.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        root_store(std::slice::from_ref(root)).map_err(|e| refusal(e.to_string()))
    }
}

impl ServerCertVerifier for VerifyServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        check_length(intermediates)?;
        let roots = self.roots(intermediates)?;
        let leaf = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&leaf, &roots, intermediates, now, self.algorithms.all)?;
        if let Trust::Anchors(anchors) = &self.trust {
            anchors.check(end_entity, intermediates)?;
        }
        check_identity(end_entity, &self.check)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

struct VerifyClient {
    chain: Arc<dyn ClientCertVerifier>,
    anchors: Anchors,
    check: IdentityCheck,
}

impl fmt::Debug for VerifyClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerifyClient")
    }
}

impl ClientCertVerifier for VerifyClient {
    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        check_length(intermediates)?;
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        self.anchors.check(end_entity, intermediates)?;
        check_identity(end_entity, &self.check)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

fn check_length(intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
    if intermediates.len() >= CHAIN_MAX {
        return Err(refusal(format!("its chain has more than {CHAIN_MAX} certificates")));
    }
    Ok(())
}

fn check_identity(certificate: &CertificateDer<'_>, check: &IdentityCheck) -> Result<(), Error> {
    let identity = spiffe_identity(certificate).map_err(|e| refusal(e.to_string()))?;
    check(&identity).map_err(refusal)
}

/// Why a certificate of a good CA is refused all the same. Its `Debug` is its text, because that is what rustls prints.
struct Refusal(String);

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

fn refusal(why: String) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Refusal(why)))))
}

/// A failed handshake in the reader's words: expired, another CA, the wrong identity, or refused by the other end.
pub fn explain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(why) => explain_certificate(why),
        Error::AlertReceived(alert) => explain_alert(u8::from(*alert)).unwrap_or_else(|| error.to_string()),
        Error::NoCertificatesPresented => "it shows no certificate".into(),
        Error::NoApplicationProtocol => "it speaks another protocol".into(),
        other => other.to_string(),
    }
}

fn explain_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired => "its certificate has expired".into(),
        CertificateError::ExpiredContext { time, not_after } => {
            let ago = time.as_secs().saturating_sub(not_after.as_secs());
            format!("its certificate expired {ago} s ago; check the clocks of both hosts")
        }
        CertificateError::NotValidYet => "its certificate is not valid yet".into(),
        CertificateError::NotValidYetContext { time, not_before } => {
            let ahead = not_before.as_secs().saturating_sub(time.as_secs());
            format!("its certificate is valid only in {ahead} s; check the clocks of both hosts")
        }
        CertificateError::Revoked => {
            "its certificate was revoked with the server that signed it or that it belonged to".into()
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is from another ca".into()
        }
        CertificateError::Other(OtherError(why)) => why.to_string(),
        other => format!("its certificate is refused: {other}"),
    }
}

/// What an alert of the other end says about us.
pub(crate) fn explain_alert(alert: u8) -> Option<String> {
    let text = match alert {
        42 | 43 => "it refuses our certificate as malformed",
        44 => "it refuses our certificate as revoked",
        45 => "it refuses our certificate as expired or not yet valid; check the clocks of both hosts",
        46 | 49 => "it does not accept our identity",
        // The second comes where two authorities have the same name.
        48 | 51 => "it refuses our certificate as one of another ca",
        116 => "it requires a certificate of us",
        120 => "it speaks another protocol",
        _ => return None,
    };
    Some(text.into())
}

/// As the verifier given, and the reason of a refusal is left in the slot: a QUIC connection keeps only an alert.
/// Of one connection.
pub(crate) fn recorded(
    inner: Arc<dyn ServerCertVerifier>,
) -> (Arc<dyn ServerCertVerifier>, Arc<OnceLock<String>>) {
    let verdict = Arc::new(OnceLock::new());
    (Arc::new(Recorded { inner, verdict: verdict.clone() }), verdict)
}

#[derive(Debug)]
struct Recorded {
    inner: Arc<dyn ServerCertVerifier>,
    verdict: Arc<OnceLock<String>>,
}

impl ServerCertVerifier for Recorded {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        verified.inspect_err(|error| {
            // Only the first can have ended the connection.
            let _ = self.verdict.set(explain(error));
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
