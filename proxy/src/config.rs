//! How a proxy process is started, and every limit it keeps. Sizes are bytes unless the name says otherwise.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Called with the filter of a `LogLevel` frame; the binary owns the subscriber. An error text is logged.
pub type LogLevelHook = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// All that is fixed while a proxy runs; the rest comes with views.
#[derive(Clone)]
pub struct Config {
    /// Threads that move traffic, each with its own listeners and pools.
    pub workers: usize,
    /// Where `proxy.sock` and `proxy.lock` lie. Absent in one process, where a stream is handed in.
    pub runtime_dir: Option<PathBuf>,
    pub limits: Limits,
    /// How long what is under way may take to end after a drain began.
    pub drain_deadline: Duration,
    pub log_level: Option<LogLevelHook>,
}

impl Default for Config {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            workers,
            runtime_dir: None,
            limits: Limits::default(),
            drain_deadline: Duration::from_secs(30),
            log_level: None,
        }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("workers", &self.workers)
            .field("runtime_dir", &self.runtime_dir)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Bounds of one proxy. Those per worker hold for each thread on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Accepted connections of one worker, all listeners together.
    pub connections_per_worker: usize,
    /// Accepted connections of one worker on one listener.
    pub connections_per_listener: usize,
    pub handshakes_per_worker: usize,
    pub handshake_timeout: Duration,
    /// First bytes that are looked at to tell the protocol.
    pub sniff_bytes: usize,
    /// Head of one request or response.
    pub header_bytes: usize,
    pub headers: usize,
    /// From the first to the last byte of a request head, for what comes from the mesh.
    pub header_read_timeout: Duration,
    /// An application's idle keep-alive connection to a listener lives that long.
    pub client_idle_timeout: Duration,
    /// Streams that one HTTP/2 connection may have open.
    pub streams_per_connection: u32,
    /// Streams above which a second connection to the same endpoint is opened.
    pub streams_before_next: u32,
    /// HTTP/2 connections of one worker to one endpoint.
    pub tunnels_per_endpoint: usize,
    /// Idle HTTP/1.1 connections of one worker to one application.
    pub idle_per_application: usize,
    pub application_idle_timeout: Duration,
    /// Endpoints tried for one request or connection.
    pub attempts: usize,
    /// How long an endpoint that could not be reached is passed over, at first and at most.
    pub failed_rest: Duration,
    pub failed_rest_max: Duration,
    /// Pairs of services that get metrics of their own; the others are counted together.
    pub edges: usize,
    /// Parts of a view.
    pub parts: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_per_worker: 20_000,
            connections_per_listener: 10_000,
            handshakes_per_worker: 512,
            handshake_timeout: Duration::from_secs(10),
            sniff_bytes: 8 * 1024,
            header_bytes: 64 * 1024,
            headers: 128,
            header_read_timeout: Duration::from_secs(30),
            client_idle_timeout: Duration::from_secs(300),
            streams_per_connection: 1024,
            streams_before_next: 64,
            tunnels_per_endpoint: 16,
            idle_per_application: 64,
            application_idle_timeout: Duration::from_secs(4),
            attempts: 3,
            failed_rest: Duration::from_millis(500),
            failed_rest_max: Duration::from_secs(10),
            edges: 4096,
            parts: 100_000,
        }
    }
}
