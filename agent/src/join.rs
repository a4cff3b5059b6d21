//! How a host becomes one of a mesh: it recognises a server by the fingerprint in its join token, shows the token's
//! secret, and gets a certificate for a key that it made itself.
//!
//! The key and the node's id are kept from the first try on, so that a repeat costs no second use of the token.

use std::time::Duration;

use futures_util::future::BoxFuture;
use purlin_model::identity::{Identity, Subject, TrustDomain};
use purlin_model::node::NodeRole;
use purlin_model::{Datacenter, Fault, NodeName};
use purlin_wire::link::{Link, LinkError};
use purlin_wire::node_store::{Joining, NodeFile, NodeStore, StoreError};
use purlin_wire::rpc::{self, JoinRequest, Joined};
use purlin_wire::tls::{self, Credentials, TlsError};
use purlin_wire::token::{JoinTokenText, TokenError};
use std::sync::Arc;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::info;

mod by_key;
#[cfg(test)]
mod tests;

pub use by_key::{NotRenewed, renew_by_key};

/// For one server to answer.
const ONE_SERVER: Duration = Duration::from_secs(10);
/// Between two rounds over all servers.
const PAUSE: Duration = Duration::from_millis(500);

/// What a host says of itself when it joins.
#[derive(Debug, Clone)]
pub struct Joiner {
    pub name: NodeName,
    pub role: NodeRole,
    /// Absent: the mesh's.
    pub datacenter: Option<Datacenter>,
    pub address: String,
    pub mesh_port: Option<u16>,
    pub version: String,
    /// After which it gives up.
    pub join_timeout: Duration,
}

/// Opens a link to a server known by the fingerprint of its CA only.
pub trait Door: Send + Sync {
    fn open<'a>(
        &'a self,
        server: &'a str,
        fingerprint: [u8; 32],
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Arc<dyn Link>, LinkError>>;
}

/// Over QUIC.
#[derive(Debug, Clone, Copy)]
pub struct QuicDoor;

impl Door for QuicDoor {
    fn open<'a>(
        &'a self,
        server: &'a str,
        fingerprint: [u8; 32],
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Arc<dyn Link>, LinkError>> {
        Box::pin(purlin_wire::quic::join_link(server, fingerprint, deadline))
    }
}

/// Each is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(
        "the join token is for a host of role {token}, this is {this}: make one with: purlin join-token create --role {this}"
    )]
    WrongRole { token: &'static str, this: &'static str },
    #[error("no server of the join token answered within {seconds} s: {why}")]
    Unreachable { seconds: u64, why: String },
    #[error("{0}: the join token is of another mesh, make one where this host shall join")]
    OtherCa(String),
    #[error("{0}")]
    Untrusted(String),
    #[error("the server does not let this host in: {0}")]
    Refused(Fault),
    #[error("the server's answer cannot be used: {0}")]
    BadAnswer(String),
    #[error("what was joined cannot be kept: {0}")]
    Store(#[from] StoreError),
    #[error("no certificate can be asked for: {0}")]
    Key(#[from] TlsError),
}

impl JoinError {
    /// Whether the arguments are at fault, not the world.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Token(_) | Self::WrongRole { .. })
    }
}

/// Joins, and saves what makes this host a member. `token` is the text as it was given.
pub async fn join(
    store: &NodeStore,
    token: &str,
    joiner: &Joiner,
    door: &dyn Door,
) -> Result<NodeFile, JoinError> {
    let token = JoinTokenText::decode(token)?;
    if token.role != joiner.role {
        return Err(JoinError::WrongRole { token: role(token.role), this: role(joiner.role) });
    }
    let joining = store.joining()?;
    let request = JoinRequest {
        token: token.id.clone(),
        secret: token.secret.expose().to_owned(),
        csr: joining.csr()?,
        id: joining.id,
        name: joiner.name.clone(),
        role: joiner.role,
        datacenter: joiner.datacenter.clone(),
        address: joiner.address.clone(),
        mesh_port: joiner.mesh_port,
        version: joiner.version.clone(),
    };
    let joined = ask_until(&token, &request, joiner.join_timeout, door).await?;
    check(&token, joiner, &joining, &joined)?;
    keep(store, &joining, joiner, joined)
}

fn role(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Server => "server",
        NodeRole::Agent => "agent",
        NodeRole::External => "external",
    }
}

/// Asks one server after another until one lets us in, all say no, or the time is over.
async fn ask_until(
    token: &JoinTokenText,
    request: &JoinRequest,
    join_timeout: Duration,
    door: &dyn Door,
) -> Result<Joined, JoinError> {
    let deadline = Instant::now() + join_timeout;
    let mut last = format!("no answer from {}", token.servers.join(", "));
    if token.servers.is_empty() {
        return Err(JoinError::Unreachable { seconds: 0, why: "the token names no server".into() });
    }
    let rounds = async {
        loop {
            let mut distrusted = Vec::new();
            for server in &token.servers {
                match ask(server, token, request, door).await {
                    Ok(joined) => return Ok(joined),
                    Err(Denied::Finally(error)) => return Err(error),
                    Err(Denied::Distrusted(error)) => distrusted.push(error),
                    Err(Denied::ForNow(why)) => last = why,
                }
            }
            // As long as one of them may still answer, the others may be strangers that took its address.
            if distrusted.len() == token.servers.len() {
                return Err(distrusted.swap_remove(0));
            }
            sleep(PAUSE).await;
        }
    };
    match timeout_at(deadline, rounds).await {
        Ok(result) => result,
        Err(_) => Err(JoinError::Unreachable { seconds: join_timeout.as_secs(), why: last }),
    }
}

enum Denied {
    ForNow(String),
    Distrusted(JoinError),
    Finally(JoinError),
}

async fn ask(
    server: &str,
    token: &JoinTokenText,
    request: &JoinRequest,
    door: &dyn Door,
) -> Result<Joined, Denied> {
    let link = door.open(server, token.ca_fingerprint, ONE_SERVER).await.map_err(|error| no_link(&error))?;
    let answer = rpc::call(link.as_ref(), rpc::JOIN, request, ONE_SERVER).await;
    link.close("done");
    answer.map_err(|fault| {
        if fault.may_retry() {
            Denied::ForNow(format!("{server}: {fault}"))
        } else {
            Denied::Finally(JoinError::Refused(fault))
        }
    })
}

fn no_link(error: &LinkError) -> Denied {
    let text = error.to_string();
    match error {
        // A server that is asked by too many hosts at once says so by refusing.
        LinkError::Untrusted { why, .. } if why.starts_with("it refuses us") => Denied::ForNow(text),
        LinkError::Untrusted { why, .. } if why.contains("another ca") => {
            Denied::Distrusted(JoinError::OtherCa(text))
        }
        LinkError::Untrusted { .. } => Denied::Distrusted(JoinError::Untrusted(text)),
        LinkError::Unreachable { .. } | LinkError::Closed(_) => Denied::ForNow(text),
    }
}

/// Believes nothing that the token does not vouch for.
fn check(
    token: &JoinTokenText,
    joiner: &Joiner,
    joining: &Joining,
    joined: &Joined,
) -> Result<(), JoinError> {
    let bad = |why: String| JoinError::BadAnswer(why);
    if joined.trust_domain != token.trust_domain {
        return Err(bad(format!("it is of {}, the token of {}", joined.trust_domain, token.trust_domain)));
    }
    if !joined.roots.iter().any(|root| tls::fingerprint(root) == token.ca_fingerprint) {
        return Err(bad("the root certificate of the token is not among its roots".into()));
    }
    let credentials = Credentials::from_der(joined.chain.clone(), &joining.key, joined.roots.clone())
        .map_err(|error| bad(error.to_string()))?;
    let expected = identity(joined.trust_domain.clone(), joined.datacenter.clone(), joiner);
    if *credentials.identity() != expected {
        return Err(bad(format!("its certificate says {}, not {expected}", credentials.identity())));
    }
    Ok(())
}

fn identity(trust_domain: TrustDomain, datacenter: Datacenter, joiner: &Joiner) -> Identity {
    let node = joiner.name.clone();
    let subject = match joiner.role {
        NodeRole::Server => Subject::Server { datacenter, node },
        NodeRole::Agent | NodeRole::External => Subject::Agent { datacenter, node },
    };
    Identity { trust_domain, subject }
}

/// Writes down what was joined; the file that says so comes last.
fn keep(
    store: &NodeStore,
    joining: &Joining,
    joiner: &Joiner,
    joined: Joined,
) -> Result<NodeFile, JoinError> {
    let node = NodeFile {
        id: joining.id,
        name: joiner.name.clone(),
        datacenter: joined.datacenter,
        trust_domain: joined.trust_domain,
        role: joiner.role,
        servers: joined.servers,
    };
    // Where this host was a member before: from here on until the end it is none.
    store.forget()?;
    store.save_roots(&joined.roots)?;
    store.save_credential(&joining.key, &joined.chain)?;
    store.save(&node)?;
    store.forget_joining()?;
    info!(node = %node.name, datacenter = %node.datacenter, trust_domain = %node.trust_domain, "joined the mesh");
    Ok(node)
}
