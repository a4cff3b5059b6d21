//! What DNS, the HTTP API and checks see of the agent: one cheap handle, whose answers need no server where they can.
//!
//! Reading what is followed never leaves the host; asking and writing go over the one session. A write that returned
//! is visible to whoever reads here next.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use purlin_model::command::{Command, Outcome, RequestId};
use purlin_model::topic::{Contents, MeshInfo, Record, Topic};
use purlin_model::view::View;
use purlin_model::{Fault, Revision, ServiceKey};
use purlin_wire::rpc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::anti_entropy::SyncDriver;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::mirror::{FIRST_ANSWER, Mirror};
use crate::proxy_port::{ProxyHandle, ProxyState};
use crate::registry::Registry;
use crate::session::SessionState;
use crate::uplink::Uplink;
use crate::workload::{Leaf, Workloads};

/// How long a write waits to become visible here.
const VISIBLE: Duration = Duration::from_secs(2);

/// What anything on this host may ask of its agent.
#[derive(Clone)]
pub struct Core(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) registry: Arc<Registry>,
    pub(crate) mirror: Mirror,
    pub(crate) uplink: Uplink,
    pub(crate) sync: SyncDriver,
    pub(crate) workloads: Workloads,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) proxy: ProxyHandle,
    pub(crate) metrics: Metrics,
    pub(crate) triggers: mpsc::Sender<Trigger>,
}

/// What the agent asks of whoever owns the process.
#[derive(Debug)]
pub enum Trigger {
    /// Read the configuration again and hand it over; the answer says what was wrong.
    Reload(oneshot::Sender<Result<(), String>>),
    /// Leave the mesh in order, then exit.
    Leave(oneshot::Sender<()>),
}

/// How an answer of a server came to be; `X-Consul-KnownLeader` and `X-Consul-LastContact`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskMeta {
    pub known_leader: bool,
    pub last_contact_ms: u64,
}

/// Whether the catalog has what this host registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncState {
    /// It has, and it is visible here.
    Synced,
    /// Not yet; it goes on by itself.
    Pending,
    /// No server can be reached; it goes on by itself.
    Offline,
    /// A server refused a part; the text says which and why.
    Refused(String),
}

impl Core {
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// What this host says it runs.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.0.registry
    }

    /// A topic, which is followed from now on. The first question waits up to 2 s for its snapshot; a topic that is
    /// not known while no server can be reached is a fault.
    pub async fn contents(&self, topic: &Topic) -> Result<Arc<Contents>, Fault> {
        self.0.mirror.contents(topic).await
    }

    /// Who has that address. Nobody follows that, lest clients make this host follow whatever they make up; without
    /// servers it is found among what is followed.
    pub async fn at(&self, address: IpAddr) -> Result<Arc<Contents>, Fault> {
        let topic = Topic::At(address);
        let unknown =
            || Fault::unavailable(format!("{topic} is not known here, and no server can be reached"));
        if self.session().is_connected() {
            let ask = rpc::Ask {
                topic: topic.clone(),
                consistency: rpc::Consistency::Stale,
                after: Revision(0),
                wait_ms: 0,
            };
            if let Ok(Ok((contents, _))) = timeout(FIRST_ANSWER, self.ask(ask)).await {
                return Ok(Arc::new(contents));
            }
        }
        let known = self.0.mirror.known();
        let records = known.iter().flat_map(|(_, contents)| &contents.records);
        let found = records.filter_map(|(key, record)| match record {
            Record::Entry(entry) if entry.instance.own_addresses().any(|own| own == address) => {
                Some((key.clone(), Record::Instance((*entry.instance).clone())))
            }
            _ => None,
        });
        let records: BTreeMap<_, _> = found.take(1).collect();
        if records.is_empty() {
            return Err(unknown());
        }
        Ok(Arc::new(Contents { revision: Revision(0), records }))
    }

    /// What is here of a topic, now.
    pub fn peek(&self, topic: &Topic) -> Option<Arc<Contents>> {
        self.0.mirror.peek(topic)
    }

    /// A blocking query: the topic once it is newer than `after`, or as it is when `wait` is over.
    pub async fn wait_past(
        &self,
        topic: &Topic,
        after: Revision,
        wait: Duration,
    ) -> Result<Arc<Contents>, Fault> {
        self.0.mirror.wait_past(topic, after, wait).await
    }

    /// A topic as a server has it.
    pub async fn ask(&self, ask: rpc::Ask) -> Result<(Contents, AskMeta), Fault> {
        self.0.uplink.ask(ask).await
    }

    /// Proposes a command. Returns once it is committed and visible here.
    pub async fn write(&self, command: Command, uid: Option<u32>) -> Result<Outcome, Fault> {
        let outcome = self.commit(command, uid).await?;
        self.0.mirror.visible(outcome.revision, VISIBLE).await;
        Ok(outcome)
    }

    /// Proposes a command about what is only read at servers. Returns once it is committed.
    pub async fn commit(&self, command: Command, uid: Option<u32>) -> Result<Outcome, Fault> {
        let request = RequestId(uuid::Uuid::new_v4());
        self.0.uplink.write(rpc::Write { request, uid, command }).await
    }

    /// The cluster of servers, as its leader sees it; `stale`: as any server does.
    pub async fn members(&self, stale: bool) -> Result<rpc::Members, Fault> {
        self.0.uplink.call(rpc::MEMBERS, &rpc::AskMembers { stale, forwarded: false }).await
    }

    /// Changes who belongs to it or who leads it.
    pub async fn operate(&self, what: rpc::Operate) -> Result<rpc::Operated, Fault> {
        self.0.uplink.call(rpc::OPERATE, &rpc::Operation { what, forwarded: false }).await
    }

    /// How much the catalog holds.
    pub async fn usage(&self) -> Result<rpc::Usage, Fault> {
        self.0.uplink.call(rpc::USAGE, &()).await
    }

    /// The whole state of the mesh, as a file that comes down.
    pub async fn save_snapshot(&self, consistency: rpc::Consistency) -> Result<rpc::Saving, Fault> {
        self.0.uplink.save_snapshot(consistency).await
    }

    /// The same, going up: what is sent becomes the state once it is whole.
    pub async fn restore_snapshot(&self, bytes: Option<u64>) -> Result<rpc::Restoring, Fault> {
        self.0.uplink.restore_snapshot(bytes).await
    }

    /// Waits, for a moment, until what was committed then is visible here.
    pub async fn visible(&self, revision: Revision) -> bool {
        self.0.mirror.visible(revision, VISIBLE).await
    }

    /// Brings the catalog in line with what this host registered, as it is at this call.
    pub async fn sync_now(&self, wait: Duration) -> SyncState {
        self.0.sync.now(wait).await
    }

    /// How far the last round of that came.
    pub fn sync_state(&self) -> SyncState {
        self.0.sync.state()
    }

    /// The certificate and key of a local service, as the proxy uses it. Waits a moment for the first.
    pub async fn leaf(&self, service: &ServiceKey) -> Result<Leaf, Fault> {
        self.0.workloads.leaf(service).await
    }

    /// The leaf once its version is above `after`, or as it is when `wait` is over.
    pub async fn leaf_past(&self, service: &ServiceKey, after: u64, wait: Duration) -> Result<Leaf, Fault> {
        self.0.workloads.leaf_past(service, after, wait).await
    }

    /// Trust domain, roots and defaults of the mesh; absent until a server told once.
    pub fn mesh(&self) -> Option<Arc<MeshInfo>> {
        mesh_of(&self.0.mirror)
    }

    /// The session to the servers, as it is; `watch_session` to wait for a change.
    pub fn session(&self) -> SessionState {
        self.0.uplink.session().borrow().clone()
    }

    pub fn watch_session(&self) -> watch::Receiver<SessionState> {
        self.0.uplink.session()
    }

    /// This host's proxy: whether it is there, what it applied, which listeners failed.
    pub fn proxy(&self) -> ProxyState {
        self.0.proxy.state()
    }

    /// What the proxy is told.
    pub fn view(&self) -> Arc<View> {
        self.0.view.borrow().clone()
    }

    /// Where parts of the agent register what they count.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Everything this host measures, as Prometheus text.
    pub async fn metrics_text(&self) -> String {
        crate::metrics::text(self).await
    }

    /// Sets the filter of this agent's and its proxy's logs.
    pub fn set_log_filter(&self, filter: &str) -> Result<(), Fault> {
        let Some(set) = &self.0.config.log_filter else {
            return Err(Fault::invalid("the log filter of this agent cannot be changed while it runs"));
        };
        (set.0)(filter).map_err(|why| Fault::invalid(format!("log filter {filter:?} is refused: {why}")))?;
        self.0.proxy.set_log_filter(filter);
        Ok(())
    }

    /// Has the configuration read again. The fault says what is wrong with it; then the old one stays in force.
    pub async fn reload(&self) -> Result<(), Fault> {
        let (answer, done) = oneshot::channel();
        self.trigger(Trigger::Reload(answer)).await?;
        match done.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(Fault::invalid(why)),
            Err(_) => Err(Fault::internal("the agent stopped before it reloaded")),
        }
    }

    /// Has this host leave the mesh and the process exit. Returns once that is under way.
    pub async fn leave(&self) -> Result<(), Fault> {
        let (answer, begun) = oneshot::channel();
        self.trigger(Trigger::Leave(answer)).await?;
        begun.await.map_err(|_| Fault::internal("the agent stopped before it left"))
    }

    async fn trigger(&self, trigger: Trigger) -> Result<(), Fault> {
        self.0
            .triggers
            .send(trigger)
            .await
            .map_err(|_| Fault::internal("nobody can carry that out in this process"))
    }
}

/// The one record of the mesh topic.
pub(crate) fn mesh_of(mirror: &Mirror) -> Option<Arc<MeshInfo>> {
    let contents = mirror.peek(&Topic::Mesh)?;
    contents.records.values().find_map(|record| match record {
        Record::Mesh(mesh) => Some(Arc::new(mesh.clone())),
        _ => None,
    })
}
