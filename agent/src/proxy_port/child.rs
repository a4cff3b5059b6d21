//! The proxy as a process that this agent started, in a process group of its own so that it outlives the agent.

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tokio::process::Command;
use tracing::{info, warn};

use super::Spawn;

/// What the agent was given and its proxy shall not have: a secret, and the place to say that the agent is up.
const HIDDEN_VARIABLES: [&str; 2] = ["PURLIN_JOIN_TOKEN", "NOTIFY_SOCKET"];

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
        let mut command = Command::new(&spawn.exe);
        for variable in HIDDEN_VARIABLES {
            command.env_remove(variable);
        }
        let child = command
            .arg("proxy")
            .arg("--runtime-dir")
            .arg(runtime_dir)
            .args(&spawn.args)
            .stdin(Stdio::null())
            // It outlives the agent, and must not hold open a pipe whose reader waits for the agent's end.
            .stdout(Stdio::null())
            .process_group(0)
            .kill_on_drop(false)
            .spawn()
            .map_err(|error| format!("cannot start the proxy as {}: {error}", spawn.exe.display()))?;
        info!(pid = child.id(), "proxy started");
        self.0 = Some(child);
        Ok(true)
    }
}
