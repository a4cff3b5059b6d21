//! What lies in `data_dir/ca`: the sealing key and this server's intermediate, each in one file of mode 0600.

use std::path::{Path, PathBuf};
use std::time::Duration;

use purlin_model::command::SealedKey;
use purlin_model::topic::MeshInfo;
use purlin_model::{Millis, NodeName};
use purlin_wire::file::{self, FileError};
use purlin_wire::frame;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{CaError, Intermediate, SealingKey};

const VERSION: u16 = 1;
const SEALING: &str = "sealing";
const INTERMEDIATE: &str = "intermediate";

#[derive(Serialize, Deserialize)]
struct StoredSealing {
    public: Vec<u8>,
    private: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct StoredIntermediate {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

pub(crate) struct CaStore {
    directory: PathBuf,
    sealing: SealingKey,
}

impl CaStore {
    /// Opens the directory; makes it, with a new sealing key, where there is none.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, CaError> {
        let directory = data_dir.join("ca");
        file::private_directory(&directory)?;
        let path = directory.join(SEALING);
        let sealing = match load::<StoredSealing>(&path)? {
            Some(stored) => SealingKey::from_parts(stored.public, stored.private),
            None => {
                let key = SealingKey::generate()?;
                let (public, private) = key.parts();
                save(&path, &StoredSealing { public: public.to_vec(), private: private.to_vec() })?;
                key
            }
        };
        Ok(Self { directory, sealing })
    }

    pub(crate) fn sealing(&self) -> &SealingKey {
        &self.sealing
    }

    /// This server's intermediate, if it has one that is of this mesh's active root and not half over.
    pub(crate) fn intermediate(&self, mesh: &MeshInfo, now: Millis) -> Result<Option<Intermediate>, CaError> {
        let Some(stored) = load::<StoredIntermediate>(&self.directory.join(INTERMEDIATE))? else {
            return Ok(None);
        };
        let intermediate = Intermediate::load(stored.certificate, &stored.key)?;
        let usable = intermediate.is_current(mesh) && !intermediate.renewal_due(now);
        Ok(usable.then_some(intermediate))
    }

    /// The active root's key in the open, which whoever asks must forget at once.
    pub(crate) fn open_root_key(&self, mesh: &MeshInfo, sealed: &SealedKey) -> Result<Vec<u8>, CaError> {
        self.sealing.open(sealed, &mesh.trust_domain)
    }

    /// A new intermediate, signed by the root and kept here. The root key is in the open only within this function.
    pub(crate) fn renew_intermediate(
        &self,
        mesh: &MeshInfo,
        sealed: &SealedKey,
        node: &NodeName,
        now: Millis,
    ) -> Result<Intermediate, CaError> {
        let root = mesh.active_root().ok_or(CaError::Pem)?;
        let root_key = self.sealing.open(sealed, &mesh.trust_domain)?;
        let life = Duration::from_millis(mesh.ca_config().intermediate_ttl_ms);
        let intermediate = Intermediate::create(&root.pem, &root_key, &mesh.trust_domain, node, now, life)?;
        let stored =
            StoredIntermediate { certificate: intermediate.certificate().to_vec(), key: intermediate.key() };
        save(&self.directory.join(INTERMEDIATE), &stored)?;
        Ok(intermediate)
    }
}

fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, CaError> {
    match file::load_secret(path).and_then(|_| file::load(path, VERSION)) {
        Err(FileError::Missing(_)) => Ok(None),
        Err(error) => Err(error.into()),
        Ok(loaded) => frame::decode_body(&loaded.body)
            .map(Some)
            .map_err(|why| FileError::Corrupt { path: path.into(), why: why.to_string() }.into()),
    }
}

fn save<T: Serialize>(path: &Path, content: &T) -> Result<(), CaError> {
    let body = frame::encode_body(content)
        .map_err(|why| FileError::Corrupt { path: path.into(), why: why.to_string() })?;
    Ok(file::save(path, VERSION, &body)?)
}
