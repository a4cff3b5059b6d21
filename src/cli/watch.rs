//! `purlin watch`: shows something once, or runs a program each time it changes.
//!
//! What is asked stands in `watch/plan.rs`, how the program is run in `watch/child.rs`; here is when.

mod child;
mod plan;
#[cfg(test)]
mod tests;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use http::StatusCode;
use serde_json::Value;

use super::{Session, help};
use crate::client::{ClientError, Path, Polled};
use child::{Child, Stop};
use plan::{At, Kind, Plan};

/// Consul's figures: so much more for each failure in a row, by its square, and never longer than this.
const BACK_OFF: Duration = Duration::from_secs(5);
const BACK_OFF_MAX: Duration = Duration::from_secs(180);
/// An answer that comes sooner and brings nothing is no wait; the next question is held back by so much.
const BREATH: Duration = Duration::from_millis(200);

/// Show something of the mesh once, or run a program each time it changes
#[derive(Debug, Args)]
#[command(after_help = help::WATCH)]
pub(super) struct WatchArgs {
    /// What to watch
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    kind: Kind,
    /// The key, for type key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// What the keys begin with, for type keyprefix
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// The service, for types service, checks and connect_leaf; its id for agent_service
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// Only instances with this tag, for type service; repeatable
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Only instances that pass all their checks, for type service
    #[arg(long, value_name = "true|false")]
    passingonly: Option<bool>,
    /// Only checks in this state, for type checks
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Only events of this name, for type event
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Ask any server, not the leader
    #[arg(long)]
    stale: bool,
    /// Run the program by a shell ($SHELL, or /bin/sh)
    #[arg(
        long,
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        action = clap::ArgAction::Set
    )]
    shell: bool,
    /// Run at each change, with what is there now as JSON on its standard input
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "PROGRAM")]
    child: Vec<String>,
}

pub(super) async fn run(session: &mut Session, args: &WatchArgs) -> anyhow::Result<ExitCode> {
    let plan = Plan::of(args)?;
    // So that an address where nobody answers is told at once, and not waited for.
    session.client.get(Path::new(&["agent", "version"])).await?;
    let mut watch = Watch { plan, at: None, last: None, failures: 0 };
    if args.child.is_empty() {
        let polled = session.client.poll(&watch.plan.path(None)).await?;
        let value = watch.plan.shape(polled.value);
        session.screen.json(&value)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut stop = Stop::listen()?;
    let child = Child { words: &args.child, by_shell: args.shell };
    loop {
        let path = watch.plan.path(watch.at.as_ref());
        let asked = Instant::now();
        let polled = tokio::select! {
            _ = stop.wanted() => return Ok(ExitCode::SUCCESS),
            polled = session.client.poll(&path) => polled,
        };
        let pause = match polled {
            Ok(polled) => match watch.hear(polled) {
                Some((at, news)) => {
                    if child.run(&at, &news, &mut stop).await? {
                        return Ok(ExitCode::SUCCESS);
                    }
                    Duration::ZERO
                }
                None if asked.elapsed() < BREATH => BREATH,
                None => Duration::ZERO,
            },
            Err(error) => watch.fail(error)?,
        };
        tokio::select! {
            _ = stop.wanted() => return Ok(ExitCode::SUCCESS),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// How far a watch is.
#[derive(Debug)]
struct Watch {
    plan: Plan,
    /// What the next question waits past; absent: it is answered at once.
    at: Option<At>,
    /// What was last told.
    last: Option<Value>,
    failures: u32,
}

impl Watch {
    /// Takes in an answer; gives what is to be told of it, if it brings anything.
    fn hear(&mut self, polled: Polled) -> Option<(At, Value)> {
        self.failures = 0;
        let at = At::of(&polled);
        if self.at.as_ref() == Some(&at) {
            return None;
        }
        // An index that fell is that of another history: what is there now is asked for anew, without waiting.
        let fell = self.at.as_ref().is_some_and(|last| self.plan.fell(last, &at));
        self.at = (!fell).then(|| at.clone());
        let value = self.plan.shape(polled.value);
        let news = match &self.last {
            Some(last) => self.plan.news(last, &value),
            None => Some(value.clone()),
        };
        self.last = Some(value);
        news.map(|news| (at, news))
    }

    /// How long to wait before the next attempt. What will never be answered ends the watch.
    fn fail(&mut self, error: ClientError) -> Result<Duration, ClientError> {
        let hopeless = [StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN, StatusCode::METHOD_NOT_ALLOWED];
        if matches!(&error, ClientError::Refused { status, .. } if hopeless.contains(status)) {
            return Err(error);
        }
        self.failures = self.failures.saturating_add(1);
        self.at = None;
        let pause = BACK_OFF.saturating_mul(self.failures.saturating_mul(self.failures)).min(BACK_OFF_MAX);
        eprintln!("purlin: watch: {error}; trying again in {} s", pause.as_secs());
        Ok(pause)
    }
}
