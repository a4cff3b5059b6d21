//! Sockets that the test itself holds on a host: clients and applications whose every byte a story decides.

use std::io::{self, Read};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::host::Host;
use super::wait::{SOON, until};

/// No read or write of a story takes longer; one that does has failed.
const PATIENCE: Duration = Duration::from_secs(15);

impl Host {
    /// Runs `work` on a thread that stands in this host's network; sockets made there stay there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = self.netns_path();
        let run = move || {
            let namespace = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), kind)
                .unwrap_or_else(|error| panic!("enter {path}: {error}"));
            work()
        };
        std::thread::scope(|scope| match scope.spawn(run).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// A connection from this host.
    pub fn dial(&self, address: &str) -> io::Result<TcpStream> {
        let stream = self.inside(|| TcpStream::connect(address))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// All that comes until the other side closes, in order or not.
pub fn rest(mut stream: &TcpStream) -> String {
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes);
    if let Err(error) = &ended {
        assert!(error.kind() == io::ErrorKind::ConnectionReset, "the other side does not close: {error}");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The head of an HTTP/1.1 message, in lower case; what came before the connection ended, if it did.
pub fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0; 1];
    while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).to_ascii_lowercase()
}

/// Status and body of an HTTP/1.1 answer with a `Content-Length`; the connection can be used again.
pub fn read_reply(stream: &mut TcpStream) -> Result<(u16, String), String> {
    let head = read_head(stream);
    let status = head.strip_prefix("http/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length = length.and_then(|text| text.trim().parse().ok());
    let (Some(status), Some(length)) = (status, length) else { return Err(format!("no answer: {head}")) };
    let mut body = vec![0; length];
    stream.read_exact(&mut body).map_err(|error| error.to_string())?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// The body of such an answer, if it says 200.
pub fn read_answer(stream: &mut TcpStream) -> Result<String, String> {
    match read_reply(stream)? {
        (200, body) => Ok(body),
        (status, body) => Err(format!("{status} {body}")),
    }
}

/// An application whose code is part of the story. It ends, with its connections, when this is dropped.
pub struct App {
    listener: TcpListener,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl App {
    /// Listens on this host; each connection gets a thread of its own.
    pub fn start(host: &Host, address: &str, serve: impl Fn(TcpStream) + Clone + Send + 'static) -> Self {
        let listener = until(&format!("{address} is free"), SOON, || {
            host.inside(|| TcpListener::bind(address)).map_err(|error| error.to_string())
        });
        let open = Arc::<Mutex<Vec<TcpStream>>>::default();
        let (door, held) = (listener.try_clone().expect("a second handle"), open.clone());
        std::thread::spawn(move || {
            while let Ok((stream, _)) = door.accept() {
                let (Ok(copy), Ok(end), Ok(mut held)) = (stream.try_clone(), stream.try_clone(), held.lock())
                else {
                    return;
                };
                held.push(copy);
                let serve = serve.clone();
                std::thread::spawn(move || {
                    serve(stream);
                    // The copy that is held keeps the connection open otherwise.
                    let _ = end.shutdown(Shutdown::Both);
                });
            }
        });
        Self { listener, open }
    }

    /// How many connections it was sent so far.
    pub fn connections(&self) -> usize {
        self.open.lock().map_or(0, |open| open.len())
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // Wakes the thread that accepts; the port is free once it has let go.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        for stream in self.open.lock().iter().flat_map(|open| open.iter()) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
