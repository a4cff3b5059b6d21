//! What puts a service into the mesh: Consul's `connect` block, or the short forms `upstreams` and `mesh = true`.

use std::net::IpAddr;

use super::reader::Table;
use crate::service::{Mesh, Upstream};
use crate::{Datacenter, Namespace, ServiceName, limit};

/// The mesh part of an instance, and whether the application does the mesh's TLS itself.
pub(super) fn read(table: &Table<'_>, name: Option<&ServiceName>) -> (Option<Mesh>, bool) {
    let connect = table.child("connect");
    let (sidecar, native, bare) = connect.as_ref().map_or((None, false, false), read_connect);
    let short = read_upstreams(table);
    let switch = table.flag("mesh");
    let in_mesh = sidecar.is_some() || bare || !short.is_empty() || switch == Some(true);
    if switch == Some(false) && (sidecar.is_some() || bare || !short.is_empty()) {
        table.refuse(
            "mesh",
            "is false, yet \"connect\" or \"upstreams\" puts the service into the mesh; drop one",
        );
    }
    if native && in_mesh {
        table.refuse(
            "connect",
            "\"native\" and a sidecar exclude each other: either the application or the proxy does TLS",
        );
    }
    if let Some(name) = name.filter(|name| (in_mesh || native) && !name.is_dns_label()) {
        let limit = limit::LABEL_BYTES;
        let why = format!(
            "{:?} cannot be in the mesh: its name must be a DNS label, which has at most {limit} letters, digits, '-' and '_' and no dot",
            name.as_str()
        );
        table.refuse("name", why);
    }
    if !in_mesh {
        return (None, native);
    }
    let mut mesh = sidecar.unwrap_or_default();
    mesh.upstreams.extend(short);
    if mesh.upstreams.len() > limit::UPSTREAMS {
        let why =
            format!("{} upstreams are too many; the limit is {}", mesh.upstreams.len(), limit::UPSTREAMS);
        table.refuse("upstreams", why);
    }
    refuse_taken(table, &mesh.upstreams);
    (Some(mesh), native)
}

/// The sidecar's part, `native`, and whether the block is there with nothing in it, which means a plain sidecar.
fn read_connect(connect: &Table<'_>) -> (Option<Mesh>, bool, bool) {
    let native = connect.flag("native");
    let bare = native.is_none() && connect.value("sidecar_service").is_none();
    connect.unsupported(&["proxy", "sidecar_proxy"]);
    let sidecar = connect.child("sidecar_service").map(|sidecar| read_sidecar(&sidecar));
    connect.finish();
    (sidecar, native.unwrap_or(false), bare)
}

fn read_sidecar(sidecar: &Table<'_>) -> Mesh {
    // The host's proxy stands for every sidecar: what one of its own would be called, where it would listen and how
    // it would be checked is derived.
    sidecar.ignore(&["id", "name", "tags", "meta", "token", "locality", "weights", "enable_tag_override"]);
    sidecar.ignore(&["address", "tagged_addresses", "socket_path"]);
    for key in ["port", "check", "checks"] {
        if sidecar.value(key).is_some_and(|value| !super::reader::says_nothing(value)) {
            sidecar.warn(key, "has no effect: the host's own proxy serves all its services on the mesh port");
        }
    }
    sidecar.only(&["namespace", "partition"], "default");
    sidecar.only(&["kind"], "connect-proxy");
    sidecar.unsupported(&["connect"]);
    let mesh = sidecar.child("proxy").map(|proxy| read_proxy(&proxy)).unwrap_or_default();
    sidecar.finish();
    mesh
}

fn read_proxy(proxy: &Table<'_>) -> Mesh {
    proxy.ignore(&["destination_service_name", "destination_service_id"]);
    proxy.only(&["mode"], "direct");
    proxy.unsupported(&["expose", "transparent_proxy", "access_logs", "envoy_extensions"]);
    no_gateway(proxy);
    if let Some(config) = proxy.child("config") {
        refuse_protocol(&config);
        config.ignore(&["envoy_prometheus_bind_addr", "envoy_stats_bind_addr"]);
        config.finish();
    }
    let local_address = proxy.filled("local_service_address");
    if local_address.as_deref().is_some_and(|text| text.parse::<IpAddr>().is_err() && text != "localhost") {
        proxy.refuse("local_service_address", "must be an IP address or \"localhost\"");
    }
    let local_port = proxy.port("local_service_port");
    let local_socket_path = proxy.short("local_service_socket_path", limit::SOCKET_PATH_BYTES);
    if local_socket_path.is_some() && (local_port.is_some() || local_address.is_some()) {
        let why = "cannot stand beside \"local_service_address\" or \"local_service_port\"";
        proxy.refuse("local_service_socket_path", why);
    }
    let upstreams = read_upstreams(proxy);
    proxy.finish();
    Mesh { upstreams, local_address, local_port, local_socket_path, ..Mesh::default() }
}

fn refuse_protocol(config: &Table<'_>) {
    if config.filled("protocol").is_some() {
        config.refuse("protocol", "is not read here; declare it for the service in a service-defaults entry");
    }
}

/// Mesh gateways do not exist here: a mode that would route through one is refused.
pub(super) fn no_gateway(table: &Table<'_>) {
    if let Some(gateway) = table.child("mesh_gateway") {
        gateway.only(&["mode"], "none");
        gateway.finish();
    }
}

fn read_upstreams(table: &Table<'_>) -> Vec<Upstream> {
    let children = table.children("upstreams");
    children.iter().filter_map(read_upstream).collect()
}

fn read_upstream(table: &Table<'_>) -> Option<Upstream> {
    let name = read_destination(table);
    table.only(&["destination_namespace", "namespace", "destination_partition", "partition"], "default");
    table.only(&["destination_type"], "service");
    table.unsupported(&["destination_peer", "peer", "local_bind_socket_path", "local_bind_socket_mode"]);
    table.ignore(&["centrally_configured"]);
    no_gateway(table);
    let datacenter = table.filled("datacenter").and_then(|text| match Datacenter::new(&text) {
        Ok(datacenter) => Some(datacenter),
        Err(error) => {
            table.refuse("datacenter", error.to_string());
            None
        }
    });
    let port_name = table
        .short("destination_port", limit::LABEL_BYTES)
        .or_else(|| table.short("port_name", limit::LABEL_BYTES));
    table.ignore(&["port_name"]);
    let local_bind_address = table.filled("local_bind_address").unwrap_or_else(|| "127.0.0.1".into());
    if local_bind_address.parse::<IpAddr>().is_err() {
        table.refuse("local_bind_address", format!("{local_bind_address:?} is not an IP address"));
    }
    let local_bind_port = table.port("local_bind_port");
    if local_bind_port.is_none() {
        table.refuse("local_bind_port", "is required: the local port on which the upstream is found");
    }
    let connect_timeout_ms = table.child("config").and_then(|config| {
        refuse_protocol(&config);
        let timeout = config.number("connect_timeout_ms", 1..=3_600_000);
        config.finish();
        timeout
    });
    table.finish();
    Some(Upstream {
        name: name?,
        namespace: Namespace::default(),
        datacenter,
        peer: None,
        port_name,
        local_bind_address,
        local_bind_port: local_bind_port?,
        connect_timeout_ms,
    })
}

/// Consul's `destination_name`, or `name` in the short form.
fn read_destination(table: &Table<'_>) -> Option<ServiceName> {
    let long = table.filled("destination_name");
    let short = table.filled("name");
    let (key, text) = match (long, short) {
        (Some(_), Some(_)) => {
            table.refuse("name", "cannot stand beside \"destination_name\"; keep one");
            return None;
        }
        (Some(text), None) => ("destination_name", text),
        (None, Some(text)) => ("name", text),
        (None, None) => {
            table.refuse("destination_name", "is required: the service to call");
            return None;
        }
    };
    let name = match ServiceName::new(&text) {
        Ok(name) => name,
        Err(error) => {
            table.refuse(key, error.to_string());
            return None;
        }
    };
    if !name.is_dns_label() {
        table.refuse(
            key,
            format!("{text:?} cannot be in the mesh: its name must be a DNS label, without a dot"),
        );
        return None;
    }
    Some(name)
}

/// Two upstreams cannot be found on one local address.
fn refuse_taken(table: &Table<'_>, upstreams: &[Upstream]) {
    for (n, one) in upstreams.iter().enumerate() {
        let same = |other: &&Upstream| {
            other.local_bind_port == one.local_bind_port && other.local_bind_address == one.local_bind_address
        };
        if let Some(holder) = upstreams[..n].iter().find(same) {
            let why = format!(
                "upstream {:?} wants {}:{}, which upstream {:?} already has",
                one.name.as_str(),
                one.local_bind_address,
                one.local_bind_port,
                holder.name.as_str()
            );
            table.refuse("", why);
        }
    }
}
