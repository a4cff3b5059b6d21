//! What a name of the mesh's domains asks for. Pure.
//!
//! Read from the right, as Consul does: the domain, then perhaps a datacenter, then a kind, then what is asked for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::Name;

/// Names of a zone that never change.
#[derive(Debug, Clone)]
pub(super) struct Zone {
    /// Lower case, left to right.
    labels: Vec<String>,
    pub(super) apex: Name,
    pub(super) primary: Name,
    pub(super) mailbox: Name,
}

/// A question within a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// The domain itself.
    Apex,
    /// A name that only has names below it.
    Empty,
    /// A name that means nothing here.
    Nothing,
    Service {
        name: String,
        tag: Option<String>,
    },
    /// Endpoints through which a service can be reached in the mesh.
    Connect(String),
    /// `<service>.<domain>`.
    Plain(String),
    Virtual(String),
    /// A prepared query.
    Query(String),
    Node(String),
    Address(IpAddr),
}

impl Zone {
    /// Absent if `domain` is no name.
    pub(super) fn new(domain: &str) -> Option<Self> {
        let domain = domain.trim_end_matches('.').to_ascii_lowercase();
        let labels: Vec<String> = domain.split('.').map(str::to_owned).collect();
        if labels.iter().any(String::is_empty) {
            return None;
        }
        let apex = Name::from_labels(labels.iter().map(|label| label.as_bytes())).ok()?;
        let primary = apex.prepend_label("ns").ok()?;
        let mailbox = apex.prepend_label("hostmaster").ok()?;
        Some(Self { labels, apex, primary, mailbox })
    }

    /// A name of this zone. The text may hold several labels; absent if one is too long or empty.
    pub(super) fn name(&self, text: &str) -> Option<Name> {
        let labels = text.split('.').chain(self.labels.iter().map(String::as_str));
        Name::from_labels(labels.map(str::as_bytes)).ok()
    }

    /// The labels of `name` that stand before this zone, lower case, if it lies within.
    fn strip(&self, name: &Name) -> Option<Vec<Vec<u8>>> {
        let mut labels: Vec<Vec<u8>> = name.iter().map(<[u8]>::to_ascii_lowercase).collect();
        let before = labels.len().checked_sub(self.labels.len())?;
        let is_ours = labels[before..].iter().zip(&self.labels).all(|(label, own)| label == own.as_bytes());
        labels.truncate(before);
        is_ours.then_some(labels)
    }
}

/// What `name` asks, if it lies in one of the zones. `datacenter` is our own.
pub(super) fn parse<'a>(name: &Name, zones: &'a [Zone], datacenter: &str) -> Option<(&'a Zone, Asked)> {
    let (zone, labels) = zones.iter().find_map(|zone| zone.strip(name).map(|labels| (zone, labels)))?;
    let labels: Option<Vec<String>> = labels.into_iter().map(|label| String::from_utf8(label).ok()).collect();
    let asked = labels.map_or(Asked::Nothing, |labels| understand(&labels, datacenter));
    Some((zone, asked))
}

fn understand(labels: &[String], datacenter: &str) -> Asked {
    if labels.is_empty() {
        return Asked::Apex;
    }
    // The rightmost kind counts: a service may be called "node".
    let kind = labels.iter().rposition(|label| is_kind(label) || label.starts_with('_'));
    let Some(at) = kind else {
        return match labels {
            [service] => Asked::Plain(service.clone()),
            _ => Asked::Nothing,
        };
    };
    // In `_web._tcp.mesh.internal` the kind is left out.
    let (parts, kind, suffix) = match labels[at].starts_with('_') {
        true => (&labels[..=at], "service", &labels[at + 1..]),
        false => (&labels[..at], labels[at].as_str(), &labels[at + 1..]),
    };
    if !is_here(suffix, datacenter) {
        return Asked::Nothing;
    }
    if parts.is_empty() {
        return Asked::Empty;
    }
    match kind {
        "service" => service(parts),
        "connect" | "virtual" => {
            let Some(name) = parts.last().filter(|_| parts.len() == 1 || kind == "virtual") else {
                return Asked::Nothing;
            };
            if kind == "connect" { Asked::Connect(name.clone()) } else { Asked::Virtual(name.clone()) }
        }
        "query" => query(parts),
        "node" => Asked::Node(parts.join(".")),
        "addr" => match parts {
            [hex] => address(hex).map_or(Asked::Nothing, Asked::Address),
            _ => Asked::Nothing,
        },
        _ => Asked::Nothing,
    }
}

/// Kinds of Consul that are not among these have no names here, and say so by not being found.
fn is_kind(label: &str) -> bool {
    matches!(label, "service" | "connect" | "virtual" | "node" | "addr" | "query" | "ingress")
}

/// Whether what follows the kind names this datacenter: nothing, `dc1`, `dc1.dc`, with `default.ns` before it or not.
fn is_here(suffix: &[String], datacenter: &str) -> bool {
    let is_own = |label: &String| label.eq_ignore_ascii_case(datacenter);
    let rest = match suffix {
        [namespace, ns, rest @ ..] if ns == "ns" => {
            if namespace != "default" {
                return false;
            }
            rest
        }
        rest => rest,
    };
    match rest {
        [] => true,
        [dc] => is_own(dc),
        [dc, kind] => kind == "dc" && is_own(dc),
        _ => false,
    }
}

/// `web`, `tag.web`, `_web._tcp` or `_web._tag`; a tag may hold dots.
fn service(parts: &[String]) -> Asked {
    if let [name, tag] = parts
        && let (Some(name), Some(tag)) = (name.strip_prefix('_'), tag.strip_prefix('_'))
    {
        let tag = (tag != "tcp").then(|| tag.to_owned());
        return Asked::Service { name: name.to_owned(), tag };
    }
    match parts.split_last() {
        Some((name, [])) => Asked::Service { name: name.clone(), tag: None },
        Some((name, tag)) => Asked::Service { name: name.clone(), tag: Some(tag.join(".")) },
        None => Asked::Empty,
    }
}

/// `geo-db`, with dots or without, or `_geo-db._tcp` as for a service; there are no tags to ask for.
fn query(parts: &[String]) -> Asked {
    match parts {
        [name, tcp] if tcp == "_tcp" && name.starts_with('_') => {
            Asked::Query(name.trim_start_matches('_').to_owned())
        }
        _ => Asked::Query(parts.join(".")),
    }
}

fn address(hex: &str) -> Option<IpAddr> {
    if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    match hex.len() {
        8 => u32::from_str_radix(hex, 16).ok().map(|bits| Ipv4Addr::from_bits(bits).into()),
        32 => u128::from_str_radix(hex, 16).ok().map(|bits| Ipv6Addr::from_bits(bits).into()),
        _ => None,
    }
}

/// The label that [`Asked::Address`] is read from.
pub(super) fn hex(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{:08x}", address.to_bits()),
        IpAddr::V6(address) => format!("{:032x}", address.to_bits()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Option<Asked> {
        let zones = [Zone::new("mesh.internal").unwrap(), Zone::new("consul.").unwrap()];
        parse(&Name::from_ascii(text).unwrap(), &zones, "dc1").map(|(_, asked)| asked)
    }

    fn service(name: &str, tag: Option<&str>) -> Option<Asked> {
        Some(Asked::Service { name: name.into(), tag: tag.map(Into::into) })
    }

    #[test]
    fn services_are_asked_for_in_many_forms() {
        for text in [
            "web.service.mesh.internal.",
            "WEB.Service.Mesh.INTERNAL.",
            "web.service.consul.",
            "web.service.dc1.consul.",
            "web.service.DC1.dc.consul.",
            "web.service.default.ns.dc1.dc.consul.",
            "_web._tcp.service.consul.",
            "_web._tcp.service.dc1.consul.",
            "_web._tcp.consul.",
            "_web._tcp.dc1.consul.",
        ] {
            assert_eq!(asked(text), service("web", None), "{text}");
        }
        assert_eq!(asked("v1.web.service.consul."), service("web", Some("v1")));
        assert_eq!(asked("a.b.web.service.consul."), service("web", Some("a.b")));
        assert_eq!(asked("_web._v1.service.consul."), service("web", Some("v1")));
        assert_eq!(asked("_web._v1.consul."), service("web", Some("v1")));
        assert_eq!(asked("node.service.consul."), service("node", None));
        assert_eq!(asked("service.service.consul."), service("service", None));
    }

    #[test]
    fn other_kinds_are_understood() {
        assert_eq!(asked("web.mesh.internal."), Some(Asked::Plain("web".into())));
        assert_eq!(asked("web.connect.consul."), Some(Asked::Connect("web".into())));
        assert_eq!(asked("web.virtual.consul."), Some(Asked::Virtual("web".into())));
        assert_eq!(asked("grpc.web.virtual.consul."), Some(Asked::Virtual("web".into())));
        assert_eq!(asked("n1.node.consul."), Some(Asked::Node("n1".into())));
        assert_eq!(asked("n1.rack.node.dc1.consul."), Some(Asked::Node("n1.rack".into())));
        assert_eq!(asked("0a000001.addr.dc1.consul."), Some(Asked::Address([10, 0, 0, 1].into())));
        assert_eq!(asked("geo-db.query.consul."), Some(Asked::Query("geo-db".into())));
        assert_eq!(asked("a.b.query.dc1.mesh.internal."), Some(Asked::Query("a.b".into())));
        assert_eq!(asked("_geo-db._tcp.query.consul."), Some(Asked::Query("geo-db".into())));
        assert_eq!(asked("geo-db.query.dc2.consul."), Some(Asked::Nothing));
        let six: IpAddr = "fd00::1".parse().unwrap();
        assert_eq!(asked(&format!("{}.addr.consul.", hex(six))), Some(Asked::Address(six)));
        assert_eq!(asked("consul."), Some(Asked::Apex));
        assert_eq!(asked("service.consul."), Some(Asked::Empty));
        assert_eq!(asked("node.dc1.mesh.internal."), Some(Asked::Empty));
    }

    #[test]
    fn what_means_nothing_is_nothing() {
        for text in [
            "web.service.dc2.consul.",
            "web.service.dc2.dc.consul.",
            "web.service.other.ns.consul.",
            "web.service.dc1.dc.x.consul.",
            "a.b.mesh.internal.",
            "v1.web.connect.consul.",
            "zz.addr.consul.",
            "0a0000.addr.consul.",
        ] {
            assert_eq!(asked(text), Some(Asked::Nothing), "{text}");
        }
        assert_eq!(address("+a000001"), None);
        assert_eq!(asked("example.com."), None);
        assert_eq!(asked("internal."), None);
        assert_eq!(asked("notconsul."), None);
    }
}
