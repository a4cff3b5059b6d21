//! etcd: three nodes on loopback, and the two calls of its API that are measured, by hand over HTTP/2.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use bytes::{BufMut, Bytes, BytesMut};
use http::{Method, Request};
use tokio::net::TcpStream;

use super::cluster::{Cluster, Process, Speech};

const FIRST_CLIENT_PORT: u16 = 23_790;
const FIRST_PEER_PORT: u16 = 23_800;

pub(crate) async fn start(dir: &Path) -> anyhow::Result<Cluster> {
    std::fs::create_dir_all(dir)?;
    let peer = |node: u16| format!("http://127.0.0.1:{}", FIRST_PEER_PORT + node);
    let client = |node: u16| format!("127.0.0.1:{}", FIRST_CLIENT_PORT + node);
    let members: Vec<String> = (0..3).map(|node| format!("n{node}={}", peer(node))).collect();
    let members = members.join(",");
    let mut processes = Vec::new();
    for node in 0..3 {
        let (peer, client) = (peer(node), format!("http://{}", client(node)));
        let mut command = Command::new("etcd");
        command
            .args(["--name", &format!("n{node}"), "--data-dir"])
            .arg(dir.join(format!("n{node}")))
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--initial-cluster", &members, "--initial-cluster-state", "new"])
            .args(["--log-level", "error", "--snapshot-count", "100000"]);
        let log = dir.join(format!("n{node}.log"));
        processes.push(Process::spawn(&mut command, &log).context("etcd cannot be started")?);
    }
    let endpoints: Vec<String> = (0..3).map(client).collect();
    let ready = async {
        for endpoint in &endpoints {
            while !is_ready(endpoint).await {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ready).await.context("etcd does not answer")?;
    Ok(Cluster { speech: Speech::Etcd, processes, endpoints })
}

async fn is_ready(endpoint: &str) -> bool {
    match connect(endpoint).await {
        Ok(mut sender) => ask(&mut sender, "ready", Some(b"x"), false).await.is_ok(),
        Err(_) => false,
    }
}

pub(crate) async fn connect(endpoint: &str) -> anyhow::Result<h2::client::SendRequest<Bytes>> {
    let stream = TcpStream::connect(endpoint).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// A put where there is a value, else a range of one key.
pub(crate) async fn ask(
    sender: &mut h2::client::SendRequest<Bytes>,
    key: &str,
    value: Option<&[u8]>,
    serializable: bool,
) -> anyhow::Result<()> {
    let mut message = BytesMut::new();
    field(&mut message, 1, key.as_bytes());
    let method = match value {
        Some(value) => {
            field(&mut message, 2, value);
            "Put"
        }
        None => {
            if serializable {
                // Field 7, a varint.
                message.put_slice(&[7 << 3, 1]);
            }
            "Range"
        }
    };
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len())?);
    body.put(message);
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://etcd/etcdserverpb.KV/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let mut ready = sender.clone().ready().await?;
    let (answer, mut stream) = ready.send_request(request, false)?;
    stream.send_data(body.freeze(), true)?;
    let mut body = answer.await?.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    let trailers = body.trailers().await?.context("no trailers")?;
    let status = trailers.get("grpc-status").context("no status")?;
    anyhow::ensure!(status == "0", "etcd says {status:?}");
    Ok(())
}

/// A length-delimited field of protobuf.
fn field(message: &mut BytesMut, number: u8, bytes: &[u8]) {
    message.put_u8(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 128 {
        message.put_u8((length & 127) as u8 | 128);
        length >>= 7;
    }
    message.put_u8(length as u8);
    message.put_slice(bytes);
}
