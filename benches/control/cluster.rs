//! Three processes that serve clients, and what they cost.

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Ends its process when dropped.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn spawn(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let log = std::fs::File::create(log)?;
        Ok(Self(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?))
    }

    pub(crate) fn signal(&self, signal: &str) {
        // One that is gone already needs no signal.
        let _ = Command::new("kill").args([signal, &self.0.id().to_string()]).status();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How clients talk to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speech {
    /// Consul's HTTP API.
    Purlin,
    /// etcd's gRPC API, version 3.
    Etcd,
}

pub(crate) struct Cluster {
    pub(crate) speech: Speech,
    pub(crate) processes: Vec<Process>,
    /// Where clients go, in the order of the processes.
    pub(crate) endpoints: Vec<String>,
}

impl Cluster {
    /// Of all its processes since they began, in seconds.
    pub(crate) fn cpu(&self) -> f64 {
        self.processes.iter().map(|process| cpu(process.0.id())).sum()
    }
}

/// User and system time of a process, from `/proc`, in clock ticks of a hundredth of a second.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}
