//! What may be registered: names, bounds, and who may have scripts run.

use std::net::IpAddr;
use std::time::Duration;

use purlin_model::check::{CheckDefinition, NODE_ALIVE, Probe};
use purlin_model::service::{Instance, ServiceDefinition, Upstream};
use purlin_model::{Fault, limit};
use tracing::warn;

use super::{NODE_MAINTENANCE, Origin, SERVICE_MAINTENANCE};
use crate::config::CheckOptions;

const RESERVED_SUFFIX: &str = "-sidecar-proxy";
const INTERVAL_MIN: Duration = Duration::from_secs(1);
const DEREGISTER_AFTER_MIN: Duration = Duration::from_secs(60);
/// Longer spans are a slip of the pen, and too near to what arithmetic on instants can bear.
const SPAN_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);
const SCRIPT_ARGS: usize = 256;
const PROBE_BYTES: usize = 64 * 1024;

/// Checks a definition and puts its checks in order: they belong to the service.
pub(super) fn service(
    definition: &mut ServiceDefinition,
    origin: Origin,
    allowed: CheckOptions,
) -> Result<(), Fault> {
    let instance = &definition.instance;
    let refuse = |why: String| Err(Fault::invalid(format!("service \"{}\": {why}", instance.id)));
    if instance.name.as_str().ends_with(RESERVED_SUFFIX) || instance.id.as_str().ends_with(RESERVED_SUFFIX) {
        return refuse(format!(
            "names and ids that end in \"{RESERVED_SUFFIX}\" are reserved for the proxies that the mesh lists itself: \
             give the application a connect {{ sidecar_service {{}} }} block instead"
        ));
    }
    if let Err(why) = bounds(instance).and_then(|()| mesh(instance)) {
        return refuse(why);
    }
    for one in &mut definition.checks {
        one.service_id = Some(definition.instance.id.clone());
        check(one, origin, allowed)?;
    }
    Ok(())
}

fn bounds(instance: &Instance) -> Result<(), String> {
    let at_most = |what: &str, count: usize, max: usize| {
        if count > max { Err(format!("has {count} {what}, at most {max} are allowed")) } else { Ok(()) }
    };
    at_most("tags", instance.tags.len(), limit::TAGS)?;
    at_most("metadata pairs", instance.meta.len(), limit::META_PAIRS)?;
    at_most("ports", instance.ports.len(), limit::NAMED_PORTS)?;
    at_most("tagged addresses", instance.tagged_addresses.len(), limit::META_PAIRS)?;
    for tag in &instance.tags {
        at_most("bytes in a tag", tag.len(), limit::TAG_BYTES)?;
    }
    for (key, value) in &instance.meta {
        at_most("bytes in a metadata key", key.len(), limit::META_KEY_BYTES)?;
        at_most("bytes in a metadata value", value.len(), limit::META_VALUE_BYTES)?;
    }
    for text in [&instance.address, &instance.socket_path] {
        at_most("bytes in an address", text.len(), limit::META_VALUE_BYTES)?;
    }
    for (name, tagged) in &instance.tagged_addresses {
        at_most("bytes in a tagged address", name.len().max(tagged.address.len()), limit::META_VALUE_BYTES)?;
    }
    for (index, port) in instance.ports.iter().enumerate() {
        at_most("bytes in a port name", port.name.len(), limit::LABEL_BYTES)?;
        if port.name.is_empty() || instance.ports[..index].iter().any(|other| other.name == port.name) {
            return Err(format!("its port name \"{}\" is empty or used twice", port.name));
        }
    }
    if !instance.address.is_empty() && !is_address(&instance.address) {
        return Err(format!("its address \"{}\" is neither an IP address nor a host name", instance.address));
    }
    if instance.address.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified()) {
        return Err(format!("its address \"{}\" is no address that a client could dial", instance.address));
    }
    Ok(())
}

fn mesh(instance: &Instance) -> Result<(), String> {
    let Some(mesh) = &instance.mesh else { return Ok(()) };
    if !instance.name.is_dns_label() {
        return Err(format!(
            "its name \"{}\" cannot be in the mesh, because a certificate names it: use letters, digits and '-', \
             at most {} of them",
            instance.name,
            limit::LABEL_BYTES
        ));
    }
    if mesh.upstreams.len() > limit::UPSTREAMS {
        return Err(format!(
            "has {} upstreams, at most {} are allowed",
            mesh.upstreams.len(),
            limit::UPSTREAMS
        ));
    }
    mesh.upstreams.iter().try_for_each(upstream)
}

fn upstream(upstream: &Upstream) -> Result<(), String> {
    if upstream.local_bind_address.parse::<IpAddr>().is_err() {
        return Err(format!(
            "upstream \"{}\" has local_bind_address \"{}\", which is no IP address",
            upstream.name, upstream.local_bind_address
        ));
    }
    if upstream.local_bind_port == 0 {
        return Err(format!("upstream \"{}\" needs a local_bind_port", upstream.name));
    }
    Ok(())
}

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
        || (text.len() <= 253
            && text.trim_end_matches('.').split('.').all(|label| {
                !label.is_empty()
                    && label.len() <= limit::LABEL_BYTES
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            }))
}

/// Checks a definition, and raises spans to the least that Consul takes.
pub(super) fn check(check: &mut CheckDefinition, origin: Origin, allowed: CheckOptions) -> Result<(), Fault> {
    let id = check.id.clone();
    let refuse = |why: String| Err(Fault::invalid(format!("check \"{id}\": {why}")));
    if id.as_str() == NODE_ALIVE
        || id.as_str() == NODE_MAINTENANCE
        || id.as_str().starts_with(SERVICE_MAINTENANCE)
    {
        return refuse("its id is reserved: give it another".into());
    }
    if check.name.len().max(check.notes.len()) > limit::CHECK_OUTPUT_BYTES {
        return refuse(format!("its name or notes are longer than {} bytes", limit::CHECK_OUTPUT_BYTES));
    }
    let longest = [Some(check.interval), Some(check.timeout), check.deregister_critical_service_after];
    if longest.into_iter().flatten().any(|span| span > SPAN_MAX) {
        return refuse("one of its spans is longer than ten years".into());
    }
    if check.failures_before_warning > check.failures_before_critical {
        return refuse(format!(
            "failures_before_warning ({}) can't be higher than failures_before_critical ({})",
            check.failures_before_warning, check.failures_before_critical
        ));
    }
    if let Err(why) = probe(&check.probe) {
        return refuse(why);
    }
    let periodic = !matches!(check.probe, Probe::Ttl { .. } | Probe::Alias { .. });
    if periodic && check.interval < INTERVAL_MIN {
        warn!(check = %id, "interval is below 1 s, takes 1 s");
        check.interval = INTERVAL_MIN;
    }
    if let Some(after) = &mut check.deregister_critical_service_after
        && *after < DEREGISTER_AFTER_MIN
    {
        if after.is_zero() {
            check.deregister_critical_service_after = None;
        } else {
            warn!(check = %id, "deregister_critical_service_after is below 1 min, takes 1 min");
            *after = DEREGISTER_AFTER_MIN;
        }
    }
    if check.output_max_size == 0 || check.output_max_size > limit::CHECK_OUTPUT_BYTES {
        check.output_max_size = limit::CHECK_OUTPUT_BYTES;
    }
    script_allowed(check, origin, allowed)
}

fn script_allowed(check: &CheckDefinition, origin: Origin, allowed: CheckOptions) -> Result<(), Fault> {
    if !matches!(check.probe, Probe::Script { .. }) {
        return Ok(());
    }
    let (is_allowed, remedy) = match origin {
        Origin::File => (
            allowed.enable_local_script_checks || allowed.enable_script_checks,
            "enable_local_script_checks = true allows those from configuration files",
        ),
        Origin::Api => (
            allowed.enable_script_checks,
            "enable_script_checks = true allows those from the API, enable_local_script_checks only those from files",
        ),
    };
    if is_allowed {
        return Ok(());
    }
    let text = format!("check \"{}\": scripts are disabled on this agent: {remedy}", check.id);
    Err(Fault::invalid(text))
}

fn probe(probe: &Probe) -> Result<(), String> {
    match probe {
        Probe::Http { url, method, headers, body, .. } => {
            let uri: http::Uri = url.parse().map_err(|why| format!("\"{url}\" is no URL: {why}"))?;
            if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
                return Err(format!("\"{url}\" is no URL that starts with http:// or https://"));
            }
            if !method.is_empty() && http::Method::from_bytes(method.as_bytes()).is_err() {
                return Err(format!("\"{method}\" is no HTTP method"));
            }
            for (name, values) in headers {
                let is_wrong = |value: &String| http::HeaderValue::from_str(value).is_err();
                if http::HeaderName::from_bytes(name.as_bytes()).is_err() || values.iter().any(is_wrong) {
                    return Err(format!("its header \"{name}\" has a character that HTTP does not allow"));
                }
            }
            let headers: usize =
                headers.iter().flat_map(|(name, values)| values.iter().map(|v| v.len() + name.len())).sum();
            size(url.len() + headers + body.len())
        }
        Probe::Tcp { address, .. } | Probe::Udp { address } | Probe::H2Ping { address, .. } => {
            host_port(address)
        }
        Probe::Grpc { target, .. } => {
            host_port(target.split_once('/').map_or(target.as_str(), |(address, _)| address))
        }
        Probe::Script { args } if args.is_empty() => {
            Err("its args are empty: name the program to run".into())
        }
        Probe::Script { args } if args.len() > SCRIPT_ARGS => {
            Err(format!("has more than {SCRIPT_ARGS} args"))
        }
        Probe::Script { args } if args.iter().any(|arg| arg.contains('\0')) => {
            Err("one of its args has a NUL".into())
        }
        Probe::Script { args } => size(args.iter().map(String::len).sum()),
        Probe::Ttl { ttl } if ttl.is_zero() => Err("its ttl must be more than 0".into()),
        Probe::Ttl { ttl } if *ttl > SPAN_MAX => Err("its ttl is longer than ten years".into()),
        Probe::Alias { node: None, service: None } => Err("alias_service or alias_node must be given".into()),
        Probe::Ttl { .. } | Probe::Alias { .. } => Ok(()),
        Probe::OsService { unit } if unit.is_empty() || unit.len() > 256 || unit.contains('\0') => {
            Err(format!("\"{unit}\" is no name of a unit"))
        }
        Probe::OsService { .. } => Ok(()),
    }
}

fn size(bytes: usize) -> Result<(), String> {
    if bytes > PROBE_BYTES { Err(format!("is larger than {PROBE_BYTES} bytes")) } else { Ok(()) }
}

fn host_port(text: &str) -> Result<(), String> {
    let parts = text.rsplit_once(':');
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    match parts {
        Some((host, port)) if !host.is_empty() && host.len() <= 255 && is_port(port) => Ok(()),
        _ => Err(format!("\"{text}\" is not of the form host:port")),
    }
}
