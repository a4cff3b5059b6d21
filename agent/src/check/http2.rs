//! Probes over HTTP/2: its own ping, and the gRPC health protocol.

use bytes::{BufMut, Bytes as Buffer, BytesMut};
use h2::client::{Connection, SendRequest};
use purlin_model::check::{ProbeTls, Status};

use super::net::{Bytes, connect};
use super::{Task, Verdict, tls};

/// Of an answer of the health service, which needs a handful of bytes.
const ANSWER_BYTES: usize = 16 * 1024;

type Http2 = (SendRequest<Buffer>, Connection<Box<dyn Bytes>, Buffer>);

async fn handshake(
    address: &str,
    secure: Option<&ProbeTls>,
    configs: &tls::Configs,
) -> Result<Http2, String> {
    let stream = connect(address, secure, configs, tls::Alpn::Http2).await?;
    h2::client::handshake(stream).await.map_err(|error| format!("{address} does not speak HTTP/2: {error}"))
}

pub(super) async fn ping(address: &str, secure: Option<&ProbeTls>, configs: &tls::Configs) -> Verdict {
    let sent = async {
        let (_requests, mut connection) = handshake(address, secure, configs).await?;
        let mut pings = connection.ping_pong().ok_or("the connection takes no pings")?;
        let _driver = Task::spawn(async move {
            // Its error is the ping's error too.
            let _ = connection.await;
        });
        pings
            .ping(h2::Ping::opaque())
            .await
            .map(drop)
            .map_err(|error| format!("no answer to the ping: {error}"))
    };
    match sent.await {
        Ok(()) => Verdict::new(Status::Passing, "HTTP2 ping was successful"),
        Err(why) => Verdict::critical(format!("HTTP2 ping to {address} failed: {why}")),
    }
}

/// Asks `grpc.health.v1.Health/Check`. `target` is `host:port`, or `host:port/service`.
pub(super) async fn grpc(target: &str, secure: Option<&ProbeTls>, configs: &tls::Configs) -> Verdict {
    let (address, service) = target.split_once('/').unwrap_or((target, ""));
    match ask_health(address, service, secure, configs).await {
        Ok(Health::Serving) => Verdict::new(Status::Passing, format!("gRPC check {target}: success")),
        Ok(other) => Verdict::critical(format!("gRPC check {target}: the service says {}", other.name())),
        Err(why) => Verdict::critical(format!("gRPC check {target}: {why}")),
    }
}

async fn ask_health(
    address: &str,
    service: &str,
    secure: Option<&ProbeTls>,
    configs: &tls::Configs,
) -> Result<Health, String> {
    let (requests, connection) = handshake(address, secure, configs).await?;
    let _driver = Task::spawn(async move {
        // Its error is the call's error too.
        let _ = connection.await;
    });
    let scheme = if secure.is_some() { "https" } else { "http" };
    let request = http::Request::post(format!("{scheme}://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "Consul Health Check")
        .body(())
        .map_err(|error| error.to_string())?;
    let failed = |error: h2::Error| format!("the call failed: {error}");
    let mut requests = requests.ready().await.map_err(failed)?;
    let (response, mut body) = requests.send_request(request, false).map_err(failed)?;
    body.send_data(encode_request(service), true).map_err(failed)?;
    let (head, mut stream) = response.await.map_err(failed)?.into_parts();
    if head.status != http::StatusCode::OK {
        return Err(format!("answers HTTP status {}", head.status));
    }
    // An answer that is nothing but headers has its verdict there.
    grpc_status(&head.headers)?;
    let mut answer = BytesMut::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk.map_err(failed)?;
        // The window is given back in full: an error means that the stream is over, which the next read tells.
        let _ = stream.flow_control().release_capacity(chunk.len());
        if answer.len() + chunk.len() > ANSWER_BYTES {
            return Err(format!("answers more than {ANSWER_BYTES} bytes"));
        }
        answer.put(chunk);
    }
    if let Some(trailers) = stream.trailers().await.map_err(failed)? {
        grpc_status(&trailers)?;
    }
    decode_answer(&answer).ok_or_else(|| "answers what is no health message".to_owned())
}

fn grpc_status(headers: &http::HeaderMap) -> Result<(), String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some("12") => Err("the server does not implement the gRPC health protocol".into()),
        Some(code) => Err(format!("rpc error: code {code}: {}", text("grpc-message").unwrap_or(""))),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Unknown,
    Serving,
    NotServing,
    ServiceUnknown,
}

impl Health {
    fn name(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Serving => "SERVING",
            Self::NotServing => "NOT_SERVING",
            Self::ServiceUnknown => "SERVICE_UNKNOWN",
        }
    }
}

/// `HealthCheckRequest { string service = 1 }`, behind gRPC's prefix of a flag and a length.
fn encode_request(service: &str) -> Buffer {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put(message);
    framed.freeze()
}

/// `HealthCheckResponse { ServingStatus status = 1 }`; other fields are skipped.
fn decode_answer(bytes: &[u8]) -> Option<Health> {
    let (prefix, rest) = bytes.split_at_checked(5)?;
    let length = usize::try_from(u32::from_be_bytes(prefix[1..].try_into().ok()?)).ok()?;
    let mut message = rest.get(..length)?;
    if prefix[0] != 0 {
        return None;
    }
    let mut serving = Health::Unknown;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => {
                serving = match varint(&mut message)? {
                    1 => Health::Serving,
                    2 => Health::NotServing,
                    3 => Health::ServiceUnknown,
                    _ => Health::Unknown,
                }
            }
            (_, 0) => drop(varint(&mut message)?),
            (_, 1) => message = message.get(8..)?,
            (_, 2) => {
                let skipped = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(skipped..)?;
            }
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(serving)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_the_service() {
        assert_eq!(&encode_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&encode_request("web")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'w', b'e', b'b']);
        assert_eq!(&encode_request(&"x".repeat(200))[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 0x01]);
    }

    #[test]
    fn an_answer_is_read_and_unknown_fields_are_skipped() {
        assert_eq!(decode_answer(&[0, 0, 0, 0, 2, 8, 1]), Some(Health::Serving));
        assert_eq!(decode_answer(&[0, 0, 0, 0, 2, 8, 2]), Some(Health::NotServing));
        assert_eq!(decode_answer(&[0, 0, 0, 0, 0]), Some(Health::Unknown));
        assert_eq!(decode_answer(&[0, 0, 0, 0, 6, 0x12, 2, 9, 9, 8, 1]), Some(Health::Serving));
    }

    #[test]
    fn a_broken_answer_is_none_at_all() {
        for bytes in
            [&[][..], &[0, 0, 0], &[0, 0, 0, 0, 9, 8], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 2, 8, 0x80]]
        {
            assert_eq!(decode_answer(bytes), None, "{bytes:?}");
        }
        assert_eq!(decode_answer(&[0, 0, 0, 0, 3, 0x12, 0xff, 0x7f]), None);
    }
}
