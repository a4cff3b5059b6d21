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
                    wait_for(&socket, runtime_dir, child).await
                }
                (Err(error), None) if is_nobody(&error) => {
                    Err(format!("nobody listens on {}: start purlin-proxy", socket.display()))
                }
                (adopted, _) => adopted.map_err(|error| describe(&socket, &error)),
            }
        }
    }
}

async fn wait_for(socket: &Path, runtime_dir: &Path, child: &mut Child) -> Result<Stream, String> {
    let deadline = Instant::now() + START;
    loop {
        let error = match connect(socket, runtime_dir).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        if let Some(status) = child.ended() {
            return Err(format!("the proxy was started and ended at once ({status}): its log says why"));
        }
        if !is_nobody(&error) || Instant::now() >= deadline {
            return Err(describe(socket, &error));
        }
        sleep(LOOK).await;
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use tokio::net::UnixListener;

    use super::super::Spawn;
    use super::*;

    fn script(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("fake-proxy");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    async fn dial_in(dir: &Path, spawn: Option<Spawn>, child: &mut Child) -> Result<Stream, String> {
        let port = ProxyPort::Socket { runtime_dir: dir.join("run"), spawn };
        dial(&port, child, &Metrics::new(Vec::new())).await
    }

    #[tokio::test]
    async fn one_that_listens_already_is_taken_up_and_none_is_started() {
        let dir = tempfile::tempdir().unwrap();
        file::private_directory(&dir.path().join("run")).unwrap();
        let listener = UnixListener::bind(dir.path().join("run").join(SOCKET)).unwrap();
        let spawn = Spawn { exe: dir.path().join("does-not-exist"), args: Vec::new() };
        dial_in(dir.path(), Some(spawn), &mut Child::default()).await.unwrap();
        listener.accept().await.unwrap();
    }

    #[tokio::test]
    async fn where_none_listens_one_is_started_and_its_end_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let exe = script(dir.path(), "#!/bin/sh\necho \"$@\" > \"$0.args\"\nexit 3\n");
        let spawn = Spawn { exe: exe.clone(), args: vec!["--workers=2".into()] };
        let why = dial_in(dir.path(), Some(spawn), &mut Child::default()).await.err().unwrap();
        assert!(why.contains("exit status: 3"), "{why}");
        let args = std::fs::read_to_string(exe.with_extension("args")).unwrap();
        let run = dir.path().join("run");
        assert_eq!(args.trim(), format!("proxy --runtime-dir {} --workers=2", run.display()));
        assert_eq!(std::fs::metadata(run).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[tokio::test]
    async fn a_proxy_that_somebody_else_starts_is_only_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let why = dial_in(dir.path(), None, &mut Child::default()).await.err().unwrap();
        assert!(why.contains("start purlin-proxy"), "{why}");
    }
}
