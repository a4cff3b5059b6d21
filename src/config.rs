//! The configuration of a host: files, environment and flags read once, checked as a whole, and typed.
//!
//! Consul's keys wherever Consul has one. It is accepted whole or refused whole, and a refusal says everything that
//! is wrong. A flag wins over the environment, that over files, those over defaults.

mod files;
mod finish;
mod foreign;
mod hcl;
mod host;
mod inspect;
mod network;
mod raw;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use purlin_model::check::CheckDefinition;
use purlin_model::intention::Action;
use purlin_model::node::Locality;
use purlin_model::service::ServiceDefinition;
use purlin_model::{Datacenter, NodeId, NodeName};

pub use host::Host;
pub use inspect::{Findings, inspect};

/// What the process is started as; it decides on defaults and on what is required.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Server,
    Agent,
    /// All in one process on loopback; state in memory unless a `data_dir` is given.
    Dev,
    /// `purlin validate`: what is there must be right, nothing needs to be there.
    Validate,
}

/// All that files and flags say, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub node_name: NodeName,
    /// Absent: the one in `data_dir`, or a new one.
    pub node_id: Option<NodeId>,
    pub node_meta: BTreeMap<String, String>,
    pub datacenter: Datacenter,
    pub locality: Option<Locality>,
    /// Always there for a server and an agent; in dev mode absent means in memory.
    pub data_dir: Option<PathBuf>,
    /// Where `proxy.sock` lies; absent only where `data_dir` is.
    pub runtime_dir: Option<PathBuf>,
    /// Where listeners for other hosts are opened.
    pub bind_addr: IpAddr,
    /// The address by which other hosts reach this one.
    pub advertise_addr: IpAddr,
    pub listen: Listen,
    pub domain: String,
    pub alt_domain: Option<String>,
    pub recursors: Vec<SocketAddr>,
    pub dns: Dns,
    pub http: Http,
    pub log: Log,
    pub services: Vec<ServiceDefinition>,
    /// Of the host, or of a service that is registered elsewhere.
    pub checks: Vec<CheckDefinition>,
    pub scripts: Scripts,
    /// Absent: as the mesh has it, as is the next.
    pub default_intention_policy: Option<Action>,
    pub leaf_cert_ttl: Option<Duration>,
    /// Of a server: when hosts that failed or left are no longer in the catalog.
    pub reconnect_timeout: Duration,
    pub join_timeout: Duration,
    pub proxy: Proxy,
}

/// Where the host listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Empty: switched off with port -1.
    pub http: Vec<SocketAddr>,
    pub http_socket: Option<PathBuf>,
    pub dns: Vec<SocketAddr>,
    /// QUIC; only a server opens it.
    pub server: SocketAddr,
    /// Where the proxy takes connections of other hosts.
    pub mesh: SocketAddr,
    /// QUIC; where the agent answers probes of other hosts.
    pub probe: Option<SocketAddr>,
}

/// How DNS answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    pub node_ttl: Duration,
    /// By service name; a name may end in `*`.
    pub service_ttl: BTreeMap<String, Duration>,
    pub only_passing: bool,
    pub enable_truncate: bool,
    /// Answers over UDP; 0: no limit but the packet's.
    pub udp_answer_limit: usize,
    /// Answers over any transport; 0: no limit.
    pub a_record_limit: usize,
    pub disable_compression: bool,
    pub recursor_timeout: Duration,
    pub soa: Soa,
}

/// Seconds of the domain's SOA record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Soa {
    pub refresh: u32,
    pub retry: u32,
    pub expire: u32,
    pub min_ttl: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Http {
    /// Added to every answer.
    pub response_headers: BTreeMap<String, String>,
    /// Connections that one client address may have open; 0: no limit.
    pub max_connections_per_client: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A level, or levels by module: `info,purlin_agent=debug`.
    pub filter: String,
    pub json: bool,
}

/// Which script checks may run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scripts {
    /// From files and from the API.
    pub all: bool,
    /// From files.
    pub local: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Absent: one a core.
    pub workers: Option<usize>,
    pub mode: ProxyMode,
    /// How long a silent client is waited for before it gets TCP; absent: as proxy-defaults say, else 100 ms.
    pub detection_timeout: Option<Duration>,
}

/// Who runs the proxy process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyMode {
    /// Started by the agent where none answers.
    Spawn,
    /// Somebody else starts it: a systemd unit.
    External,
}

impl Config {
    /// The keys that differ from `new` and that only a restart would change.
    pub fn restart_needed(&self, new: &Self) -> Vec<&'static str> {
        let pairs = [
            ("node_name", self.node_name == new.node_name),
            ("node_id", self.node_id == new.node_id),
            ("node_meta", self.node_meta == new.node_meta),
            ("datacenter", self.datacenter == new.datacenter),
            ("locality", self.locality == new.locality),
            ("data_dir", self.data_dir == new.data_dir),
            ("runtime_dir", self.runtime_dir == new.runtime_dir),
            ("bind_addr", self.bind_addr == new.bind_addr),
            ("advertise_addr", self.advertise_addr == new.advertise_addr),
            ("addresses and ports", self.listen == new.listen),
            ("domain", self.domain == new.domain),
            ("alt_domain", self.alt_domain == new.alt_domain),
            ("recursors", self.recursors == new.recursors),
            ("dns_config", self.dns == new.dns),
            ("http_config", self.http == new.http),
            ("log_json", self.log.json == new.log.json),
            ("enable_script_checks", self.scripts == new.scripts),
            ("default_intention_policy", self.default_intention_policy == new.default_intention_policy),
            ("connect.ca_config.leaf_cert_ttl", self.leaf_cert_ttl == new.leaf_cert_ttl),
            ("reconnect_timeout", self.reconnect_timeout == new.reconnect_timeout),
            ("proxy", self.proxy == new.proxy),
        ];
        pairs.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect()
    }
}

/// What flags and the environment say; each wins over files.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// In the form of a file, so that both are checked alike.
    values: serde_json::Map<String, serde_json::Value>,
}

impl Overrides {
    /// Sets `key`, or `outer.key`, where a value was given.
    pub fn set(&mut self, path: &str, value: Option<impl Into<serde_json::Value>>) {
        let Some(value) = value else { return };
        match path.split_once('.') {
            None => {
                self.values.insert(path.into(), value.into());
            }
            Some((outer, inner)) => {
                let entry = self.values.entry(outer).or_insert_with(|| serde_json::json!({}));
                if let Some(object) = entry.as_object_mut() {
                    object.insert(inner.into(), value.into());
                }
            }
        }
    }
}

/// Where a configuration comes from, kept so that it can be read again.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Files, and directories of them.
    pub paths: Vec<PathBuf>,
    pub overrides: Overrides,
    pub mode: Mode,
}

impl Sources {
    pub fn load(&self) -> Result<(Config, Vec<Warning>), ConfigErrors> {
        load(&self.paths, &self.overrides, self.mode)
    }
}

/// Something that is accepted and yet worth knowing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning(pub String);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything that is wrong, one line each: file, key, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

/// Reads `paths` (files, or directories of them) and lays `overrides` over them. Reads the host's name and addresses.
pub fn load(
    paths: &[PathBuf],
    overrides: &Overrides,
    mode: Mode,
) -> Result<(Config, Vec<Warning>), ConfigErrors> {
    load_on(paths, overrides, mode, &Host::read())
}

/// As `load`, on a host that is described.
pub fn load_on(
    paths: &[PathBuf],
    overrides: &Overrides,
    mode: Mode,
    host: &Host,
) -> Result<(Config, Vec<Warning>), ConfigErrors> {
    match gather(paths, overrides, mode, host) {
        (Some(config), report) if report.errors.is_empty() => Ok((config, report.warnings)),
        (_, report) => Err(ConfigErrors(report.errors)),
    }
}

/// Lays all sources over each other, with all that is to be said about them.
fn gather(paths: &[PathBuf], overrides: &Overrides, mode: Mode, host: &Host) -> (Option<Config>, Report) {
    let mut report = Report::default();
    let mut raw = raw::Raw::default();
    for file in files::find(paths, &mut report) {
        if let Some((value, text)) = files::parse(&file, &mut report) {
            raw.absorb(raw::read(&value, &Source::file(&file, &text), &mut report));
        }
    }
    let flags = serde_json::Value::Object(overrides.values.clone());
    raw.absorb(raw::read(&flags, &Source::flags(), &mut report));
    let config = finish::finish(raw, mode, host, &mut report);
    (config, report)
}

/// Parses one file of definitions, such as `purlin services register` and `purlin config write` take.
pub fn parse_file(path: &Path) -> Result<serde_json::Value, ConfigErrors> {
    let mut report = Report::default();
    files::parse(path, &mut report).map(|(value, _)| value).ok_or(ConfigErrors(report.errors))
}

/// A level in any case, or levels by module; what it stands for.
pub fn parse_log_filter(text: &str) -> Result<String, String> {
    raw::log_filter(text)
}

/// Parses a text whose form is not told: JSON where it begins like it, else HCL.
pub fn parse_text(name: &str, text: &str) -> Result<serde_json::Value, ConfigErrors> {
    hcl::parse(text).map_err(|why| ConfigErrors(vec![format!("{name}: {why}")]))
}

/// The service definitions of one file: `service` and `services`, or a definition that stands alone.
pub fn parse_services(path: &Path) -> Result<(Services, Vec<Warning>), ConfigErrors> {
    let mut report = Report::default();
    let Some((value, text)) = files::parse(path, &mut report) else {
        return Err(ConfigErrors(report.errors));
    };
    let services = raw::services_alone(&value, &Source::file(path, &text), &mut report);
    if report.errors.is_empty() { Ok((services, report.warnings)) } else { Err(ConfigErrors(report.errors)) }
}

/// Definitions as they were written, and as they were understood.
pub type Services = Vec<(serde_json::Value, ServiceDefinition)>;

/// Collects what is said about all sources.
#[derive(Debug, Default)]
struct Report {
    errors: Vec<String>,
    warnings: Vec<Warning>,
}

/// Where a part comes from, for messages.
#[derive(Debug, Clone)]
struct Source {
    name: String,
    text: String,
}

impl Source {
    fn file(path: &Path, text: &str) -> Self {
        Self { name: path.display().to_string(), text: text.into() }
    }

    fn flags() -> Self {
        Self { name: "command line".into(), text: String::new() }
    }

    /// `web.hcl:12`, where one line alone has that key.
    fn place(&self, key: &str) -> String {
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
        let has = |line: &&str| line.split(|c: char| !is_word(c)).any(|word| word == key);
        let mut lines = self.text.lines().zip(1..).filter(|(line, _)| has(line));
        match (lines.next(), lines.next()) {
            (Some((_, number)), None) if !key.is_empty() => format!("{}:{number}", self.name),
            _ => self.name.clone(),
        }
    }
}
