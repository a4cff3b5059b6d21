//! What lies in `data_dir` for the node itself: who it is, its key and certificates, and the lock that keeps a second
//! process out.
//!
//! Key and certificate lie in one file, so that a crash never leaves one without the other. `node.json` is written
//! last when a node joins: where it exists, the node is one of a mesh.

mod lock;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use purlin_model::identity::TrustDomain;
use purlin_model::node::NodeRole;
use purlin_model::{Datacenter, NodeId, NodeName};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use crate::file::{self, FileError};
use crate::frame;
use crate::tls::{self, Credentials, Revoked, TlsError};

/// Of `node.json` and of `joining`.
const VERSION: u16 = 1;
const NODE: &str = "node.json";
/// Private key, then the certificate's chain.
const CREDENTIAL: &str = "node.pem";
const ROOTS: &str = "roots.pem";
const REVOKED: &str = "revoked";
const JOINING: &str = "joining";
/// Certificates in one file.
const CERTIFICATES_MAX: usize = 64;
/// Of certificates that are not trusted, as lines of hex.
const REVOKED_MAX: usize = 4_096;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path} cannot be used: {source}")]
    Tls { path: PathBuf, source: TlsError },
    #[error("data_dir {path} is in use by process {holder}; stop it, or set another data_dir")]
    InUse { path: PathBuf, holder: String },
}

/// Who this node is. Present once it has joined or founded a mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFile {
    pub id: NodeId,
    pub name: NodeName,
    pub datacenter: Datacenter,
    pub trust_domain: TrustDomain,
    pub role: NodeRole,
    /// `host:port` of each, as last learned.
    #[serde(default)]
    pub servers: Vec<String>,
}

/// What a node asks to join with: kept until it has joined, so that a repeat is known as one. No `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joining {
    pub id: NodeId,
    /// PKCS#8, DER.
    pub key: Vec<u8>,
}

impl Joining {
    /// To send with the join request.
    pub fn csr(&self) -> Result<Vec<u8>, TlsError> {
        tls::csr_for_key(&self.key)
    }
}

/// The data directory of one node, held by one process.
#[derive(Debug)]
pub struct NodeStore {
    directory: PathBuf,
    /// What the configuration says that a node that joins from here shall be known by.
    chosen_id: Option<NodeId>,
    /// Held for its drop.
    _lock: lock::DirectoryLock,
}

impl NodeStore {
    /// Makes the directory where it is missing, closes it to other users, and locks it.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        file::private_directory(data_dir)?;
        let lock = lock::DirectoryLock::acquire(data_dir)?;
        Ok(Self { directory: data_dir.into(), chosen_id: None, _lock: lock })
    }

    /// Lets the node join under that id instead of a random one. It is not kept before the node has joined, so that
    /// an id that was refused is forgotten with the configuration that said it.
    #[must_use]
    pub fn with_id(self, chosen_id: Option<NodeId>) -> Self {
        Self { chosen_id, ..self }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// `None`: not a node of any mesh yet.
    pub fn load(&self) -> Result<Option<NodeFile>, StoreError> {
        match file::load_json(&self.path(NODE), VERSION) {
            Err(FileError::Missing(_)) => Ok(None),
            loaded => Ok(Some(loaded?)),
        }
    }

    pub fn save(&self, node: &NodeFile) -> Result<(), StoreError> {
        Ok(file::save_json(&self.path(NODE), VERSION, node)?)
    }

    /// The node is one of no mesh any more, as long as it has not joined again.
    pub fn forget(&self) -> Result<(), StoreError> {
        Ok(file::remove(&self.path(NODE))?)
    }

    /// The id and key to join with: made at the first call and the same until [`NodeStore::forget_joining`].
    pub fn joining(&self) -> Result<Joining, StoreError> {
        let kept = self.kept_joining()?;
        Ok(Joining { id: self.chosen_id.unwrap_or(kept.id), ..kept })
    }

    fn kept_joining(&self) -> Result<Joining, StoreError> {
        let path = self.path(JOINING);
        match file::load_secret(&path).and_then(|_| file::load(&path, VERSION)) {
            Ok(loaded) => frame::decode_body(&loaded.body)
                .map_err(|e| FileError::Corrupt { path, why: e.to_string() }.into()),
            Err(FileError::Missing(_)) => {
                let key = tls::new_key().map_err(|source| StoreError::Tls { path: path.clone(), source })?;
                let joining = Joining { id: NodeId(uuid::Uuid::new_v4()), key };
                let body = frame::encode_body(&joining)
                    .map_err(|e| FileError::Corrupt { path: path.clone(), why: e.to_string() })?;
                file::save(&path, VERSION, &body)?;
                Ok(joining)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Once the node is one of the mesh.
    pub fn forget_joining(&self) -> Result<(), StoreError> {
        Ok(file::remove(&self.path(JOINING))?)
    }

    /// Key and chain together, in one file. `key`: PKCS#8, DER. `chain`: DER, leaf first.
    pub fn save_credential(&self, key: &[u8], chain: &[Vec<u8>]) -> Result<(), StoreError> {
        let mut text = pem("PRIVATE KEY", key);
        for certificate in chain {
            text.push_str(&pem("CERTIFICATE", certificate));
        }
        Ok(file::save_plain(&self.path(CREDENTIAL), text.as_bytes())?)
    }

    /// DER each.
    pub fn save_roots(&self, roots: &[Vec<u8>]) -> Result<(), StoreError> {
        let text: String = roots.iter().map(|root| pem("CERTIFICATE", root)).collect();
        Ok(file::save_plain(&self.path(ROOTS), text.as_bytes())?)
    }

    /// Certificates that are not trusted though a root vouches for them, by SHA-256.
    pub fn save_revoked(&self, revoked: &Revoked) -> Result<(), StoreError> {
        let text: String = revoked.iter().map(|sha256| tls::hex(sha256) + "\n").collect();
        Ok(file::save_plain(&self.path(REVOKED), text.as_bytes())?)
    }

    fn load_revoked(&self) -> Result<Revoked, StoreError> {
        let path = self.path(REVOKED);
        let text = match file::load_plain(&path) {
            Err(FileError::Missing(_)) => return Ok(Revoked::default()),
            text => text?,
        };
        let lines = String::from_utf8_lossy(&text).into_owned();
        let read: Option<_> = lines.lines().take(REVOKED_MAX).map(tls::fingerprint_of_hex).collect();
        let corrupt = || FileError::Corrupt { path, why: "a line is not a SHA-256 in hex".into() };
        Ok(Arc::new(read.ok_or_else(corrupt)?))
    }

    /// Key, chain and roots as they are used. `None`: there are none yet.
    pub fn load_credentials(&self) -> Result<Option<Credentials>, StoreError> {
        let path = self.path(CREDENTIAL);
        let text = match file::load_secret(&path) {
            Err(FileError::Missing(_)) => return Ok(None),
            text => text?,
        };
        let key = PrivatePkcs8KeyDer::from_pem_slice(&text)
            .map_err(|e| FileError::Corrupt { path: path.clone(), why: format!("its key: {e}") })?;
        let chain = certificates(&path, &text)?;
        let roots_path = self.path(ROOTS);
        let roots = certificates(&roots_path, &file::load_plain(&roots_path)?)?;
        let credentials = Credentials::new(chain, key.secret_pkcs8_der(), roots);
        let credentials = credentials.map_err(|source| StoreError::Tls { path, source })?;
        Ok(Some(credentials.distrusting(self.load_revoked()?)))
    }

    /// The node's private key, to renew its certificate with. PKCS#8, DER.
    pub fn load_key(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(CREDENTIAL);
        let text = match file::load_secret(&path) {
            Err(FileError::Missing(_)) => return Ok(None),
            text => text?,
        };
        let key = PrivatePkcs8KeyDer::from_pem_slice(&text)
            .map_err(|e| FileError::Corrupt { path, why: format!("its key: {e}") })?;
        Ok(Some(key.secret_pkcs8_der().to_vec()))
    }
}

fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).take(CERTIFICATES_MAX).collect();
    let corrupt = |why: String| FileError::Corrupt { path: path.into(), why };
    let read = read.map_err(|e| corrupt(e.to_string()))?;
    if read.is_empty() {
        return Err(corrupt("it holds no certificate".into()).into());
    }
    Ok(read)
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    use std::fmt::Write;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        // Base64 is ASCII, and writing to a string does not fail.
        let _ = writeln!(text, "{}", String::from_utf8_lossy(line));
    }
    let _ = writeln!(text, "-----END {label}-----");
    text
}

#[cfg(test)]
mod tests;
