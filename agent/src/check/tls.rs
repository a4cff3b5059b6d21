//! TLS of probes: trusts what the operating system trusts, or, where the check says so, whoever answers.
//!
//! Nothing secret goes over these connections but what a check's own headers carry.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use purlin_model::check::ProbeTls;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where distributions keep the authorities they trust.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alpn {
    None,
    Http1,
    Http2,
}

pub(super) struct Configs {
    roots: Option<PathBuf>,
    /// Read when the first check needs it; a host without TLS checks needs no authorities.
    trusting_system: OnceLock<Result<ClientConfig, String>>,
}

impl Configs {
    pub(super) fn new(roots: Option<PathBuf>) -> Self {
        Self { roots, trusting_system: OnceLock::new() }
    }

    pub(super) async fn connect(
        &self,
        stream: TcpStream,
        host: &str,
        secure: &ProbeTls,
        alpn: Alpn,
    ) -> Result<TlsStream<TcpStream>, String> {
        let name = if secure.server_name.is_empty() { host } else { &secure.server_name };
        let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        let server = ServerName::try_from(name.clone())
            .map_err(|_| format!("\"{name}\" is no name of a TLS server"))?;
        let mut config = if secure.skip_verify { unverified()? } else { self.verified()? };
        config.alpn_protocols = match alpn {
            Alpn::None => Vec::new(),
            Alpn::Http1 => vec![b"http/1.1".to_vec()],
            Alpn::Http2 => vec![b"h2".to_vec()],
        };
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(server, stream).await.map_err(|error| format!("TLS handshake with {name}: {error}"))
    }

    fn verified(&self) -> Result<ClientConfig, String> {
        self.trusting_system.get_or_init(|| trusting(self.roots.as_deref())).clone()
    }
}

fn trusting(path: Option<&Path>) -> Result<ClientConfig, String> {
    let found = SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.exists());
    let path =
        path.or(found).ok_or("this host has no list of certificate authorities: install ca-certificates")?;
    let cannot =
        |why: String| format!("the certificate authorities in {} cannot be used: {why}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| cannot(error.to_string()))? {
        let certificate = certificate.map_err(|error| cannot(error.to_string()))?;
        // Authorities that rustls does not take are left out, as browsers do.
        let _ = roots.add(certificate);
    }
    Ok(builder()?.with_root_certificates(roots).with_no_client_auth())
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, String> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn unverified() -> Result<ClientConfig, String> {
    let verifier = Arc::new(AcceptAny(provider().signature_verification_algorithms));
    Ok(builder()?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// For checks that say `tls_skip_verify`.
#[derive(Debug)]
struct AcceptAny(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
