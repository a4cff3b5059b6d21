//! Listening sockets: opened by the owner, one for each worker, and the loop that takes connections from one.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::report::Refusal;
use crate::worker::Worker;
use crate::{inbound, outbound};

const BACKLOG: i32 = 1024;
/// After an accept that failed for want of something, such as file descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Side {
    /// Mesh connections from other hosts.
    Inbound,
    /// Applications of this host.
    Outbound,
}

/// A place where connections are taken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Door {
    pub(crate) side: Side,
    pub(crate) bind: SocketAddr,
    /// Absent: the host's.
    pub(crate) network_namespace: Option<String>,
}

/// Sockets for all workers on one address, which the kernel spreads connections over. The text says why not.
pub(crate) fn bind(door: &Door, workers: usize) -> Result<Vec<std::net::TcpListener>, String> {
    let Some(namespace) = &door.network_namespace else {
        return bind_here(door.bind, workers);
    };
    // A thread is in one namespace at a time, so a short-lived one goes there.
    let (namespace, address) = (namespace.clone(), door.bind);
    let there = std::thread::spawn(move || {
        enter(&namespace)?;
        bind_here(address, workers)
    });
    there.join().unwrap_or_else(|_| Err("the thread that was to open it failed".into()))
}

fn enter(namespace: &str) -> Result<(), String> {
    let explain =
        |error: &dyn std::fmt::Display| format!("cannot enter network namespace {namespace}: {error}");
    let file = std::fs::File::open(namespace).map_err(|error| explain(&error))?;
    rustix::thread::move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&file),
        Some(rustix::thread::LinkNameSpaceType::Network),
    )
    .map_err(|error| explain(&error))
}

fn bind_here(address: SocketAddr, workers: usize) -> Result<Vec<std::net::TcpListener>, String> {
    let explain = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AddrInUse => "the address is in use by another process".to_owned(),
        _ => error.to_string(),
    };
    // Sockets that share a port would silently share it with another process, too: look first, alone.
    drop(socket(address, false).map_err(explain)?);
    (0..workers.max(1)).map(|_| socket(address, true).map(Into::into).map_err(explain)).collect()
}

fn socket(address: SocketAddr, shared: bool) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    if shared {
        socket.set_nonblocking(true)?;
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

/// What a worker takes connections from.
#[derive(Default)]
pub(crate) struct Doors {
    open: HashMap<Door, JoinHandle<()>>,
}

impl Doors {
    /// Returns when the socket is closed.
    pub(crate) async fn close(&mut self, door: &Door) {
        if let Some(task) = self.open.remove(door) {
            task.abort();
            // It ends as cancelled, which is what was asked for.
            let _ = task.await;
        }
    }

    pub(crate) async fn close_all(mut self) {
        for (_, task) in self.open.drain() {
            task.abort();
            let _ = task.await;
        }
    }
}

/// Begins to take connections.
pub(crate) fn open(worker: &Rc<Worker>, doors: &mut Doors, door: Door, socket: std::net::TcpListener) {
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => return worker.report.accept_failed(door.bind, &error),
    };
    let task = tokio::task::spawn_local(take(worker.clone(), door.clone(), listener));
    doors.open.insert(door, task);
}

async fn take(worker: Rc<Worker>, door: Door, listener: TcpListener) {
    let open = Rc::new(Cell::new(0));
    loop {
        match listener.accept().await {
            Ok((tcp, from)) => admit(&worker, &door, &open, tcp, from),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                worker.report.accept_failed(door.bind, &error);
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// One more connection of a listener, until dropped.
struct OfListener(Rc<Cell<usize>>);

impl Drop for OfListener {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

fn admit(worker: &Rc<Worker>, door: &Door, open: &Rc<Cell<usize>>, tcp: TcpStream, from: SocketAddr) {
    let limits = &worker.limits;
    if worker.connections.get() >= limits.connections_per_worker
        || open.get() >= limits.connections_per_listener
    {
        return worker.report.refused(Refusal::TooMany, Some(from), &format!("{} has too many", door.bind));
    }
    open.set(open.get() + 1);
    let of_listener = OfListener(open.clone());
    let here = worker.clone();
    match door.side {
        Side::Inbound => worker.spawn_counted("a connection from the mesh", async move {
            let _of_listener = of_listener;
            Box::pin(inbound::serve(here, tcp, from)).await;
        }),
        Side::Outbound => {
            let Some(listener) = worker.state().listeners.get(&door.bind).cloned() else { return };
            worker.spawn_counted("a connection to an upstream", async move {
                let _of_listener = of_listener;
                Box::pin(outbound::serve(here, tcp, from, listener)).await;
            });
        }
    }
}
