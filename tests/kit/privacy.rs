//! Moves the test program into namespaces of its own before it does anything else.
//!
//! Invariant: when the program ends, however it ends, so does every process it started, and no network namespace,
//! bridge or mount of it is left on the machine: all of them live in namespaces that go with their first process.

use std::os::unix::process::CommandExt;
use std::process::Command;

const INSIDE: &str = "PURLIN_LAB_INSIDE";

/// Runs this very program again in private mount, network and process namespaces, in place of this process.
pub fn enter() -> Result<(), String> {
    if std::env::var_os(INSIDE).is_some() {
        return prepare();
    }
    let me = std::env::current_exe().map_err(|error| format!("where am I: {error}"))?;
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--"])
        .arg(me)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1");
    let error = command.exec();
    Err(format!("cannot start unshare (package util-linux): {error}"))
}

/// A fresh /run for the names of network namespaces.
fn prepare() -> Result<(), String> {
    run("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"])?;
    std::fs::create_dir_all("/run/netns").map_err(|error| format!("/run/netns: {error}"))?;
    run("ip", &["link", "set", "lo", "up"])
}

pub fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program)
        .args(args)
        .env("PATH", path)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}
