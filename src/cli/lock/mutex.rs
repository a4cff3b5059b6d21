//! One holder: the session that acquired the key.

use anyhow::bail;
use tokio::time::sleep;

use super::{Found, PAUSE, look, put};
use crate::client::{Client, Path};

/// The number by which clients of Consul know such a key.
const FLAGS: u64 = 0x2ddc_cbc0_58a5_0c18;

pub(super) struct Mutex {
    client: Client,
    key: String,
    session: String,
}

impl Mutex {
    pub(super) fn new(client: Client, prefix: &str, session: &str) -> Self {
        Self { client, key: format!("{prefix}/.lock"), session: session.into() }
    }

    fn path(&self) -> Path {
        Path::new(&["kv", &self.key])
    }

    async fn find(&self, index: &mut u64) -> anyhow::Result<Option<Found>> {
        Ok(look(&self.client, self.path(), index).await?.into_iter().next())
    }

    fn is_mine(&self, found: Option<&Found>) -> bool {
        found.is_some_and(|found| found.session.as_deref() == Some(&self.session))
    }

    pub(super) async fn acquire(&self) -> anyhow::Result<()> {
        let mut index = 0;
        loop {
            let found = self.find(&mut index).await?;
            if let Some(found) = found.as_ref().filter(|found| found.flags != FLAGS) {
                bail!("the key {} is there and no lock: choose another prefix", found.key);
            }
            if self.is_mine(found.as_ref()) {
                return Ok(());
            }
            if found.is_some_and(|found| found.session.is_some()) {
                continue;
            }
            let path = self.path().with("acquire", &self.session).with("flags", &FLAGS.to_string());
            if put(&self.client, path, Vec::new()).await? {
                return Ok(());
            }
            // Another was faster, or the one before is still given time.
            index = 0;
            sleep(PAUSE).await;
        }
    }

    /// Waits for a change, then tells.
    pub(super) async fn holds(&self, index: &mut u64) -> anyhow::Result<bool> {
        Ok(self.is_mine(self.find(index).await?.as_ref()))
    }

    /// Gives it back, and removes the key if nobody else took it.
    pub(super) async fn release(&self) -> anyhow::Result<()> {
        let path = self.path().with("release", &self.session).with("flags", &FLAGS.to_string());
        if !put(&self.client, path, Vec::new()).await? {
            return Ok(());
        }
        if let Some(free) = self.find(&mut 0).await?.filter(|found| found.session.is_none()) {
            self.client.delete(self.path().with("cas", &free.modify_index.to_string())).await?;
        }
        Ok(())
    }
}
