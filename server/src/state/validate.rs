//! Limits and shapes of what is registered: each refusal says what is too large and how large it may be.

use std::collections::{BTreeMap, BTreeSet};

use purlin_model::check::Check;
use purlin_model::limit::{self, ADDRESS_BYTES, TAGGED_ADDRESSES, WORD_BYTES};
use purlin_model::node::{Locality, Node};
use purlin_model::service::{Instance, Mesh, ServiceKind};
use purlin_model::{Fault, FaultCode};

/// A path of the file system.
const PATH_BYTES: usize = 4096;

pub(super) fn too_many(what: &str, have: usize, most: usize) -> Fault {
    Fault::new(FaultCode::TooLarge, format!("too many {what}: {have}, at most {most} are allowed"))
}

pub(super) fn text(what: &str, text: &str, most: usize) -> Result<(), Fault> {
    if text.len() <= most {
        return Ok(());
    }
    let text = format!("{what} is too long: {} bytes, at most {most} are allowed", text.len());
    Err(Fault::new(FaultCode::TooLarge, text))
}

fn count(what: &str, have: usize, most: usize) -> Result<(), Fault> {
    if have > most { Err(too_many(what, have, most)) } else { Ok(()) }
}

/// Shortens `text` to at most `most` bytes, never within a character.
pub(super) fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        let mut end = most;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
}

pub(super) fn meta(of: &str, meta: &BTreeMap<String, String>) -> Result<(), Fault> {
    count(&format!("metadata pairs of {of}"), meta.len(), limit::META_PAIRS)?;
    for (key, value) in meta {
        if key.is_empty() {
            return Err(Fault::invalid(format!("metadata of {of} has an empty key")));
        }
        text(&format!("a metadata key of {of}"), key, limit::META_KEY_BYTES)?;
        text(&format!("metadata {key} of {of}"), value, limit::META_VALUE_BYTES)?;
    }
    Ok(())
}

fn locality(of: &str, locality: Option<&Locality>) -> Result<(), Fault> {
    let Some(locality) = locality else { return Ok(()) };
    text(&format!("the region of {of}"), &locality.region, WORD_BYTES)?;
    text(&format!("the zone of {of}"), &locality.zone, WORD_BYTES)
}

pub(super) fn node(node: &Node) -> Result<(), Fault> {
    let of = format!("node {}", node.name);
    if node.address.is_empty() {
        return Err(Fault::invalid(format!("{of} has no address")));
    }
    text(&format!("the address of {of}"), &node.address, ADDRESS_BYTES)?;
    text(&format!("the version of {of}"), &node.version, WORD_BYTES)?;
    count(&format!("tagged addresses of {of}"), node.tagged_addresses.len(), TAGGED_ADDRESSES)?;
    for (tag, address) in &node.tagged_addresses {
        text(&format!("an address tag of {of}"), tag, WORD_BYTES)?;
        text(&format!("address {tag} of {of}"), address, ADDRESS_BYTES)?;
    }
    locality(&of, node.locality.as_ref())?;
    if node.mesh_port == Some(0) {
        return Err(Fault::invalid(format!("the mesh port of {of} is 0")));
    }
    meta(&of, &node.meta)
}

pub(super) fn instance(instance: &Instance) -> Result<(), Fault> {
    let of = format!("service {}", instance.id);
    kind(&of, instance.kind)?;
    count(&format!("tags of {of}"), instance.tags.len(), limit::TAGS)?;
    for tag in &instance.tags {
        text(&format!("a tag of {of}"), tag, limit::TAG_BYTES)?;
    }
    meta(&of, &instance.meta)?;
    text(&format!("the address of {of}"), &instance.address, ADDRESS_BYTES)?;
    text(&format!("the socket path of {of}"), &instance.socket_path, PATH_BYTES)?;
    count(&format!("tagged addresses of {of}"), instance.tagged_addresses.len(), TAGGED_ADDRESSES)?;
    for (tag, tagged) in &instance.tagged_addresses {
        text(&format!("an address tag of {of}"), tag, WORD_BYTES)?;
        text(&format!("address {tag} of {of}"), &tagged.address, ADDRESS_BYTES)?;
    }
    ports(&of, instance)?;
    locality(&of, instance.locality.as_ref())?;
    let Some(mesh) = &instance.mesh else { return Ok(()) };
    if !instance.name.is_dns_label() {
        return Err(Fault::invalid(format!(
            "service name {} cannot be in the mesh: its identity needs a DNS label (letters, digits and '-', at most \
             {} characters)",
            instance.name,
            limit::LABEL_BYTES
        )));
    }
    upstreams(&of, mesh)
}

/// A sidecar is derived from the service that is in the mesh; gateways do not exist here.
fn kind(of: &str, kind: ServiceKind) -> Result<(), Fault> {
    match kind {
        ServiceKind::Typical => Ok(()),
        ServiceKind::ConnectProxy => Err(Fault::invalid(format!(
            "{of} has kind connect-proxy: a sidecar is not registered, it is derived from a service with \
             connect {{ sidecar_service {{}} }}"
        ))),
        ServiceKind::MeshGateway
        | ServiceKind::TerminatingGateway
        | ServiceKind::IngressGateway
        | ServiceKind::ApiGateway => {
            Err(Fault::invalid(format!("{of} is a gateway, which this version does not have")))
        }
    }
}

fn ports(of: &str, instance: &Instance) -> Result<(), Fault> {
    count(&format!("ports of {of}"), instance.ports.len(), limit::NAMED_PORTS)?;
    let mut names = BTreeSet::new();
    for port in &instance.ports {
        text(&format!("a port name of {of}"), &port.name, limit::LABEL_BYTES)?;
        if port.name.is_empty() || port.port == 0 {
            return Err(Fault::invalid(format!("a named port of {of} lacks its name or its number")));
        }
        if !names.insert(&port.name) {
            return Err(Fault::invalid(format!("port name {} of {of} is there twice", port.name)));
        }
    }
    if instance.ports.iter().filter(|port| port.default).count() > 1 {
        return Err(Fault::invalid(format!("more than one port of {of} is the default")));
    }
    Ok(())
}

fn upstreams(of: &str, mesh: &Mesh) -> Result<(), Fault> {
    count(&format!("upstreams of {of}"), mesh.upstreams.len(), limit::UPSTREAMS)?;
    for upstream in &mesh.upstreams {
        let name = &upstream.name;
        text(
            &format!("the bind address of upstream {name} of {of}"),
            &upstream.local_bind_address,
            ADDRESS_BYTES,
        )?;
        for word in [&upstream.peer, &upstream.port_name].into_iter().flatten() {
            text(&format!("a field of upstream {name} of {of}"), word, WORD_BYTES)?;
        }
    }
    for path in [&mesh.local_address, &mesh.local_socket_path].into_iter().flatten() {
        text(&format!("the local address of {of}"), path, PATH_BYTES)?;
    }
    Ok(())
}

pub(super) fn check(check: &Check) -> Result<(), Fault> {
    let of = format!("check {}", check.id);
    text(&format!("the name of {of}"), &check.name, limit::CHECK_NAME_BYTES)?;
    text(&format!("the notes of {of}"), &check.notes, limit::CHECK_OUTPUT_BYTES)?;
    text(&format!("the kind of {of}"), &check.kind, WORD_BYTES)
}

/// The bytes of a value as it is stored and sent, counted without keeping them.
pub(super) fn encoded_bytes<T: serde::Serialize>(value: &T) -> Result<usize, Fault> {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    rmp_serde::encode::write_named(&mut count, value).map_err(|why| Fault::internal(why.to_string()))?;
    Ok(count.0)
}
