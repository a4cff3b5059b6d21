//! The program of a watch: fed with JSON, told the index, ended with us.

use std::process::Stdio;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::signal::unix::{self, SignalKind};

use super::At;

/// The wishes to end, from a terminal or a supervisor.
pub(super) struct Stop {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Stop {
    pub(super) fn listen() -> anyhow::Result<Self> {
        let listen = |kind| unix::signal(kind).context("cannot listen for signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Resolves when we shall end. Cancel safe.
    pub(super) async fn wanted(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
        }
    }
}

pub(super) struct Child<'a> {
    pub(super) words: &'a [String],
    pub(super) by_shell: bool,
}

impl Child<'_> {
    /// Runs it to its end; true if we shall end too. One that fails ends the watch.
    pub(super) async fn run(&self, at: &At, value: &Value, stop: &mut Stop) -> anyhow::Result<bool> {
        let index = at.index().to_string();
        let mut command = self.command();
        command.env("CONSUL_INDEX", &index).env("PURLIN_INDEX", &index);
        command.stdin(Stdio::piped()).kill_on_drop(true);
        let name = self.words.join(" ");
        let mut child = command.spawn().with_context(|| format!("cannot run {name:?}"))?;
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let stdin = child.stdin.take();
        let text = format!("{value}\n");
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A program need not read what it is given.
                let _ = stdin.write_all(text.as_bytes()).await;
            }
        };
        let ended = async { tokio::join!(feed, child.wait()).1 };
        tokio::pin!(ended);
        let mut ending = false;
        let status = loop {
            tokio::select! {
                status = &mut ended => break status.with_context(|| format!("cannot wait for {name:?}"))?,
                signal = stop.wanted() => {
                    ending = true;
                    if let Some(pid) = pid {
                        // It may have ended by itself in this moment.
                        let _ = kill_process(pid, signal);
                    }
                }
            }
        };
        if !ending && !status.success() {
            bail!("{name:?} failed ({status}), and the watch ends with it");
        }
        Ok(ending)
    }

    fn command(&self) -> Command {
        match self.words {
            [program, words @ ..] if !self.by_shell => {
                let mut command = Command::new(program);
                command.args(words);
                command
            }
            words => {
                let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty());
                let mut command = Command::new(shell.unwrap_or_else(|| "/bin/sh".into()));
                command.arg("-c").arg(words.join(" "));
                command
            }
        }
    }
}
