//! From a question and what is known to the records of an answer. Pure: what is not at hand is asked of the caller.

mod query;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use purlin_model::check::Status;
use purlin_model::node::NodeStatus;
use purlin_model::service::{Instance, ServiceEntry};
use purlin_model::topic::{Contents, Record as Fact, Topic};
use purlin_model::{NodeName, ServiceKey, ServiceName};

use super::endpoint::{Endpoint, Host, ordinary, through_mesh};
use super::index::Index;
use super::message::Reply;
use super::names::{Asked, Zone, hex, parse};
use crate::config::DnsOptions;
use crate::registry::LocalState;

/// Name servers in one answer.
const NAME_SERVERS: usize = 3;
const PROXY_SUFFIX: &str = "-sidecar-proxy";

/// What holds for every question.
pub(super) struct Settings {
    pub(super) zones: Vec<Zone>,
    pub(super) datacenter: String,
    /// This host.
    pub(super) node: String,
    pub(super) options: DnsOptions,
}

/// What is known of a topic.
pub(super) enum Known {
    Yes(Arc<Contents>),
    /// It was asked for, and nobody could tell.
    No,
    NotAsked,
}

/// Everything that an answer is made from.
pub(super) struct Facts<'a> {
    pub(super) topic: &'a dyn Fn(&Topic) -> Known,
    pub(super) index: &'a Index,
    pub(super) local: &'a LocalState,
    /// Seconds since 1970: the zone's serial.
    pub(super) now: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub(super) reply: Reply,
    /// The answer is an alias of this name, whose addresses belong to it.
    pub(super) chase: Option<Name>,
}

/// Why there is no answer yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Ask again when this is known.
    Need(Topic),
    /// It cannot be known now.
    Unknown,
    /// Not a name of ours.
    Foreign,
}

pub(super) fn resolve(query: &Query, settings: &Settings, facts: &Facts<'_>) -> Result<Answer, Stop> {
    let own = settings.zones.first().ok_or(Stop::Foreign)?;
    let Some((zone, asked)) = parse(&query.name, &settings.zones, &settings.datacenter) else {
        return reverse(query, own, settings, facts);
    };
    let at = Resolver { query, zone, settings, facts };
    match asked {
        Asked::Apex => at.apex(),
        Asked::Empty => Ok(at.without(ResponseCode::NoError)),
        Asked::Nothing => Ok(at.without(ResponseCode::NXDomain)),
        Asked::Address(address) => Ok(at.address(address)),
        Asked::Node(name) => at.node(&name),
        Asked::Service { name, tag } => at.service(&name, tag.as_deref()),
        Asked::Plain(name) => at.service(&name, None),
        Asked::Connect(name) => at.connect(&name),
        Asked::Query(name) => at.prepared(&name),
        Asked::Virtual(name) => {
            // Nothing is captured on this host, so a virtual address would lead nowhere.
            let exists = at.instances(&name)?.is_some();
            Ok(at.without(if exists { ResponseCode::NoError } else { ResponseCode::NXDomain }))
        }
    }
}

/// One question in one zone.
struct Resolver<'a> {
    query: &'a Query,
    zone: &'a Zone,
    settings: &'a Settings,
    facts: &'a Facts<'a>,
}

impl Resolver<'_> {
    fn wants(&self, kind: RecordType) -> bool {
        self.query.query_type == kind || self.query.query_type == RecordType::ANY
    }

    fn known(&self, topic: Topic) -> Result<Arc<Contents>, Stop> {
        match (self.facts.topic)(&topic) {
            Known::Yes(contents) => Ok(contents),
            Known::No => Err(Stop::Unknown),
            Known::NotAsked => Err(Stop::Need(topic)),
        }
    }

    /// An answer that has no records; tells how long that may be remembered.
    fn without(&self, code: ResponseCode) -> Answer {
        let mut reply = Reply::of(code);
        reply.authoritative = true;
        reply.authorities.push(self.soa());
        Answer { reply, chase: None }
    }

    fn with(&self, answers: Vec<Record>, additionals: Vec<Record>) -> Answer {
        if answers.is_empty() {
            return self.without(ResponseCode::NoError);
        }
        let mut reply = Reply::of(ResponseCode::NoError);
        reply.authoritative = true;
        reply.answers = answers;
        reply.additionals = additionals;
        Answer { reply, chase: None }
    }

    fn record(&self, ttl: u32, data: RData) -> Record {
        Record::from_rdata(self.query.name.clone(), ttl, data)
    }

    fn soa(&self) -> Record {
        let soa = self.settings.options.soa;
        let span = |seconds: u32| i32::try_from(seconds).unwrap_or(i32::MAX);
        let data = SOA::new(
            self.zone.primary.clone(),
            self.zone.mailbox.clone(),
            self.facts.now,
            span(soa.refresh),
            span(soa.retry),
            span(soa.expire),
            soa.min_ttl,
        );
        Record::from_rdata(self.zone.apex.clone(), soa.min_ttl, RData::SOA(data))
    }

    fn apex(&self) -> Result<Answer, Stop> {
        let mut answers = Vec::new();
        let mut additionals = Vec::new();
        if self.wants(RecordType::SOA) {
            answers.push(self.record(self.settings.options.soa.min_ttl, self.soa().data));
        }
        if self.wants(RecordType::NS) {
            let servers = self.known(Topic::Servers)?;
            let mut servers: Vec<_> = servers.records.values().collect();
            fastrand::shuffle(&mut servers);
            let ttl = seconds(self.settings.options.node_ttl);
            for server in servers.into_iter().take(NAME_SERVERS) {
                let Fact::Server(server) = server else { continue };
                let Some(name) = self.node_name(&server.node, &self.settings.datacenter) else { continue };
                let host = server.address.rsplit_once(':').map(|(host, _)| host.trim_matches(['[', ']']));
                if let Some(address) = host.and_then(|host| host.parse().ok()) {
                    additionals.push(Record::from_rdata(name.clone(), ttl, address_data(address)));
                }
                answers.push(self.record(ttl, RData::NS(NS(name))));
            }
        }
        Ok(self.with(answers, additionals))
    }

    fn address(&self, address: IpAddr) -> Answer {
        let kind = if address.is_ipv4() { RecordType::A } else { RecordType::AAAA };
        let ttl = seconds(self.settings.options.node_ttl);
        let record = self.wants(kind).then(|| self.record(ttl, address_data(address)));
        self.with(record.into_iter().collect(), Vec::new())
    }

    fn node(&self, lower: &str) -> Result<Answer, Stop> {
        let nodes = self.known(Topic::Nodes);
        let alone = match &nodes {
            // One node may be known where the list of all is not: this host's own is.
            Err(Stop::Unknown) => {
                NodeName::new(lower).ok().and_then(|name| match (self.facts.topic)(&Topic::Node(name)) {
                    Known::Yes(contents) => Some(contents),
                    _ => None,
                })
            }
            _ => None,
        };
        let found = match (&nodes, &alone) {
            (_, Some(alone)) => alone.records.values().find_map(|record| match record {
                Fact::Node(node) => Some(node),
                _ => None,
            }),
            (Ok(nodes), None) => self.facts.index.node(nodes, lower),
            (Err(_), None) => return nodes.map(|_| self.without(ResponseCode::ServFail)),
        };
        // One that left is no node of the catalog any more.
        let Some(node) = found.filter(|node| node.status != NodeStatus::Left) else {
            return Ok(self.without(ResponseCode::NXDomain));
        };
        let ttl = seconds(self.settings.options.node_ttl);
        let mut answer = self.addresses([&Host::of_node(node)].into_iter(), ttl);
        if self.wants(RecordType::TXT) && !node.meta.is_empty() {
            let texts =
                node.meta.iter().map(|(key, value)| self.record(ttl, RData::TXT(meta_text(key, value))));
            let mut answers = answer.reply.answers;
            answers.extend(texts);
            answer = Answer { chase: answer.chase, ..self.with(answers, Vec::new()) };
        }
        Ok(answer)
    }

    /// The topic of a service of that name in lower case; absent if there is no such service.
    fn instances(&self, lower: &str) -> Result<Option<Arc<Contents>>, Stop> {
        let Ok(name) = ServiceName::new(lower) else { return Ok(None) };
        // Nearly every question ends here, with a name that is followed already.
        let topic = |name| Topic::Service(ServiceKey::new(name));
        let direct = match (self.facts.topic)(&topic(name.clone())) {
            Known::Yes(contents) if !contents.records.is_empty() => return Ok(Some(contents)),
            other => other,
        };
        // The list of all tells what is spelt otherwise, and keeps us from following whatever name a client makes up.
        let listed = match self.known(Topic::Services) {
            Ok(services) => self.facts.index.service(&services, lower),
            Err(Stop::Unknown) if matches!(direct, Known::Yes(_)) => return Ok(None),
            Err(stop) => return Err(stop),
        };
        match listed {
            Some(listed) if listed != name || !matches!(direct, Known::Yes(_)) => {
                let contents = self.known(topic(listed))?;
                Ok((!contents.records.is_empty()).then_some(contents))
            }
            _ => Ok(None),
        }
    }

    fn service(&self, lower: &str, tag: Option<&str>) -> Result<Answer, Stop> {
        let Some(contents) = self.instances(lower)? else {
            return match lower.strip_suffix(PROXY_SUFFIX) {
                Some(behind) if tag.is_none() => self.connect(behind),
                _ => Ok(self.without(ResponseCode::NXDomain)),
            };
        };
        let has_tag = |entry: &&ServiceEntry| {
            tag.is_none_or(|tag| entry.instance.tags.iter().any(|own| own.eq_ignore_ascii_case(tag)))
        };
        let endpoints = self.healthy(&contents).filter(has_tag).map(ordinary).collect();
        Ok(self.endpoints(lower, endpoints))
    }

    fn connect(&self, lower: &str) -> Result<Answer, Stop> {
        let Some(contents) = self.instances(lower)? else { return Ok(self.without(ResponseCode::NXDomain)) };
        let endpoints = self.healthy(&contents).filter_map(through_mesh).collect();
        Ok(self.endpoints(lower, endpoints))
    }

    fn healthy<'c>(&self, contents: &'c Contents) -> impl Iterator<Item = &'c ServiceEntry> + use<'c> {
        let worst = if self.settings.options.only_passing { Status::Passing } else { Status::Warning };
        let entries = contents.records.values().filter_map(|record| match record {
            Fact::Entry(entry) => Some(entry),
            _ => None,
        });
        entries.filter(move |entry| entry.status() <= worst)
    }

    /// As in Consul, a service of which nothing is healthy does not exist.
    fn endpoints(&self, service: &str, mut endpoints: Vec<Endpoint<'_>>) -> Answer {
        fastrand::shuffle(&mut endpoints);
        self.places(&endpoints, self.service_ttl(service))
    }

    /// The records of some places, in their order.
    fn places(&self, endpoints: &[Endpoint<'_>], ttl: u32) -> Answer {
        if endpoints.is_empty() {
            return self.without(ResponseCode::NXDomain);
        }
        if self.query.query_type == RecordType::SRV {
            return self.service_records(endpoints, ttl);
        }
        self.addresses(endpoints.iter().map(|endpoint| &endpoint.host), ttl)
    }

    fn service_records(&self, endpoints: &[Endpoint<'_>], ttl: u32) -> Answer {
        let mut answers = Vec::new();
        let mut additionals = Vec::new();
        let mut targets = BTreeSet::new();
        for endpoint in endpoints {
            let Some((target, addresses)) = self.target(&endpoint.host) else { continue };
            if targets.insert(target.clone()) {
                let records = addresses
                    .into_iter()
                    .map(|one| Record::from_rdata(target.clone(), ttl, address_data(one)));
                additionals.extend(records);
            }
            let data = SRV::new(1, endpoint.weight, endpoint.port, target);
            answers.push(self.record(ttl, RData::SRV(data)));
        }
        self.with(answers, additionals)
    }

    /// The name that a SRV record points to, and its addresses.
    fn target(&self, host: &Host<'_>) -> Option<(Name, Vec<IpAddr>)> {
        if let Some(name) = host.name() {
            return Some((absolute(name)?, Vec::new()));
        }
        let addresses = host.addresses();
        if host.is_node
            && let Some(name) = self.node_name(&host.node.name, host.node.datacenter.as_str())
        {
            return Some((name, addresses));
        }
        let first = *addresses.first()?;
        let name = self.zone.name(&format!("{}.addr.{}", hex(first), host.node.datacenter))?;
        Some((name, vec![first]))
    }

    fn node_name(&self, node: &NodeName, datacenter: &str) -> Option<Name> {
        self.zone.name(&format!("{node}.node.{datacenter}"))
    }

    /// Address records of the hosts, each address once. Where there are only host names, an alias of one of them: a
    /// name can have but one.
    fn addresses<'h>(&self, hosts: impl Iterator<Item = &'h Host<'h>> + Clone, ttl: u32) -> Answer {
        let mut seen = BTreeSet::new();
        let mut answers = Vec::new();
        for address in hosts.clone().flat_map(Host::addresses) {
            let kind = if address.is_ipv4() { RecordType::A } else { RecordType::AAAA };
            if self.wants(kind) && seen.insert(address) {
                answers.push(self.record(ttl, address_data(address)));
            }
        }
        let limit = self.settings.options.a_record_limit;
        if limit > 0 {
            answers.truncate(limit);
        }
        let has_addresses = hosts.clone().any(|host| host.name().is_none());
        let takes_alias =
            [RecordType::A, RecordType::AAAA, RecordType::CNAME].into_iter().any(|kind| self.wants(kind));
        if !has_addresses && takes_alias {
            let target = hosts.clone().find_map(Host::name).and_then(absolute);
            if let Some(target) = target {
                let alias = self.record(ttl, RData::CNAME(CNAME(target.clone())));
                let chase = (self.query.query_type != RecordType::CNAME).then_some(target);
                return Answer { chase, ..self.with(vec![alias], Vec::new()) };
            }
        }
        self.with(answers, Vec::new())
    }

    /// A service of which an instance has that address for its own.
    fn service_at(&self, address: IpAddr) -> Result<Option<ServiceName>, Stop> {
        let is_there = |instance: &Instance| instance.own_addresses().any(|own| own == address);
        let mut local = self.facts.local.services.values().map(|local| &*local.instance);
        if let Some(instance) = local.find(|instance| is_there(instance)) {
            return Ok(Some(instance.name.clone()));
        }
        // Each host has a loopback of its own, so nobody else's is meant.
        if address.is_loopback() || address.is_unspecified() {
            return Ok(None);
        }
        let there = known_to_somebody(self.known(Topic::At(address)))?;
        let name = |record: &Fact| match record {
            Fact::Instance(instance) => Some(instance.name.clone()),
            _ => None,
        };
        Ok(there.and_then(|there| there.records.values().find_map(name)))
    }

    /// The exact name, else the longest `prefix*`, else `*`.
    fn service_ttl(&self, service: &str) -> u32 {
        let by_name = &self.settings.options.service_ttl;
        let exact = by_name.iter().find(|(name, _)| name.eq_ignore_ascii_case(service));
        let by_prefix = || {
            let matching = by_name.iter().filter(|(pattern, _)| {
                pattern
                    .strip_suffix('*')
                    .is_some_and(|prefix| service.starts_with(&prefix.to_ascii_lowercase()))
            });
            matching.max_by_key(|(pattern, _)| pattern.len())
        };
        exact.or_else(by_prefix).map_or(0, |(_, ttl)| seconds(*ttl))
    }
}

/// Names of addresses: this mesh's nodes, what runs on this host, what runs anywhere. Others are not ours to tell.
fn reverse(query: &Query, own: &Zone, settings: &Settings, facts: &Facts<'_>) -> Result<Answer, Stop> {
    if !matches!(query.query_type, RecordType::PTR | RecordType::ANY) {
        return Err(Stop::Foreign);
    }
    let net = query.name.parse_arpa_name().map_err(|_| Stop::Foreign)?;
    if net.prefix_len() != net.max_prefix_len() {
        return Err(Stop::Foreign);
    }
    let address = net.addr();
    let at = Resolver { query, zone: own, settings, facts };
    let nodes = known_to_somebody(at.known(Topic::Nodes))?;
    let node = nodes.and_then(|nodes| facts.index.node_at(&nodes, address));
    let name = match node {
        Some(node) => at.node_name(&node, &settings.datacenter),
        None => at.service_at(address)?.and_then(|service| own.name(&format!("{service}.service"))),
    };
    let name = name.ok_or(Stop::Foreign)?;
    let ttl = seconds(settings.options.node_ttl);
    Ok(at.with(vec![at.record(ttl, RData::PTR(PTR(name)))], Vec::new()))
}

/// What nobody can tell now is as good as not there, where another may know the answer.
fn known_to_somebody(known: Result<Arc<Contents>, Stop>) -> Result<Option<Arc<Contents>>, Stop> {
    match known {
        Ok(contents) => Ok(Some(contents)),
        Err(Stop::Unknown) => Ok(None),
        Err(stop) => Err(stop),
    }
}

pub(super) fn seconds(span: std::time::Duration) -> u32 {
    u32::try_from(span.as_secs()).unwrap_or(u32::MAX)
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

fn absolute(name: &str) -> Option<Name> {
    let labels = name.trim_end_matches('.').split('.').map(str::as_bytes);
    Name::from_labels(labels).ok()
}

/// `key=value`, or the value alone where the key says so, in strings of at most 255 bytes.
fn meta_text(key: &str, value: &str) -> TXT {
    let text = if key.starts_with("rfc1035-") { value.to_owned() } else { format!("{key}={value}") };
    TXT::from_bytes(text.as_bytes().chunks(255).collect())
}
