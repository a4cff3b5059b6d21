//! `/v1/catalog/register` and `deregister`: what runs on hosts without an agent. Bodies are read as strictly as any.

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use purlin_model::check::{Check, Status};
use purlin_model::command::{Command, Deregister, DeregisterWhat, Register};
use purlin_model::definition::parse_service;
use purlin_model::definition::reader::{Problems, Table, plain, says_nothing};
use purlin_model::node::{Locality, Node, NodeRole, NodeStatus};
use purlin_model::service::Instance;
use purlin_model::{CheckId, Datacenter, InstanceId, NodeId, NodeName, Revision, ServiceName, limit};
use serde_json::{Map, Value};

use super::Api;
use super::agent_service::refuse_derived;
use super::answer::{Answer, Failure};
use super::members::write;
use super::request::Request;

/// `PUT catalog/register`
pub(super) async fn register(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let own = &api.core.config().datacenter;
    let register = parse_register(&request.json()?, own)?;
    write(api, request, Command::Register(register)).await?;
    Ok(Answer::json(true.into()))
}

/// `PUT catalog/deregister`
pub(super) async fn deregister(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let own = &api.core.config().datacenter;
    let deregister = parse_deregister(&request.json()?, own)?;
    write(api, request, Command::Deregister(deregister)).await?;
    Ok(Answer::json(true.into()))
}

fn parse_register(body: &Value, own: &Datacenter) -> Result<Register, Failure> {
    let problems = Problems::default();
    let read = Table::open(body, "registration", &problems).map(|table| {
        let place = check_datacenter(&table, own);
        let node = read_node(&table, own);
        let skip_node_update = table.flag("SkipNodeUpdate").unwrap_or(false);
        let service = table.value("Service").cloned();
        let name = table.filled("Node");
        let read = |check: &Table<'_>| read_check(check, name.as_ref());
        let mut checks: Vec<RawCheck> = table.child("Check").iter().filter_map(read).collect();
        checks.extend(table.children("Checks").iter().filter_map(read));
        table.only(&["Namespace", "Partition"], "default");
        table.ignore(&["CreateIndex", "ModifyIndex", "WriteRequest", "Token"]);
        table.unsupported(&["PeerName"]);
        table.finish();
        (place, node, skip_node_update, service, checks)
    });
    let (faults, _) = problems.into_parts();
    let Some((place, Some(node), skip_node_update, service, raw)) = read.filter(|_| faults.is_empty()) else {
        return Err(Failure::from(faults));
    };
    place?;
    let instance = service.map(|body| parse_instance(&body)).transpose()?;
    let checks = raw.into_iter().map(|check| check.of(&node.name, instance.as_ref())).collect();
    Ok(Register { node, skip_node_update, instance, checks, replace_checks: false })
}

/// A body may name this datacenter and no other.
fn check_datacenter(table: &Table<'_>, own: &Datacenter) -> Result<(), Failure> {
    match table.filled("Datacenter") {
        Some(dc) if dc != own.as_str() => {
            Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "No path to datacenter"))
        }
        _ => Ok(()),
    }
}

fn read_node(table: &Table<'_>, own: &Datacenter) -> Option<Node> {
    let name = table.filled("Node");
    let address = table.filled("Address");
    let id = table.filled("ID");
    let tagged_addresses = table.text_map("TaggedAddresses");
    refuse_large(
        table,
        "TaggedAddresses",
        &tagged_addresses,
        [limit::TAGGED_ADDRESSES, limit::WORD_BYTES, limit::ADDRESS_BYTES],
    );
    let meta = table.text_map("NodeMeta");
    refuse_large(
        table,
        "NodeMeta",
        &meta,
        [limit::META_PAIRS, limit::META_KEY_BYTES, limit::META_VALUE_BYTES],
    );
    let locality = table.child("Locality").map(|place| read_locality(&place));
    if name.is_none() || address.is_none() {
        table.refuse("", "Must provide Node and Address");
    }
    let (name, address) = (name?, address?);
    let name = NodeName::new(name).map_err(|error| table.refuse("Node", error.to_string())).ok()?;
    let id = match id.map(|text| text.parse::<uuid::Uuid>()) {
        None => None,
        Some(Ok(id)) => Some(NodeId(id)),
        Some(Err(_)) => {
            table.refuse("ID", "must be a UUID");
            return None;
        }
    };
    if address.len() > limit::ADDRESS_BYTES
        || address.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/')
    {
        table.refuse("Address", "must be an IP address or a host name");
        return None;
    }
    Some(Node {
        id,
        name,
        datacenter: own.clone(),
        address,
        tagged_addresses,
        meta,
        locality,
        mesh_port: None,
        role: NodeRole::External,
        status: NodeStatus::Alive,
        version: String::new(),
        create_index: Revision(0),
        modify_index: Revision(0),
    })
}

/// The limits: of pairs, and of the bytes of a key and of a value.
fn refuse_large(table: &Table<'_>, key: &str, map: &BTreeMap<String, String>, limits: [usize; 3]) {
    let [pairs, of_key, of_value] = limits;
    if map.len() > pairs {
        table.refuse(key, format!("{} pairs are too many; the limit is {pairs}", map.len()));
    }
    for (name, value) in map {
        if name.is_empty() || name.len() > of_key || value.len() > of_value {
            let start: String = name.chars().take(40).collect();
            table.refuse(
                key,
                format!("{start:?} is empty or too long; a key may have {of_key} bytes, a value {of_value}"),
            );
        }
    }
}

/// A node alone, as a transaction has it.
pub(super) fn parse_node(body: &Value, own: &Datacenter) -> Result<Node, Failure> {
    let problems = Problems::default();
    let read = Table::open(body, "Node", &problems).and_then(|table| {
        let place = check_datacenter(&table, own);
        let node = read_node(&table, own);
        table.only(&["Namespace", "Partition"], "default");
        table.finish();
        node.map(|node| place.map(|()| node))
    });
    let (faults, _) = problems.into_parts();
    read.filter(|_| faults.is_empty()).unwrap_or_else(|| Err(Failure::from(faults)))
}

/// A check alone, as a transaction has it.
pub(super) fn parse_check(body: &Value, node: &NodeName) -> Result<Check, Failure> {
    let problems = Problems::default();
    let named = node.to_string();
    let read = Table::open(body, "Check", &problems).and_then(|table| read_check(&table, Some(&named)));
    let (faults, _) = problems.into_parts();
    let check = read.filter(|_| faults.is_empty()).ok_or_else(|| Failure::from(faults))?;
    Ok(check.of(node, None))
}

fn read_locality(table: &Table<'_>) -> Locality {
    let place = Locality {
        region: table.short("Region", limit::WORD_BYTES).unwrap_or_default(),
        zone: table.short("Zone", limit::WORD_BYTES).unwrap_or_default(),
    };
    table.finish();
    place
}

/// The catalog calls a service's name `Service`; below that, it is a definition like any other.
pub(super) fn parse_instance(body: &Value) -> Result<Instance, Failure> {
    refuse_derived(body)?;
    let mut fields = Map::new();
    for (name, value) in body.as_object().into_iter().flatten() {
        let renamed = match plain(name).as_str() {
            "service" => "Name".to_owned(),
            // Shown by the catalog, so that what was read can be written back.
            "datacenter" | "peername" | "contenthash" => continue,
            // Shown of every service, too; in a definition an empty block would put it into the mesh.
            "connect" if says_nothing(value) => continue,
            _ => name.clone(),
        };
        fields.insert(renamed, value.clone());
    }
    let definition = parse_service(&Value::Object(fields))?;
    if !definition.checks.is_empty() {
        return Err(Failure::invalid(
            "Service: checks belong beside the service, in \"Check\" or \"Checks\": nobody probes a host without an agent",
        ));
    }
    Ok(definition.instance)
}

/// A check as the body has it, before it is known whose it is.
struct RawCheck {
    id: CheckId,
    name: String,
    status: Status,
    notes: String,
    output: String,
    kind: String,
    service_id: Option<InstanceId>,
    service_name: Option<ServiceName>,
    service_tags: Vec<String>,
    interval: Duration,
    timeout: Duration,
}

impl RawCheck {
    /// A check without a service of its own belongs to the instance of the same registration, if that is the one it
    /// names.
    fn of(self, node: &NodeName, instance: Option<&Instance>) -> Check {
        let owner = instance.filter(|instance| self.service_id.as_ref() == Some(&instance.id));
        Check {
            node: node.clone(),
            id: self.id,
            name: self.name,
            status: self.status,
            notes: self.notes,
            output: self.output,
            service_name: owner.map(|owner| owner.name.clone()).or(self.service_name),
            service_tags: owner.map_or(self.service_tags, |owner| owner.tags.clone()),
            service_id: self.service_id,
            kind: self.kind,
            interval: self.interval,
            timeout: self.timeout,
            create_index: Revision(0),
            modify_index: Revision(0),
        }
    }
}

fn read_check(table: &Table<'_>, node: Option<&String>) -> Option<RawCheck> {
    let name = table.short("Name", limit::CHECK_NAME_BYTES).unwrap_or_default();
    let id = table.filled("CheckID").unwrap_or_else(|| name.clone());
    let status = match table.filled("Status") {
        None => Some(Status::Critical),
        Some(text) => {
            let status = Status::parse(&text);
            if status.is_none() {
                table.refuse("Status", "must be \"passing\", \"warning\" or \"critical\"");
            }
            status
        }
    };
    let service_id = named(table, "ServiceID", |text| InstanceId::new(text));
    let service_name = named(table, "ServiceName", |text| ServiceName::new(text));
    // Who probes, and how, is the business of whoever registers this; the catalog keeps the verdict.
    if table.value("Definition").is_some_and(|value| !value.is_object()) {
        table.refuse("Definition", "must be a block of keys");
    }
    if table.filled("Node").is_some_and(|named| Some(&named) != node) {
        table.refuse("Node", "is not the node of this registration, to which its checks belong");
    }
    table.only(&["Namespace", "Partition"], "default");
    table.unsupported(&["PeerName"]);
    table.ignore(&["ExposedPort", "CreateIndex", "ModifyIndex"]);
    let check = RawCheck {
        id: CheckId::new(&id).map_err(|error| table.refuse("CheckID", error.to_string())).ok()?,
        name,
        status: status?,
        notes: table.short("Notes", limit::CHECK_OUTPUT_BYTES).unwrap_or_default(),
        output: cut(table.text("Output").unwrap_or_default()),
        kind: table.text("Type").unwrap_or_default(),
        service_id,
        service_name,
        service_tags: table.texts("ServiceTags"),
        interval: table.span("Interval").unwrap_or_default(),
        timeout: table.span("Timeout").unwrap_or_default(),
    };
    table.finish();
    Some(check)
}

fn named<T, E: std::fmt::Display>(
    table: &Table<'_>,
    key: &'static str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Option<T> {
    let text = table.filled(key)?;
    parse(&text).map_err(|error| table.refuse(key, error.to_string())).ok()
}

fn cut(mut output: String) -> String {
    let mut end = limit::CHECK_OUTPUT_BYTES.min(output.len());
    while !output.is_char_boundary(end) {
        end -= 1;
    }
    output.truncate(end);
    output
}

fn parse_deregister(body: &Value, own: &Datacenter) -> Result<Deregister, Failure> {
    let problems = Problems::default();
    let read = Table::open(body, "deregistration", &problems).map(|table| {
        let place = check_datacenter(&table, own);
        let node = named(&table, "Node", |text| NodeName::new(text));
        let service = named(&table, "ServiceID", |text| InstanceId::new(text));
        let check = named(&table, "CheckID", |text| CheckId::new(text));
        table.ignore(&["Address", "WriteRequest", "Token"]);
        table.only(&["Namespace", "Partition"], "default");
        table.unsupported(&["PeerName"]);
        table.finish();
        if node.is_none() {
            table.refuse("", "Must provide Node");
        }
        (place, node, service, check)
    });
    let (faults, _) = problems.into_parts();
    let Some((place, Some(node), service, check)) = read.filter(|_| faults.is_empty()) else {
        return Err(Failure::from(faults));
    };
    place?;
    let what = match (service, check) {
        (Some(id), _) => {
            refuse_derived(&serde_json::json!({"ID": id.as_str()}))?;
            DeregisterWhat::Instance(id)
        }
        (None, Some(id)) => DeregisterWhat::Check(id),
        (None, None) => DeregisterWhat::Node,
    };
    Ok(Deregister { node, what })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn register(body: Value) -> Result<Register, Failure> {
        parse_register(&body, &Datacenter::default())
    }

    #[test]
    fn an_external_service_is_read_with_its_checks() {
        let read = register(json!({
            "Datacenter": "dc1", "Node": "db-host", "Address": "db.example.com", "nodemeta": {"external-node": "true"},
            "Service": {"ID": "db1", "Service": "db", "Tags": ["primary"], "Port": 5432},
            "Check": {"CheckID": "service:db1", "Name": "up", "Status": "passing", "ServiceID": "db1",
                      "Definition": {"TCP": "db:5432", "Interval": "5s"}},
            "Checks": [{"Name": "host", "Status": "warning", "Output": "slow"}],
        }))
        .unwrap();
        assert_eq!(read.node.role, NodeRole::External);
        assert_eq!(read.node.meta.get("external-node").map(String::as_str), Some("true"));
        let instance = read.instance.unwrap();
        assert_eq!((instance.id.as_str(), instance.name.as_str(), instance.port), ("db1", "db", 5432));
        let [service, host] = read.checks.as_slice() else { panic!("{:?}", read.checks) };
        assert_eq!(service.service_name.as_ref().map(ServiceName::as_str), Some("db"));
        assert_eq!(service.service_tags, ["primary"]);
        assert_eq!(
            (host.id.as_str(), host.status, host.service_id.as_ref()),
            ("host", Status::Warning, None)
        );
    }

    #[test]
    fn what_clients_with_fixed_structures_send_and_what_was_read_can_be_written() {
        let service = json!({
            "ID": "db1", "Service": "db", "Tags": null, "Meta": null, "Port": 5432, "Address": "",
            "Weights": {"Passing": 0, "Warning": 0}, "EnableTagOverride": false,
            "Proxy": {"Mode": "", "MeshGateway": {}, "Expose": {}}, "Connect": {},
        });
        let body = json!({
            "ID": "", "Node": "db-host", "Address": "10.0.0.9", "TaggedAddresses": null, "NodeMeta": null,
            "Datacenter": "", "Service": service, "Check": null, "Checks": null, "SkipNodeUpdate": false,
            "Locality": null,
        });
        let instance = register(body).unwrap().instance.unwrap();
        assert!(instance.mesh.is_none() && !instance.native);
        assert_eq!((instance.weights.passing, instance.weights.warning), (1, 1));
    }

    #[test]
    fn bad_registrations_say_what_is_wrong() {
        for (body, needle) in [
            (json!({"Node": "a"}), "Must provide Node and Address"),
            (json!({"Node": "a", "Address": "1.2.3.4", "Servce": {}}), "did you mean"),
            (json!({"Node": "a", "Address": "1.2.3.4", "ID": "x"}), "UUID"),
            (json!({"Node": "a", "Address": "1.2.3.4", "Check": {"Name": "c", "Status": "ok"}}), "passing"),
            (
                json!({"Node": "a", "Address": "1.2.3.4", "Service": {"Service": "x-sidecar-proxy"}}),
                "derived",
            ),
            (json!({"Node": "a b", "Address": "1.2.3.4"}), "node name"),
            (json!({"Node": "a", "Address": "1.2.3.4", "Check": {"Name": "c", "Node": "b"}}), "Check.Node"),
            (
                json!({"Node": "a", "Address": "1.2.3.4", "Check": {"Name": "c", "Definition": 1}}),
                "Definition",
            ),
            (json!({"Node": "a", "Address": "1.2.3.4", "Check": {"Name": "c".repeat(513)}}), "Check.Name"),
            (json!({"Node": "a", "Address": "1.2.3.4", "NodeMeta": {"k": "v".repeat(513)}}), "NodeMeta"),
            (json!({"Node": "a", "Address": "1.2.3.4", "TaggedAddresses": {"": "x"}}), "TaggedAddresses"),
            (
                json!({"Node": "a", "Address": "1.2.3.4", "Locality": {"Region": "r".repeat(129)}}),
                "Locality.Region",
            ),
            (json!("text"), "must be"),
        ] {
            let failure = register(body.clone()).unwrap_err();
            assert_eq!(failure.status, StatusCode::BAD_REQUEST, "{body}");
            assert!(failure.text.contains(needle), "{body}: {}", failure.text);
        }
        let other = register(json!({"Datacenter": "dc2", "Node": "a", "Address": "1.2.3.4"})).unwrap_err();
        assert_eq!(other, Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "No path to datacenter"));
    }

    #[test]
    fn deregistration_goes_from_the_smallest_thing_named() {
        let what = |body: Value| parse_deregister(&body, &Datacenter::default()).map(|read| read.what);
        assert_eq!(what(json!({"Node": "a"})), Ok(DeregisterWhat::Node));
        let id = InstanceId::new("web").unwrap();
        assert_eq!(what(json!({"Node": "a", "ServiceID": "web"})), Ok(DeregisterWhat::Instance(id)));
        let id = CheckId::new("c").unwrap();
        assert_eq!(what(json!({"node": "a", "checkid": "c"})), Ok(DeregisterWhat::Check(id)));
        assert!(what(json!({"ServiceID": "web"})).is_err());
        assert!(what(json!({"Node": "a", "ServiceID": "web-sidecar-proxy"})).is_err());
    }
}
