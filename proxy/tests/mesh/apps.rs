//! Small real applications and clients.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::kit::within;

pub(crate) type TestBody = BoxBody<Bytes, Infallible>;

pub(crate) fn full(text: impl Into<Bytes>) -> TestBody {
    Full::new(text.into()).boxed()
}

/// Frames that are pushed one by one.
pub(crate) fn channel() -> (tokio::sync::mpsc::Sender<Frame<Bytes>>, TestBody) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<Frame<Bytes>>(4);
    let frames = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx).map(|one| one.map(Ok)));
    (sender, BodyExt::boxed(StreamBody::new(frames)))
}

/// An application that goes away with all its connections when dropped.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve_with<F>(address: SocketAddr, mut one: impl FnMut(TcpStream) -> F + Send + 'static) -> App
where
    F: Future<Output = ()> + Send + 'static,
{
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    let listener = socket.listen(128).unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            connections.spawn(one(stream));
        }
    });
    App { address, task }
}

fn anywhere() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

pub(crate) async fn tcp_app<F>(one: impl FnMut(TcpStream) -> F + Send + 'static) -> App
where
    F: Future<Output = ()> + Send + 'static,
{
    serve_with(anywhere(), one).await
}

/// Sends back all it gets, then ends.
pub(crate) async fn echo_app() -> App {
    tcp_app(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    })
    .await
}

pub(crate) async fn http1_app<H, F>(handler: H) -> App
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<TestBody>> + Send + 'static,
{
    http1_app_at(anywhere(), handler).await
}

pub(crate) async fn http1_app_at<H, F>(address: SocketAddr, handler: H) -> App
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<TestBody>> + Send + 'static,
{
    serve_with(address, move |stream| {
        let handler = handler.clone();
        async move {
            let service = service_fn(move |request| {
                let answer = handler(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let server = hyper::server::conn::http1::Builder::new();
            let _ = server.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        }
    })
    .await
}

pub(crate) async fn http2_app<H, F>(handler: H) -> App
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<TestBody>> + Send + 'static,
{
    serve_with(anywhere(), move |stream| {
        let handler = handler.clone();
        async move {
            let service = service_fn(move |request| {
                let answer = handler(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await
}

/// Says what it got: version, target, and headers one a line.
pub(crate) async fn mirror(request: Request<Incoming>) -> Response<TestBody> {
    let mut text = format!("{:?} {} {}\n", request.version(), request.method(), request.uri());
    for (name, value) in request.headers() {
        text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
    }
    Response::new(full(text))
}

/// Its name, whatever is asked.
pub(crate) async fn named_app(name: &'static str) -> App {
    http1_app(move |_| async move { Response::new(full(name)) }).await
}

pub(crate) async fn client1(address: SocketAddr) -> http1::SendRequest<TestBody> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender
}

pub(crate) async fn client2(address: SocketAddr) -> http2::SendRequest<TestBody> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) fn request(path: &str) -> Request<TestBody> {
    Request::builder().uri(path).header("host", "api.example").body(full("")).unwrap()
}

pub(crate) fn request2(path: &str) -> Request<TestBody> {
    Request::builder().uri(format!("http://api.example{path}")).body(full("")).unwrap()
}

pub(crate) async fn text(response: Response<Incoming>) -> (StatusCode, HeaderMap, String) {
    let (head, body) = response.into_parts();
    let bytes = within(body.collect()).await.unwrap().to_bytes();
    (head.status, head.headers, String::from_utf8(bytes.to_vec()).unwrap())
}

/// One request on a connection of its own.
pub(crate) async fn get(address: SocketAddr, path: &str) -> (StatusCode, String) {
    let response = within(client1(address).await.send_request(request(path))).await.unwrap();
    let (status, _, body) = text(response).await;
    (status, body)
}

/// Reads to the end; an end by reset is an error.
pub(crate) async fn read_all(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    within(stream.read_to_end(&mut all)).await?;
    Ok(all)
}
