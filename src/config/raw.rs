//! What one source says, typed and checked key by key; sources are laid over each other before anything is decided.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use purlin_model::check::CheckDefinition;
use purlin_model::definition::reader::{Problems, Table};
use purlin_model::definition::{read_check, read_locality, read_service, unfit_meta};
use purlin_model::intention::Action;
use purlin_model::node::Locality;
use purlin_model::service::ServiceDefinition;
use purlin_model::{Datacenter, NodeId, NodeName};
use serde_json::Value;

use super::{ProxyMode, Report, Soa, Source, Warning, foreign, network};

/// As Consul has it: a host that is off over night keeps its place.
const LEAST_RECONNECT: Duration = Duration::from_secs(8 * 3_600);

/// A port, or -1 for none.
pub(super) type Port = Option<u16>;

#[derive(Debug, Default)]
pub(super) struct Raw {
    pub(super) node_name: Option<NodeName>,
    pub(super) node_id: Option<NodeId>,
    pub(super) node_meta: BTreeMap<String, String>,
    pub(super) datacenter: Option<Datacenter>,
    pub(super) locality: Option<Locality>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) runtime_dir: Option<PathBuf>,
    pub(super) bind_addr: Option<IpAddr>,
    pub(super) advertise_addr: Option<IpAddr>,
    pub(super) client_addr: Option<Vec<IpAddr>>,
    pub(super) http_address: Option<network::Places>,
    pub(super) dns_address: Option<Vec<IpAddr>>,
    pub(super) server_address: Option<IpAddr>,
    pub(super) mesh_address: Option<IpAddr>,
    pub(super) http_port: Option<Port>,
    pub(super) dns_port: Option<Port>,
    pub(super) server_port: Option<u16>,
    pub(super) mesh_port: Option<u16>,
    pub(super) probe_port: Option<Port>,
    pub(super) domain: Option<String>,
    pub(super) alt_domain: Option<String>,
    pub(super) recursors: Vec<SocketAddr>,
    pub(super) node_ttl: Option<Duration>,
    pub(super) service_ttl: BTreeMap<String, Duration>,
    pub(super) only_passing: Option<bool>,
    pub(super) enable_truncate: Option<bool>,
    pub(super) udp_answer_limit: Option<usize>,
    pub(super) a_record_limit: Option<usize>,
    pub(super) disable_compression: Option<bool>,
    pub(super) recursor_timeout: Option<Duration>,
    pub(super) soa: Option<Soa>,
    pub(super) allow_plaintext: Option<bool>,
    pub(super) response_headers: BTreeMap<String, String>,
    pub(super) max_connections: Option<usize>,
    pub(super) log_level: Option<String>,
    pub(super) log_json: Option<bool>,
    pub(super) script_checks: Option<bool>,
    pub(super) local_script_checks: Option<bool>,
    pub(super) default_intention: Option<Action>,
    pub(super) leaf_ttl: Option<Duration>,
    pub(super) join_timeout: Option<Duration>,
    pub(super) reconnect_timeout: Option<Duration>,
    pub(super) proxy_workers: Option<usize>,
    pub(super) proxy_mode: Option<ProxyMode>,
    pub(super) detection_timeout: Option<Duration>,
    /// With where each comes from.
    pub(super) services: Vec<(String, ServiceDefinition)>,
    pub(super) checks: Vec<(String, CheckDefinition)>,
    /// Where each key of the root was said last, for what can only be judged together.
    pub(super) origins: HashMap<String, String>,
}

impl Raw {
    /// Takes in a later source: its scalars win, its services and checks come on top.
    pub(super) fn absorb(&mut self, later: Self) {
        macro_rules! take {
            ($($field:ident)+) => {$(if later.$field.is_some() { self.$field = later.$field; })+};
        }
        take! {
            node_name node_id datacenter locality data_dir runtime_dir bind_addr advertise_addr client_addr
            http_address dns_address server_address mesh_address http_port dns_port server_port mesh_port probe_port
            domain alt_domain node_ttl only_passing enable_truncate udp_answer_limit a_record_limit
            disable_compression recursor_timeout soa allow_plaintext max_connections log_level log_json
            script_checks local_script_checks default_intention leaf_ttl join_timeout reconnect_timeout proxy_workers proxy_mode
            detection_timeout
        }
        self.node_meta.extend(later.node_meta);
        self.service_ttl.extend(later.service_ttl);
        self.response_headers.extend(later.response_headers);
        let new = later.recursors.into_iter().filter(|one| !self.recursors.contains(one)).collect::<Vec<_>>();
        self.recursors.extend(new);
        self.services.extend(later.services);
        self.checks.extend(later.checks);
        self.origins.extend(later.origins);
    }

    /// `web.hcl: client_addr`, or the key alone where nobody said it.
    pub(super) fn origin(&self, key: &str) -> String {
        match self.origins.get(&purlin_model::definition::reader::plain(key)) {
            Some(place) => format!("{place}: {key}"),
            None => key.into(),
        }
    }
}

/// Reads one source; what is wrong with it is reported with its file, key and, where it is plain, line.
pub(super) fn read(value: &Value, source: &Source, report: &mut Report) -> Raw {
    let problems = Problems::default();
    let mut raw = Raw::default();
    if let Some(table) = Table::open(value, "", &problems) {
        for key in table.given() {
            raw.origins.insert(key, source.name.clone());
        }
        read_node(&table, &mut raw);
        network::read(&table, &mut raw);
        read_dns(&table, &mut raw);
        read_http(&table, &mut raw);
        read_policy(&table, &mut raw);
        read_proxy(&table, &mut raw);
        read_definitions(&table, source, &mut raw);
        foreign::warn_root(&table);
        table.finish();
    }
    conclude(problems, source, report);
    raw
}

/// The services of a file that has nothing else: a `service` block, `services`, or one definition without either.
pub(super) fn services_alone(
    value: &Value,
    source: &Source,
    report: &mut Report,
) -> Vec<(Value, ServiceDefinition)> {
    let problems = Problems::default();
    let mut found = Vec::new();
    if let Some(table) = Table::open(value, "", &problems) {
        let wrapped = [table.value("service"), table.value("services")];
        let bare = wrapped.iter().all(Option::is_none);
        let items: Vec<&Value> = match bare {
            true => vec![value],
            false => wrapped.into_iter().flatten().flat_map(as_list).collect(),
        };
        if !bare {
            table.finish();
        }
        found.extend(
            items.into_iter().filter_map(|item| Some((item.clone(), read_service(item, &problems)?))),
        );
    }
    conclude(problems, source, report);
    found
}

fn conclude(problems: Problems, source: &Source, report: &mut Report) {
    let (faults, warnings) = problems.into_findings();
    let say = |key: &str, text: String| format!("{}: {text}", source.place(key));
    report.errors.extend(faults.into_iter().map(|one| say(&one.key, one.text)));
    report.warnings.extend(warnings.into_iter().map(|one| Warning(say(&one.key, one.text))));
}

fn as_list(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        one => vec![one],
    }
}

fn read_definitions(table: &Table<'_>, source: &Source, raw: &mut Raw) {
    for key in ["service", "services"] {
        for item in table.value(key).map(as_list).unwrap_or_default() {
            let read = read_service(item, table.problems());
            raw.services.extend(read.map(|service| (source.name.clone(), service)));
        }
    }
    for key in ["check", "checks"] {
        for item in table.value(key).map(as_list).unwrap_or_default() {
            let read = read_check(item, table.problems());
            raw.checks.extend(read.map(|check| (source.name.clone(), check)));
        }
    }
}

/// Parses a text, refusing it where it is not of its kind.
pub(super) fn parse<T, E: std::fmt::Display>(
    table: &Table<'_>,
    key: &'static str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Option<T> {
    let text = table.filled(key)?;
    match parse(&text) {
        Ok(value) => Some(value),
        Err(error) => {
            table.refuse(key, error.to_string());
            None
        }
    }
}

pub(super) fn count(table: &Table<'_>, key: &'static str, least: u64, most: u64) -> Option<usize> {
    table.number(key, least..=most).and_then(|number| usize::try_from(number).ok())
}

fn read_node(table: &Table<'_>, raw: &mut Raw) {
    raw.node_name = parse(table, "node_name", |text| NodeName::new(text));
    raw.node_id = parse(table, "node_id", |text| {
        text.parse().map(NodeId).map_err(|_| format!("{text:?} is not a UUID"))
    });
    raw.node_meta = table.text_map("node_meta");
    for why in unfit_meta(&raw.node_meta) {
        table.refuse("node_meta", why);
    }
    raw.datacenter = parse(table, "datacenter", |text| Datacenter::new(text.to_ascii_lowercase()));
    raw.locality = read_locality(table);
    table.only(&["partition"], "default");
    raw.data_dir = table.filled("data_dir").map(PathBuf::from);
    raw.runtime_dir = table.filled("runtime_dir").map(PathBuf::from);
    raw.join_timeout = table.span("join_timeout");
    if raw.join_timeout.is_some_and(|span| span < Duration::from_secs(1)) {
        table.refuse("join_timeout", "must be at least 1s");
    }
    raw.reconnect_timeout = table.span("reconnect_timeout");
    if raw.reconnect_timeout.is_some_and(|span| span < LEAST_RECONNECT) {
        table.refuse("reconnect_timeout", "must be at least 8h");
    }
    raw.log_level = parse(table, "log_level", log_filter);
    raw.log_json = table.flag("log_json");
    raw.script_checks = table.flag("enable_script_checks");
    raw.local_script_checks = table.flag("enable_local_script_checks");
}

/// Consul's levels in any case, or levels by module.
pub(super) fn log_filter(text: &str) -> Result<String, String> {
    let filter = match text.to_ascii_lowercase().as_str() {
        "err" => "error".to_owned(),
        level @ ("trace" | "debug" | "info" | "warn" | "error") => level.to_owned(),
        _ => text.to_owned(),
    };
    let named =
        filter.contains(['=', ',']) || ["trace", "debug", "info", "warn", "error", "off"].contains(&&*filter);
    match tracing_subscriber::EnvFilter::try_new(&filter) {
        Ok(_) if named => Ok(filter),
        _ => {
            Err(format!("{text:?} is not a level; use trace, debug, info, warn, error, or module=level,..."))
        }
    }
}

fn read_dns(table: &Table<'_>, raw: &mut Raw) {
    raw.domain = parse(table, "domain", network::domain);
    raw.alt_domain = parse(table, "alt_domain", network::domain);
    let Some(dns) = table.child("dns_config") else { return };
    raw.node_ttl = dns.span("node_ttl");
    if let Some(object) = dns.object("service_ttl") {
        for (name, value) in object {
            let span = value.as_str().map(purlin_model::duration::parse);
            match span {
                Some(Ok(span)) => {
                    raw.service_ttl.insert(name.clone(), span);
                }
                _ => dns.refuse("service_ttl", format!("{name:?} must be a duration such as \"5s\"")),
            }
        }
    }
    raw.only_passing = dns.flag("only_passing");
    raw.enable_truncate = dns.flag("enable_truncate");
    raw.disable_compression = dns.flag("disable_compression");
    raw.udp_answer_limit = count(&dns, "udp_answer_limit", 0, 1_000);
    raw.a_record_limit = count(&dns, "a_record_limit", 0, 1_000);
    raw.recursor_timeout = dns.span("recursor_timeout");
    raw.soa = dns.child("soa").map(|soa| {
        let seconds =
            |key, usual| soa.number(key, 0..=1 << 31).and_then(|n| u32::try_from(n).ok()).unwrap_or(usual);
        let read = Soa {
            refresh: seconds("refresh", 3600),
            retry: seconds("retry", 600),
            expire: seconds("expire", 86_400),
            min_ttl: seconds("min_ttl", 0),
        };
        soa.finish();
        read
    });
    foreign::warn_block(&dns, "dns_config");
    dns.finish();
}

fn read_http(table: &Table<'_>, raw: &mut Raw) {
    if let Some(http) = table.child("http_config") {
        raw.allow_plaintext = http.flag("allow_plaintext");
        raw.response_headers = http.text_map("response_headers");
        for (name, value) in &raw.response_headers {
            let fits = http::HeaderName::try_from(name).is_ok() && http::HeaderValue::try_from(value).is_ok();
            if !fits {
                http.refuse(
                    "response_headers",
                    format!("{name:?} is not a header with a value of plain text"),
                );
            }
        }
        foreign::warn_block(&http, "http_config");
        http.finish();
    }
    if let Some(limits) = table.child("limits") {
        raw.max_connections = count(&limits, "http_max_conns_per_client", 0, 1_000_000);
        foreign::warn_block(&limits, "limits");
        limits.finish();
    }
}

fn read_policy(table: &Table<'_>, raw: &mut Raw) {
    raw.default_intention = parse(table, "default_intention_policy", |text| match text {
        "allow" => Ok(Action::Allow),
        "deny" => Ok(Action::Deny),
        other => Err(format!("{other:?} is not a policy; use \"allow\" or \"deny\"")),
    });
    if let Some(acl) = table.child("acl") {
        read_acl(&acl);
    }
    let Some(connect) = table.child("connect") else { return };
    if connect.flag("enabled") == Some(false) {
        connect.warn(
            "enabled",
            "has no effect here: a service without a \"connect\" block is not in the mesh anyway",
        );
    }
    connect.only(&["ca_provider"], "consul");
    if let Some(ca) = connect.child("ca_config") {
        raw.leaf_ttl = ca.span("leaf_cert_ttl");
        const LEAST: Duration = Duration::from_secs(10);
        const HOUR: Duration = Duration::from_secs(3_600);
        match raw.leaf_ttl {
            Some(span) if span < LEAST => ca.refuse("leaf_cert_ttl", "must be at least 10s"),
            Some(span) if span > HOUR * 24 * 365 => ca.refuse("leaf_cert_ttl", "must be at most 8760h"),
            Some(span) if span < HOUR => ca.warn(
                "leaf_cert_ttl",
                "is below 1h: services stop reaching each other soon after the servers are gone",
            ),
            _ => {}
        }
        foreign::warn_block(&ca, "ca_config");
        ca.finish();
    }
    foreign::warn_block(&connect, "connect");
    connect.finish();
}

/// Known from the start, so that nobody believes to be protected by what is not there yet.
fn read_acl(acl: &Table<'_>) {
    if acl.flag("enabled") == Some(true) {
        acl.refuse("enabled", "must be false: access control is not supported by this version");
    }
    let policy = acl.filled("default_policy");
    match policy.as_deref() {
        None => {}
        Some("allow" | "deny") => {
            let why =
                "has no effect while access control is off; intentions have \"default_intention_policy\"";
            acl.warn("default_policy", why);
        }
        Some(other) => {
            acl.refuse("default_policy", format!("{other:?} is not a policy; use \"allow\" or \"deny\""))
        }
    }
    if let Some(tokens) = acl.child("tokens") {
        tokens.ignore(&["agent", "agent_recovery", "config_file_service_registration", "default", "dns"]);
        tokens.ignore(&[
            "initial_management",
            "replication",
            "managed_service_provider",
            "master",
            "agent_master",
        ]);
        tokens.finish();
        acl.warn("tokens", "has no effect while access control is off");
    }
    foreign::warn_block(acl, "acl");
    acl.finish();
}

fn read_proxy(table: &Table<'_>, raw: &mut Raw) {
    let Some(proxy) = table.child("proxy") else { return };
    raw.proxy_workers = count(&proxy, "workers", 1, 1_024);
    raw.proxy_mode = parse(&proxy, "mode", |text| match text {
        "spawn" => Ok(ProxyMode::Spawn),
        "external" => Ok(ProxyMode::External),
        other => Err(format!(
            "{other:?} is not a mode; use \"spawn\" (the agent starts it) or \"external\" (a unit does)"
        )),
    });
    raw.detection_timeout = proxy.span("detection_timeout");
    if raw.detection_timeout.is_some_and(|span| span > Duration::from_secs(60)) {
        proxy.refuse("detection_timeout", "must be at most 60s");
    }
    proxy.finish();
}
