//! The command line: one file per verb. Consul's nouns, verbs and flags wherever Consul has them.
//!
//! Standard output has the answer and nothing else; errors are one line on standard error. Exit codes: 0, 1 failure,
//! 2 wrong usage (and errors of `intention check`, whose 1 means denied).

mod argv;
mod catalog;
mod config_entry;
mod connect;
mod demo;
mod event;
mod help;
mod intention;
mod join_token;
mod kv;
mod lock;
mod maint;
mod members;
mod operator;
mod output;
mod process;
mod recover;
mod services;
mod session;
mod snapshot;
mod start;
#[cfg(test)]
mod tests;
mod validate;
mod watch;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::client::{Address, Client, DEFAULT_ADDRESS};
use crate::config::ConfigErrors;

pub use output::Format;
use output::Screen;

/// A service mesh for virtual machines and bare metal, in one binary
#[derive(Debug, Parser)]
#[command(name = "purlin", version, max_term_width = 110, after_help = help::ROOT, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The agent's API")]
struct Global {
    /// Where the agent's API is: host:port or unix:///path [default: 127.0.0.1:8500]
    #[arg(long, global = true, env = "PURLIN_HTTP_ADDR", value_name = "ADDRESS")]
    http_addr: Option<String>,
    /// Sent with each call; without effect until access control lands
    #[arg(long, global = true, env = "PURLIN_HTTP_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// How answers are printed
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Server(start::ServerArgs),
    Agent(start::AgentArgs),
    Proxy(start::ProxyArgs),
    Dev(start::DevArgs),
    Demo(demo::DemoArgs),
    Validate(validate::ValidateArgs),
    Reload(process::ReloadArgs),
    Leave(process::LeaveArgs),
    Info(process::InfoArgs),
    Monitor(process::MonitorArgs),
    LogLevel(process::LogLevelArgs),
    Maint(maint::MaintArgs),
    Members(members::MembersArgs),
    ForceLeave(members::ForceLeaveArgs),
    #[command(subcommand)]
    Node(members::NodeVerb),
    #[command(subcommand)]
    Catalog(catalog::CatalogVerb),
    #[command(subcommand)]
    Services(services::ServicesVerb),
    #[command(subcommand)]
    Intention(intention::IntentionVerb),
    #[command(subcommand)]
    Config(config_entry::ConfigVerb),
    #[command(subcommand)]
    Kv(kv::KvVerb),
    Lock(lock::LockArgs),
    #[command(subcommand)]
    Session(session::SessionVerb),
    #[command(subcommand)]
    JoinToken(join_token::JoinTokenVerb),
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotVerb),
    #[command(subcommand)]
    Connect(connect::ConnectVerb),
    #[command(subcommand)]
    Operator(operator::OperatorVerb),
    Event(event::EventArgs),
    Watch(watch::WatchArgs),
    Version(process::VersionArgs),
    Completion(process::CompletionArgs),
}

/// A duration as Consul takes it.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    purlin_model::duration::parse(text).map_err(|error| error.to_string())
}

/// What a command that talks to an agent has at hand.
struct Session {
    client: Client,
    format: Format,
    screen: Screen,
}

impl Session {
    fn json(&self) -> bool {
        self.format == Format::Json
    }
}

/// Runs the process: parses `arguments`, carries the command out, says what went wrong.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = Cli::command();
    let rewritten = argv::rewrite(&command, arguments);
    let cli = match command.try_get_matches_from(rewritten).and_then(|found| Cli::from_arg_matches(&found)) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output with 0, wrong usage to standard error with 2. A closed pipe is
            // nobody's fault.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let failure = if matches!(cli.verb, Verb::Intention(intention::IntentionVerb::Check(_))) { 2 } else { 1 };
    match carry_out(cli) {
        Ok(code) => code,
        Err(error) => report(&error, failure),
    }
}

/// One line for each thing that is wrong.
fn report(error: &anyhow::Error, code: u8) -> ExitCode {
    let closed = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(closed) {
        // Whoever read our output has had enough, as with `| head`.
        return ExitCode::SUCCESS;
    }
    let code = if error.downcast_ref::<crate::run::Usage>().is_some() { 2 } else { code };
    let lines = match error.downcast_ref::<ConfigErrors>() {
        Some(ConfigErrors(lines)) => lines.clone(),
        None => vec![told(error)],
    };
    for line in lines {
        eprintln!("purlin: {}", line.replace('\n', "; "));
    }
    ExitCode::from(code)
}

/// An error and its causes, each said once: some say themselves what caused them.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn carry_out(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { global, verb } = cli;
    match verb {
        Verb::Server(args) => start::server(args),
        Verb::Agent(args) => start::agent(args),
        Verb::Proxy(args) => start::proxy(args),
        Verb::Dev(args) => start::dev(args),
        Verb::Demo(args) => demo::run(&args, global.format),
        Verb::Validate(args) => validate::run(&args),
        Verb::Operator(operator::OperatorVerb::Recover(args)) => recover::run(&args, global.format),
        Verb::Snapshot(snapshot::SnapshotVerb::Inspect(args)) => snapshot::inspect(&args, global.format),
        Verb::Version(args) => process::version(&args, global.format),
        Verb::Completion(args) => process::completion(&args),
        other => converse(global, other),
    }
}

/// The commands that ask a running agent.
fn converse(global: Global, verb: Verb) -> anyhow::Result<ExitCode> {
    let Global { http_addr, token, format } = global;
    let env = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let address = http_addr.filter(|text| !text.is_empty()).or_else(|| env("CONSUL_HTTP_ADDR"));
    let address = Address::parse(address.as_deref().unwrap_or(DEFAULT_ADDRESS))?;
    let token = token.or_else(|| env("CONSUL_HTTP_TOKEN"));
    let mut session = Session { client: Client::new(address, token), format, screen: Screen::stdout() };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(answer(&mut session, verb))
}

async fn answer(session: &mut Session, verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Reload(args) => process::reload(session, &args).await,
        Verb::Leave(args) => process::leave(session, &args).await,
        Verb::Info(args) => process::info(session, &args).await,
        Verb::Monitor(args) => process::monitor(session, &args).await,
        Verb::LogLevel(args) => process::log_level(session, &args).await,
        Verb::Maint(args) => maint::run(session, &args).await,
        Verb::Members(args) => members::list(session, &args).await,
        Verb::ForceLeave(args) => members::force_leave(session, &args).await,
        Verb::Node(verb) => members::node(session, &verb).await,
        Verb::Catalog(verb) => catalog::run(session, &verb).await,
        Verb::Services(verb) => services::run(session, &verb).await,
        Verb::Intention(verb) => intention::run(session, &verb).await,
        Verb::Config(verb) => config_entry::run(session, &verb).await,
        Verb::Kv(verb) => kv::run(session, &verb).await,
        Verb::Lock(args) => lock::run(session, &args).await,
        Verb::Session(verb) => session::run(session, &verb).await,
        Verb::JoinToken(verb) => join_token::run(session, &verb).await,
        Verb::Connect(verb) => connect::run(session, &verb).await,
        Verb::Operator(verb) => operator::run(session, &verb).await,
        Verb::Snapshot(verb) => snapshot::run(session, &verb).await,
        Verb::Event(args) => event::run(session, &args).await,
        Verb::Watch(args) => Box::pin(watch::run(session, &args)).await,
        // Those that ask nobody were carried out before.
        Verb::Server(_) | Verb::Agent(_) | Verb::Proxy(_) | Verb::Dev(_) | Verb::Demo(_) => {
            Ok(ExitCode::SUCCESS)
        }
        Verb::Validate(_) | Verb::Version(_) | Verb::Completion(_) => Ok(ExitCode::SUCCESS),
    }
}
