//! UDP sockets as QUIC wants them: large buffers, and IPv6 sockets that leave IPv4 to its own.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

/// The kernel may give less; that only costs throughput.
const BUFFER_BYTES: usize = 2 * 1024 * 1024;

pub(super) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    for set in [Socket::set_recv_buffer_size, Socket::set_send_buffer_size] {
        if let Err(error) = set(&socket, BUFFER_BYTES) {
            tracing::debug!(%error, "udp buffer stays at the system's size");
        }
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
