//! The Unix socket on which the agent of this host finds its proxy, and the lock that keeps a second proxy away.

use std::fs::{DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// Why the runtime directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("runtime directory {path}: {source}")]
    Directory { path: PathBuf, source: io::Error },
    #[error("runtime directory {path} belongs to uid {uid}; it must belong to the proxy's own")]
    Owner { path: PathBuf, uid: u32 },
    #[error("another proxy is running in {path}: stop it, or use another runtime directory")]
    Taken { path: PathBuf },
    #[error("socket {path}: {source}")]
    Socket { path: PathBuf, source: io::Error },
}

/// Listens for agents; holds the lock as long as it lives.
#[derive(Debug)]
pub(crate) struct AgentSocket {
    listener: UnixListener,
    path: PathBuf,
    _lock: File,
}

impl AgentSocket {
    pub(crate) fn open(runtime_dir: &Path) -> Result<Self, SocketError> {
        prepare_directory(runtime_dir)?;
        let lock = lock(runtime_dir)?;
        let path = runtime_dir.join("proxy.sock");
        let fail = |source| SocketError::Socket { path: path.clone(), source };
        // The lock is ours, so nobody listens on what is there.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(fail)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(fail)?;
        Ok(Self { listener, path, _lock: lock })
    }

    /// The next agent that may speak to us. Others are turned away here.
    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            let uid = stream.peer_cred()?.uid();
            if uid == 0 || uid == own_uid() {
                return Ok(stream);
            }
            tracing::warn!(
                uid,
                "refused a connection to {}: only the proxy's own user and root may",
                self.path.display()
            );
        }
    }
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        // An agent that finds no socket knows at once that no proxy is there.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn prepare_directory(path: &Path) -> Result<(), SocketError> {
    let fail = |source| SocketError::Directory { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail)?;
    let metadata = std::fs::metadata(path).map_err(fail)?;
    if metadata.uid() != own_uid() {
        return Err(SocketError::Owner { path: path.to_owned(), uid: metadata.uid() });
    }
    std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(fail)
}

fn lock(runtime_dir: &Path) -> Result<File, SocketError> {
    let path = runtime_dir.join("proxy.lock");
    let fail = |source| SocketError::Directory { path: path.clone(), source };
    let file =
        File::options().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SocketError::Taken { path: runtime_dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(fail(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_private_and_of_one_proxy() {
        let dir = tempfile::tempdir().unwrap();
        let runtime_dir = dir.path().join("run");
        let socket = AgentSocket::open(&runtime_dir).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&runtime_dir), 0o700);
        assert_eq!(mode(&runtime_dir.join("proxy.sock")), 0o600);
        let second = AgentSocket::open(&runtime_dir).unwrap_err();
        assert!(second.to_string().starts_with("another proxy is running in"), "{second}");
        drop(socket);
        assert!(!runtime_dir.join("proxy.sock").exists());
        AgentSocket::open(&runtime_dir).unwrap();
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        drop(std::os::unix::net::UnixListener::bind(dir.path().join("proxy.sock")).unwrap());
        let socket = AgentSocket::open(dir.path()).unwrap();
        let (client, server) =
            tokio::join!(UnixStream::connect(dir.path().join("proxy.sock")), socket.accept());
        client.unwrap();
        server.unwrap();
    }
}
