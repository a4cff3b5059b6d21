//! A small client of the local HTTP API, over TCP or a Unix socket. One connection per call; every wait is bounded.

mod file_body;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use file_body::FileBody;

pub const DEFAULT_ADDRESS: &str = "127.0.0.1:8500";
const DEFAULT_PORT: u16 = 8500;
const CONNECT: Duration = Duration::from_secs(5);
/// Longer than an agent waits for a leader.
const ANSWER: Duration = Duration::from_secs(60);
/// Longer than the longest blocking query.
const POLL: Duration = Duration::from_secs(660);
const BODY_BYTES: usize = 256 * 1024 * 1024;
/// Header of Purlin's own on what is registered.
const SYNC: &str = "x-purlin-sync";
const INDEX: &str = "x-consul-index";
const HOW: &str = "is it running? set --http-addr or PURLIN_HTTP_ADDR";

/// Where an agent's API is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `host:port`
    Tcp(String),
    Unix(PathBuf),
}

impl Address {
    /// `host:port`, `host`, `http://host:port` or `unix:///path`.
    pub fn parse(text: &str) -> Result<Self, ClientError> {
        let refuse = |why: &str| Err(ClientError::Address { text: text.to_owned(), why: why.to_owned() });
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                refuse("the path must be absolute")
            };
        }
        if text.starts_with("https://") {
            return refuse("the API is plain HTTP on loopback or a Unix socket");
        }
        let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let valid =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']' | '%');
        if bare.is_empty() || !bare.chars().all(valid) {
            return refuse("write host:port, http://host:port or unix:///path");
        }
        let (host, port) = match bare.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(':') && (!host.contains(':') || host.starts_with('[')) => {
                match port.parse::<u16>() {
                    Ok(port) => (host, port),
                    Err(_) => return refuse("the port is no number"),
                }
            }
            _ => (bare, DEFAULT_PORT),
        };
        let host = match host {
            "" => "127.0.0.1".to_owned(),
            bare if bare.contains(':') && !bare.starts_with('[') => format!("[{bare}]"),
            host => host.to_owned(),
        };
        Ok(Self::Tcp(format!("{host}:{port}")))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(text) => f.write_str(text),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{text:?} is not an address of the API: {why}")]
    Address { text: String, why: String },
    #[error("cannot reach the Purlin agent at {address}: {why}; {HOW}")]
    Unreachable { address: Address, why: String },
    #[error("the agent at {address} did not answer within {seconds} s")]
    Silent { address: Address, seconds: u64 },
    #[error("the agent at {address} broke off: {why}")]
    Broken { address: Address, why: String },
    /// What the agent said, in its own words.
    #[error("{text}")]
    Refused { status: StatusCode, text: String },
    #[error("the answer of {address} to {path} is not JSON: {why}")]
    NotJson { address: Address, path: String, why: String },
}

/// A path below `/v1` with each part and each parameter encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    pub fn new(parts: &[&str]) -> Self {
        let mut text = String::from("/v1");
        for part in parts {
            text.push('/');
            encode(part, &mut text);
        }
        Self(text)
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        encode(name, &mut self.0);
        self.0.push('=');
        encode(value, &mut self.0);
        self
    }

    /// With the parameter where there is a value.
    pub fn with_some(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
}

fn encode(text: &str, out: &mut String) {
    use fmt::Write;
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// What the agent answered, whatever the status.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
    /// Of what was asked for, for a question that waits; 0 where the answer has none.
    index: u64,
    /// Whether the catalog has what was registered: `synced`, or why not.
    sync: Option<String>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().replace('\n', "; ")
    }
}

/// What a blocking query answered, and what the next one waits past.
#[derive(Debug)]
pub struct Polled {
    pub value: Value,
    pub index: Option<u64>,
    /// Of what has no index, as the services of one host.
    pub hash: Option<String>,
}

#[derive(Clone)]
pub struct Client {
    address: Address,
    token: Option<String>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Client {
    pub fn new(address: Address, token: Option<String>) -> Self {
        Self { address, token }
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The JSON that a `GET` answers with.
    pub async fn get(&self, path: Path) -> Result<Value, ClientError> {
        let answer = self.call(Method::GET, &path, None).await?;
        self.json(&path, answer)
    }

    /// As `find`, with the index of the answer.
    pub async fn find_at(&self, path: Path) -> Result<(u64, Option<Value>), ClientError> {
        let answer = self.call(Method::GET, &path, None).await?;
        let index = answer.index;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok((index, None));
        }
        Ok((index, Some(self.json(&path, answer)?)))
    }

    /// As `get`, with nothing where there is no such thing.
    pub async fn find(&self, path: Path) -> Result<Option<Value>, ClientError> {
        match self.get(path).await {
            Err(ClientError::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Null where the answer has no body.
    pub async fn put(&self, path: Path, body: Option<&Value>) -> Result<Value, ClientError> {
        let answer = self.call(Method::PUT, &path, body).await?;
        self.json(&path, answer)
    }

    /// As `put`, for a body that is not JSON.
    pub async fn put_bytes(&self, path: Path, body: Vec<u8>) -> Result<Value, ClientError> {
        let answer = self.exchange(Method::PUT, &path, Some(body.into())).await?;
        self.json(&path, answer)
    }

    /// As `put`, for what is to be in the catalog; why it is not there yet, if it is not.
    pub async fn put_in_catalog(
        &self,
        path: Path,
        body: Option<&Value>,
    ) -> Result<Option<String>, ClientError> {
        let mut answer = self.call(Method::PUT, &path, body).await?;
        let sync = answer.sync.take().filter(|state| state != "synced");
        self.json(&path, answer).map(|_| sync)
    }

    pub async fn post(&self, path: Path) -> Result<Value, ClientError> {
        let answer = self.call(Method::POST, &path, None).await?;
        self.json(&path, answer)
    }

    pub async fn delete(&self, path: Path) -> Result<Value, ClientError> {
        let answer = self.call(Method::DELETE, &path, None).await?;
        self.json(&path, answer)
    }

    fn json(&self, path: &Path, answer: Answer) -> Result<Value, ClientError> {
        if !answer.status.is_success() {
            let said = answer.text();
            let text = match said.as_str() {
                "" => format!("the agent at {} answered {}", self.address, answer.status),
                _ => said,
            };
            return Err(ClientError::Refused { status: answer.status, text });
        }
        if answer.body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer.body).map_err(|error| ClientError::NotJson {
            address: self.address.clone(),
            path: path.0.clone(),
            why: error.to_string(),
        })
    }

    /// One request and its whole answer.
    pub async fn call(
        &self,
        method: Method,
        path: &Path,
        body: Option<&Value>,
    ) -> Result<Answer, ClientError> {
        self.exchange(method, path, body.map(|body| body.to_string().into())).await
    }

    async fn exchange(
        &self,
        method: Method,
        path: &Path,
        body: Option<Bytes>,
    ) -> Result<Answer, ClientError> {
        let exchange = async {
            let response = self.send(method, path, body).await?;
            let status = response.status();
            let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
            let sync = header(SYNC).map(str::to_owned);
            let index = header(INDEX).and_then(|text| text.parse().ok()).unwrap_or_default();
            let body = self.body(response.into_body()).await?;
            Ok(Answer { status, body, index, sync })
        };
        let silent = |_| ClientError::Silent { address: self.address.clone(), seconds: ANSWER.as_secs() };
        timeout(ANSWER, exchange).await.map_err(silent)?
    }

    /// A blocking query: waits for its answer as long as an agent may take to give one.
    pub async fn poll(&self, path: &Path) -> Result<Polled, ClientError> {
        let exchange = async {
            let response = self.send(Method::GET, path, None).await?;
            let status = response.status();
            let header = |name: &str| {
                let value = response.headers().get(name).and_then(|value| value.to_str().ok());
                value.map(str::to_owned)
            };
            let index = header(INDEX).and_then(|text| text.parse().ok());
            let hash = header("x-consul-contenthash");
            let body = self.body(response.into_body()).await?;
            Ok((Answer { status, body, index: index.unwrap_or_default(), sync: None }, index, hash))
        };
        let silent = |_| ClientError::Silent { address: self.address.clone(), seconds: POLL.as_secs() };
        let (answer, index, hash) = timeout(POLL, exchange).await.map_err(silent)??;
        // A list that is empty may be told as not found; only what blocks has an index then.
        let value = match answer.status {
            StatusCode::NOT_FOUND if index.is_some() => Value::Null,
            _ => self.json(path, answer)?,
        };
        Ok(Polled { value, index, hash })
    }

    /// A `GET` whose answer goes on until somebody ends it; each piece is handed to `take`.
    pub async fn follow<E: From<ClientError>>(
        &self,
        path: Path,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let sent = timeout(ANSWER, self.send(Method::GET, &path, None)).await;
        let response = sent.map_err(|_| ClientError::Silent {
            address: self.address.clone(),
            seconds: ANSWER.as_secs(),
        })??;
        let status = response.status();
        let mut body = response.into_body();
        if !status.is_success() {
            let answer = Answer { status, body: self.body(body).await?, index: 0, sync: None };
            return Err(ClientError::Refused { status, text: answer.text() }.into());
        }
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(error))?;
            if let Some(bytes) = frame.data_ref() {
                take(bytes)?;
            }
        }
        Ok(())
    }

    /// A `PUT` of a file, however long it takes to be taken in; what the agent said.
    pub async fn upload(&self, path: Path, file: File) -> Result<String, ClientError> {
        let length = file.metadata().map_err(|error| self.broken(error))?.len();
        let request = self
            .request(Method::PUT, &path)
            .header("content-type", "application/octet-stream")
            .body(FileBody { file, left: length })
            .map_err(|error| self.broken(error))?;
        let response = self.deliver(request).await?;
        let status = response.status();
        let body = self.body(response.into_body()).await?;
        let answer = Answer { status, body, index: 0, sync: None };
        if !status.is_success() {
            return Err(ClientError::Refused { status, text: answer.text() });
        }
        Ok(String::from_utf8_lossy(&answer.body).trim().to_owned())
    }

    /// All of a body, up to the limit.
    async fn body(&self, body: Incoming) -> Result<Bytes, ClientError> {
        let whole = Limited::new(body, BODY_BYTES).collect().await;
        Ok(whole.map_err(|error| self.broken(error))?.to_bytes())
    }

    fn broken(&self, why: impl fmt::Display) -> ClientError {
        ClientError::Broken { address: self.address.clone(), why: why.to_string() }
    }

    fn unreachable(&self, why: impl fmt::Display) -> ClientError {
        ClientError::Unreachable { address: self.address.clone(), why: why.to_string() }
    }

    async fn send(
        &self,
        method: Method,
        path: &Path,
        body: Option<Bytes>,
    ) -> Result<hyper::Response<Incoming>, ClientError> {
        let mut request = self.request(method, path);
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let request =
            request.body(Full::new(body.unwrap_or_default())).map_err(|error| self.broken(error))?;
        self.deliver(request).await
    }

    fn request(&self, method: Method, path: &Path) -> http::request::Builder {
        let host = match &self.address {
            Address::Tcp(text) => text.as_str(),
            Address::Unix(_) => "localhost",
        };
        let request = Request::builder().method(method).uri(&path.0).header("host", host);
        match &self.token {
            Some(token) => request.header("x-consul-token", token),
            None => request,
        }
    }

    async fn deliver<B>(&self, request: Request<B>) -> Result<hyper::Response<Incoming>, ClientError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync,
    {
        let connect = async {
            match &self.address {
                Address::Tcp(text) => TcpStream::connect(text).await.map(Either::Tcp),
                Address::Unix(path) => UnixStream::connect(path).await.map(Either::Unix),
            }
        };
        let connected =
            timeout(CONNECT, connect).await.map_err(|_| self.unreachable("no answer within 5 s"))?;
        match connected.map_err(|error| self.unreachable(plain_reason(&error)))? {
            Either::Tcp(stream) => self.talk(stream, request).await,
            Either::Unix(stream) => self.talk(stream, request).await,
        }
    }

    async fn talk<S, B>(
        &self,
        stream: S,
        request: Request<B>,
    ) -> Result<hyper::Response<Incoming>, ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync,
    {
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.broken(error))?;
        // Ends with the answer's body.
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(|error| self.broken(error))
    }
}

enum Either {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Without the number that the standard library adds.
fn plain_reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.chars().next().map_or_else(String::new, |first| {
        let rest = text.get(first.len_utf8()..).unwrap_or_default();
        format!("{}{rest}", first.to_lowercase())
    })
}

#[cfg(test)]
mod tests {
    use super::{Address, Client, Path};

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, meant) in [
            ("127.0.0.1:8500", "127.0.0.1:8500"),
            ("http://10.0.0.1:8501/", "10.0.0.1:8501"),
            ("host", "host:8500"),
            (":9000", "127.0.0.1:9000"),
            ("[::1]:8500", "[::1]:8500"),
            ("::1", "[::1]:8500"),
            ("unix:///run/purlin/http.sock", "unix:///run/purlin/http.sock"),
        ] {
            assert_eq!(
                Address::parse(text).map(|address| address.to_string()).ok().as_deref(),
                Some(meant),
                "{text}"
            );
        }
        for text in ["", "https://a:1", "unix://relative", "a b", "host:port", "http://"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths_are_encoded() {
        let path =
            Path::new(&["agent", "service", "a/b é"]).with("filter", "a == \"x\"").with_some("dc", None);
        assert_eq!(path.0, "/v1/agent/service/a%2Fb%20%C3%A9?filter=a%20%3D%3D%20%22x%22");
    }

    #[tokio::test]
    async fn an_agent_that_is_not_there_is_explained() {
        // A port that was just free.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let client = Client::new(Address::parse(&free).unwrap(), None);
        let error = client.get(Path::new(&["status", "leader"])).await.unwrap_err().to_string();
        let expected = format!(
            "cannot reach the Purlin agent at {free}: connection refused; is it running? set --http-addr or PURLIN_HTTP_ADDR"
        );
        assert_eq!(error, expected);
    }

    #[tokio::test]
    async fn what_an_agent_says_is_passed_on() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            for answer in [
                "HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nno such\nx",
                "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{\"a\": 1}",
            ] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 1024];
                let read = stream.read(&mut head).await.unwrap();
                assert!(head[..read].starts_with(b"GET /v1/x HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let client = Client::new(Address::parse(&address).unwrap(), None);
        let error = client.get(Path::new(&["x"])).await.unwrap_err();
        assert_eq!(error.to_string(), "no such; x");
        assert_eq!(client.get(Path::new(&["x"])).await.unwrap(), serde_json::json!({"a": 1}));
    }
}
