//! `purlin lock`: a command that runs only while this host holds a lock, or one of the places of a semaphore.
//!
//! Consul's protocol, so that its clients and ours keep each other out: a session that is renewed, a key that the
//! session acquires, and a look at it for as long as the command runs. Whoever loses it ends the command.

mod mutex;
mod semaphore;

use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{sleep, timeout};

use super::{Session, help};
use crate::client::{Client, ClientError, Path};
use mutex::Mutex;
use semaphore::Semaphore;

/// Of the session, which ends at latest twice as long after this process died.
const TTL: &str = "15s";
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// How long one question for a change of the lock waits.
const WAIT: &str = "15s";
/// Before the next try, where the servers cannot be asked or the lock is delayed.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the command may take to end once it was told to.
const KILL_AFTER: Duration = Duration::from_secs(5);

/// Run a command while holding a lock
#[derive(Debug, Args)]
#[command(after_help = help::LOCK)]
pub(super) struct LockArgs {
    /// How many may hold it at once; more than one makes it a semaphore
    #[arg(short = 'n', value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Of the session; says who holds the lock
    #[arg(long)]
    name: Option<String>,
    /// Run the command by /bin/sh; with =false as it is
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true,
        default_missing_value = "true", action = clap::ArgAction::Set)]
    shell: bool,
    /// Exit with 2 where the command failed
    #[arg(long)]
    child_exit_code: bool,
    /// Hand standard input to the command
    #[arg(long)]
    pass_stdin: bool,
    /// Give up after this time without the lock
    #[arg(long, alias = "timeout", value_name = "DURATION", value_parser = super::duration)]
    r#try: Option<Duration>,
    /// Questions about the lock that may fail in a row before it counts as lost
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    monitor_retry: u32,
    /// Say what happens
    #[arg(long)]
    verbose: bool,
    /// Below this the keys of the lock lie
    prefix: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    child: Vec<String>,
}

/// A way to hold something by a session.
enum Kind {
    Mutex(Mutex),
    Semaphore(Semaphore),
}

impl Kind {
    /// Returns once it is held.
    async fn acquire(&self) -> anyhow::Result<()> {
        match self {
            Self::Mutex(one) => one.acquire().await,
            Self::Semaphore(one) => one.acquire().await,
        }
    }

    /// Returns when it is held no more, and why.
    async fn lost(&self, retries: u32) -> String {
        let mut index = 0;
        let mut failed = 0;
        loop {
            let holds = match self {
                Self::Mutex(one) => one.holds(&mut index).await,
                Self::Semaphore(one) => one.holds(&mut index).await,
            };
            match holds {
                Ok(true) => failed = 0,
                Ok(false) => return "it was taken away".into(),
                Err(error) if failed >= retries => return format!("the servers cannot be asked: {error:#}"),
                Err(_) => {
                    failed += 1;
                    index = 0;
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn release(&self) -> anyhow::Result<()> {
        match self {
            Self::Mutex(one) => one.release().await,
            Self::Semaphore(one) => one.release().await,
        }
    }
}

/// A key as the servers have it.
struct Found {
    key: String,
    value: Vec<u8>,
    flags: u64,
    session: Option<String>,
    modify_index: u64,
}

impl Found {
    fn read(entry: &Value) -> Self {
        use base64::Engine as _;
        let value = entry["Value"].as_str().unwrap_or_default();
        Self {
            key: entry["Key"].as_str().unwrap_or_default().into(),
            value: base64::engine::general_purpose::STANDARD.decode(value).unwrap_or_default(),
            flags: entry["Flags"].as_u64().unwrap_or_default(),
            session: entry["Session"].as_str().map(str::to_owned),
            modify_index: entry["ModifyIndex"].as_u64().unwrap_or_default(),
        }
    }
}

/// Keys at or below a path once they are newer than `index`, which becomes theirs.
async fn look(client: &Client, path: Path, index: &mut u64) -> anyhow::Result<Vec<Found>> {
    let path = path.with("consistent", "").with("index", &index.to_string()).with("wait", WAIT);
    let (newest, found) = client.find_at(path).await?;
    // One that goes back says that the servers began anew.
    *index = if newest < *index { 0 } else { newest };
    Ok(found.as_ref().and_then(Value::as_array).into_iter().flatten().map(Found::read).collect())
}

async fn put(client: &Client, path: Path, value: Vec<u8>) -> anyhow::Result<bool> {
    Ok(client.put_bytes(path, value).await? == Value::Bool(true))
}

/// What ends a wait from outside.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

pub(super) async fn run(session: &mut Session, args: &LockArgs) -> anyhow::Result<ExitCode> {
    let prefix = args.prefix.trim_matches('/');
    if prefix.is_empty() {
        bail!("a lock needs a name: the prefix is empty");
    }
    let client = &session.client;
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let name = args.name.clone().unwrap_or_else(|| {
        format!("Lock for '{}' at '{prefix}'", args.child.join(" ").chars().take(200).collect::<String>())
    });
    // The key of a contender has no use without it; that of the lock is everybody's.
    let behavior = if args.limit == 1 { "release" } else { "delete" };
    let body = json!({"Name": name, "TTL": TTL, "Behavior": behavior});
    let made = client.put(Path::new(&["session", "create"]), Some(&body)).await?;
    let Some(id) = made["ID"].as_str().map(str::to_owned) else {
        bail!("the agent made a session without an id")
    };
    let kind = match args.limit {
        1 => Kind::Mutex(Mutex::new(client.clone(), prefix, &id)),
        limit => Kind::Semaphore(Semaphore::new(client.clone(), prefix, &id, limit)),
    };
    let renewal = tokio::spawn(renew(client.clone(), id.clone()));
    let ended = guarded(args, &kind, &mut signals).await;
    renewal.abort();
    let released = kind.release().await;
    client.put(Path::new(&["session", "destroy", &id]), None).await?;
    let code = ended?;
    released.context("the lock was not given back")?;
    Ok(code)
}

/// Keeps the session alive. What fails is tried again: the lock itself tells when it is too late.
async fn renew(client: Client, id: String) {
    loop {
        sleep(RENEW_EVERY).await;
        let path = Path::new(&["session", "renew", &id]);
        if let Err(ClientError::Refused { status: StatusCode::NOT_FOUND, .. }) = client.put(path, None).await
        {
            return;
        }
    }
}

/// Waits for the lock and runs the command with it.
async fn guarded(args: &LockArgs, kind: &Kind, signals: &mut Signals) -> anyhow::Result<ExitCode> {
    let say = |text: &str| {
        if args.verbose {
            eprintln!("purlin: {text}");
        }
    };
    say(&format!("waiting for the lock at {}", args.prefix));
    let acquired = async {
        match args.r#try {
            None => kind.acquire().await,
            Some(limit) => match timeout(limit, kind.acquire()).await {
                Ok(acquired) => acquired,
                Err(_) => bail!("the lock at {} was not to be had within {limit:?}", args.prefix),
            },
        }
    };
    tokio::select! {
        acquired = acquired => acquired?,
        () = signals.next() => bail!("interrupted while waiting for the lock at {}", args.prefix),
    }
    say("the lock is held, the command starts");
    let mut child = start(args)?;
    let ended = tokio::select! {
        ended = child.wait() => ended,
        () = signals.next() => end(&mut child).await,
        why = kind.lost(args.monitor_retry) => {
            eprintln!("purlin: the lock at {} is lost ({why}), the command is ended", args.prefix);
            end(&mut child).await?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let status = ended.context("cannot wait for the command")?;
    say(&format!("the command ended: {status}"));
    if args.child_exit_code && !status.success() {
        return Ok(ExitCode::from(2));
    }
    Ok(ExitCode::SUCCESS)
}

fn start(args: &LockArgs) -> anyhow::Result<Child> {
    let mut command = if args.shell {
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(args.child.join(" "));
        shell
    } else {
        let (program, rest) = args.child.split_first().context("there is no command")?;
        let mut command = Command::new(program);
        command.args(rest);
        command
    };
    // Scripts made for Consul look for its variable.
    command.env("CONSUL_LOCK_HELD", "true").env("PURLIN_LOCK_HELD", "true");
    if !args.pass_stdin {
        // A group of its own, so that all it started can be ended with it; it cannot read a terminal then.
        command.stdin(Stdio::null()).process_group(0);
    }
    command.spawn().with_context(|| format!("cannot run {}", args.child.join(" ")))
}

/// Tells the command to end, and makes it.
async fn end(child: &mut Child) -> std::io::Result<std::process::ExitStatus> {
    use rustix::process::{Pid, Signal, kill_process, kill_process_group};
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let send = |signal| {
        // Without a group of its own the command alone is told. One that is gone hears nothing, which is well.
        if let Some(pid) = pid
            && kill_process_group(pid, signal).is_err()
        {
            let _ = kill_process(pid, signal);
        }
    };
    send(Signal::TERM);
    match timeout(KILL_AFTER, child.wait()).await {
        Ok(ended) => ended,
        Err(_) => {
            send(Signal::KILL);
            child.wait().await
        }
    }
}
