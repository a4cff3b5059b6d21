//! Service definitions: what a host runs and how it is found.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;

use super::check::{self, Owner};
use super::connect;
use super::reader::Table;
use crate::check::CheckDefinition;
use crate::node::Locality;
use crate::service::{Instance, NamedPort, Protocol, ServiceDefinition, ServiceKind, TaggedAddress, Weights};
use crate::{InstanceId, Namespace, Revision, ServiceName, limit};

pub(super) fn read(table: &Table<'_>) -> Option<ServiceDefinition> {
    let name = read_name(table);
    let id = read_id(table, name.as_ref());
    table.only(&["namespace", "partition"], "default");
    // Nothing is decided by it yet, but it is a text.
    let _token = table.text("token");
    table.ignore(&["create_index", "modify_index"]);
    refuse_kinds(table);
    let ports = read_ports(table);
    let place = read_place(table, &ports);
    let tags = read_tags(table);
    let meta = read_meta(table, "meta");
    let tagged_addresses = read_tagged_addresses(table);
    let weights = read_weights(table);
    let enable_tag_override = table.flag("enable_tag_override").unwrap_or(false);
    let locality = read_locality(table);
    let (mesh, native) = connect::read(table, name.as_ref());
    let owner = Owner {
        id: id.as_ref().map_or("", InstanceId::as_str),
        name: name.as_ref().map_or("", ServiceName::as_str),
        place: None,
    };
    let checks = read_checks(table, owner);
    table.finish();
    let instance = Instance {
        id: id?,
        name: name?,
        namespace: Namespace::default(),
        kind: ServiceKind::Typical,
        tags,
        meta,
        address: place.address,
        port: place.port,
        ports,
        socket_path: place.socket_path,
        tagged_addresses,
        weights,
        enable_tag_override,
        native,
        mesh,
        locality,
        create_index: Revision(0),
        modify_index: Revision(0),
    };
    Some(ServiceDefinition { instance, checks })
}

fn read_name(table: &Table<'_>) -> Option<ServiceName> {
    let Some(text) = table.filled("name") else {
        table.refuse("name", "is required");
        return None;
    };
    match ServiceName::new(&text) {
        Ok(name) => Some(name),
        Err(error) => {
            table.refuse("name", error.to_string());
            None
        }
    }
}

/// The id of an instance is the service's name unless somebody says otherwise.
fn read_id(table: &Table<'_>, name: Option<&ServiceName>) -> Option<InstanceId> {
    let text = table.filled("id").or_else(|| name.map(ToString::to_string))?;
    match InstanceId::new(&text) {
        Ok(id) => Some(id),
        Err(error) => {
            table.refuse("id", error.to_string());
            None
        }
    }
}

fn refuse_kinds(table: &Table<'_>) {
    match table.filled("kind").as_deref() {
        None | Some("typical") => {}
        Some("connect-proxy") => table.refuse(
            "kind",
            "a proxy is not registered by hand: every service in the mesh gets one from its own \"connect\" block",
        ),
        Some(gateway @ ("mesh-gateway" | "terminating-gateway" | "ingress-gateway" | "api-gateway")) => {
            table.refuse("kind", format!("{gateway:?} is not supported by this version"));
        }
        Some(other) => table.refuse("kind", format!("{other:?} is not a kind of service")),
    }
    table.unsupported(&["proxy"]);
}

struct Place {
    address: String,
    port: u16,
    socket_path: String,
}

fn read_place(table: &Table<'_>, ports: &[NamedPort]) -> Place {
    let address = table.filled("address").unwrap_or_default();
    if let Some(why) = unfit_address(&address) {
        table.refuse("address", why);
    }
    let socket_path = table.short("socket_path", limit::SOCKET_PATH_BYTES).unwrap_or_default();
    let port = table.port("port");
    if port.is_some() && !ports.is_empty() {
        table.refuse("port", "cannot stand beside \"ports\"; mark one of them with \"default\" instead");
    }
    if !socket_path.is_empty() {
        if !socket_path.starts_with('/') {
            table.refuse("socket_path", "must be an absolute path");
        }
        if port.is_some() || !address.is_empty() {
            table.refuse("socket_path", "cannot stand beside \"address\" or \"port\"");
        }
    }
    // Those who know nothing of named ports find the default one.
    let default = ports.iter().find(|one| one.default).map_or(0, |one| one.port);
    Place { address, port: port.unwrap_or(default), socket_path }
}

/// Why clients could not dial this, if so.
fn unfit_address(address: &str) -> Option<&'static str> {
    if address.len() > limit::ADDRESS_BYTES
        || address.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/')
    {
        return Some("must be an IP address or a host name");
    }
    match address.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => {
            Some("must be an address that others can dial, not the unspecified one")
        }
        Err(_) if address.contains(':') => Some("must be an IP address or a host name, without a port"),
        _ => None,
    }
}

fn read_ports(table: &Table<'_>) -> Vec<NamedPort> {
    let mut ports: Vec<NamedPort> = Vec::new();
    let children = table.children("ports");
    if children.len() > limit::NAMED_PORTS {
        table.refuse(
            "ports",
            format!("{} ports are too many; the limit is {}", children.len(), limit::NAMED_PORTS),
        );
    }
    for child in &children {
        if let Some(port) = read_named_port(child) {
            if ports.iter().any(|other| other.name == port.name) {
                child.refuse("name", format!("{:?} is taken by another port", port.name));
            }
            ports.push(port);
        }
        child.finish();
    }
    match ports.iter().filter(|port| port.default).count() {
        0 => {
            if let [only] = ports.as_mut_slice() {
                only.default = true;
            } else if !ports.is_empty() {
                table.refuse("ports", "one of them must have default = true");
            }
        }
        1 => {}
        _ => table.refuse("ports", "only one of them may have default = true"),
    }
    ports
}

fn read_named_port(table: &Table<'_>) -> Option<NamedPort> {
    let name = table.filled("name");
    let port = table.port("port");
    let default = table.flag("default").unwrap_or(false);
    let protocol = read_protocol(table, "protocol");
    let fits = |name: &str| {
        let inner = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        inner && name.len() <= limit::LABEL_BYTES && !name.starts_with('-') && !name.ends_with('-')
    };
    match &name {
        None => table.refuse("name", "is required"),
        Some(name) if !fits(name) => {
            table
                .refuse("name", format!("{name:?} must be a DNS label of lowercase letters, digits and '-'"));
        }
        Some(_) => {}
    }
    if port.is_none() {
        table.refuse("port", "is required");
    }
    Some(NamedPort { name: name?, port: port?, protocol, default })
}

/// A protocol that service-defaults, proxy-defaults and named ports may declare.
pub(super) fn read_protocol(table: &Table<'_>, key: &'static str) -> Option<Protocol> {
    let text = table.filled(key)?;
    let protocol = Protocol::parse(&text.to_ascii_lowercase());
    if !matches!(protocol, Some(Protocol::Tcp | Protocol::Http | Protocol::Http2 | Protocol::Grpc)) {
        table.refuse(key, format!("{text:?} is not a protocol; use tcp, http, http2 or grpc"));
        return None;
    }
    protocol
}

fn read_tags(table: &Table<'_>) -> Vec<String> {
    let tags = table.texts("tags");
    if tags.len() > limit::TAGS {
        table.refuse("tags", format!("{} tags are too many; the limit is {}", tags.len(), limit::TAGS));
    }
    if let Some(long) = tags.iter().find(|tag| tag.len() > limit::TAG_BYTES) {
        let start: String = long.chars().take(40).collect();
        table.refuse("tags", format!("\"{start}...\" is longer than {} bytes", limit::TAG_BYTES));
    }
    tags
}

/// Metadata of a service, a node or a config entry, within Consul's limits.
pub(super) fn read_meta(table: &Table<'_>, key: &'static str) -> BTreeMap<String, String> {
    let meta = table.text_map(key);
    for why in unfit_meta(&meta) {
        table.refuse(key, why);
    }
    meta
}

/// What is wrong with metadata, if anything.
pub fn unfit_meta(meta: &BTreeMap<String, String>) -> Vec<String> {
    let mut wrong = Vec::new();
    if meta.len() > limit::META_PAIRS {
        wrong.push(format!("{} pairs are too many; the limit is {}", meta.len(), limit::META_PAIRS));
    }
    for (name, value) in meta {
        let short: String = name.chars().take(40).collect();
        let fits = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/'));
        if name.is_empty() || !fits {
            wrong.push(format!("the key {short:?} may only have letters, digits, '-', '_', '.' and '/'"));
        } else if name.len() > limit::META_KEY_BYTES {
            wrong.push(format!("the key \"{short}...\" is longer than {} bytes", limit::META_KEY_BYTES));
        } else if name.starts_with("consul-") {
            wrong.push(format!("the key {short:?} is reserved: none may begin with \"consul-\""));
        }
        if value.len() > limit::META_VALUE_BYTES {
            wrong.push(format!("the value of {short:?} is longer than {} bytes", limit::META_VALUE_BYTES));
        }
    }
    wrong
}

fn read_tagged_addresses(table: &Table<'_>) -> BTreeMap<String, TaggedAddress> {
    let mut addresses = BTreeMap::new();
    let Some(object) = table.object("tagged_addresses") else { return addresses };
    if object.len() > limit::TAGGED_ADDRESSES {
        let why = format!("{} are too many; the limit is {}", object.len(), limit::TAGGED_ADDRESSES);
        table.refuse("tagged_addresses", why);
    }
    for (name, value) in object {
        if name.len() > limit::WORD_BYTES {
            let start: String = name.chars().take(40).collect();
            let why = format!("the name \"{start}...\" is longer than {} bytes", limit::WORD_BYTES);
            table.refuse("tagged_addresses", why);
            continue;
        }
        let root = format!("{}.{name}", table.path("tagged_addresses"));
        let Some(child) = Table::open(value, &root, table.problems()) else { continue };
        let address = child.filled("address").unwrap_or_default();
        if address.is_empty() {
            child.refuse("address", "is required");
        } else if let Some(why) = unfit_address(&address) {
            child.refuse("address", why);
        }
        let port = child.port("port").unwrap_or(0);
        child.finish();
        addresses.insert(name.clone(), TaggedAddress { address, port });
    }
    addresses
}

fn read_weights(table: &Table<'_>) -> Weights {
    // Consul's own client sends two zeros where its caller said nothing.
    if table.value("weights").is_none_or(super::reader::says_nothing) {
        return Weights::default();
    }
    let Some(child) = table.child("weights") else { return Weights::default() };
    let narrow = |number: Option<u64>| number.and_then(|number| u16::try_from(number).ok());
    let passing = narrow(child.number("passing", 1..=65_535)).unwrap_or(1);
    let warning = narrow(child.number("warning", 0..=65_535)).unwrap_or(1);
    child.finish();
    Weights { passing, warning }
}

/// Region and zone; a zone says nothing without its region.
pub fn read_locality(table: &Table<'_>) -> Option<Locality> {
    let child = table.child("locality")?;
    let region = child.short("region", limit::WORD_BYTES).unwrap_or_default();
    let zone = child.short("zone", limit::WORD_BYTES).unwrap_or_default();
    if region.is_empty() && !zone.is_empty() {
        child.refuse("zone", "needs a \"region\" beside it");
    }
    child.finish();
    (!region.is_empty()).then_some(Locality { region, zone })
}

fn read_checks(table: &Table<'_>, owner: Owner<'_>) -> Vec<CheckDefinition> {
    // Clients with fixed structures send `"Check": {}` where there is none.
    let single =
        table.value("check").is_some_and(|value: &Value| value.as_object().is_none_or(|o| !o.is_empty()));
    let mut tables: Vec<Table<'_>> = if single { table.children("check") } else { Vec::new() };
    tables.extend(table.children("checks"));
    let several = tables.len() > 1;
    let mut checks: Vec<CheckDefinition> = Vec::new();
    let mut taken = BTreeSet::new();
    for (n, child) in tables.iter().enumerate() {
        let place = several.then_some(n + 1);
        let Some(check) = check::read(child, Some(Owner { place, ..owner })) else {
            // A check that is not taken must never be missed without a word.
            if !table.problems().has_faults() {
                child.refuse("", "is not understood");
            }
            continue;
        };
        if !taken.insert(check.id.clone()) {
            child.refuse("id", format!("{:?} is taken by another check of this service", check.id.as_str()));
        }
        checks.push(check);
    }
    checks
}
