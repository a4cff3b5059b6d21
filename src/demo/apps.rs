//! The three services of the demo: real, small HTTP servers that know nothing of a mesh.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

type Answer = Response<Full<Bytes>>;

/// A service that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

/// What a service does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Role {
    /// Calls its upstream and passes the answer on.
    Web { upstream: SocketAddr },
    /// Says its version, and who called as its host's proxy proved it.
    Api { version: &'static str },
}

impl App {
    pub(crate) async fn start(address: SocketAddr, role: Role) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let role = Arc::new(role);
        let accept = async move {
            // Connections end with the task, so that a killed service is really gone.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&role)));
                while connections.try_join_next().is_some() {}
            }
        };
        Ok(Self { address, _task: AbortOnDropHandle::new(tokio::spawn(accept)) })
    }
}

async fn serve(stream: TcpStream, role: Arc<Role>) {
    let handler = service_fn(move |request: Request<Incoming>| {
        let role = Arc::clone(&role);
        async move { Ok::<_, Infallible>(answer(&role, &request).await) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), handler).await;
}

fn text(status: StatusCode, body: String) -> Answer {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer
}

async fn answer(role: &Role, request: &Request<Incoming>) -> Answer {
    match role {
        Role::Api { .. } if request.uri().path() == "/health" => text(StatusCode::OK, "ok\n".into()),
        Role::Api { version } => {
            let caller =
                request.headers().get("x-forwarded-client-cert").and_then(|value| value.to_str().ok());
            text(
                StatusCode::OK,
                format!("hello from api {version}\ncaller: {}\n", caller.unwrap_or("unknown")),
            )
        }
        Role::Web { upstream } => match get(*upstream, "/").await {
            Ok((status, body)) => text(status, format!("web asked api and got {status}:\n{body}")),
            Err(error) => text(StatusCode::BAD_GATEWAY, format!("web cannot ask api: {error}\n")),
        },
    }
}

/// One GET over a connection of its own.
pub(crate) async fn get(address: SocketAddr, path: &str) -> anyhow::Result<(StatusCode, String)> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::get(path).header("host", address.to_string()).body(Full::<Bytes>::default())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = http_body_util::Limited::new(response.into_body(), 1 << 20).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
