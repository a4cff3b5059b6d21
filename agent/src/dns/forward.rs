//! Hands questions about other names on to recursors, as they came, and their answers back.
//!
//! An answer counts only if it comes from the recursor that was asked, to the port and with the random number it was
//! asked with, and repeats the question.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tracing::debug;

use super::message::Transport;

const HEADER_BYTES: usize = 12;
const NO_ERROR: u8 = 0;
const NX_DOMAIN: u8 = 3;

/// Asks one after the other. Nothing if none of them could answer in its time.
pub(super) async fn forward(
    query: &[u8],
    transport: Transport,
    recursors: &[SocketAddr],
    each: Duration,
) -> Option<Vec<u8>> {
    let mut asked = query.to_vec();
    // Not guessable from outside: a forged answer would have to know it.
    let secret = uuid::Uuid::new_v4().into_bytes();
    asked.get_mut(..2)?.copy_from_slice(&secret[..2]);
    for recursor in recursors {
        let exchange = async {
            match transport {
                Transport::Udp { .. } => over_udp(&asked, *recursor).await,
                Transport::Tcp => over_tcp(&asked, *recursor).await,
            }
        };
        match timeout(each, exchange).await {
            Ok(Ok(mut answer)) if matches!(answer[3] & 0x0f, NO_ERROR | NX_DOMAIN) => {
                answer[..2].copy_from_slice(&query[..2]);
                return Some(answer);
            }
            Ok(Ok(answer)) => debug!(%recursor, code = answer[3] & 0x0f, "recursor gives no answer"),
            Ok(Err(error)) => debug!(%recursor, "recursor cannot be asked: {error}"),
            Err(_) => debug!(%recursor, "recursor does not answer in time"),
        }
    }
    None
}

async fn over_udp(query: &[u8], recursor: SocketAddr) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match recursor {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(recursor).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 65_535];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if answers(query, &buffer[..length]) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(query: &[u8], recursor: SocketAddr) -> io::Result<Vec<u8>> {
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(recursor).await?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    if !answers(query, &answer) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is to another question"));
    }
    Ok(answer)
}

/// Same number, a response, and the same question but for case.
fn answers(query: &[u8], answer: &[u8]) -> bool {
    let (Some(asked), Some(repeated)) = (question(query), question(answer)) else { return false };
    answer[..2] == query[..2] && answer[2] & 0x80 != 0 && asked.eq_ignore_ascii_case(repeated)
}

/// The bytes of the one question of a message, whose name is written out.
fn question(message: &[u8]) -> Option<&[u8]> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut end = HEADER_BYTES;
    loop {
        match *message.get(end)? {
            0 => break,
            length @ 1..=63 => end += 1 + usize::from(length),
            _ => return None,
        }
    }
    message.get(HEADER_BYTES..end + 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: u8, response: bool, name: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, id, if response { 0x80 } else { 0 }, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.push(u8::try_from(name.len()).unwrap());
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
        bytes
    }

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let query = message(7, false, b"web");
        assert!(answers(&query, &message(7, true, b"WEB")));
        assert!(!answers(&query, &message(8, true, b"web")));
        assert!(!answers(&query, &message(7, false, b"web")));
        assert!(!answers(&query, &message(7, true, b"wet")));
        assert!(!answers(&query, &message(7, true, b"web")[..14]));
    }

    #[test]
    fn a_question_is_found_only_where_there_is_one() {
        assert_eq!(question(&message(1, false, b"a")), Some(&[1, b'a', 0, 0, 1, 0, 1][..]));
        for broken in [
            &[][..],
            &[0; 11],
            &[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0],
            &[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 9],
        ] {
            assert_eq!(question(broken), None, "{broken:?}");
        }
    }
}
