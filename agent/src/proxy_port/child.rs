//! The proxy as a process that this agent started, in a process group of its own so that it outlives the agent.

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tokio::process::Command;
use tracing::{info, warn};

use super::Spawn;

/// At most one process at a time.
#[derive(Debug, Default)]
pub(super) struct Child(Option<tokio::process::Child>);

impl Child {
    /// How the one that was started ended, if it did.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.as_mut()?.try_wait().ok()?
    }

    /// Starts one unless ours still runs. Tells whether it did.
    pub(super) fn ensure(&mut self, spawn: &Spawn, runtime_dir: &Path) -> Result<bool, String> {
        if let Some(child) = &mut self.0 {
            match child.try_wait() {
                Ok(None) => return Ok(false),
                Ok(Some(status)) => warn!(%status, "the proxy ended, starting it again"),
                Err(error) => warn!("the proxy's end cannot be told: {error}"),
            }
        }
        let child = Command::new(&spawn.exe)
            .arg("proxy")
            .arg("--runtime-dir")
            .arg(runtime_dir)
            .args(&spawn.args)
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(false)
            .spawn()
            .map_err(|error| format!("cannot start the proxy as {}: {error}", spawn.exe.display()))?;
        info!(pid = child.id(), "proxy started");
        self.0 = Some(child);
        Ok(true)
    }
}
