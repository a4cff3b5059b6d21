//! Config entries in Consul's form. A field that this version would not enforce is refused, never dropped.

use super::connect::no_gateway;
use super::intentions;
use super::reader::{Table, nearest};
use super::service::{read_meta, read_protocol};
use crate::config_entry::{ConfigBody, ConfigEntry, ConfigKind, ProxyDefaults, ServiceDefaults};
use crate::intention::Party;
use crate::{Namespace, Revision, ServiceName};

/// Kinds that Consul has and this version has not.
const OTHER_KINDS: [&str; 14] = [
    "service-router",
    "service-splitter",
    "service-resolver",
    "ingress-gateway",
    "terminating-gateway",
    "api-gateway",
    "http-route",
    "tcp-route",
    "inline-certificate",
    "file-system-certificate",
    "mesh",
    "exported-services",
    "jwt-provider",
    "sameness-group",
];

pub(super) fn read(table: &Table<'_>) -> Option<ConfigEntry> {
    let kind = read_kind(table)?;
    let name = read_name(table, kind);
    table.only(&["Namespace", "Partition"], "default");
    // Shown when an entry is read, so that it can be written back as it is.
    table.ignore(&["CreateIndex", "ModifyIndex", "Hash"]);
    let meta = read_meta(table, "Meta");
    let body = match kind {
        ConfigKind::ServiceDefaults => ConfigBody::ServiceDefaults(read_service_defaults(table)),
        ConfigKind::ProxyDefaults => ConfigBody::ProxyDefaults(read_proxy_defaults(table)),
        ConfigKind::ServiceIntentions => {
            let destination = name.as_deref().and_then(|text| Party::parse(text).ok());
            ConfigBody::ServiceIntentions(intentions::read(table, destination.as_ref()))
        }
    };
    table.finish();
    Some(ConfigEntry {
        name: name?,
        namespace: Namespace::default(),
        meta,
        body,
        create_index: Revision(0),
        modify_index: Revision(0),
    })
}

fn read_kind(table: &Table<'_>) -> Option<ConfigKind> {
    let Some(text) = table.filled("Kind") else {
        table.refuse("Kind", "is required: service-defaults, proxy-defaults or service-intentions");
        return None;
    };
    let kind = ConfigKind::parse(&text);
    if kind.is_none() {
        let ours = ConfigKind::ALL.map(ConfigKind::as_str);
        let why = if OTHER_KINDS.contains(&text.as_str()) {
            format!("{text:?} is not supported by this version; it has {}", ours.join(", "))
        } else if let Some(near) = nearest(&text, ours) {
            format!("{text:?} is not a kind of config entry; did you mean {near:?}?")
        } else {
            format!("{text:?} is not a kind of config entry; use {}", ours.join(", "))
        };
        table.refuse("Kind", why);
    }
    kind
}

fn read_name(table: &Table<'_>, kind: ConfigKind) -> Option<String> {
    let Some(name) = table.filled("Name") else {
        table.refuse("Name", "is required");
        return None;
    };
    match kind {
        ConfigKind::ProxyDefaults if name != "global" => {
            table.refuse("Name", format!("{name:?} must be \"global\": there is one proxy-defaults entry"));
            None
        }
        ConfigKind::ProxyDefaults => Some(name),
        ConfigKind::ServiceIntentions if name == "*" => Some(name),
        ConfigKind::ServiceDefaults | ConfigKind::ServiceIntentions => match ServiceName::new(&name) {
            Ok(_) => Some(name),
            Err(error) => {
                table.refuse("Name", error.to_string());
                None
            }
        },
    }
}

fn read_service_defaults(table: &Table<'_>) -> ServiceDefaults {
    const HOUR_MS: u64 = 3_600_000;
    table.only(&["Mode"], "direct");
    table.only(&["MutualTLSMode"], "strict");
    no_gateway(table);
    table.unsupported(&["TransparentProxy", "Expose", "ExternalSNI", "UpstreamConfig", "Destination"]);
    table.unsupported(&["BalanceInboundConnections", "RateLimits", "EnvoyExtensions"]);
    let some = |key, most| table.number(key, 0..=most).filter(|number| *number > 0);
    let connections = some("MaxInboundConnections", u64::from(u32::MAX));
    ServiceDefaults {
        protocol: read_protocol(table, "Protocol"),
        local_connect_timeout_ms: some("LocalConnectTimeoutMs", HOUR_MS),
        local_request_timeout_ms: some("LocalRequestTimeoutMs", 24 * HOUR_MS),
        max_inbound_connections: connections.and_then(|number| u32::try_from(number).ok()),
    }
}

fn read_proxy_defaults(table: &Table<'_>) -> ProxyDefaults {
    table.only(&["Mode"], "direct");
    table.only(&["MutualTLSMode"], "strict");
    no_gateway(table);
    table.unsupported(&["TransparentProxy", "Expose", "AccessLogs", "EnvoyExtensions", "FailoverPolicy"]);
    table.unsupported(&["PrioritizeByLocality"]);
    let Some(config) = table.child("Config") else { return ProxyDefaults::default() };
    let defaults = ProxyDefaults {
        protocol: read_protocol(&config, "protocol"),
        detection_timeout_ms: config.number("protocol_detection_timeout_ms", 1..=60_000),
    };
    config.finish();
    defaults
}
