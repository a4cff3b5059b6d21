//! From the configuration of a host to what its agent is started with.

use std::sync::Arc;

use purlin_agent::clock::Clock;
use purlin_agent::config::{self as agent, CheckOptions, DnsOptions, HttpOptions, Ports, SoaOptions};
use purlin_agent::metrics::Source;
use purlin_agent::uplink::ProbePort;
use purlin_model::node::NodeRole;
use purlin_server::ServerHandle;
use purlin_wire::node_store::NodeFile;
use purlin_wire::tls::Credentials;
use tokio::sync::watch;

use crate::config::Config;
use crate::logging::Logs;

/// Of the software, as members tell each other.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The agent's part of the configuration.
pub(crate) fn agent_config(config: &Config, node: &NodeFile, logs: Option<&Logs>) -> agent::Config {
    let server = (node.role == NodeRole::Server).then(|| config.listen.server.port());
    agent::Config {
        node_name: node.name.clone(),
        node_id: node.id,
        datacenter: node.datacenter.clone(),
        role: node.role,
        version: VERSION.into(),
        domain: config.domain.clone(),
        alt_domain: config.alt_domain.clone(),
        bind: config.bind_addr,
        advertise: config.advertise_addr,
        tagged_addresses: std::collections::BTreeMap::default(),
        meta: config.node_meta.clone(),
        locality: config.locality.clone(),
        ports: Ports { server, mesh: Some(config.listen.mesh.port()) },
        mesh_listen: vec![config.listen.mesh],
        detection_timeout: config.proxy.detection_timeout,
        http: http(config),
        dns: dns(config),
        checks: CheckOptions {
            enable_script_checks: config.scripts.all,
            enable_local_script_checks: config.scripts.local,
        },
        data_dir: config.data_dir.clone(),
        services: config.services.clone(),
        node_checks: config.checks.clone(),
        clock: Clock::system(),
        log_filter: logs.map(Logs::filter),
    }
}

fn http(config: &Config) -> HttpOptions {
    HttpOptions {
        listen: config.listen.http.clone(),
        socket: config.listen.http_socket.clone(),
        response_headers: config.http.response_headers.clone(),
        max_connections_per_client: config.http.max_connections_per_client,
    }
}

fn dns(config: &Config) -> DnsOptions {
    let dns = &config.dns;
    DnsOptions {
        listen: config.listen.dns.clone(),
        recursors: config.recursors.clone(),
        recursor_timeout: dns.recursor_timeout,
        node_ttl: dns.node_ttl,
        service_ttl: dns.service_ttl.clone(),
        only_passing: dns.only_passing,
        enable_truncate: dns.enable_truncate,
        udp_answer_limit: dns.udp_answer_limit,
        a_record_limit: dns.a_record_limit,
        disable_compression: dns.disable_compression,
        soa: SoaOptions {
            refresh: dns.soa.refresh,
            retry: dns.soa.retry,
            expire: dns.soa.expire,
            min_ttl: dns.soa.min_ttl,
        },
    }
}

/// Where this host probes and is probed from.
pub(crate) fn probe_port(config: &Config, credentials: watch::Receiver<Arc<Credentials>>) -> ProbePort {
    ProbePort {
        listen: config.listen.probe,
        bind: config.bind_addr,
        advertise: config.advertise_addr,
        credentials,
    }
}

/// The server's figures, for the agent of its host to show beside its own.
pub(crate) fn metrics_source(server: &ServerHandle) -> Source {
    let read = Arc::new(server.metrics_reader());
    Source(Arc::new(move || {
        let read = read.clone();
        Box::pin(async move { read() })
    }))
}
