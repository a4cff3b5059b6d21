//! Instances of services, and the sidecar proxies that are derived from those in the mesh.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use purlin_model::node::Node;
use purlin_model::service::{Instance, Mesh, ServiceEntry, ServiceKind, TaggedAddress, Upstream};
use serde_json::{Map, Value, json};

use super::node::{id, locality, tagged_addresses};

/// What the derived proxy's id and name end in.
pub(in crate::api) const SIDECAR: &str = "-sidecar-proxy";

/// One line of a service list: a registered instance, or the sidecar proxy that its being in the mesh implies.
#[derive(Debug, Clone)]
pub(in crate::api) struct Shown {
    pub(in crate::api) instance: Arc<Instance>,
    /// The host's mesh port, where this is the sidecar.
    pub(in crate::api) sidecar_port: Option<u16>,
}

impl Shown {
    pub(in crate::api) fn registered(instance: Arc<Instance>) -> Self {
        Self { instance, sidecar_port: None }
    }

    /// The sidecar of an instance that is in the mesh, on a host that runs a proxy.
    pub(in crate::api) fn sidecar(instance: &Arc<Instance>, mesh_port: Option<u16>) -> Option<Self> {
        let proxied = instance.mesh.is_some() && !instance.native && instance.kind == ServiceKind::Typical;
        let sidecar_port = Some(mesh_port.filter(|_| proxied)?);
        Some(Self { instance: instance.clone(), sidecar_port })
    }

    /// The instance, and its sidecar if it has one.
    pub(in crate::api) fn both(
        instance: &Arc<Instance>,
        mesh_port: Option<u16>,
    ) -> impl Iterator<Item = Self> {
        [Some(Self::registered(instance.clone())), Self::sidecar(instance, mesh_port)].into_iter().flatten()
    }

    fn is_sidecar(&self) -> bool {
        self.sidecar_port.is_some()
    }

    pub(in crate::api) fn id(&self) -> String {
        format!("{}{}", self.instance.id, self.suffix())
    }

    pub(in crate::api) fn name(&self) -> String {
        format!("{}{}", self.instance.name, self.suffix())
    }

    fn suffix(&self) -> &'static str {
        if self.is_sidecar() { SIDECAR } else { "" }
    }

    fn kind(&self) -> &'static str {
        match self.instance.kind {
            _ if self.is_sidecar() => "connect-proxy",
            ServiceKind::Typical => "",
            ServiceKind::ConnectProxy => "connect-proxy",
            ServiceKind::MeshGateway => "mesh-gateway",
            ServiceKind::TerminatingGateway => "terminating-gateway",
            ServiceKind::IngressGateway => "ingress-gateway",
            ServiceKind::ApiGateway => "api-gateway",
        }
    }

    /// A sidecar is reached at its host's address, whatever the application's own is.
    fn address(&self) -> &str {
        if self.is_sidecar() { "" } else { &self.instance.address }
    }

    fn port(&self) -> u16 {
        self.sidecar_port.unwrap_or(self.instance.port)
    }

    fn connect(&self) -> Value {
        if self.instance.native && !self.is_sidecar() { json!({"Native": true}) } else { json!({}) }
    }

    fn tagged(&self) -> BTreeMap<String, TaggedAddress> {
        if self.is_sidecar() { BTreeMap::new() } else { self.instance.tagged_addresses.clone() }
    }
}

fn tagged_shape(tagged: &BTreeMap<String, TaggedAddress>) -> Value {
    let shapes =
        tagged.iter().map(|(tag, at)| (tag.clone(), json!({"Address": at.address, "Port": at.port})));
    Value::Object(shapes.collect())
}

fn weights(instance: &Instance) -> Value {
    json!({"Passing": instance.weights.passing, "Warning": instance.weights.warning})
}

/// The fields that every form of a service has under the same names.
fn common(shown: &Shown) -> Map<String, Value> {
    let instance = &shown.instance;
    let mut fields = Map::new();
    if !shown.kind().is_empty() {
        fields.insert("Kind".into(), shown.kind().into());
    }
    fields.insert("ID".into(), shown.id().into());
    fields.insert("Service".into(), shown.name().into());
    fields.insert("Tags".into(), instance.tags.clone().into());
    fields.insert("Meta".into(), json!(instance.meta));
    fields.insert("Port".into(), shown.port().into());
    fields.insert("Address".into(), shown.address().into());
    if !instance.socket_path.is_empty() && !shown.is_sidecar() {
        fields.insert("SocketPath".into(), instance.socket_path.clone().into());
    }
    if !instance.ports.is_empty() && !shown.is_sidecar() {
        let ports = instance.ports.iter();
        let ports: Vec<Value> =
            ports.map(|one| json!({"name": one.name, "port": one.port, "default": one.default})).collect();
        fields.insert("Ports".into(), ports.into());
    }
    let tagged = shown.tagged();
    if !tagged.is_empty() {
        fields.insert("TaggedAddresses".into(), tagged_shape(&tagged));
    }
    fields.insert("Weights".into(), weights(instance));
    fields.insert("EnableTagOverride".into(), instance.enable_tag_override.into());
    if let Some(place) = &instance.locality {
        fields.insert("Locality".into(), locality(place));
    }
    fields
}

/// As `health/service` and `catalog/node` show it.
pub(in crate::api) fn service(shown: &Shown) -> Value {
    let mut fields = common(shown);
    fields.insert("Proxy".into(), proxy(shown));
    fields.insert("Connect".into(), shown.connect());
    fields.insert("CreateIndex".into(), shown.instance.create_index.0.into());
    fields.insert("ModifyIndex".into(), shown.instance.modify_index.0.into());
    Value::Object(fields)
}

/// As `agent/services` shows it.
pub(in crate::api) fn local(shown: &Shown, datacenter: &str) -> Value {
    let mut fields = common(shown);
    if shown.is_sidecar() {
        fields.insert("Proxy".into(), proxy(shown));
    }
    if shown.instance.native {
        fields.insert("Connect".into(), shown.connect());
    }
    fields.insert("Datacenter".into(), datacenter.into());
    Value::Object(fields)
}

/// As `catalog/service` shows it.
pub(in crate::api) fn catalog(node: &Node, shown: &Shown) -> Value {
    let instance = &shown.instance;
    let mut shape = json!({
        "ID": id(node),
        "Node": node.name.as_str(),
        "Address": node.address,
        "Datacenter": node.datacenter.as_str(),
        "TaggedAddresses": tagged_addresses(node),
        "NodeMeta": node.meta,
        "ServiceKind": shown.kind(),
        "ServiceID": shown.id(),
        "ServiceName": shown.name(),
        "ServiceTags": instance.tags,
        "ServiceAddress": shown.address(),
        "ServiceWeights": weights(instance),
        "ServiceMeta": instance.meta,
        "ServicePort": shown.port(),
        "ServiceSocketPath": if shown.is_sidecar() { "" } else { &instance.socket_path },
        "ServiceEnableTagOverride": instance.enable_tag_override,
        "ServiceProxy": proxy(shown),
        "ServiceConnect": shown.connect(),
        "ServiceLocality": instance.locality.as_ref().map(locality),
        "CreateIndex": instance.create_index.0,
        "ModifyIndex": instance.modify_index.0,
    });
    let tagged = shown.tagged();
    if let (false, Some(fields)) = (tagged.is_empty(), shape.as_object_mut()) {
        fields.insert("ServiceTaggedAddresses".into(), tagged_shape(&tagged));
    }
    shape
}

/// As `health/service` shows it: node, service, and every check that counts.
pub(in crate::api) fn entry(entry: &ServiceEntry, shown: &Shown) -> Value {
    let checks: Vec<Value> = entry.checks.iter().map(|check| super::check::check(check)).collect();
    json!({"Node": super::node::node(&entry.node), "Service": service(shown), "Checks": checks})
}

fn proxy(shown: &Shown) -> Value {
    let mut fields = Map::new();
    if let (true, Some(mesh)) = (shown.is_sidecar(), &shown.instance.mesh) {
        let instance = &shown.instance;
        fields.insert("DestinationServiceName".into(), instance.name.as_str().into());
        fields.insert("DestinationServiceID".into(), instance.id.as_str().into());
        match &mesh.local_socket_path {
            Some(path) => fields.insert("LocalServiceSocketPath".into(), path.clone().into()),
            None => {
                fields.insert("LocalServiceAddress".into(), local_address(instance, mesh).into());
                fields.insert("LocalServicePort".into(), mesh.local_port.unwrap_or(instance.port).into())
            }
        };
        let upstreams: Vec<Value> = mesh.upstreams.iter().map(upstream).collect();
        if !upstreams.is_empty() {
            fields.insert("Upstreams".into(), upstreams.into());
        }
    }
    fields.insert("Mode".into(), "".into());
    fields.insert("MeshGateway".into(), json!({}));
    fields.insert("Expose".into(), json!({}));
    Value::Object(fields)
}

/// Where the proxy finds the application, as far as the catalog tells.
fn local_address<'a>(instance: &'a Instance, mesh: &'a Mesh) -> &'a str {
    let own = instance.address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match &mesh.local_address {
        Some(address) => address,
        None if own => &instance.address,
        None => "127.0.0.1",
    }
}

fn upstream(upstream: &Upstream) -> Value {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.into(), value);
    put("DestinationType", "service".into());
    put("DestinationName", upstream.name.as_str().into());
    put("Datacenter", upstream.datacenter.as_ref().map_or("", |dc| dc.as_str()).into());
    put("LocalBindAddress", upstream.local_bind_address.clone().into());
    put("LocalBindPort", upstream.local_bind_port.into());
    if let Some(port) = &upstream.port_name {
        put("DestinationPort", port.clone().into());
    }
    if let Some(peer) = &upstream.peer {
        put("DestinationPeer", peer.clone().into());
    }
    if let Some(timeout) = upstream.connect_timeout_ms {
        put("Config", json!({"connect_timeout_ms": timeout}));
    }
    put("MeshGateway", json!({}));
    Value::Object(fields)
}
