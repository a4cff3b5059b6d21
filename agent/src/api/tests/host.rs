//! One agent with a server in the same process, and a client of its API.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use purlin_model::node::NodeRole;
use purlin_model::{Datacenter, NodeId, NodeName};
use purlin_wire::link::Peer;
use purlin_wire::memory::MemoryConnector;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::server::TestServer;
use crate::agent::{Agent, AgentHandle, Parts};
use crate::api::{LogRequest, LogTap};
use crate::clock::Clock;
use crate::config::{CheckOptions, Config, DnsOptions, HttpOptions, LogFilter, Ports};
use crate::core::Trigger;
use crate::proxy_port::ProxyPort;

pub(super) struct Host {
    pub(super) agent: AgentHandle,
    pub(super) server: Arc<TestServer>,
    pub(super) connector: Arc<MemoryConnector>,
    pub(super) triggers: mpsc::Receiver<Trigger>,
    address: SocketAddr,
}

pub(super) struct Said {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Said {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text))
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn index(&self) -> u64 {
        self.header("x-consul-index").parse().unwrap()
    }
}

fn config(socket: Option<PathBuf>) -> Config {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Config {
        node_name: NodeName::new("host-1").unwrap(),
        node_id: NodeId(uuid::Uuid::from_u128(1)),
        datacenter: Datacenter::default(),
        role: NodeRole::Agent,
        version: "0.1.0".into(),
        domain: "mesh.internal".into(),
        alt_domain: Some("consul".into()),
        bind: loopback,
        advertise: loopback,
        tagged_addresses: BTreeMap::new(),
        meta: BTreeMap::from([("rack".into(), "r1".into())]),
        locality: None,
        ports: Ports { server: None, mesh: Some(20_000) },
        mesh_listen: Vec::new(),
        detection_timeout: None,
        http: HttpOptions {
            listen: vec![SocketAddr::new(loopback, 0)],
            socket,
            response_headers: BTreeMap::from([("X-Extra".into(), "yes".into())]),
            ..HttpOptions::default()
        },
        dns: DnsOptions::default(),
        checks: CheckOptions::default(),
        data_dir: None,
        services: Vec::new(),
        node_checks: Vec::new(),
        clock: Clock::system(),
        log_filter: Some(LogFilter(Arc::new(|filter: &str| match filter {
            "debug" => Ok(()),
            _ => Err("unknown level".into()),
        }))),
    }
}

/// Logs that end after two lines, the first of which tells what was asked for.
fn two_lines() -> LogTap {
    LogTap(Arc::new(|wanted: &LogRequest| {
        let (sender, lines) = mpsc::channel(2);
        sender.try_send(format!("{} {}", wanted.level, wanted.json)).unwrap();
        sender.try_send("second\n".into()).unwrap();
        Ok(lines)
    }))
}

impl Host {
    pub(super) async fn start() -> Self {
        Self::start_with(None).await
    }

    pub(super) async fn start_with(socket: Option<PathBuf>) -> Self {
        let host = Self::start_alone(socket, true).await;
        let mut session = host.agent.core().watch_session();
        session.wait_for(|session| session.is_connected()).await.unwrap();
        host
    }

    /// Without waiting for the server, which is refused unless `reachable`.
    pub(super) async fn start_alone(socket: Option<PathBuf>, reachable: bool) -> Self {
        let server = TestServer::new();
        let member = |identity| Peer::Member { identity, certificate: [0; 32], issuer: None };
        let (connector, links) =
            MemoryConnector::new(member(server.ca.agent("host-1")), member(server.ca.server("server-1")));
        connector.refuse(!reachable);
        tokio::spawn(server.clone().run(links));
        let (sender, triggers) = mpsc::channel(4);
        let parts = Parts {
            config: config(socket),
            connector: connector.clone(),
            probe: None,
            node: None,
            proxy: ProxyPort::None,
            metrics: Vec::new(),
            logs: Some(two_lines()),
            triggers: sender,
        };
        let agent = Agent::start(parts).await.unwrap_or_else(|error| panic!("{error}"));
        let address = agent.http_addresses()[0];
        Self { agent, server, connector, triggers, address }
    }

    pub(super) async fn get(&self, path: &str) -> Said {
        self.call(Method::GET, path, "").await
    }

    pub(super) async fn put(&self, path: &str, body: Value) -> Said {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.call(Method::PUT, path, &body).await
    }

    pub(super) async fn call(&self, method: Method, path: &str, body: &str) -> Said {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            // What curl says of any body; it must not matter.
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        self.send(request).await
    }

    pub(super) async fn send(&self, request: http::Request<Full<Bytes>>) -> Said {
        send_over(TcpStream::connect(self.address).await.unwrap(), request).await
    }

    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

pub(super) async fn send_over<S>(stream: S, request: http::Request<Full<Bytes>>) -> Said
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    connection.abort();
    Said { status: parts.status, headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
}
