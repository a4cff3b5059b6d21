//! `/v1/connect/ca` and `/v1/agent/connect`: roots for everybody, private keys for this host alone.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use purlin_model::topic::{MeshInfo, Record, Topic};
use purlin_model::view::Credential;
use purlin_model::{Fault, Revision, ServiceKey, ServiceName};
use serde_json::{Value, json};

use super::Api;
use super::answer::{Answer, Content, Failure};
use super::read::{Mode, Source, followed};
use super::request::{Peer, Request, names_this_host};
use super::shape;

/// `GET connect/ca/roots?pem=true` and `GET agent/connect/ca/roots`
pub(super) async fn roots(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let (mesh, source) = mesh(api, request).await?;
    if !request.query.flag("pem")? {
        return Ok(source.json(shape::certificate::roots(&mesh)));
    }
    let mut answer = Answer::empty();
    answer.content = Content::Text("application/pem-certificate-chain", shape::certificate::pem(&mesh));
    Ok(source.mark(answer))
}

pub(super) async fn mesh(api: &Api, request: &Request) -> Result<(MeshInfo, Source), Failure> {
    let ([contents], source) = followed(api, request, [Topic::Mesh]).await?;
    let mesh = contents.records.values().find_map(|record| match record {
        Record::Mesh(mesh) => Some(mesh.clone()),
        _ => None,
    });
    let mesh =
        mesh.ok_or_else(|| Fault::unavailable("the roots of the mesh are not known on this host yet"))?;
    Ok((mesh, source))
}

/// `GET agent/connect/ca/leaf/:service`: the certificate and key that the proxy uses, newer than `?index`.
pub(super) async fn leaf(api: &Api, request: &Request) -> Result<Answer, Failure> {
    require_this_host(request)?;
    let name = ServiceName::new(request.parameter(0)).map_err(|error| Failure::invalid(error.to_string()))?;
    let service = ServiceKey::new(name);
    let mode = Mode::of(&request.query, fastrand::f64())?;
    let leaf = match mode.after {
        Revision(0) => api.core.leaf(&service).await?,
        Revision(after) => api.core.leaf_past(&service, after, mode.wait).await?,
    };
    let shape = leaf_shape(&leaf.credential, leaf.version)?;
    Ok(Answer::json(shape).header("x-consul-index", leaf.version.max(1).to_string()))
}

/// Keys go to programs on this host. A page in a browser on it that reaches us under a name of its own is none.
fn require_this_host(request: &Request) -> Result<(), Failure> {
    let refuse = |text| Err(Failure::new(StatusCode::FORBIDDEN, text));
    if !request.peer.is_local() {
        return refuse(
            "private keys are handed out to this host alone: ask over loopback or the Unix socket",
        );
    }
    if matches!(request.peer, Peer::Unix { .. }) {
        return Ok(());
    }
    if names_this_host(&request.headers) {
        return Ok(());
    }
    refuse(
        "private keys are handed out under localhost or an IP address only: this request named another host",
    )
}

fn leaf_shape(credential: &Credential, version: u64) -> Result<Value, Failure> {
    let unreadable = || Failure::from(Fault::internal("the certificate of this service cannot be read"));
    let first = credential.chain.first().ok_or_else(unreadable)?;
    let (_, certificate) = x509_parser::parse_x509_certificate(first).map_err(|_| unreadable())?;
    Ok(json!({
        "SerialNumber": certificate.raw_serial_as_string(),
        "CertPEM": credential.chain.iter().map(|der| pem("CERTIFICATE", der)).collect::<String>(),
        "PrivateKeyPEM": pem("PRIVATE KEY", &credential.key),
        "Service": credential.service.name.as_str(),
        "ServiceURI": credential.identity,
        "ValidAfter": shape::instant(credential.not_before),
        "ValidBefore": shape::instant(credential.not_after),
        "CreateIndex": version,
        "ModifyIndex": version,
    }))
}

pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::header::HOST;
    use http::{HeaderMap, HeaderValue};

    use super::*;
    use crate::api::request::Query;

    fn request(peer: Peer, host: &'static str) -> Request {
        Request {
            parameters: vec!["web".into()],
            query: Query::default(),
            headers: HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]),
            body: Bytes::new(),
            upload: Default::default(),
            peer,
        }
    }

    #[test]
    fn keys_stay_on_this_host() {
        let tcp = |text: &str| Peer::Tcp(text.parse().unwrap());
        for host in ["127.0.0.1:8500", "localhost:8500", "localhost", "[::1]:8500", ""] {
            assert!(require_this_host(&request(tcp("127.0.0.1:1"), host)).is_ok(), "{host}");
        }
        assert!(require_this_host(&request(Peer::Unix { uid: None }, "anything")).is_ok());
        let status = |peer, host| require_this_host(&request(peer, host)).err().map(|failure| failure.status);
        assert_eq!(status(tcp("10.0.0.1:1"), "127.0.0.1"), Some(StatusCode::FORBIDDEN));
        assert_eq!(status(tcp("127.0.0.1:1"), "evil.example:8500"), Some(StatusCode::FORBIDDEN));
    }

    #[test]
    fn pem_is_cut_into_lines_of_64() {
        let text = pem("X", &[0; 96]);
        let widths: Vec<usize> = text.lines().map(str::len).collect();
        assert_eq!(widths, [17, 64, 64, 15]);
    }
}
