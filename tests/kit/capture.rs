//! Listening in on a host's network, as anybody on the wire could.
//!
//! With a socket of our own: tcpdump insists on becoming another user, which there is not in an ordinary user's lab.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketType, recv, socket};

use super::host::Host;

/// `ETH_P_ALL`, in the order of the network.
const EVERYTHING: u32 = 0x0003_u16.to_be() as u32;

/// Goes on until it is dropped.
pub struct Capture {
    seen: Arc<Mutex<Vec<u8>>>,
    over: Arc<AtomicBool>,
}

/// Of all that this host sends and gets, also to itself, what is TCP from or to this port.
pub fn capture(host: &Host, port: u16) -> Capture {
    let protocol = NonZeroU32::new(EVERYTHING).map(Protocol::from_raw);
    let door = host
        .inside(|| socket(AddressFamily::PACKET, SocketType::RAW, protocol))
        .unwrap_or_else(|error| panic!("a capture on {}: {error}", host.name));
    set_socket_timeout(&door, Timeout::Recv, Some(Duration::from_millis(100))).expect("a limit");
    let capture = Capture { seen: Arc::default(), over: Arc::default() };
    let (seen, over) = (capture.seen.clone(), capture.over.clone());
    std::thread::spawn(move || {
        let mut frame = vec![0; 1 << 16];
        while !over.load(Ordering::Relaxed) {
            // Nothing came for a while, which is no error here.
            let Ok((length, _)) = recv(&door, frame.as_mut_slice(), RecvFlags::empty()) else { continue };
            if is_of(&frame[..length], port)
                && let Ok(mut seen) = seen.lock()
            {
                seen.extend_from_slice(&frame[..length]);
            }
        }
    });
    capture
}

/// Whether a frame has TCP of this port in it.
fn is_of(frame: &[u8], port: u16) -> bool {
    let segment = match frame.get(12..14) {
        Some([0x08, 0x00]) if frame.get(23) == Some(&6) => 14 + 4 * usize::from(frame[14] & 15),
        Some([0x86, 0xdd]) if frame.get(20) == Some(&6) => 54,
        _ => return false,
    };
    let ports = frame.get(segment..segment + 4).unwrap_or_default();
    ports.chunks(2).any(|one| one == port.to_be_bytes())
}

impl Capture {
    /// What was seen so far, as text where it is text.
    pub fn packets(&self) -> String {
        self.seen.lock().map(|seen| String::from_utf8_lossy(&seen).into_owned()).unwrap_or_default()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
