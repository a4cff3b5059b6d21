//! Health checks.

use purlin_model::check::{Check, CheckDefinition, Probe, ProbeTls};
use purlin_model::duration;
use serde_json::{Map, Value, json};

/// As the catalog shows it. Its definition lives on its host and is empty here, as in Consul.
pub(in crate::api) fn check(check: &Check) -> Value {
    described(check, Value::Object(Map::new()))
}

/// As the agent that runs it shows it.
pub(in crate::api) fn local(check: &Check, definition: Option<&CheckDefinition>) -> Value {
    described(check, definition.map_or_else(|| Value::Object(Map::new()), probe))
}

fn described(check: &Check, definition: Value) -> Value {
    // What an application reports, or another check says, is not probed at intervals.
    let is_probed = !matches!(check.kind.as_str(), "ttl" | "alias");
    let span = |span: std::time::Duration| match is_probed && !span.is_zero() {
        true => duration::format(span),
        false => String::new(),
    };
    json!({
        "Node": check.node.as_str(),
        "CheckID": check.id.as_str(),
        "Name": check.name,
        "Status": check.status.as_str(),
        "Notes": check.notes,
        "Output": check.output,
        "ServiceID": check.service_id.as_ref().map_or("", |id| id.as_str()),
        "ServiceName": check.service_name.as_ref().map_or("", |name| name.as_str()),
        "ServiceTags": check.service_tags,
        "Type": check.kind,
        "Interval": span(check.interval),
        "Timeout": span(check.timeout),
        "ExposedPort": 0,
        "Definition": definition,
        "CreateIndex": check.create_index.0,
        "ModifyIndex": check.modify_index.0,
    })
}

/// What is probed, under Consul's names. Headers and bodies may carry secrets and are not shown.
fn probe(definition: &CheckDefinition) -> Value {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.into(), value);
    let tls = |tls: &ProbeTls, put: &mut dyn FnMut(&str, Value)| {
        if !tls.server_name.is_empty() {
            put("TLSServerName", tls.server_name.clone().into());
        }
        put("TLSSkipVerify", tls.skip_verify.into());
    };
    let mut add = |name: &str, value: Value| {
        put(name, value);
    };
    match &definition.probe {
        Probe::Http { url, method, disable_redirects, tls: options, .. } => {
            add("HTTP", url.clone().into());
            add("Method", method.clone().into());
            add("DisableRedirects", (*disable_redirects).into());
            tls(options, &mut add);
        }
        Probe::Tcp { address, tls: options } => {
            add("TCP", address.clone().into());
            if let Some(options) = options {
                add("TCPUseTLS", true.into());
                tls(options, &mut add);
            }
        }
        Probe::Udp { address } => add("UDP", address.clone().into()),
        Probe::Grpc { target, tls: options } => {
            add("GRPC", target.clone().into());
            if let Some(options) = options {
                add("GRPCUseTLS", true.into());
                tls(options, &mut add);
            }
        }
        Probe::H2Ping { address, tls: options } => {
            add("H2PING", address.clone().into());
            add("H2PingUseTLS", options.is_some().into());
            if let Some(options) = options {
                tls(options, &mut add);
            }
        }
        Probe::Script { args } => add("ScriptArgs", args.clone().into()),
        Probe::Ttl { ttl } => add("TTL", duration::format(*ttl).into()),
        Probe::Alias { node, service } => {
            add("AliasNode", node.as_ref().map_or("", |node| node.as_str()).into());
            add("AliasService", service.as_ref().map_or("", |service| service.as_str()).into());
        }
        Probe::OsService { unit } => add("OSService", unit.clone().into()),
    }
    if !matches!(definition.probe, Probe::Ttl { .. } | Probe::Alias { .. }) {
        add("Interval", duration::format(definition.interval).into());
        add("Timeout", duration::format(definition.timeout).into());
    }
    if let Some(after) = definition.deregister_critical_service_after {
        add("DeregisterCriticalServiceAfter", duration::format(after).into());
    }
    Value::Object(fields)
}
