//! Whether a data directory, the flags and a join token fit together, and what is told about it.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use purlin_agent::join::{self, Joiner, NotRenewed, QuicDoor};
use purlin_model::command::{FIRST_LEVEL, LEVEL};
use purlin_model::node::NodeRole;
use purlin_server::ServerHandle;
use purlin_wire::node_store::{NodeFile, NodeStore};
use purlin_wire::token::JoinTokenText;
use tracing::{info, warn};

use super::host::VERSION;
use super::{RunOptions, Running, Usage};
use crate::config::Config;

/// For a server to say whether this host is still a member: a host without servers must not start much later for it.
const ASK_WAIT: Duration = Duration::from_secs(3);

fn verb(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Server => "server",
        NodeRole::Agent | NodeRole::External => "agent",
    }
}

/// For a start without flags on a host that belongs nowhere.
pub(super) fn empty(dir: &Path, role: NodeRole) -> Usage {
    Usage(format!(
        "data_dir {} is empty: start the first server of a mesh with `purlin server --bootstrap`, or let this host \
         join one with `purlin {} --join TOKEN`",
        dir.display(),
        verb(role)
    ))
}

/// That what lies in the data directory is what is to be started.
pub(super) fn check(file: &NodeFile, config: &Config, role: NodeRole, dir: &Path) -> anyhow::Result<()> {
    let (name, dir) = (&config.node_name, dir.display());
    if file.role != role {
        let (was, is) = (verb(file.role), verb(role));
        bail!(
            "data_dir {dir} belongs to the {was} {}: start it with `purlin {was}`, not `purlin {is}`",
            file.name
        );
    }
    if file.name != *name {
        bail!(
            "data_dir {dir} belongs to node {}, not {name}: set node_name to {0}, or use another data_dir",
            file.name
        );
    }
    if let Some(id) = config.node_id.filter(|id| *id != file.id) {
        bail!(
            "data_dir {dir} belongs to the node with id {}, not {}: take node_id out of the configuration or set it to \
             that, or use another data_dir",
            file.id.0,
            id.0
        );
    }
    Ok(())
}

/// Flags that a member of a mesh needs no more: accepted with a notice, unless they lead elsewhere.
pub(super) fn notice(file: &NodeFile, token: Option<&JoinTokenText>, bootstrap: bool) -> anyhow::Result<()> {
    if let Some(token) = token {
        if token.trust_domain != file.trust_domain {
            bail!(
                "the join token is of another mesh ({}); this host belongs to {}: to move it, remove its data_dir first",
                token.trust_domain,
                file.trust_domain
            );
        }
        warn!(
            mesh = %file.trust_domain,
            "this host has joined already, --join is ignored but for where it says that servers are"
        );
    }
    if bootstrap {
        warn!(mesh = %file.trust_domain, "this host belongs to a mesh already, --bootstrap is ignored");
    }
    Ok(())
}

/// Whether a server of this mesh says that this host is no member any more. Only with a token to join again is it
/// asked; who cannot tell in time leaves everything as it is.
pub(super) async fn is_sent_away(
    store: &NodeStore,
    file: &NodeFile,
    token: Option<&JoinTokenText>,
) -> anyhow::Result<bool> {
    let Some(token) = token.filter(|token| token.trust_domain == file.trust_domain) else { return Ok(false) };
    let Some(credentials) = store.load_credentials()? else { return Ok(true) };
    let servers = look_also_at(file.clone(), Some(token)).servers;
    let asked = join::renew_by_key(store, &servers, &credentials, &QuicDoor);
    match tokio::time::timeout(ASK_WAIT, asked).await {
        Ok(Err(NotRenewed::Refused(fault))) => {
            warn!("this host is no member any more and joins anew: {fault}");
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Where a member looks for servers: a token that it was given is newer than what it knows, as when they moved.
pub(super) fn look_also_at(file: NodeFile, token: Option<&JoinTokenText>) -> NodeFile {
    let Some(token) = token else { return file };
    let known = file.servers.iter().filter(|known| !token.servers.contains(known));
    let servers = token.servers.iter().chain(known).cloned().collect();
    NodeFile { servers, ..file }
}

/// As [`look_also_at`], for a server, which finds the others by what lies in its data directory.
pub(super) fn keep_servers(
    store: &NodeStore,
    file: NodeFile,
    token: Option<&JoinTokenText>,
) -> anyhow::Result<()> {
    let kept = look_also_at(file.clone(), token);
    if kept != file {
        store.save(&kept)?;
    }
    Ok(())
}

/// Plays an older build: the newest command level that this server says it understands. For tests of upgrades.
const LEVEL_ENV: &str = "PURLIN_TEST_LEVEL";

fn level() -> u16 {
    let played = std::env::var(LEVEL_ENV).ok().and_then(|text| text.parse().ok());
    played.filter(|level| (FIRST_LEVEL..=LEVEL).contains(level)).unwrap_or(LEVEL)
}

pub(crate) fn server_config(config: &Config, store: Arc<NodeStore>) -> purlin_server::Config {
    purlin_server::Config {
        store,
        node: config.node_name.clone(),
        datacenter: config.datacenter.clone(),
        domain: config.domain.clone(),
        bind: vec![config.listen.server],
        advertise: config.advertise_addr.to_string(),
        mesh_port: Some(config.listen.mesh.port()),
        default_intention: config.default_intention_policy,
        leaf_ttl: config.leaf_cert_ttl,
        level: level(),
        reconnect_timeout: config.reconnect_timeout,
        version: VERSION.into(),
        clock: purlin_server::system_clock(),
    }
}

/// Lets this host join with the token it was given.
pub(super) async fn join(
    options: &RunOptions,
    store: &NodeStore,
    role: NodeRole,
) -> anyhow::Result<NodeFile> {
    let Some(token) = &options.join else { return Err(empty(store.directory(), role).into()) };
    let config = &options.config;
    let joiner = Joiner {
        name: config.node_name.clone(),
        role,
        datacenter: Some(config.datacenter.clone()),
        address: config.advertise_addr.to_string(),
        mesh_port: Some(config.listen.mesh.port()),
        version: VERSION.into(),
        join_timeout: config.join_timeout,
    };
    info!(node = %joiner.name, "joining");
    let file = join::join(store, &token.encode()?, &joiner, &QuicDoor).await?;
    info!(node = %file.name, mesh = %file.trust_domain, "joined");
    Ok(file)
}

/// What an operator does next, on standard output.
pub(super) async fn tell_how_to_join(
    server: &ServerHandle,
    node: &NodeFile,
    ttl: Duration,
    uses: u32,
) -> anyhow::Result<()> {
    let token = server.create_join_token(NodeRole::Agent, ttl, uses).await?;
    say(&format!(
        "{} is the first server of a new mesh, trust domain {}.\n\
         To let another host in, run on it (good for {} and {uses} hosts):\n\n    \
         purlin agent --join {token} --config FILE\n\n\
         For another token: purlin join-token create",
        node.name,
        node.trust_domain,
        purlin_model::duration::format(ttl),
    ));
    Ok(())
}

/// To standard output. That nobody reads it any more is no reason to end; what was said may be secret.
fn say(text: &str) {
    if let Err(error) = writeln!(std::io::stdout(), "{text}") {
        warn!("standard output cannot be written: {error}");
    }
}

pub(super) fn tell_dev(running: &Running, config: &Config, is_kept: bool) {
    let http = running.agent.http_addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let dns = config.listen.dns.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    say(&format!(
        "a mesh of one host, for trying things: HTTP API {http}, DNS {dns}, mesh {}; Ctrl-C ends it{}",
        config.listen.mesh,
        if is_kept { "" } else { " and forgets everything" }
    ));
}

#[cfg(test)]
mod tests {
    use purlin_model::identity::TrustDomain;
    use purlin_model::{Datacenter, NodeId, NodeName};
    use purlin_wire::token::Secret;

    use super::*;

    #[test]
    fn a_token_that_is_not_needed_still_tells_where_servers_moved() {
        let trust_domain = TrustDomain("u.mesh.internal".into());
        let file = NodeFile {
            id: NodeId(Default::default()),
            name: NodeName::new("h1").unwrap(),
            datacenter: Datacenter::default(),
            trust_domain: trust_domain.clone(),
            role: NodeRole::Agent,
            servers: vec!["10.0.0.1:8300".into(), "10.0.0.2:8300".into()],
        };
        let token = JoinTokenText {
            servers: vec!["10.0.0.9:8300".into(), "10.0.0.2:8300".into()],
            ca_fingerprint: [0; 32],
            trust_domain,
            role: NodeRole::Agent,
            id: "t1".into(),
            secret: Secret::new("secret"),
        };
        assert_eq!(look_also_at(file.clone(), None), file);
        let servers = look_also_at(file, Some(&token)).servers;
        assert_eq!(servers, ["10.0.0.9:8300", "10.0.0.2:8300", "10.0.0.1:8300"]);
    }
}
