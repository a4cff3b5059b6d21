//! Defaults, and what can only be judged when all sources are together.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use purlin_model::check::Probe;
use purlin_model::{NodeName, limit};

use super::raw::Raw;
use super::{Config, Dns, Host, Http, Listen, Log, Mode, Proxy, ProxyMode, Report, Scripts, Soa, Warning};

pub(super) const HTTP_PORT: u16 = 8500;
pub(super) const DNS_PORT: u16 = 8600;
pub(super) const SERVER_PORT: u16 = 8300;
pub(super) const MESH_PORT: u16 = 20000;
/// Consul's of `serf_lan`, so that firewalls of its users fit.
pub(super) const PROBE_PORT: u16 = 8301;
const DOMAIN: &str = "mesh.internal";
const ALT_DOMAIN: &str = "consul";
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(72 * 3600);
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
const HTTP_CONNECTIONS: usize = 200;

/// What the kernel takes, without the byte that ends it.
pub(super) const SOCKET_PATH_BYTES: usize = 107;

/// The file in `runtime_dir` with the longest name.
const PROXY_SOCKET: &str = "proxy.sock";

pub(super) fn finish(mut raw: Raw, mode: Mode, host: &Host, report: &mut Report) -> Option<Config> {
    let node_name = node_name(&raw, host, report);
    let (bind_addr, advertise_addr) = own_addresses(&raw, mode, host, report);
    let listen = listen(&raw, mode, bind_addr);
    refuse_plaintext(&raw, &listen, report);
    refuse_shared(&listen, report);
    let (data_dir, runtime_dir) = directories(&raw, mode, host, report);
    let scripts = Scripts {
        all: raw.script_checks.unwrap_or(false),
        local: raw.local_script_checks.unwrap_or(false) || raw.script_checks.unwrap_or(false),
    };
    if raw.script_checks == Some(true) && listen.http.iter().any(|address| !address.ip().is_loopback()) {
        let text = format!(
            "{}: lets whoever reaches the HTTP API run commands here; enable_local_script_checks does not",
            raw.origin("enable_script_checks")
        );
        report.warnings.push(Warning(text));
    }
    judge_services(&raw, scripts, report);
    let domain = raw.domain.take().unwrap_or_else(|| DOMAIN.into());
    let alt_domain = raw.alt_domain.take().or(Some(ALT_DOMAIN.into())).filter(|alt| *alt != domain);
    Some(Config {
        node_name: node_name?,
        node_id: raw.node_id,
        datacenter: raw.datacenter.clone().unwrap_or_default(),
        locality: raw.locality.clone(),
        data_dir,
        runtime_dir,
        bind_addr,
        advertise_addr: advertise_addr?,
        listen,
        domain,
        alt_domain,
        dns: dns(&mut raw),
        http: Http {
            response_headers: std::mem::take(&mut raw.response_headers),
            max_connections_per_client: raw.max_connections.unwrap_or(HTTP_CONNECTIONS),
        },
        log: Log {
            filter: raw.log_level.unwrap_or_else(|| "info".into()),
            json: raw.log_json.unwrap_or(false),
        },
        node_meta: raw.node_meta,
        recursors: raw.recursors,
        services: raw.services.into_iter().map(|(_, service)| service).collect(),
        checks: raw.checks.into_iter().map(|(_, check)| check).collect(),
        scripts,
        default_intention_policy: raw.default_intention,
        leaf_cert_ttl: raw.leaf_ttl,
        reconnect_timeout: raw.reconnect_timeout.unwrap_or(RECONNECT_TIMEOUT),
        join_timeout: raw.join_timeout.unwrap_or(JOIN_TIMEOUT),
        proxy: Proxy {
            workers: raw.proxy_workers,
            mode: raw.proxy_mode.unwrap_or(ProxyMode::Spawn),
            detection_timeout: raw.detection_timeout,
        },
    })
}

fn node_name(raw: &Raw, host: &Host, report: &mut Report) -> Option<NodeName> {
    if let Some(name) = &raw.node_name {
        return Some(name.clone());
    }
    let Some(name) = &host.name else {
        report.errors.push("node_name: is required, because this host has no name of its own".into());
        return None;
    };
    match NodeName::new(name) {
        Ok(name) => Some(name),
        Err(error) => {
            report.errors.push(format!("node_name: the host's own {error}; set \"node_name\" or --node"));
            None
        }
    }
}

fn own_addresses(raw: &Raw, mode: Mode, host: &Host, report: &mut Report) -> (IpAddr, Option<IpAddr>) {
    let usual = match raw.advertise_addr {
        _ if mode == Mode::Dev => Ipv4Addr::LOCALHOST.into(),
        Some(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    };
    let bind = raw.bind_addr.unwrap_or(usual);
    let advertise = match raw.advertise_addr {
        Some(address) => Some(address),
        None if !bind.is_unspecified() => Some(bind),
        None => advertised(mode, host, report),
    };
    let is_known = raw.advertise_addr.is_some() || mode != Mode::Validate;
    // A socket takes one family only.
    if let Some(advertise) = advertise.filter(|address| is_known && address.is_ipv4() != bind.is_ipv4()) {
        let key = raw.origin(if raw.advertise_addr.is_some() { "advertise_addr" } else { "bind_addr" });
        report.errors.push(format!(
            "{key}: what listens on {bind} is not reached at {advertise}: bind_addr and advertise_addr must both be \
             IPv4 or both IPv6"
        ));
    }
    (bind, advertise)
}

fn advertised(mode: Mode, host: &Host, report: &mut Report) -> Option<IpAddr> {
    match host.advertised() {
        Ok(address) => Some(address),
        // Validation may run on another host.
        Err(_) if mode == Mode::Validate => Some(Ipv4Addr::LOCALHOST.into()),
        Err(why) => {
            report.errors.push(format!("advertise_addr: {why}"));
            None
        }
    }
}

fn listen(raw: &Raw, mode: Mode, bind: IpAddr) -> Listen {
    let client = raw.client_addr.clone().unwrap_or_else(|| vec![Ipv4Addr::LOCALHOST.into()]);
    let at = |addresses: &[IpAddr], port: Option<u16>| -> Vec<SocketAddr> {
        port.map(|port| addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect()).unwrap_or_default()
    };
    let http = raw.http_address.clone();
    let http_port = raw.http_port.unwrap_or(Some(HTTP_PORT));
    let dns_port = raw.dns_port.unwrap_or(Some(DNS_PORT));
    // A mesh of one host has nobody to ask.
    let probe_port = raw.probe_port.unwrap_or((mode != Mode::Dev).then_some(PROBE_PORT));
    Listen {
        http: at(http.as_ref().map_or(&client, |places| &places.addresses), http_port),
        http_socket: http.and_then(|places| places.socket),
        dns: at(raw.dns_address.as_ref().unwrap_or(&client), dns_port),
        server: SocketAddr::new(raw.server_address.unwrap_or(bind), raw.server_port.unwrap_or(SERVER_PORT)),
        mesh: SocketAddr::new(raw.mesh_address.unwrap_or(bind), raw.mesh_port.unwrap_or(MESH_PORT)),
        probe: probe_port.map(|port| SocketAddr::new(bind, port)),
    }
}

/// The API has no transport security and no access control: beyond this host it must be asked for in so many words.
fn refuse_plaintext(raw: &Raw, listen: &Listen, report: &mut Report) {
    let Some(open) = listen.http.iter().find(|address| !address.ip().is_loopback()) else { return };
    let key = if raw.http_address.is_some() { "addresses" } else { "client_addr" };
    if raw.allow_plaintext == Some(true) {
        let text = format!(
            "{}: the HTTP API is open to whoever reaches {open}, without encryption",
            raw.origin(key)
        );
        report.warnings.push(Warning(text));
        return;
    }
    report.errors.push(format!(
        "{}: would open the HTTP API on {open} without encryption; use a loopback address or a Unix socket, or set http_config {{ allow_plaintext = true }}",
        raw.origin(key)
    ));
}

/// Two listeners cannot share an address.
fn refuse_shared(listen: &Listen, report: &mut Report) {
    // Both are UDP alone.
    if listen.probe == Some(listen.server) {
        report.errors.push(format!("ports.probe: {} is taken by ports.server", listen.server));
    }
    let mut taken: Vec<(&str, SocketAddr)> = Vec::new();
    // The server's is UDP alone, so only the others can meet.
    let all = listen.http.iter().map(|at| ("http", *at)).chain(listen.dns.iter().map(|at| ("dns", *at)));
    for (name, at) in all.chain([("mesh", listen.mesh)]).filter(|(_, at)| at.port() != 0) {
        let meets = |other: &SocketAddr| {
            let same = other.ip() == at.ip() || other.ip().is_unspecified() || at.ip().is_unspecified();
            same && other.port() == at.port()
        };
        if let Some((holder, _)) = taken.iter().find(|(_, other)| meets(other)) {
            report.errors.push(format!("ports.{name}: {at} is taken by ports.{holder}"));
        }
        taken.push((name, at));
    }
}

fn directories(
    raw: &Raw,
    mode: Mode,
    host: &Host,
    report: &mut Report,
) -> (Option<PathBuf>, Option<PathBuf>) {
    let needed = matches!(mode, Mode::Server | Mode::Agent);
    if needed && raw.data_dir.is_none() {
        report.errors.push(
            "data_dir: is required; set it in a file or with --data-dir, such as /var/lib/purlin".into(),
        );
    }
    let own = host.runtime_dir.clone().filter(|_| needed);
    let derived = raw.data_dir.as_ref().map(|dir| dir.join("run"));
    let runtime = raw.runtime_dir.clone().or(own).or(derived);
    if let Some(dir) = &runtime {
        let length = dir.join(PROXY_SOCKET).as_os_str().len();
        if length > SOCKET_PATH_BYTES {
            let origin = raw.origin(if raw.runtime_dir.is_some() { "runtime_dir" } else { "data_dir" });
            report.errors.push(format!(
                "{origin}: the socket {}/{PROXY_SOCKET} would have a path of {length} bytes, and {SOCKET_PATH_BYTES} are the most; set a shorter \"runtime_dir\"",
                dir.display()
            ));
        }
    }
    (raw.data_dir.clone(), runtime)
}

fn dns(raw: &mut Raw) -> Dns {
    Dns {
        node_ttl: raw.node_ttl.unwrap_or_default(),
        service_ttl: std::mem::take(&mut raw.service_ttl),
        only_passing: raw.only_passing.unwrap_or(false),
        enable_truncate: raw.enable_truncate.unwrap_or(false),
        udp_answer_limit: raw.udp_answer_limit.unwrap_or(3),
        a_record_limit: raw.a_record_limit.unwrap_or(0),
        disable_compression: raw.disable_compression.unwrap_or(false),
        recursor_timeout: raw.recursor_timeout.unwrap_or(Duration::from_secs(2)),
        soa: raw.soa.unwrap_or(Soa { refresh: 3600, retry: 600, expire: 86_400, min_ttl: 0 }),
    }
}

/// What services must not share, and scripts that nobody allowed.
fn judge_services(raw: &Raw, scripts: Scripts, report: &mut Report) {
    let mut ids: HashMap<&str, &str> = HashMap::new();
    let mut binds: BTreeMap<(&str, u16), String> = BTreeMap::new();
    for (file, service) in &raw.services {
        let instance = &service.instance;
        let id = instance.id.as_str();
        if let Some(holder) = ids.insert(id, file) {
            report
                .errors
                .push(format!("{file}: service {id:?}: its id is taken by another service in {holder}"));
        }
        for upstream in instance.mesh.iter().flat_map(|mesh| &mesh.upstreams) {
            let key = (upstream.local_bind_address.as_str(), upstream.local_bind_port);
            let holder = format!("upstream {:?} of service {id:?}", upstream.name.as_str());
            match binds.get(&key) {
                // Two of one service are refused where the service is read.
                Some(other) if !other.ends_with(&format!("of service {id:?}")) => {
                    report.errors.push(format!(
                        "{file}: service {id:?}: upstream {:?} wants {}:{}, which {other} already has",
                        upstream.name.as_str(),
                        key.0,
                        key.1
                    ))
                }
                _ => {
                    binds.insert(key, holder);
                }
            }
        }
    }
    let of_services =
        raw.services.iter().flat_map(|(file, one)| one.checks.iter().map(move |check| (file, check)));
    let all: Vec<_> = of_services.chain(raw.checks.iter().map(|(file, check)| (file, check))).collect();
    let mut check_ids: HashMap<&str, &str> = HashMap::new();
    for (file, check) in &all {
        let id = check.id.as_str();
        if let Some(holder) = check_ids.insert(id, file) {
            report.errors.push(format!("{file}: check {id:?}: its id is taken by another check in {holder}"));
        }
        if matches!(check.probe, Probe::Script { .. }) && !scripts.local {
            report.errors.push(format!(
                "{file}: check {id:?}: script checks are off; set enable_local_script_checks = true to allow those from files"
            ));
        }
    }
    if raw.services.len() > limit::INSTANCES_PER_NODE || all.len() > limit::CHECKS_PER_NODE {
        report.errors.push(format!(
            "{} services with {} checks are too many; the limits are {} and {}",
            raw.services.len(),
            all.len(),
            limit::INSTANCES_PER_NODE,
            limit::CHECKS_PER_NODE
        ));
    }
}
