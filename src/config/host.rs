//! What the host itself contributes: its name, its addresses, and the directory that its service manager made.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;

/// Read once at start and handed on, so that everything behind it is a function of its arguments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    pub name: Option<String>,
    /// IPv4 addresses but loopback, each once, in the kernel's order.
    pub addresses: Vec<Ipv4Addr>,
    /// The one that packets to far hosts carry, where there is a route to them.
    pub routed: Option<IpAddr>,
    /// systemd's `RuntimeDirectory`.
    pub runtime_dir: Option<PathBuf>,
}

impl Host {
    pub fn read() -> Self {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let table = std::fs::read_to_string("/proc/self/net/fib_trie").unwrap_or_default();
        let runtime_dir = std::env::var_os("RUNTIME_DIRECTORY").filter(|text| !text.is_empty());
        Self {
            name: name.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()),
            addresses: local_addresses(&table),
            routed: routed(),
            runtime_dir: runtime_dir.map(PathBuf::from),
        }
    }

    /// Consul's choice: the host's private IPv4 address. The routed one decides between several; without a private
    /// one a single public one will do.
    pub fn advertised(&self) -> Result<IpAddr, String> {
        let private: Vec<Ipv4Addr> = self.addresses.iter().copied().filter(Ipv4Addr::is_private).collect();
        let candidates = if private.is_empty() { &self.addresses } else { &private };
        if let Some(IpAddr::V4(routed)) = self.routed
            && candidates.contains(&routed)
        {
            return Ok(routed.into());
        }
        match candidates.as_slice() {
            [only] => Ok((*only).into()),
            [] => match self.routed.filter(|routed| !routed.is_loopback()) {
                Some(routed) => Ok(routed),
                None => {
                    Err("this host has no address but loopback; set \"advertise_addr\" or --advertise".into())
                }
            },
            several => {
                let list: Vec<String> = several.iter().map(ToString::to_string).collect();
                let list = list.join(", ");
                Err(format!(
                    "this host has several addresses ({list}); choose one with \"advertise_addr\" or --advertise"
                ))
            }
        }
    }
}

/// The addresses that the kernel's routing table calls its own.
fn local_addresses(table: &str) -> Vec<Ipv4Addr> {
    let mut found: Vec<Ipv4Addr> = Vec::new();
    let mut last = None;
    for line in table.lines() {
        let line = line.trim();
        if let Some(text) = line.strip_prefix("|-- ") {
            last = text.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL"
            && let Some(address) = last
            && !address.is_loopback()
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// Connecting a datagram socket sends nothing; it makes the kernel choose a source address. The far end is of the
/// range for documentation.
fn routed() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(SocketAddr::from(([203, 0, 113, 1], 9))).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_found_in_the_routing_table() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 10.1.2.0\n        /24 link UNICAST\n     |-- 10.1.2.3\n        /32 host LOCAL\n     |-- 10.1.2.255\n        /32 link BROADCAST\nLocal:\n     |-- 10.1.2.3\n        /32 host LOCAL\n";
        assert_eq!(local_addresses(table), [Ipv4Addr::new(10, 1, 2, 3)]);
    }

    #[test]
    fn one_private_address_is_advertised_and_several_are_named() {
        let host = |addresses: &[[u8; 4]], routed: Option<[u8; 4]>| Host {
            addresses: addresses.iter().map(|bytes| Ipv4Addr::from(*bytes)).collect(),
            routed: routed.map(|bytes| Ipv4Addr::from(bytes).into()),
            ..Host::default()
        };
        let chosen = |host: Host| host.advertised().map(|ip| ip.to_string());
        assert_eq!(chosen(host(&[[10, 0, 0, 1]], None)).as_deref(), Ok("10.0.0.1"));
        assert_eq!(
            chosen(host(&[[8, 8, 8, 8], [10, 0, 0, 1]], Some([8, 8, 8, 8]))).as_deref(),
            Ok("10.0.0.1")
        );
        assert_eq!(
            chosen(host(&[[10, 0, 0, 1], [10, 0, 1, 1]], Some([10, 0, 1, 1]))).as_deref(),
            Ok("10.0.1.1")
        );
        assert_eq!(chosen(host(&[[192, 0, 2, 1]], None)).as_deref(), Ok("192.0.2.1"));
        let several = chosen(host(&[[10, 0, 0, 1], [10, 0, 1, 1]], None));
        assert!(several.is_err_and(|why| why.contains("10.0.0.1, 10.0.1.1")));
        assert!(chosen(host(&[], None)).is_err());
    }
}
