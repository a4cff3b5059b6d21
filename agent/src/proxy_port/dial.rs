//! Reaching the proxy: first whoever listens already, else one that is started now.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use purlin_wire::file;
use purlin_wire::link::Stream;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

use super::child::Child;
use super::{ProxyPort, SOCKET};
use crate::metrics::Metrics;

/// How long a started proxy may take until it listens.
const START: Duration = Duration::from_secs(10);
/// Between two looks for its socket.
const LOOK: Duration = Duration::from_millis(20);
const ROOT: u32 = 0;

pub(super) async fn dial(port: &ProxyPort, child: &mut Child, metrics: &Metrics) -> Result<Stream, String> {
    match port {
        ProxyPort::None => Err("this host runs no proxy".into()),
        ProxyPort::Memory(dialer) => {
            (dialer.0)().await.map_err(|error| format!("proxy in this process: {error}"))
        }
        ProxyPort::Socket { runtime_dir, spawn } => {
            let socket = runtime_dir.join(SOCKET);
            let adopted = connect(&socket, runtime_dir).await;
            match (adopted, spawn) {
                (Err(error), Some(spawn)) if is_nobody(&error) => {
                    file::private_directory(runtime_dir).map_err(|error| error.to_string())?;
                    if child.ensure(spawn, runtime_dir)? {
                        metrics.own().proxy_starts.inc();
                    }
                    wait_for(&socket, runtime_dir).await
                }
                (Err(error), None) if is_nobody(&error) => {
                    Err(format!("nobody listens on {}: start purlin-proxy", socket.display()))
                }
                (adopted, _) => adopted.map_err(|error| describe(&socket, &error)),
            }
        }
    }
}

async fn wait_for(socket: &Path, runtime_dir: &Path) -> Result<Stream, String> {
    let deadline = Instant::now() + START;
    loop {
        match connect(socket, runtime_dir).await {
            Err(error) if is_nobody(&error) && Instant::now() < deadline => sleep(LOOK).await,
            connected => return connected.map_err(|error| describe(socket, &error)),
        }
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn describe(socket: &Path, error: &io::Error) -> String {
    format!("{}: {error}", socket.display())
}

/// Keys go over this socket, so it must be ours, root's, or of whom the directory was made for.
async fn connect(socket: &Path, runtime_dir: &Path) -> io::Result<Stream> {
    let stream = UnixStream::connect(socket).await?;
    let uid = stream.peer_cred()?.uid();
    let own = rustix::process::geteuid().as_raw();
    let owner = std::fs::metadata(runtime_dir)?.uid();
    if uid != own && uid != ROOT && uid != owner {
        let text = format!(
            "user {uid} listens there, who may not have this host's keys (expected {own} or {owner})"
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let (read, write) = stream.into_split();
    Ok(Stream { read: Box::new(read), write: Box::new(write) })
}
