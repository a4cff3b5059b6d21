//! Roots of the mesh's certificate authority.

use purlin_model::topic::{MeshInfo, RootCertificate};
use serde_json::{Value, json};

use super::instant;

/// As `connect/ca/roots` shows them.
pub(in crate::api) fn roots(mesh: &MeshInfo) -> Value {
    let active = mesh.roots.iter().find(|root| root.active);
    json!({
        "ActiveRootID": active.map_or("", |root| root.id.as_str()),
        "TrustDomain": mesh.trust_domain.0,
        "Roots": mesh.roots.iter().map(|one| root(one, &mesh.trust_domain.0)).collect::<Vec<_>>(),
    })
}

fn root(root: &RootCertificate, trust_domain: &str) -> Value {
    json!({
        "ID": root.id,
        "Name": root.name,
        "SerialNumber": low_bits(&root.serial),
        "SigningKeyID": root.id,
        "ExternalTrustDomain": trust_domain.split('.').next().unwrap_or_default(),
        "NotBefore": instant(root.not_before),
        "NotAfter": instant(root.not_after),
        "RootCert": root.pem,
        "IntermediateCerts": Value::Null,
        "Active": root.active,
        "PrivateKeyType": "ec",
        "PrivateKeyBits": 256,
        "CreateIndex": root.create_index.0,
        "ModifyIndex": root.modify_index.0,
    })
}

/// Every root's certificate, the active one first, as one PEM file.
pub(in crate::api) fn pem(mesh: &MeshInfo) -> String {
    let mut roots: Vec<&RootCertificate> = mesh.roots.iter().collect();
    roots.sort_by_key(|root| !root.active);
    roots.iter().map(|root| format!("{}\n", root.pem.trim_end())).collect()
}

/// A serial number in hex as the 64-bit number that Consul shows: its low bits.
fn low_bits(serial: &str) -> u64 {
    serial.chars().filter_map(|c| c.to_digit(16)).fold(0u64, |number, digit| (number << 4) | u64::from(digit))
}
