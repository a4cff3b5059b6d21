//! One host of the fleet: joins as any does, and then lives by the agent's own session and mirror.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use futures_util::future::BoxFuture;
use purlin_agent::clock::Clock;
use purlin_agent::mirror::Mirror;
use purlin_agent::session::SessionState;
use purlin_agent::uplink::{Keeper, Prober, Uplink};
use purlin_model::command::{Command, Done, RequestId};
use purlin_model::node::NodeRole;
use purlin_model::topic::Topic;
use purlin_model::{NodeId, NodeName, Revision};
use purlin_wire::link::{Connector, Link, LinkError};
use purlin_wire::quic::{QuicConnector, join_link};
use purlin_wire::rpc::{self, JoinRequest, Joined, Write};
use purlin_wire::tls::{Credentials, new_key_and_csr};
use purlin_wire::token::JoinTokenText;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::layout::{Layout, changed, registration};
use super::watch::Watch;

/// For a server to answer one who joins.
const JOIN: Duration = Duration::from_secs(10);
/// Servers that are busy are asked again.
const TRIES: usize = 200;
const AGAIN: Duration = Duration::from_millis(500);
/// For the first session, and for all that is followed to be here.
const COME: Duration = Duration::from_secs(300);

pub(crate) struct Host {
    pub(crate) index: usize,
    layout: Layout,
    node: NodeName,
    topics: BTreeSet<Topic>,
    mirror: Mirror,
    uplink: Uplink,
    way: Arc<Way>,
    /// Held for its drop.
    _credentials: watch::Sender<Arc<Credentials>>,
}

impl Host {
    pub(crate) async fn come(
        layout: Layout,
        index: usize,
        token: &JoinTokenText,
        watch: &Arc<Watch>,
    ) -> anyhow::Result<Arc<Self>> {
        let node = Layout::node(index)?;
        let (joined, key) = join(&node, index, token).await.with_context(|| format!("{node} joins"))?;
        let credentials = Credentials::from_der(joined.chain, &key, joined.roots)?;
        let (sender, credentials) = watch::channel(Arc::new(credentials));
        let bind = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let quic = QuicConnector::new(bind, credentials, token.servers.clone(), |_| {});
        let way = Arc::new(Way { quic, links: Mutex::default() });
        let instances = layout.instances(index)?;
        let topics = Layout::topics(&node, &instances);
        let (uplink, mirror) = keep_session(&node, way.clone(), watch);
        mirror.pin(&topics);
        let host = Self { index, layout, node, topics, mirror, uplink, way, _credentials: sender };
        let command = Command::Txn(registration(&host.node, instances)?);
        host.write(command).await.with_context(|| format!("{} registers", host.node))?;
        tokio::spawn(watch.clone().follow(host.mirror.clone()));
        Ok(Arc::new(host))
    }

    async fn write(&self, command: Command) -> anyhow::Result<Revision> {
        let write = Write { request: RequestId(uuid::Uuid::new_v4()), uid: None, command };
        let mut tries = 0;
        let outcome = loop {
            match self.uplink.write(write.clone()).await {
                Err(fault) if fault.may_retry() && tries < TRIES => tries += 1,
                outcome => break outcome?,
            }
        };
        match outcome.result? {
            Done::Txn(done) if !done.errors.is_empty() => anyhow::bail!("{:?}", done.errors),
            _ => Ok(outcome.revision),
        }
    }

    /// Changes the host's first instance.
    pub(crate) async fn change(&self, number: usize) -> anyhow::Result<Revision> {
        let first = self.layout.instances(self.index)?.swap_remove(0);
        self.write(Command::Txn(registration(&self.node, vec![changed(first, number)])?)).await
    }

    /// Waits until all that the host follows is here.
    pub(crate) async fn settled(&self) -> anyhow::Result<()> {
        let mut changes = self.mirror.all_changes();
        let all_here = async {
            while !self.topics.iter().all(|topic| self.mirror.is_fresh(topic)) {
                changes.changed().await?;
            }
            anyhow::Ok(())
        };
        let settled = tokio::time::timeout(COME, all_here).await;
        settled.with_context(|| format!("{} does not hear what it follows", self.node))?
    }

    /// Whether the session that is there now has told all that the host follows.
    pub(crate) fn is_current(&self) -> bool {
        self.session().is_connected() && self.topics.iter().all(|topic| self.mirror.is_fresh(topic))
    }

    /// What it says of itself where it is not current.
    pub(crate) fn lags(&self) -> Option<String> {
        let missing: Vec<String> = self
            .topics
            .iter()
            .filter(|topic| !self.mirror.is_fresh(topic))
            .map(ToString::to_string)
            .collect();
        (!self.is_current())
            .then(|| format!("{}: {:?}, without {}", self.node, self.session(), missing.join(" ")))
    }

    pub(crate) fn session(&self) -> SessionState {
        self.uplink.session().borrow().clone()
    }

    /// From now on only these servers are known.
    pub(crate) fn learn(&self, servers: &[String]) {
        self.way.learn(servers.to_vec());
    }

    /// As when the network takes the link away.
    pub(crate) fn cut(&self) {
        for link in self.way.links.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            link.close("cut");
        }
    }
}

/// Starts what keeps the session of a host, for as long as this process lives.
fn keep_session(node: &NodeName, way: Arc<Way>, watch: &Arc<Watch>) -> (Uplink, Mirror) {
    let uplink = Uplink::new(Clock::system());
    let mirror = Mirror::new(uplink.session(), Topic::Node(node.clone()));
    let keeper = Keeper {
        uplink: uplink.clone(),
        connector: way,
        mirror: mirror.clone(),
        metrics: watch.metrics.clone(),
        prober: Prober::default(),
        version: "bench".into(),
        stop: CancellationToken::new(),
        leave: CancellationToken::new(),
    };
    tokio::spawn(keeper.run());
    (uplink, mirror)
}

/// As an agent does, but for the directory that it keeps.
async fn join(node: &NodeName, index: usize, token: &JoinTokenText) -> anyhow::Result<(Joined, Vec<u8>)> {
    let (key, csr) = new_key_and_csr()?;
    let request = JoinRequest {
        token: token.id.clone(),
        secret: token.secret.expose().to_owned(),
        csr,
        id: NodeId(uuid::Uuid::new_v4()),
        name: node.clone(),
        role: NodeRole::Agent,
        datacenter: None,
        address: format!("10.{}.{}.{}", index / 65_536, index / 256 % 256, index % 256),
        mesh_port: Some(20_000),
        version: "bench".into(),
    };
    let mut why = String::new();
    for attempt in 0..TRIES {
        let server = &token.servers[(index + attempt) % token.servers.len()];
        match join_link(server, token.ca_fingerprint, JOIN).await {
            Ok(link) => {
                let joined = rpc::call::<_, Joined>(link.as_ref(), rpc::JOIN, &request, JOIN).await;
                link.close("done");
                match joined {
                    Ok(joined) => return Ok((joined, key)),
                    Err(fault) if fault.may_retry() => why = fault.to_string(),
                    Err(fault) => return Err(fault.into()),
                }
            }
            Err(error) => why = error.to_string(),
        }
        tokio::time::sleep(AGAIN.mul_f64(0.5 + fastrand::f64())).await;
    }
    anyhow::bail!("no server lets it in: {why}")
}

/// Links that are remembered, so that they can be cut: the session's, and those that led to none.
const LINKS: usize = 4;

/// The agent's own way to servers, on which links can be cut.
#[derive(Debug)]
struct Way {
    quic: QuicConnector,
    links: Mutex<VecDeque<Arc<dyn Link>>>,
}

impl Way {
    fn keep(&self, link: Arc<dyn Link>) -> Arc<dyn Link> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if links.len() == LINKS {
            links.pop_front();
        }
        links.push_back(link.clone());
        link
    }
}

impl Connector for Way {
    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Link>, LinkError>> {
        Box::pin(async { self.quic.connect().await.map(|link| self.keep(link)) })
    }

    fn elsewhere<'a>(&'a self, not: &'a str) -> BoxFuture<'a, Result<Arc<dyn Link>, LinkError>> {
        Box::pin(async { self.quic.elsewhere(not).await.map(|link| self.keep(link)) })
    }

    fn learn(&self, servers: Vec<String>) {
        self.quic.learn(servers);
    }
}
