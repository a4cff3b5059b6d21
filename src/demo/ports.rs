//! Ports for the demo: the usual ones where they are free, others where they are not, and a word about each change.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

/// Chooses ports and remembers which usual ones were busy.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    replaced: Vec<String>,
    taken: Vec<SocketAddr>,
}

impl Ports {
    /// The usual port on `ip` for `what`, or another one if somebody holds it, for TCP and UDP alike.
    pub(crate) fn choose(&mut self, what: &str, ip: IpAddr, usual: u16) -> std::io::Result<SocketAddr> {
        let wanted = SocketAddr::new(ip, usual);
        if !self.taken.contains(&wanted) && is_free(wanted) {
            self.taken.push(wanted);
            return Ok(wanted);
        }
        let chosen = self.any(ip)?;
        self.replaced.push(format!("{wanted} is busy: {what} uses {chosen} instead"));
        Ok(chosen)
    }

    fn any(&mut self, ip: IpAddr) -> std::io::Result<SocketAddr> {
        const TRIES: usize = 64;
        for _ in 0..TRIES {
            let chosen = TcpListener::bind((ip, 0))?.local_addr()?;
            if !self.taken.contains(&chosen) && is_free(chosen) {
                self.taken.push(chosen);
                return Ok(chosen);
            }
        }
        Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, format!("no free port on {ip}")))
    }

    /// A line for each usual port that was busy.
    pub(crate) fn replaced(&self) -> &[String] {
        &self.replaced
    }
}

fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_is_replaced_and_named() {
        let ip = IpAddr::from([127, 0, 0, 1]);
        let holder = TcpListener::bind((ip, 0)).unwrap();
        let busy = holder.local_addr().unwrap();
        let mut ports = Ports::default();
        let chosen = ports.choose("the API", ip, busy.port()).unwrap();
        assert_ne!(chosen, busy);
        assert!(ports.replaced()[0].contains(&busy.to_string()), "{:?}", ports.replaced());
    }
}
