//! Server names: what a client writes into SNI to say which instance it wants. They choose, they prove nothing.

use purlin_model::identity::TrustDomain;
use purlin_model::{Datacenter, InstanceId, ServiceKey};

/// Of one instance and port: `<16 hex of SHA-256(id)>.<port>.<service>.<ns>.<dc>.internal.<trust domain>`.
pub fn instance(
    id: &InstanceId,
    port: Option<&str>,
    key: &ServiceKey,
    dc: &Datacenter,
    domain: &TrustDomain,
) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, id.as_str().as_bytes());
    let mut name = String::with_capacity(160);
    for byte in digest.as_ref().iter().take(8) {
        name.push_str(&format!("{byte:02x}"));
    }
    name.push('.');
    name.push_str(port.unwrap_or("default"));
    name.push('.');
    name.push_str(&service(None, key, dc, domain));
    name
}

/// Of any healthy instance of a service on that host, as Consul's; a named port stands before it.
pub fn service(port: Option<&str>, key: &ServiceKey, dc: &Datacenter, domain: &TrustDomain) -> String {
    let rest = format!("{}.{}.{dc}.internal.{domain}", key.name, key.namespace);
    match port {
        Some(port) => format!("{port}.{rest}"),
        None => rest,
    }
}
