//! `purlin server`, `agent`, `proxy` and `dev`: what runs until it is told to stop.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use purlin_wire::token::JoinTokenText;
use serde_json::{Map, Value};

use super::help;
use crate::config::{Log, Mode, Overrides, Sources};
use crate::run::{self, ProxyOptions, RunOptions};

const JOIN_ENV: &str = "PURLIN_JOIN_TOKEN";

/// Run a server: it holds the catalog, signs certificates, and is an agent of its own host, too
#[derive(Debug, Args)]
#[command(after_help = help::SERVER)]
pub(super) struct ServerArgs {
    /// Make a new mesh, of which this is the first server
    #[arg(long, conflicts_with = "join")]
    bootstrap: bool,
    /// Join a mesh as a further server: a token, or @FILE [env: PURLIN_JOIN_TOKEN]
    #[arg(long, value_name = "TOKEN")]
    join: Option<String>,
    #[command(flatten)]
    host: HostArgs,
}

/// Run an agent: it speaks for the services of its host
#[derive(Debug, Args)]
#[command(after_help = help::AGENT)]
pub(super) struct AgentArgs {
    /// Join a mesh: a token from `purlin join-token create`, or @FILE [env: PURLIN_JOIN_TOKEN]
    #[arg(long, value_name = "TOKEN")]
    join: Option<String>,
    #[command(flatten)]
    host: HostArgs,
}

/// Run the proxy of a host; its agent tells it what to do
#[derive(Debug, Args)]
#[command(after_help = help::PROXY)]
pub(super) struct ProxyArgs {
    /// Where proxy.sock lies: the agent's runtime_dir
    #[arg(long, env = "PURLIN_RUNTIME_DIR", value_name = "DIR")]
    runtime_dir: PathBuf,
    /// Threads that move traffic [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// trace, debug, info, warn, error, or module=level,...
    #[arg(long, env = "PURLIN_LOG_LEVEL", value_name = "LEVEL", default_value = "info", value_parser = crate::config::parse_log_filter)]
    log_level: String,
    /// Write logs as JSON
    #[arg(long)]
    log_json: bool,
}

/// Run a whole mesh of one host on loopback, in memory unless a data_dir is given
#[derive(Debug, Args)]
#[command(after_help = help::DEV)]
pub(super) struct DevArgs {
    #[command(flatten)]
    host: HostArgs,
}

/// Flags that stand for keys of the configuration. They win over the environment, that over files.
#[derive(Debug, Args)]
#[command(next_help_heading = "Configuration")]
struct HostArgs {
    /// A configuration file (.hcl, .json, .toml) or a directory of them; repeatable, later ones win
    #[arg(long, short = 'c', visible_aliases = ["config-file", "config-dir"], value_name = "PATH")]
    config: Vec<PathBuf>,
    /// Where what must outlive the process is kept
    #[arg(long, env = "PURLIN_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where the socket of the proxy lies [default: DATA_DIR/run]
    #[arg(long, env = "PURLIN_RUNTIME_DIR", value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    /// The name of this host [default: its hostname]
    #[arg(long, env = "PURLIN_NODE_NAME", value_name = "NAME")]
    node: Option<String>,
    /// The id of this host, a UUID [default: kept in DATA_DIR]
    #[arg(long, value_name = "UUID")]
    node_id: Option<String>,
    /// Metadata of this host; repeatable
    #[arg(long, value_name = "KEY:VALUE", value_parser = key_value)]
    node_meta: Vec<(String, String)>,
    /// [default: dc1]
    #[arg(long, env = "PURLIN_DATACENTER", value_name = "NAME")]
    datacenter: Option<String>,
    /// Where to listen for other hosts [default: 0.0.0.0, or :: where --advertise is IPv6]
    #[arg(long, env = "PURLIN_BIND_ADDR", value_name = "IP")]
    bind: Option<String>,
    /// By which address other hosts reach this one [default: its private IPv4 address]
    #[arg(long, env = "PURLIN_ADVERTISE_ADDR", value_name = "IP")]
    advertise: Option<String>,
    /// Where to listen for HTTP and DNS [default: 127.0.0.1]
    #[arg(long, env = "PURLIN_CLIENT_ADDR", value_name = "IP")]
    client: Option<String>,
    /// [default: 8500]
    #[arg(long, value_name = "PORT", allow_negative_numbers = true)]
    http_port: Option<i32>,
    /// [default: 8600]
    #[arg(long, value_name = "PORT", allow_negative_numbers = true)]
    dns_port: Option<i32>,
    /// QUIC, of a server [default: 8300]
    #[arg(long, value_name = "PORT")]
    server_port: Option<u16>,
    /// Where the proxy takes connections of other hosts [default: 20000]
    #[arg(long, value_name = "PORT")]
    mesh_port: Option<u16>,
    /// The domain of DNS [default: mesh.internal]
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// Another name of the domain [default: consul]
    #[arg(long, value_name = "NAME")]
    alt_domain: Option<String>,
    /// A DNS server for all other names; repeatable
    #[arg(long, value_name = "ADDRESS")]
    recursor: Vec<String>,
    /// What holds where no intention says anything: allow or deny [default: deny]
    #[arg(long, value_name = "POLICY")]
    default_intention_policy: Option<String>,
    /// Allow script checks, those of the API included
    #[arg(long)]
    enable_script_checks: bool,
    /// Allow script checks of configuration files
    #[arg(long)]
    enable_local_script_checks: bool,
    /// When a first join gives up [default: 30s]
    #[arg(long, value_name = "DURATION")]
    join_timeout: Option<String>,
    /// trace, debug, info, warn, error, or module=level,... [default: info]
    #[arg(long, env = "PURLIN_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<String>,
    /// Write logs as JSON
    #[arg(long)]
    log_json: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once(':').map(|(key, value)| (key.to_owned(), value.to_owned()));
    pair.ok_or_else(|| "write KEY:VALUE".into())
}

impl HostArgs {
    fn sources(self, mode: Mode) -> Sources {
        let path = |path: PathBuf| path.to_string_lossy().into_owned();
        let on = |flag: bool| flag.then_some(true);
        let list = |items: Vec<String>| (!items.is_empty()).then_some(items);
        let meta: Map<String, Value> =
            self.node_meta.into_iter().map(|(key, value)| (key, value.into())).collect();
        let mut all = Overrides::default();
        all.set("data_dir", self.data_dir.map(path));
        all.set("runtime_dir", self.runtime_dir.map(path));
        all.set("node_name", self.node);
        all.set("node_id", self.node_id);
        all.set("node_meta", (!meta.is_empty()).then_some(meta));
        all.set("datacenter", self.datacenter);
        all.set("bind_addr", self.bind);
        all.set("advertise_addr", self.advertise);
        all.set("client_addr", self.client);
        all.set("ports.http", self.http_port);
        all.set("ports.dns", self.dns_port);
        all.set("ports.server", self.server_port);
        all.set("ports.mesh", self.mesh_port);
        all.set("domain", self.domain);
        all.set("alt_domain", self.alt_domain);
        all.set("recursors", list(self.recursor));
        all.set("default_intention_policy", self.default_intention_policy);
        all.set("enable_script_checks", on(self.enable_script_checks));
        all.set("enable_local_script_checks", on(self.enable_local_script_checks));
        all.set("join_timeout", self.join_timeout);
        all.set("log_level", self.log_level);
        all.set("log_json", on(self.log_json));
        Sources { paths: self.config, overrides: all, mode }
    }
}

pub(super) fn server(args: ServerArgs) -> anyhow::Result<ExitCode> {
    let join = if args.bootstrap { None } else { join_token(args.join)? };
    run::server(options(args.host, Mode::Server, args.bootstrap, join)?)
}

pub(super) fn agent(args: AgentArgs) -> anyhow::Result<ExitCode> {
    let join = join_token(args.join)?;
    run::agent(options(args.host, Mode::Agent, false, join)?)
}

pub(super) fn dev(args: DevArgs) -> anyhow::Result<ExitCode> {
    run::dev(options(args.host, Mode::Dev, true, None)?)
}

pub(super) fn proxy(args: ProxyArgs) -> anyhow::Result<ExitCode> {
    run::proxy(ProxyOptions {
        runtime_dir: args.runtime_dir,
        workers: args.workers.map(usize::from),
        log: Log { filter: args.log_level, json: args.log_json },
    })
}

fn options(
    host: HostArgs,
    mode: Mode,
    bootstrap: bool,
    join: Option<JoinTokenText>,
) -> anyhow::Result<RunOptions> {
    let sources = host.sources(mode);
    let (config, warnings) = sources.load()?;
    Ok(RunOptions { config, warnings, bootstrap, join, sources })
}

/// The token behind `--join`, `@FILE` or the environment. One that is none is refused before anything else.
fn join_token(flag: Option<String>) -> anyhow::Result<Option<JoinTokenText>> {
    let env = || std::env::var(JOIN_ENV).ok().filter(|text| !text.trim().is_empty());
    let Some(text) = flag.or_else(env) else { return Ok(None) };
    let text = match text.strip_prefix('@') {
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("cannot read the join token in {path}"))?
        }
        None => text,
    };
    Ok(Some(JoinTokenText::decode(&text)?))
}
