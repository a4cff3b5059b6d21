//! What `?filter` may select in each kind of list: an example of an item, with every field.
//!
//! `"*"` stands for any key of a map, and a list holds one element. A test holds these against the shapes.

use serde_json::{Value, json};

fn text_map() -> Value {
    json!({"*": ""})
}

fn locality() -> Value {
    json!({"Region": "", "Zone": ""})
}

fn weights() -> Value {
    json!({"Passing": 0, "Warning": 0})
}

fn tagged_service_addresses() -> Value {
    json!({"*": {"Address": "", "Port": 0}})
}

fn proxy() -> Value {
    json!({
        "DestinationServiceName": "",
        "DestinationServiceID": "",
        "LocalServiceAddress": "",
        "LocalServicePort": 0,
        "LocalServiceSocketPath": "",
        "Mode": "",
        "Config": text_map(),
        "MeshGateway": {"Mode": ""},
        "Expose": {"Checks": false, "Paths": [{"ListenerPort": 0, "Path": "", "LocalPathPort": 0, "Protocol": ""}]},
        "Upstreams": [{
            "DestinationType": "",
            "DestinationName": "",
            "DestinationNamespace": "",
            "DestinationPeer": "",
            "DestinationPort": "",
            "Datacenter": "",
            "LocalBindAddress": "",
            "LocalBindPort": 0,
            "LocalBindSocketPath": "",
            "MeshGateway": {"Mode": ""},
            "Config": text_map(),
        }],
    })
}

pub(in crate::api) fn node() -> Value {
    json!({
        "ID": "",
        "Node": "",
        "Address": "",
        "Datacenter": "",
        "Partition": "",
        "PeerName": "",
        "TaggedAddresses": text_map(),
        "Meta": text_map(),
        "Locality": locality(),
        "CreateIndex": 0,
        "ModifyIndex": 0,
    })
}

/// Of `agent/services` and `catalog/node`, and below `Service` of `health/service`.
pub(in crate::api) fn service() -> Value {
    json!({
        "Kind": "",
        "ID": "",
        "Service": "",
        "Tags": [""],
        "Meta": text_map(),
        "Port": 0,
        "Ports": [{"name": "", "port": 0, "default": false}],
        "Address": "",
        "SocketPath": "",
        "TaggedAddresses": tagged_service_addresses(),
        "Weights": weights(),
        "EnableTagOverride": false,
        "Locality": locality(),
        "Proxy": proxy(),
        "Connect": {"Native": false},
        "PeerName": "",
        "Datacenter": "",
        "CreateIndex": 0,
        "ModifyIndex": 0,
    })
}

pub(in crate::api) fn check() -> Value {
    json!({
        "Node": "",
        "CheckID": "",
        "Name": "",
        "Status": "",
        "Notes": "",
        "Output": "",
        "ServiceID": "",
        "ServiceName": "",
        "ServiceTags": [""],
        "Type": "",
        "Interval": "",
        "Timeout": "",
        "ExposedPort": 0,
        "PeerName": "",
        "Definition": {
            "HTTP": "",
            "Method": "",
            "DisableRedirects": false,
            "TCP": "",
            "TCPUseTLS": false,
            "UDP": "",
            "GRPC": "",
            "GRPCUseTLS": false,
            "H2PING": "",
            "H2PingUseTLS": false,
            "ScriptArgs": [""],
            "TTL": "",
            "AliasNode": "",
            "AliasService": "",
            "OSService": "",
            "TLSServerName": "",
            "TLSSkipVerify": false,
            "Interval": "",
            "Timeout": "",
            "DeregisterCriticalServiceAfter": "",
        },
        "CreateIndex": 0,
        "ModifyIndex": 0,
    })
}

pub(in crate::api) fn entry() -> Value {
    json!({"Node": node(), "Service": service(), "Checks": [check()]})
}

pub(in crate::api) fn catalog_service() -> Value {
    json!({
        "ID": "",
        "Node": "",
        "Address": "",
        "Datacenter": "",
        "TaggedAddresses": text_map(),
        "NodeMeta": text_map(),
        "ServiceKind": "",
        "ServiceID": "",
        "ServiceName": "",
        "ServiceTags": [""],
        "ServiceAddress": "",
        "ServiceTaggedAddresses": tagged_service_addresses(),
        "ServiceWeights": weights(),
        "ServiceMeta": text_map(),
        "ServicePort": 0,
        "ServiceSocketPath": "",
        "ServiceEnableTagOverride": false,
        "ServiceProxy": proxy(),
        "ServiceConnect": {"Native": false},
        "ServiceLocality": locality(),
        "PeerName": "",
        "CreateIndex": 0,
        "ModifyIndex": 0,
    })
}

/// `catalog/services` is a map of names to tags; each pair is filtered as an item.
pub(in crate::api) fn service_summary() -> Value {
    json!({"ServiceName": "", "ServiceTags": [""]})
}

pub(in crate::api) fn member() -> Value {
    json!({
        "Name": "",
        "Addr": "",
        "Port": 0,
        "Tags": text_map(),
        "Status": 0,
        "ProtocolMin": 0,
        "ProtocolMax": 0,
        "ProtocolCur": 0,
        "DelegateMin": 0,
        "DelegateMax": 0,
        "DelegateCur": 0,
    })
}

pub(in crate::api) fn intention() -> Value {
    json!({
        "ID": "",
        "Description": "",
        "SourceNS": "",
        "SourceName": "",
        "SourcePeer": "",
        "SourceType": "",
        "DestinationNS": "",
        "DestinationName": "",
        "Action": "",
        "Permissions": [{
            "Action": "",
            "HTTP": {
                "PathExact": "",
                "PathPrefix": "",
                "PathRegex": "",
                "Methods": [""],
                "Header": [{
                    "Name": "",
                    "Present": false,
                    "Exact": "",
                    "Prefix": "",
                    "Suffix": "",
                    "Contains": "",
                    "Regex": "",
                    "Invert": false,
                    "IgnoreCase": false,
                }],
            },
        }],
        "Meta": text_map(),
        "Precedence": 0,
        "CreatedAt": "",
        "UpdatedAt": "",
        "CreateIndex": 0,
        "ModifyIndex": 0,
    })
}

/// Of `GET /v1/config/<kind>`: what every kind has.
pub(in crate::api) fn config_entry() -> Value {
    json!({
        "Kind": "",
        "Name": "",
        "Protocol": "",
        "Config": text_map(),
        "Meta": text_map(),
        "Sources": [{
            "Name": "", "Action": "", "Type": "", "Description": "", "Precedence": 0,
        }],
        "CreateIndex": 0,
        "ModifyIndex": 0,
    })
}

pub(in crate::api) fn session() -> Value {
    json!({
        "ID": "", "Name": "", "Node": "", "LockDelay": 0, "Behavior": "", "TTL": "", "NodeChecks": [""],
        "ServiceChecks": [{"ID": ""}], "CreateIndex": 0, "ModifyIndex": 0,
    })
}

pub(in crate::api) fn join_token() -> Value {
    json!({"ID": "", "Role": "", "Created": "", "Expires": "", "Expired": false, "Uses": 0, "UsesLeft": 0})
}

pub(in crate::api) fn event() -> Value {
    json!({
        "ID": "",
        "Name": "",
        "Payload": "",
        "NodeFilter": "",
        "ServiceFilter": "",
        "TagFilter": "",
        "Version": 0,
        "LTime": 0,
    })
}

pub(in crate::api) fn query() -> Value {
    json!({
        "ID": "",
        "Name": "",
        "Session": "",
        "Token": "",
        "Template": {"Type": "", "Regexp": "", "RemoveEmptyTags": false},
        "Service": {
            "Service": "",
            "SamenessGroup": "",
            "Failover": {
                "NearestN": 0,
                "Datacenters": [""],
                "Targets": [{"Peer": "", "Datacenter": ""}],
            },
            "OnlyPassing": false,
            "IgnoreCheckIDs": [""],
            "Near": "",
            "Tags": [""],
            "NodeMeta": text_map(),
            "ServiceMeta": text_map(),
            "Connect": false,
            "Peer": "",
        },
        "DNS": {"TTL": ""},
        "CreateIndex": 0,
        "ModifyIndex": 0,
    })
}
