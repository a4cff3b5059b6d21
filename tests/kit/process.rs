//! A program that keeps running on a host.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::host::Host;

pub struct Process {
    label: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn start(host: &Host, label: &str, mut command: Command) -> Self {
        let log = host.dir.join(format!("{label}.log"));
        let open = || File::options().create(true).append(true).open(&log).expect("a log file");
        let child = command
            .stdout(Stdio::from(open()))
            .stderr(Stdio::from(open()))
            .spawn()
            .unwrap_or_else(|error| panic!("{label} on {}: {error}", host.name));
        Self { label: label.into(), child, log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All it has printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.pid().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot send SIG{name} to {}", self.label);
    }

    /// Waits for its end; panics after `limit`.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return status,
                Ok(None) if start.elapsed() < limit => std::thread::sleep(Duration::from_millis(20)),
                Ok(None) => panic!("{} goes on after {limit:?}:\n{}", self.label, self.log()),
                Err(error) => panic!("{}: {error}", self.label),
            }
        }
    }

    /// SIGTERM, then its end.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait(Duration::from_secs(20))
    }

    /// SIGKILL, then its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- {} ({}), last lines:", self.label, self.log.display());
            for line in tail.iter().rev() {
                eprintln!("    {line}");
            }
        }
        self.kill();
    }
}
