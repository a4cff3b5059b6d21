//! Clients that do one thing at a time, one after the other, as fast as they are answered.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::cluster::{Cluster, Speech};
use super::etcd;

const KEYS: u64 = 1000;
const VALUE_BYTES: usize = 256;
const WARM: Duration = Duration::from_millis(500);
/// Clients that share one HTTP/2 connection, as etcd's own clients do.
const STREAMS: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Put,
    Get,
    GetConsistent,
    GetStale,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    pub(crate) per_second: f64,
    pub(crate) p50_us: u128,
    pub(crate) p99_us: u128,
    /// Of all servers together, for each operation.
    pub(crate) cpu_us: f64,
    pub(crate) errors: usize,
}

impl Figures {
    pub(crate) fn median(rounds: &[Self]) -> Self {
        let mut rounds = rounds.to_vec();
        rounds.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
        let errors = rounds.iter().map(|round| round.errors).sum();
        Self { errors, ..rounds[rounds.len() / 2].clone() }
    }
}

/// One round.
pub(crate) async fn run(
    cluster: &Cluster,
    op: Op,
    clients: usize,
    span: Duration,
) -> anyhow::Result<Figures> {
    let warm = Instant::now() + WARM;
    let end = warm + span;
    let mut tasks = Vec::new();
    let mut shared = Vec::new();
    if cluster.speech == Speech::Etcd {
        for index in 0..clients.div_ceil(STREAMS).max(cluster.endpoints.len().min(clients)) {
            shared.push(etcd::connect(&cluster.endpoints[index % cluster.endpoints.len()]).await?);
        }
    }
    for index in 0..clients {
        let endpoint = cluster.endpoints[index % cluster.endpoints.len()].clone();
        let mut client = match cluster.speech {
            Speech::Purlin => Client::Http(connect(&endpoint).await?),
            Speech::Etcd => Client::Grpc(shared[index % shared.len()].clone()),
        };
        tasks.push(tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(index as u64 + 1);
            let (mut times, mut errors) = (Vec::new(), 0);
            while Instant::now() < end {
                let begun = Instant::now();
                let ok = client.ask(op, random.u64(..KEYS)).await;
                if begun >= warm {
                    if ok { times.push(begun.elapsed().as_micros()) } else { errors += 1 }
                }
            }
            (times, errors)
        }));
    }
    tokio::time::sleep_until(warm.into()).await;
    let before = cluster.cpu();
    tokio::time::sleep_until(end.into()).await;
    let cpu = cluster.cpu() - before;
    let (mut times, mut errors) = (Vec::new(), 0);
    for task in tasks {
        let (own, failed) = task.await?;
        times.extend(own);
        errors += failed;
    }
    times.sort_unstable();
    let at = |share: f64| times.get(((times.len() as f64) * share) as usize).copied().unwrap_or(0);
    Ok(Figures {
        per_second: times.len() as f64 / span.as_secs_f64(),
        p50_us: at(0.5),
        p99_us: at(0.99),
        cpu_us: cpu * 1e6 / times.len().max(1) as f64,
        errors,
    })
}

pub(crate) type Http = http1::SendRequest<Full<Bytes>>;

pub(crate) async fn connect(endpoint: &str) -> anyhow::Result<Http> {
    let stream = TcpStream::connect(endpoint).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

enum Client {
    Http(Http),
    Grpc(h2::client::SendRequest<Bytes>),
}

impl Client {
    async fn ask(&mut self, op: Op, key: u64) -> bool {
        let key = format!("bench/{key:08}");
        match self {
            Self::Http(sender) => http(sender, op, &key).await.unwrap_or(false),
            Self::Grpc(sender) => {
                let value = (op == Op::Put).then_some([b'v'; VALUE_BYTES]);
                let value = value.as_ref().map(<[u8; VALUE_BYTES]>::as_slice);
                etcd::ask(sender, &key, value, op == Op::GetStale).await.is_ok()
            }
        }
    }
}

async fn http(sender: &mut Http, op: Op, key: &str) -> anyhow::Result<bool> {
    let (method, query, body) = match op {
        Op::Put => ("PUT", "", Bytes::from_static(&[b'v'; VALUE_BYTES])),
        Op::Get => ("GET", "", Bytes::new()),
        Op::GetConsistent => ("GET", "?consistent", Bytes::new()),
        Op::GetStale => ("GET", "?stale", Bytes::new()),
    };
    let request = Request::builder()
        .method(method)
        .uri(format!("/v1/kv/{key}{query}"))
        .header("host", "localhost")
        .body(Full::new(body))?;
    sender.ready().await?;
    let answer = sender.send_request(request).await?;
    let ok = answer.status().is_success();
    answer.into_body().collect().await?;
    Ok(ok)
}

/// Writes one key, and says whether that was acknowledged.
pub(crate) async fn put_once(endpoint: &str, key: &str) -> bool {
    let attempt = async {
        let mut sender = connect(endpoint).await?;
        http(&mut sender, Op::Put, key).await
    };
    tokio::time::timeout(Duration::from_secs(2), attempt).await.is_ok_and(|answer| answer.unwrap_or(false))
}
