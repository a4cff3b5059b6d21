//! Sockets of DNS: UDP packets in batches, and TCP connections, both in bounded number.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::message::Transport;
use super::{Now, Server};

/// Of one UDP read; the kernel may hand over several packets of a client as one.
const BUFFER_BYTES: usize = 65_535;
/// A question is far smaller.
const QUESTION_BYTES: usize = 4_096;
const TCP_CONNECTIONS: usize = 256;
/// Between two questions on a connection, and for the parts of one.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// After an error of a socket that may last, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);
/// Tries for a port that is free for both UDP and TCP, where the kernel chooses.
const PORT_TRIES: usize = 16;

/// Both sockets of one address.
pub(super) struct Sockets {
    pub(super) udp: UdpSocket,
    pub(super) tcp: TcpListener,
    pub(super) address: SocketAddr,
}

pub(super) async fn bind(address: SocketAddr) -> io::Result<Sockets> {
    for left in (0..PORT_TRIES).rev() {
        let udp = UdpSocket::bind(address).await?;
        let bound = udp.local_addr()?;
        match TcpListener::bind(bound).await {
            Ok(tcp) => return Ok(Sockets { udp, tcp, address: bound }),
            Err(error) if address.port() != 0 || left == 0 => return Err(error),
            Err(_) => {}
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// Answers what comes over UDP. What is known is answered in this task; the rest waits in tasks of its own.
pub(super) async fn udp(socket: UdpSocket, server: Arc<Server>) {
    let state = match UdpSocketState::new(UdpSockRef::from(&socket)) {
        Ok(state) => state,
        Err(error) => {
            warn!("dns cannot answer over udp: {error}");
            return;
        }
    };
    let shared = Arc::new(Udp { socket, state });
    let mut buffers = vec![vec![0; BUFFER_BYTES]; BATCH_SIZE];
    let mut metas = [RecvMeta::default(); BATCH_SIZE];
    let mut waiting = JoinSet::new();
    loop {
        let count = match shared.receive(&mut buffers, &mut metas).await {
            Ok(count) => count,
            Err(error) => {
                debug!("dns cannot read from udp: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        while waiting.try_join_next().is_some() {}
        for (buffer, meta) in buffers.iter().zip(&metas).take(count) {
            let packets = buffer[..meta.len.min(buffer.len())].chunks(meta.stride.max(1));
            for packet in packets {
                let from = Peer { address: meta.addr, to: meta.dst_ip };
                take(&shared, &server, &mut waiting, packet, from);
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Peer {
    address: SocketAddr,
    /// Which of our addresses it was sent to: the answer must come from there.
    to: Option<IpAddr>,
}

fn take(shared: &Arc<Udp>, server: &Arc<Server>, waiting: &mut JoinSet<()>, packet: &[u8], from: Peer) {
    let transport = Transport::Udp { is_local: from.address.ip().to_canonical().is_loopback() };
    if packet.len() > QUESTION_BYTES {
        server.metrics.dropped.inc();
        return;
    }
    match server.answer_now(packet, transport) {
        Now::Answer(answer) => shared.send(&answer, from),
        Now::Nothing => {}
        Now::Later(question) => {
            let Ok(slot) = server.in_flight.clone().try_acquire_owned() else {
                server.metrics.overload.inc();
                return;
            };
            let (shared, server, packet) = (shared.clone(), server.clone(), packet.to_vec());
            waiting.spawn(async move {
                let _slot = slot;
                if let Some(answer) = server.answer(&packet, &question, transport).await {
                    shared.send(&answer, from);
                }
            });
        }
    }
}

struct Udp {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl Udp {
    async fn receive(&self, buffers: &mut [Vec<u8>], metas: &mut [RecvMeta]) -> io::Result<usize> {
        let read = || {
            let mut slices: Vec<IoSliceMut<'_>> =
                buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
            self.state.recv(UdpSockRef::from(&self.socket), &mut slices, metas)
        };
        self.socket.async_io(Interest::READABLE, read).await
    }

    fn send(&self, answer: &[u8], from: Peer) {
        let transmit = Transmit {
            destination: from.address,
            ecn: None,
            contents: answer,
            segment_size: None,
            src_ip: from.to.filter(|ip| !ip.is_multicast()),
        };
        // A full buffer loses the answer, as the network may; the client asks again.
        let sent = self
            .socket
            .try_io(Interest::WRITABLE, || self.state.try_send(UdpSockRef::from(&self.socket), &transmit));
        if let Err(error) = sent {
            debug!(client = %from.address, "dns answer is not sent: {error}");
        }
    }
}

/// Takes TCP connections.
pub(super) async fn tcp(listener: TcpListener, server: Arc<Server>) {
    let slots = Arc::new(Semaphore::new(TCP_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // Those above the limit wait in the kernel until one that is idle is closed.
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, from)) => {
                let server = server.clone();
                connections.spawn(async move {
                    let _slot = slot;
                    if let Err(error) = converse(stream, &server).await {
                        debug!(client = %from, "dns connection ended: {error}");
                    }
                });
            }
            Err(error) => {
                debug!("dns cannot accept: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Answers the questions of one connection, one after the other.
async fn converse(mut stream: TcpStream, server: &Server) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut packet = Vec::new();
    loop {
        let length = match timeout(TCP_IDLE, stream.read_u16()).await {
            Ok(Ok(length)) => usize::from(length),
            // Silence, or the end: both are a good time to part.
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        if length > QUESTION_BYTES {
            server.metrics.dropped.inc();
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the question is too long"));
        }
        packet.resize(length, 0);
        timeout(TCP_IDLE, stream.read_exact(&mut packet)).await??;
        let answer = match server.answer_now(&packet, Transport::Tcp) {
            Now::Answer(answer) => Some(answer),
            Now::Nothing => None,
            Now::Later(question) => server.answer(&packet, &question, Transport::Tcp).await,
        };
        let Some(answer) = answer else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&answer);
        timeout(TCP_IDLE, stream.write_all(&framed)).await??;
    }
}
