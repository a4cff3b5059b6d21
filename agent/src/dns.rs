//! DNS for the mesh's names, answered from what this host already knows; other names go to recursors or are refused.
//!
//! A question never makes a server work if its answer is here, and no question makes this host follow a name that does
//! not exist.

mod answer;
mod endpoint;
mod forward;
mod index;
mod listen;
mod message;
mod metrics;
mod names;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use purlin_model::topic::{Contents, Topic};
use purlin_model::{Fault, Millis};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::info;

pub use metrics::DnsMetrics;

use crate::config::DnsOptions;
use crate::core::Core;
use crate::registry::LocalState;
use answer::{Answer, Facts, Known, Settings, Stop};
use index::Index;
use message::{Incoming, Limits, Question, Reply, Transport};
use names::Zone;

/// Questions over UDP that may wait for something at once.
const IN_FLIGHT: usize = 1_024;
/// Topics that one question may need, and aliases that it may lead through.
const STEPS: usize = 6;
const ALIASES: usize = 3;

/// Open sockets, on which nobody answers yet.
struct Listeners(Vec<listen::Sockets>);

impl Listeners {
    /// Opens the sockets of `options.listen`.
    async fn bind(options: &DnsOptions) -> Result<Self, Fault> {
        let mut sockets = Vec::new();
        for address in &options.listen {
            let bound = listen::bind(*address).await.map_err(|error| {
                let remedy = "choose another ports.dns or addresses.dns";
                Fault::internal(format!("dns cannot listen on {address}: {error}: {remedy}"))
            })?;
            sockets.push(bound);
        }
        Ok(Self(sockets))
    }

    /// Where it will answer, UDP and TCP alike.
    fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|sockets| sockets.address).collect()
    }
}

/// A running DNS server; it ends when this is dropped.
pub struct Handle {
    addresses: Vec<SocketAddr>,
    _tasks: JoinSet<()>,
}

impl Handle {
    /// Where it answers, UDP and TCP alike.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

/// Opens the sockets of `options.listen` and answers on them.
pub async fn serve(core: Core, options: DnsOptions) -> Result<Handle, Fault> {
    let listeners = Listeners::bind(&options).await?;
    let metrics = DnsMetrics::default();
    core.metrics().register(|registry| metrics.register(registry));
    let config = core.config();
    let domains = [Some(&config.domain), config.alt_domain.as_ref()].into_iter().flatten();
    let (datacenter, node) = (config.datacenter.to_string(), config.node_name.to_string());
    let settings = settings(domains, datacenter, node, options)?;
    Ok(start(Arc::new(Server::new(Arc::new(core), settings, metrics)), listeners))
}

fn start(server: Arc<Server>, listeners: Listeners) -> Handle {
    let addresses = listeners.addresses();
    let mut tasks = JoinSet::new();
    for sockets in listeners.0 {
        info!(address = %sockets.address, "dns listens");
        tasks.spawn(listen::udp(sockets.udp, server.clone()));
        tasks.spawn(listen::tcp(sockets.tcp, server.clone()));
    }
    Handle { addresses, _tasks: tasks }
}

fn settings<'a>(
    domains: impl Iterator<Item = &'a String>,
    datacenter: String,
    node: String,
    options: DnsOptions,
) -> Result<Settings, Fault> {
    let mut zones = Vec::new();
    for domain in domains {
        let wrong =
            || Fault::invalid(format!("domain \"{domain}\" is no DNS name: write it like mesh.internal"));
        zones.push(Zone::new(domain).ok_or_else(wrong)?);
    }
    Ok(Settings { zones, datacenter, node, options })
}

/// Where answers come from: the agent, or a few facts in a test.
trait Source: Send + Sync {
    fn peek(&self, topic: &Topic) -> Option<Arc<Contents>>;
    fn contents<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<Arc<Contents>, Fault>>;
    fn local(&self) -> Arc<LocalState>;
    fn now(&self) -> Millis;
}

impl Source for Core {
    fn peek(&self, topic: &Topic) -> Option<Arc<Contents>> {
        Core::peek(self, topic)
    }

    fn contents<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<Arc<Contents>, Fault>> {
        match topic {
            Topic::At(address) => Box::pin(self.at(*address)),
            topic => Box::pin(Core::contents(self, topic)),
        }
    }

    fn local(&self) -> Arc<LocalState> {
        self.registry().local()
    }

    fn now(&self) -> Millis {
        self.config().clock.now()
    }
}

/// What can be said of a packet without waiting.
enum Now {
    Answer(Vec<u8>),
    Nothing,
    Later(Box<Question>),
}

struct Server {
    source: Arc<dyn Source>,
    settings: Settings,
    index: Index,
    metrics: DnsMetrics,
    in_flight: Arc<Semaphore>,
}

impl Server {
    fn new(source: Arc<dyn Source>, settings: Settings, metrics: DnsMetrics) -> Self {
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
        Self { source, settings, index: Index::default(), metrics, in_flight }
    }

    fn limits(&self) -> Limits {
        let options = &self.settings.options;
        Limits {
            udp_answers: options.udp_answer_limit,
            truncate: options.enable_truncate,
            compress: !options.disable_compression,
            recursion: !options.recursors.is_empty(),
        }
    }

    /// Answers from what is here, which nearly always is all that is needed.
    fn answer_now(&self, packet: &[u8], transport: Transport) -> Now {
        let question = match message::read(packet) {
            Incoming::Question(question) => question,
            Incoming::Refused(bytes, code) => {
                self.metrics.answered(code);
                return Now::Answer(bytes);
            }
            Incoming::Dropped => {
                self.metrics.dropped.inc();
                return Now::Nothing;
            }
        };
        let reply = match self.resolve(&question.query, &BTreeMap::new()) {
            Ok(Answer { reply, chase: None }) => reply,
            Err(Stop::Foreign) if !self.limits().recursion => Reply::of(ResponseCode::Refused),
            _ => return Now::Later(question),
        };
        self.write(&question, reply, transport).map_or(Now::Nothing, Now::Answer)
    }

    /// Answers with whatever has to be asked for.
    async fn answer(&self, packet: &[u8], question: &Question, transport: Transport) -> Option<Vec<u8>> {
        let reply = match self.gather(&question.query).await {
            Ok(Answer { reply, chase: None }) => reply,
            Ok(Answer { mut reply, chase: Some(target) }) => {
                reply.answers.extend(self.chase(target, question.query.query_type).await);
                reply
            }
            Err(Stop::Foreign) => match self.forward(packet, transport).await {
                Forwarded::Answer(answer) => {
                    self.metrics.answered(ResponseCode::from_low(answer[3] & 0x0f));
                    return Some(answer);
                }
                Forwarded::Failed(code) => Reply::of(code),
            },
            Err(Stop::Unknown | Stop::Need(_)) => Reply::of(ResponseCode::ServFail),
        };
        self.write(question, reply, transport)
    }

    fn write(&self, question: &Question, reply: Reply, transport: Transport) -> Option<Vec<u8>> {
        self.metrics.answered(reply.code);
        message::write(question, reply, transport, self.limits())
    }

    fn resolve(&self, query: &Query, asked: &BTreeMap<Topic, Option<Arc<Contents>>>) -> Result<Answer, Stop> {
        let known = |topic: &Topic| match asked.get(topic) {
            Some(Some(contents)) => Known::Yes(contents.clone()),
            Some(None) => Known::No,
            None => self.source.peek(topic).map_or(Known::NotAsked, Known::Yes),
        };
        let now = self.source.now().0 / 1_000;
        let local = self.source.local();
        let facts = Facts {
            topic: &known,
            index: &self.index,
            local: &local,
            now: u32::try_from(now).unwrap_or(u32::MAX),
        };
        answer::resolve(query, &self.settings, &facts)
    }

    /// Asks for the topics that the answer needs, until it needs no more.
    async fn gather(&self, query: &Query) -> Result<Answer, Stop> {
        let mut asked = BTreeMap::new();
        for _ in 0..STEPS {
            match self.resolve(query, &asked) {
                Err(Stop::Need(topic)) => {
                    let contents = self.source.contents(&topic).await.ok();
                    asked.insert(topic, contents);
                }
                other => return other,
            }
        }
        Err(Stop::Unknown)
    }

    /// The records behind an alias, for as long as it leads somewhere.
    async fn chase(&self, mut target: Name, kind: RecordType) -> Vec<Record> {
        let mut records = Vec::new();
        for _ in 0..ALIASES {
            let query = Query::query(target.clone(), kind);
            match self.gather(&query).await {
                Ok(Answer { reply, chase }) => {
                    records.extend(reply.answers);
                    match chase {
                        Some(next) => target = next,
                        None => return records,
                    }
                }
                Err(Stop::Foreign) => {
                    records.extend(self.look_up(query).await);
                    return records;
                }
                Err(_) => return records,
            }
        }
        records
    }

    /// What the recursors say of a name of theirs.
    async fn look_up(&self, query: Query) -> Vec<Record> {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(query);
        let mut edns = Edns::new();
        edns.set_max_payload(1_232);
        message.set_edns(edns);
        let Ok(packet) = message.to_vec() else { return Vec::new() };
        match self.forward(&packet, Transport::Udp { is_local: false }).await {
            Forwarded::Answer(answer) => {
                Message::from_vec(&answer).map(|answer| answer.answers).unwrap_or_default()
            }
            Forwarded::Failed(_) => Vec::new(),
        }
    }

    async fn forward(&self, packet: &[u8], transport: Transport) -> Forwarded {
        let options = &self.settings.options;
        if options.recursors.is_empty() {
            return Forwarded::Failed(ResponseCode::Refused);
        }
        self.metrics.forwarded.inc();
        match forward::forward(packet, transport, &options.recursors, options.recursor_timeout).await {
            Some(answer) => Forwarded::Answer(answer),
            None => {
                self.metrics.forward_failures.inc();
                Forwarded::Failed(ResponseCode::ServFail)
            }
        }
    }
}

enum Forwarded {
    Answer(Vec<u8>),
    Failed(ResponseCode),
}
