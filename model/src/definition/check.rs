//! Health checks in Consul's form: exactly one kind of probe, and how its results count.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::reader::Table;
use crate::check::{CheckDefinition, Probe, ProbeTls, Status};
use crate::{CheckId, InstanceId, NodeName, limit};

const INTERVAL: Duration = Duration::from_secs(10);
const INTERVAL_MIN: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(10);
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(30);
const DEREGISTER_MIN: Duration = Duration::from_secs(60);
const THRESHOLD_MAX: u64 = 1_000;

/// The service whose check is read. `place` counts from one where it has several.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) id: &'a str,
    pub(super) name: &'a str,
    pub(super) place: Option<usize>,
}

pub(super) fn read(table: &Table<'_>, owner: Option<Owner<'_>>) -> Option<CheckDefinition> {
    let named = table.filled("service_id");
    let _token = table.text("token");
    table.only(&["namespace", "partition"], "default");
    let id_text = table.filled("check_id").or_else(|| table.filled("id"));
    table.ignore(&["id"]);
    let name_text = table.short("name", limit::CHECK_NAME_BYTES);
    let probe = read_probe(table);
    let ttl = matches!(probe, Some(Probe::Ttl { .. }));
    let interval = read_interval(table, ttl);
    let is_script = matches!(probe, Some(Probe::Script { .. }));
    let timeout = table.span("timeout").unwrap_or(if is_script { SCRIPT_TIMEOUT } else { TIMEOUT });
    let thresholds = read_thresholds(table);
    let deregister = read_deregister(table);
    let notes = table.short("notes", limit::CHECK_OUTPUT_BYTES).unwrap_or_default();
    let initial = read_initial(table);
    let output_max_size = read_output_max(table);
    table.finish();
    let service = owner.map(|one| one.id.to_owned()).or_else(|| named.clone());
    if let (Some(owner), Some(named)) = (owner, &named)
        && owner.id != named
    {
        table.refuse("service_id", format!("{named:?} is not the service that this check stands in"));
    }
    let service_id = match service.filter(|text| !text.is_empty()).map(InstanceId::new).transpose() {
        Ok(id) => id,
        Err(error) => {
            table.refuse("service_id", error.to_string());
            None
        }
    };
    let (id, name) = read_names(table, owner, id_text, name_text)?;
    Some(CheckDefinition {
        id,
        name,
        notes,
        service_id,
        probe: probe?,
        interval,
        timeout,
        initial,
        success_before_passing: thresholds.passing,
        failures_before_warning: thresholds.warning,
        failures_before_critical: thresholds.critical,
        deregister_critical_service_after: deregister,
        output_max_size,
    })
}

/// Consul's defaults: `service:<id>`, numbered where there are several; a check of the host must have a name.
fn read_names(
    table: &Table<'_>,
    owner: Option<Owner<'_>>,
    id: Option<String>,
    name: Option<String>,
) -> Option<(CheckId, String)> {
    let derived = owner.map(|one| match one.place {
        Some(n) => format!("service:{}:{n}", one.id),
        None => format!("service:{}", one.id),
    });
    let id = id.or(derived).or_else(|| name.clone());
    let Some(id) = id else {
        table.refuse("name", "is required");
        return None;
    };
    let name = name.unwrap_or_else(|| match owner {
        Some(owner) => format!("Service '{}' check", owner.name),
        None => id.clone(),
    });
    if id == crate::check::NODE_ALIVE {
        table.refuse("check_id", format!("{id:?} is reserved for the session of the host"));
        return None;
    }
    match CheckId::new(&id) {
        Ok(id) => Some((id, name)),
        Err(error) => {
            table.refuse("check_id", error.to_string());
            None
        }
    }
}

fn read_interval(table: &Table<'_>, ttl: bool) -> Duration {
    let Some(interval) = table.span("interval") else { return INTERVAL };
    if ttl {
        table.refuse("interval", "cannot stand beside \"ttl\": an application either reports or is probed");
    }
    if interval < INTERVAL_MIN {
        table.warn("interval", "is below 1s, which is used instead");
    }
    interval.max(INTERVAL_MIN)
}

struct Thresholds {
    passing: u32,
    warning: u32,
    critical: u32,
}

fn read_thresholds(table: &Table<'_>) -> Thresholds {
    let count = |key| table.number(key, 0..=THRESHOLD_MAX).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let passing = count("success_before_passing");
    let critical = count("failures_before_critical");
    let warning = count("failures_before_warning");
    if warning > critical {
        table.refuse("failures_before_warning", "must not be higher than \"failures_before_critical\"");
    }
    // Nothing said: no warning on the way to critical.
    Thresholds { passing, warning: if warning == 0 { critical } else { warning }, critical }
}

fn read_deregister(table: &Table<'_>) -> Option<Duration> {
    let after = table.span("deregister_critical_service_after")?;
    if after < DEREGISTER_MIN {
        table.warn("deregister_critical_service_after", "is below 1m, which is used instead");
    }
    Some(after.max(DEREGISTER_MIN))
}

fn read_initial(table: &Table<'_>) -> Status {
    let Some(text) = table.filled("status") else { return Status::Critical };
    Status::parse(&text).unwrap_or_else(|| {
        table.refuse("status", format!("{text:?} is not a status; use passing, warning or critical"));
        Status::Critical
    })
}

fn read_output_max(table: &Table<'_>) -> usize {
    let most = limit::CHECK_OUTPUT_BYTES;
    let Some(size) = table.number("output_max_size", 0..=1 << 40).filter(|size| *size > 0) else {
        return most;
    };
    usize::try_from(size).unwrap_or(most).min(most)
}

/// What makes each kind of probe; exactly one of them must be there.
const KINDS: [&str; 9] = ["args", "http", "tcp", "udp", "grpc", "h2ping", "os_service", "ttl", "alias"];

fn read_probe(table: &Table<'_>) -> Option<Probe> {
    table.unsupported(&["docker_container_id", "shell", "session_name", "script", "exposed_port"]);
    table.ignore(&["type"]);
    let tls = ProbeTls {
        server_name: table.short("tls_server_name", limit::ADDRESS_BYTES).unwrap_or_default(),
        skip_verify: table.flag("tls_skip_verify").unwrap_or(false),
    };
    let mut found: Vec<(&'static str, Probe)> = Vec::new();
    found.extend(read_script(table).map(|probe| ("args", probe)));
    found.extend(read_http(table, &tls).map(|probe| ("http", probe)));
    found.extend(read_dialled(table, &tls));
    found.extend(read_grpc(table, &tls).map(|probe| ("grpc", probe)));
    found.extend(table.filled("os_service").map(|unit| ("os_service", Probe::OsService { unit })));
    found.extend(table.span("ttl").map(|ttl| ("ttl", Probe::Ttl { ttl })));
    found.extend(read_alias(table).map(|probe| ("alias", probe)));
    if found.len() > 1 {
        let kinds: Vec<&str> = found.iter().map(|(kind, _)| *kind).collect();
        table.refuse("", format!("has several kinds of probe ({}); keep one", kinds.join(", ")));
        return None;
    }
    let is_zero = |value: &Value| match value {
        Value::String(text) => crate::duration::parse(text).is_ok_and(|span| span.is_zero()),
        other => other.as_u64() == Some(0),
    };
    if found.is_empty() && table.value("ttl").is_some_and(is_zero) {
        table.refuse("ttl", "must be longer than nothing, such as \"30s\"");
        return None;
    }
    // A probe that was given and refused has its own message.
    let given = ["args", "script_args", "http", "tcp", "udp", "grpc", "h2ping", "os_service", "ttl"];
    if found.is_empty()
        && !given.iter().any(|key| table.value(key).is_some_and(|v| !super::reader::says_nothing(v)))
    {
        table.refuse("", format!("says not what to probe; give one of {}", KINDS.join(", ")));
    }
    found.pop().map(|(_, probe)| probe)
}

fn read_script(table: &Table<'_>) -> Option<Probe> {
    let mut args = table.texts("args");
    args.extend(table.texts("script_args"));
    if args.is_empty() {
        return None;
    }
    if args.len() > 128 || args.iter().map(String::len).sum::<usize>() > 32 * 1024 {
        table.refuse("args", "is too long; put the command into a script of its own");
        return None;
    }
    Some(Probe::Script { args })
}

fn read_http(table: &Table<'_>, tls: &ProbeTls) -> Option<Probe> {
    let method = table.filled("method").unwrap_or_else(|| "GET".into());
    let body = table.text("body").unwrap_or_default();
    let disable_redirects = table.flag("disable_redirects").unwrap_or(false);
    let headers = read_headers(table);
    let url = table.filled("http")?;
    let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let host = host.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    let printable = url.bytes().all(|b| b.is_ascii_graphic());
    if !printable || host.is_none_or(str::is_empty) {
        table.refuse("http", format!("{url:?} is not a URL such as \"http://127.0.0.1:8080/health\""));
        return None;
    }
    if !method.bytes().all(|b| b.is_ascii_alphabetic()) {
        table.refuse("method", format!("{method:?} is not an HTTP method"));
    }
    let method = method.to_ascii_uppercase();
    Some(Probe::Http { url, method, headers, body, disable_redirects, tls: tls.clone() })
}

fn read_headers(table: &Table<'_>) -> BTreeMap<String, Vec<String>> {
    let mut headers = BTreeMap::new();
    let Some(object) = table.object("header") else { return headers };
    for (name, value) in object {
        let values: Option<Vec<String>> = match value {
            Value::String(one) => Some(vec![one.clone()]),
            Value::Array(items) => items.iter().map(|item| item.as_str().map(Into::into)).collect(),
            _ => None,
        };
        let clean = |text: &String| !text.chars().any(char::is_control);
        let token = !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
        match values {
            Some(values) if token && values.iter().all(clean) => {
                headers.insert(name.clone(), values);
            }
            _ => table.refuse("header", format!("{name:?} must be a header name with a list of texts")),
        }
    }
    headers
}

/// `host:port`; a port alone means this host.
fn read_address(table: &Table<'_>, key: &'static str) -> Option<String> {
    let text = table.filled(key)?;
    let split = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let clean = text.bytes().all(|b| b.is_ascii_graphic());
    match split {
        Some((host, port)) if clean && port != 0 && (!host.contains(':') || host.starts_with('[')) => {
            Some(if host.is_empty() { format!("127.0.0.1:{port}") } else { text })
        }
        _ => {
            table.refuse(key, format!("{text:?} is not an address such as \"127.0.0.1:8080\""));
            None
        }
    }
}

fn read_dialled(table: &Table<'_>, tls: &ProbeTls) -> Vec<(&'static str, Probe)> {
    let mut found = Vec::new();
    let wrap = table.flag("tcp_use_tls").unwrap_or(false);
    if let Some(address) = read_address(table, "tcp") {
        found.push(("tcp", Probe::Tcp { address, tls: wrap.then(|| tls.clone()) }));
    }
    if let Some(address) = read_address(table, "udp") {
        found.push(("udp", Probe::Udp { address }));
    }
    // TLS unless switched off, as in Consul.
    let wrap = table.flag("h2ping_use_tls").unwrap_or(true);
    if let Some(address) = read_address(table, "h2ping") {
        found.push(("h2ping", Probe::H2Ping { address, tls: wrap.then(|| tls.clone()) }));
    }
    found
}

fn read_grpc(table: &Table<'_>, tls: &ProbeTls) -> Option<Probe> {
    let wrap = table.flag("grpc_use_tls").unwrap_or(false);
    let text = table.filled("grpc")?;
    let address = text.split('/').next().unwrap_or_default();
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none_or(|port| port == 0) || !text.bytes().all(|b| b.is_ascii_graphic()) {
        table.refuse(
            "grpc",
            format!("{text:?} is not a target such as \"127.0.0.1:9000\" or \"127.0.0.1:9000/service\""),
        );
        return None;
    }
    let target = if text.starts_with(':') { format!("127.0.0.1{text}") } else { text };
    Some(Probe::Grpc { target, tls: wrap.then(|| tls.clone()) })
}

fn read_alias(table: &Table<'_>) -> Option<Probe> {
    let node = table.filled("alias_node");
    let service = table.filled("alias_service");
    if node.is_none() && service.is_none() {
        return None;
    }
    let node = match node.map(NodeName::new).transpose() {
        Ok(node) => node,
        Err(error) => {
            table.refuse("alias_node", error.to_string());
            None
        }
    };
    let service = match service.map(InstanceId::new).transpose() {
        Ok(service) => service,
        Err(error) => {
            table.refuse("alias_service", error.to_string());
            None
        }
    };
    Some(Probe::Alias { node, service })
}
