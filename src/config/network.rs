//! Addresses, ports and domains of the host.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use purlin_model::definition::reader::Table;
use serde_json::Value;

use super::foreign;
use super::raw::{Port, Raw, parse};

/// Where the HTTP API listens: addresses, and at most one Unix socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) socket: Option<PathBuf>,
}

const DNS_PORT: u16 = 53;

pub(super) fn read(table: &Table<'_>, raw: &mut Raw) {
    raw.bind_addr = parse(table, "bind_addr", address);
    raw.advertise_addr = parse(table, "advertise_addr", |text| match address(text) {
        Ok(ip) if ip.is_unspecified() => {
            Err("must be an address that others can dial, not the unspecified one".into())
        }
        other => other,
    });
    raw.client_addr = parse(table, "client_addr", addresses);
    if let Some(list) = table.child("addresses") {
        raw.http_address = parse(&list, "http", places);
        raw.dns_address = parse(&list, "dns", addresses);
        raw.server_address = parse(&list, "server", address);
        raw.mesh_address = parse(&list, "mesh", address);
        foreign::warn_block(&list, "addresses");
        list.finish();
    }
    if let Some(ports) = table.child("ports") {
        raw.http_port = port_or_none(&ports, "http");
        raw.dns_port = port_or_none(&ports, "dns");
        raw.server_port = ports.number("server", 1..=65_535).and_then(|port| u16::try_from(port).ok());
        raw.mesh_port = ports.number("mesh", 1..=65_535).and_then(|port| u16::try_from(port).ok());
        // Consul's gossip has the port that does for its users what probes do here.
        let (probe, serf_lan) = (port_or_none(&ports, "probe"), port_or_none(&ports, "serf_lan"));
        raw.probe_port = probe.or(serf_lan);
        foreign::warn_block(&ports, "ports");
        ports.finish();
    }
    for text in table.texts("recursors") {
        match recursor(&text) {
            Ok(recursor) => raw.recursors.push(recursor),
            Err(why) => table.refuse("recursors", why),
        }
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    let bare = text.trim().trim_start_matches('[').trim_end_matches(']');
    if text.contains("{{") {
        return Err(format!(
            "{text:?} is a template, which is not supported by this version; write the IP address"
        ));
    }
    bare.parse().map_err(|_| format!("{text:?} is not an IP address"))
}

/// Several, separated by blanks, as Consul takes them.
fn addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    if text.contains("{{") {
        return address(text).map(|one| vec![one]);
    }
    text.split_whitespace().map(address).collect()
}

fn places(text: &str) -> Result<Places, String> {
    let mut places = Places::default();
    for word in text.split_whitespace() {
        match word.strip_prefix("unix://") {
            Some(path) if !path.starts_with('/') => {
                return Err(format!("{word:?} must have an absolute path"));
            }
            Some(_) if places.socket.is_some() => return Err("has more than one Unix socket".into()),
            Some(path) if path.len() > super::finish::SOCKET_PATH_BYTES => {
                return Err(format!("{path:?} is longer than a socket's path may be"));
            }
            Some(path) => places.socket = Some(path.into()),
            None => places.addresses.push(address(word)?),
        }
    }
    Ok(places)
}

/// -1 switches a listener off, 0 leaves the choice to the kernel.
fn port_or_none(table: &Table<'_>, key: &'static str) -> Option<Port> {
    if table.value(key).and_then(Value::as_i64) == Some(-1) {
        return Some(None);
    }
    table.number(key, 0..=65_535).and_then(|port| u16::try_from(port).ok()).map(Some)
}

fn recursor(text: &str) -> Result<SocketAddr, String> {
    let whole = text.parse::<SocketAddr>();
    whole.or_else(|_| address(text).map(|ip| SocketAddr::new(ip, DNS_PORT)))
}

/// A domain of DNS, lower case, without the dot at its end.
pub(super) fn domain(text: &str) -> Result<String, String> {
    let name = text.trim_end_matches('.').to_ascii_lowercase();
    let label = |label: &str| {
        let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        !label.is_empty() && label.len() <= 63 && inner && !label.starts_with('-') && !label.ends_with('-')
    };
    if name.len() > 200 || !name.split('.').all(label) {
        return Err(format!("{text:?} is not a domain such as \"mesh.internal\""));
    }
    Ok(name)
}
