//! Probes that run a program: scripts, and units of the host.
//!
//! A program gets a process group of its own, which is killed with all that it started when its time is over or its
//! check goes away.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use purlin_model::check::Status;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::Verdict;

/// How long output may come after the program itself has ended: what it left in the background may hold the pipe.
const LAST_OUTPUT: Duration = Duration::from_millis(500);
/// Room for the line that says how much was left out.
const NOTICE_BYTES: usize = 48;
/// Of what `systemctl` says.
const UNIT_OUTPUT_BYTES: usize = 1024;
/// What the agent was given and no script of a check shall see.
const HIDDEN_VARIABLES: [&str; 2] = ["PURLIN_JOIN_TOKEN", "NOTIFY_SOCKET"];

/// Exit code 0 passes, 1 warns, anything else is critical.
pub(super) async fn script(args: &[String], output_max: usize) -> Verdict {
    let Some((program, args)) = args.split_first() else {
        return Verdict::critical("there is nothing to run");
    };
    let mut command = Command::new(program);
    command.args(args);
    match finish(command, output_max).await {
        Err(why) => Verdict::critical(format!("{program}: {why}")),
        Ok((status, output)) => {
            let output = output.text(output_max);
            match status.code() {
                Some(0) => Verdict::new(Status::Passing, output),
                Some(1) => Verdict::new(Status::Warning, output),
                Some(_) => Verdict::critical(output),
                None => Verdict::critical(format!("{program} was ended by a signal\n{output}")),
            }
        }
    }
}

/// Whether a unit of systemd is active.
pub(super) async fn unit(systemctl: &Path, unit: &str) -> Verdict {
    let mut command = Command::new(systemctl);
    command.args([
        "show",
        "--property=LoadState",
        "--property=ActiveState",
        "--property=SubState",
        "--",
        unit,
    ]);
    match finish(command, UNIT_OUTPUT_BYTES).await {
        Err(why) => Verdict::critical(format!("{}: {why}", systemctl.display())),
        Ok((status, output)) if !status.success() => {
            Verdict::critical(format!("unit {unit}: {}", output.text(UNIT_OUTPUT_BYTES).trim()))
        }
        Ok((_, output)) => judge_unit(unit, &output.text(UNIT_OUTPUT_BYTES)),
    }
}

fn judge_unit(unit: &str, properties: &str) -> Verdict {
    let property = |name: &str| {
        let mut lines = properties.lines().filter_map(|line| line.split_once('='));
        lines.find(|(key, _)| *key == name).map_or("unknown", |(_, value)| value)
    };
    let (loaded, active, sub) = (property("LoadState"), property("ActiveState"), property("SubState"));
    if loaded == "not-found" {
        return Verdict::critical(format!("unit {unit} does not exist"));
    }
    let status = match active {
        "active" => Status::Passing,
        "activating" | "reloading" | "refreshing" => Status::Warning,
        _ => Status::Critical,
    };
    Verdict::new(status, format!("unit {unit} is {active} ({sub})"))
}

/// Runs a program to its end and collects what it says. Dropped before that, it kills the whole group.
async fn finish(mut command: Command, output_max: usize) -> Result<(ExitStatus, Tail), String> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .process_group(0);
    for variable in HIDDEN_VARIABLES {
        command.env_remove(variable);
    }
    let mut child = command.spawn().map_err(|error| format!("cannot be run: {error}"))?;
    let mut group = Group::of(&child);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut tail = Tail::new(output_max.saturating_sub(NOTICE_BYTES).max(1));
    let status = {
        let mut reading = std::pin::pin!(read_both(stdout, stderr, &mut tail));
        let mut is_read = false;
        loop {
            tokio::select! {
                () = &mut reading, if !is_read => is_read = true,
                status = child.wait() => {
                    if !is_read {
                        // What is still open after this belongs to something that the program left behind.
                        let _ = timeout(LAST_OUTPUT, &mut reading).await;
                    }
                    break status;
                }
            }
        }
    };
    group.disarm();
    Ok((status.map_err(|error| format!("cannot be waited for: {error}"))?, tail))
}

/// The process group of a child, killed unless the child ended by itself.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended in this moment, which is as good.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

async fn read_both(
    stdout: Option<impl AsyncRead + Unpin>,
    stderr: Option<impl AsyncRead + Unpin>,
    tail: &mut Tail,
) {
    let (mut stdout, mut stderr) = (stdout, stderr);
    let (mut first, mut second) = ([0; 4096], [0; 4096]);
    while stdout.is_some() || stderr.is_some() {
        tokio::select! {
            read = read_some(&mut stdout, &mut first) => match read {
                0 => stdout = None,
                read => tail.push(&first[..read]),
            },
            read = read_some(&mut stderr, &mut second) => match read {
                0 => stderr = None,
                read => tail.push(&second[..read]),
            },
        }
    }
}

/// Bytes read; 0 at the end or on an error. Never resolves once the end was seen.
async fn read_some(from: &mut Option<impl AsyncRead + Unpin>, into: &mut [u8]) -> usize {
    match from {
        Some(from) => from.read(into).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

/// The last bytes of a text of any length.
#[derive(Debug)]
struct Tail {
    kept: Vec<u8>,
    max: usize,
    total: u64,
}

impl Tail {
    fn new(max: usize) -> Self {
        Self { kept: Vec::new(), max, total: 0 }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.total = self.total.saturating_add(bytes.len() as u64);
        self.kept.extend_from_slice(bytes);
        let excess = self.kept.len().saturating_sub(self.max);
        self.kept.drain(..excess);
    }

    /// As text, saying so if some of it was left out.
    fn text(&self, max: usize) -> String {
        let text = String::from_utf8_lossy(&self.kept);
        if self.total <= self.kept.len() as u64 {
            return text.into_owned();
        }
        let mut noted = format!("Captured {} of {} bytes\n...\n{text}", self.kept.len(), self.total);
        noted.truncate(noted.floor_char_boundary(max));
        noted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_keeps_the_end_and_says_how_much_there_was() {
        let mut tail = Tail::new(4);
        tail.push(b"ab");
        assert_eq!(tail.text(100), "ab");
        tail.push(b"cdefgh");
        assert_eq!(tail.text(100), "Captured 4 of 8 bytes\n...\nefgh");
    }

    #[test]
    fn units_are_judged_by_their_state() {
        let judged = |active: &str| {
            judge_unit("x.service", &format!("LoadState=loaded\nActiveState={active}\nSubState=s\n")).status
        };
        assert_eq!(judged("active"), Status::Passing);
        assert_eq!(judged("activating"), Status::Warning);
        assert_eq!(judged("reloading"), Status::Warning);
        assert_eq!(judged("inactive"), Status::Critical);
        assert_eq!(judged("failed"), Status::Critical);
        let missing = judge_unit("x.service", "LoadState=not-found\nActiveState=inactive\nSubState=dead\n");
        assert_eq!(missing, Verdict::critical("unit x.service does not exist"));
        assert_eq!(judge_unit("x.service", "").status, Status::Critical);
    }
}
