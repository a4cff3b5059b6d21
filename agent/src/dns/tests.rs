//! Questions over real sockets, answered from a few facts.

use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use hickory_proto::op::{MessageType, OpCode};
use hickory_proto::rr::RData;
use purlin_model::service::ServiceEntry;
use purlin_model::topic::Record as Fact;
use purlin_model::{ServiceKey, ServiceName};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::*;

mod query;
mod recursion;
mod sizes;
mod wire;

/// Topics that are here, and topics that a server would tell.
#[derive(Default)]
struct Facts {
    here: BTreeMap<Topic, Arc<Contents>>,
    elsewhere: BTreeMap<Topic, Arc<Contents>>,
    local: LocalState,
    asked: Mutex<Vec<Topic>>,
}

impl Source for Facts {
    fn peek(&self, topic: &Topic) -> Option<Arc<Contents>> {
        self.here.get(topic).cloned()
    }

    fn contents<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<Arc<Contents>, Fault>> {
        self.asked.lock().unwrap().push(topic.clone());
        let found = self.elsewhere.get(topic).or_else(|| self.here.get(topic)).cloned();
        Box::pin(async move { found.ok_or_else(|| Fault::unavailable("no server can be reached")) })
    }

    fn local(&self) -> Arc<LocalState> {
        Arc::new(self.local.clone())
    }

    fn now(&self) -> Millis {
        Millis(1_700_000_000_000)
    }
}

fn contents(records: impl IntoIterator<Item = (String, Fact)>) -> Arc<Contents> {
    Arc::new(Contents { revision: Default::default(), records: records.into_iter().collect() })
}

fn node(name: &str, address: &str) -> serde_json::Value {
    json!({"name": name, "address": address, "mesh_port": 20000, "meta": {"rack": "r1", "rfc1035-00": "plain"}})
}

fn entry(node: serde_json::Value, id: &str, status: &str, more: serde_json::Value) -> (String, Fact) {
    let mut instance = json!({"id": id, "name": "web", "port": 8080, "tags": ["v1"]});
    instance.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let checks = json!([{"node": "n", "id": "c", "name": "c", "status": status}]);
    let entry = json!({"node": node, "instance": instance, "checks": checks});
    (id.into(), Fact::Entry(serde_json::from_value::<ServiceEntry>(entry).unwrap()))
}

fn summaries(names: &[&str]) -> Arc<Contents> {
    contents(names.iter().map(|name| {
        let summary = json!({"name": name, "tags": [], "instances": 1});
        ((*name).to_owned(), Fact::ServiceSummary(serde_json::from_value(summary).unwrap()))
    }))
}

fn service(name: &str) -> Topic {
    Topic::Service(ServiceKey::new(ServiceName::new(name).unwrap()))
}

/// Two healthy instances of `web`, one that warns, one that is critical, and the nodes they run on.
fn facts() -> Facts {
    let web = contents([
        entry(node("n1", "10.0.0.1"), "w1", "passing", json!({"weights": {"passing": 7, "warning": 1}})),
        entry(node("n2", "10.0.0.2"), "w2", "passing", json!({"address": "10.9.0.2", "tags": ["V2"]})),
        entry(node("n3", "fd00::3"), "w3", "warning", json!({"mesh": {}})),
        entry(node("n4", "10.0.0.4"), "w4", "critical", json!({})),
    ]);
    let nodes = contents(
        [("n1", "10.0.0.1"), ("N2.rack", "10.0.0.2"), ("n3", "fd00::3"), ("ext", "db.example.com")].map(
            |(name, address)| {
                (name.to_owned(), Fact::Node(serde_json::from_value(node(name, address)).unwrap()))
            },
        ),
    );
    let servers = contents([("s1", "10.0.0.9:8300")].map(|(name, address)| {
        let server = json!({"node": name, "address": address, "leader": true, "voter": true});
        (name.to_owned(), Fact::Server(serde_json::from_value(server).unwrap()))
    }));
    let sick = contents([entry(node("n4", "10.0.0.4"), "w4", "critical", json!({}))]);
    let mixed = contents([entry(node("n1", "10.0.0.1"), "m1", "passing", json!({}))]);
    let host =
        contents([entry(node("n1", "10.0.0.1"), "h1", "passing", json!({"address": "db.example.com"}))]);
    let here = [
        (service("web"), web),
        (service("sick"), sick),
        (service("host"), host),
        (Topic::Nodes, nodes),
        (Topic::Servers, servers),
        (Topic::Services, summaries(&["web", "sick", "host", "Mixed"])),
    ];
    Facts { here: here.into(), elsewhere: [(service("Mixed"), mixed)].into(), ..Facts::default() }
}

struct Dns {
    handle: Handle,
    server: Arc<Server>,
    facts: Arc<Facts>,
}

async fn dns_with(facts: Facts, change: impl FnOnce(&mut DnsOptions)) -> Dns {
    let mut options = DnsOptions { listen: vec!["127.0.0.1:0".parse().unwrap()], ..DnsOptions::default() };
    options.enable_truncate = true;
    options.node_ttl = Duration::from_secs(30);
    change(&mut options);
    let listeners = Listeners::bind(&options).await.unwrap();
    let domains = ["mesh.internal".to_owned(), "consul".to_owned()];
    let settings = settings(domains.iter(), "dc1".into(), "n2".into(), options).unwrap();
    let facts = Arc::new(facts);
    let server = Arc::new(Server::new(facts.clone(), settings, DnsMetrics::default()));
    Dns { handle: start(server.clone(), listeners), server, facts }
}

async fn dns() -> Dns {
    dns_with(facts(), |_| {}).await
}

fn question(name: &str, kind: RecordType, payload: Option<u16>) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message
}

impl Dns {
    fn address(&self) -> SocketAddr {
        self.handle.addresses()[0]
    }

    async fn udp(&self, packet: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.address()).await.unwrap();
        socket.send(packet).await.unwrap();
        let mut buffer = vec![0; 65_535];
        let length =
            timeout(Duration::from_secs(20), socket.recv(&mut buffer)).await.expect("no answer").unwrap();
        buffer.truncate(length);
        buffer
    }

    async fn tcp(&self, packet: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address()).await.unwrap();
        stream.write_u16(u16::try_from(packet.len()).unwrap()).await.unwrap();
        stream.write_all(packet).await.unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut buffer = vec![0; usize::from(length)];
        stream.read_exact(&mut buffer).await.unwrap();
        buffer
    }

    /// Over UDP with EDNS; what TCP says must be the same.
    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        let question = question(name, kind, Some(4096));
        let answer = Message::from_vec(&self.udp(&question.to_vec().unwrap()).await).unwrap();
        assert_eq!(
            (answer.metadata.id, answer.metadata.message_type),
            (question.metadata.id, MessageType::Response)
        );
        assert_eq!(answer.queries, question.queries);
        let over_tcp = Message::from_vec(&self.tcp(&question.to_vec().unwrap()).await).unwrap();
        assert_eq!(sorted(&over_tcp.answers), sorted(&answer.answers));
        assert_eq!(over_tcp.metadata.response_code, answer.metadata.response_code);
        answer
    }

    async fn data(&self, name: &str, kind: RecordType) -> Vec<String> {
        let answer = self.ask(name, kind).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{name}");
        assert!(answer.metadata.authoritative);
        sorted(&answer.answers)
    }

    /// Has no records, but says how long that may be remembered.
    async fn nothing(&self, name: &str, kind: RecordType) -> ResponseCode {
        let answer = self.ask(name, kind).await;
        assert!(answer.answers.is_empty(), "{name}: {:?}", answer.answers);
        assert!(matches!(&answer.authorities[..], [record] if record.record_type() == SOA), "{name}");
        answer.metadata.response_code
    }
}

fn sorted(records: &[Record]) -> Vec<String> {
    let mut texts: Vec<String> = records.iter().map(|record| record.data.to_string()).collect();
    texts.sort();
    texts
}

use RecordType::{A, AAAA, ANY, AXFR, CNAME, NS, PTR, SOA, SRV, TXT};

#[tokio::test]
async fn a_service_is_its_healthy_instances() {
    let dns = dns().await;
    for name in [
        "web.service.mesh.internal.",
        "web.mesh.internal.",
        "WEB.service.dc1.Consul.",
        "web.service.dc1.dc.consul.",
    ] {
        assert_eq!(dns.data(name, A).await, ["10.0.0.1", "10.9.0.2"], "{name}");
        assert_eq!(dns.data(name, AAAA).await, ["fd00::3"], "{name}");
        assert_eq!(dns.data(name, ANY).await, ["10.0.0.1", "10.9.0.2", "fd00::3"], "{name}");
    }
    assert_eq!(dns.data("v1.web.service.consul.", A).await, ["10.0.0.1"]);
    assert_eq!(dns.data("v2.web.service.consul.", A).await, ["10.9.0.2"]);
    assert!(dns.facts.asked.lock().unwrap().is_empty(), "everything was here");
}

#[tokio::test]
async fn only_passing_leaves_out_what_warns() {
    let dns = dns_with(facts(), |options| options.only_passing = true).await;
    assert_eq!(dns.data("web.service.consul.", A).await, ["10.0.0.1", "10.9.0.2"]);
    assert_eq!(dns.nothing("web.service.consul.", AAAA).await, ResponseCode::NoError);
}

#[tokio::test]
async fn the_answer_keeps_the_spelling_of_the_question() {
    let dns = dns().await;
    let answer = dns.ask("wEb.SerVice.Mesh.internal.", A).await;
    assert!(answer.answers[0].name.eq_case(&Name::from_ascii("wEb.SerVice.Mesh.internal.").unwrap()));
}

#[tokio::test]
async fn a_service_spelt_with_capitals_is_found() {
    let dns = dns().await;
    assert_eq!(dns.data("mixed.service.consul.", A).await, ["10.0.0.1"]);
    assert_eq!(*dns.facts.asked.lock().unwrap(), [service("Mixed"), service("Mixed")]);
}

#[tokio::test]
async fn srv_records_name_port_weight_and_a_target_with_addresses() {
    let dns = dns().await;
    for name in ["_web._tcp.service.mesh.internal.", "_web._tcp.mesh.internal.", "web.service.mesh.internal."]
    {
        let answer = dns.ask(name, SRV).await;
        let expected = [
            "1 1 8080 0a090002.addr.dc1.mesh.internal.",
            "1 1 8080 n3.node.dc1.mesh.internal.",
            "1 7 8080 n1.node.dc1.mesh.internal.",
        ];
        assert_eq!(sorted(&answer.answers), expected, "{name}");
        assert_eq!(sorted(&answer.additionals), ["10.0.0.1", "10.9.0.2", "fd00::3"]);
        for record in &answer.additionals {
            assert!(
                answer
                    .answers
                    .iter()
                    .any(|answer| matches!(&answer.data, RData::SRV(srv) if srv.target == record.name))
            );
        }
    }
    assert_eq!(dns.data("_web._v2.service.consul.", SRV).await, ["1 1 8080 0a090002.addr.dc1.consul."]);
    assert_eq!(dns.data("0a090002.addr.dc1.consul.", A).await, ["10.9.0.2"]);
    assert_eq!(dns.nothing("0a090002.addr.dc1.consul.", AAAA).await, ResponseCode::NoError);
}

#[tokio::test]
async fn connect_names_lead_to_the_hosts_proxies() {
    let dns = dns().await;
    for name in ["web.connect.consul.", "web-sidecar-proxy.service.consul."] {
        assert_eq!(dns.data(name, AAAA).await, ["fd00::3"]);
        assert_eq!(dns.data(name, SRV).await, ["1 1 20000 n3.node.dc1.consul."]);
    }
    assert_eq!(dns.nothing("host.connect.consul.", A).await, ResponseCode::NXDomain);
}

#[tokio::test]
async fn names_that_do_not_exist_and_names_without_records_differ() {
    let dns = dns().await;
    for (name, kind, code) in [
        ("none.service.consul.", A, ResponseCode::NXDomain),
        ("none.consul.", A, ResponseCode::NXDomain),
        ("v3.web.service.consul.", A, ResponseCode::NXDomain),
        ("sick.service.consul.", A, ResponseCode::NXDomain),
        ("web.service.dc2.consul.", A, ResponseCode::NXDomain),
        ("a.b.c.consul.", A, ResponseCode::NXDomain),
        ("web.virtual.consul.", A, ResponseCode::NoError),
        ("none.virtual.consul.", A, ResponseCode::NXDomain),
        ("web.service.consul.", TXT, ResponseCode::NoError),
        ("n1.node.consul.", AAAA, ResponseCode::NoError),
        ("none.node.consul.", A, ResponseCode::NXDomain),
        ("service.consul.", A, ResponseCode::NoError),
        ("consul.", A, ResponseCode::NoError),
    ] {
        assert_eq!(dns.nothing(name, kind).await, code, "{name} {kind}");
    }
}

#[tokio::test]
async fn names_made_up_by_clients_are_not_followed() {
    let dns = dns().await;
    dns.nothing("made-up.service.consul.", A).await;
    assert!(dns.facts.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_cannot_be_known_is_a_failure_and_not_an_absence() {
    let mut offline = facts();
    offline.here.retain(|topic, _| *topic == service("web"));
    let dns = dns_with(offline, |_| {}).await;
    assert_eq!(dns.data("web.service.consul.", A).await, ["10.0.0.1", "10.9.0.2"]);
    for name in ["db.service.consul.", "n1.node.consul.", "db.virtual.consul."] {
        assert_eq!(dns.ask(name, A).await.metadata.response_code, ResponseCode::ServFail, "{name}");
    }
}

#[tokio::test]
async fn nodes_have_addresses_and_texts() {
    let dns = dns().await;
    assert_eq!(dns.data("N1.node.mesh.internal.", A).await, ["10.0.0.1"]);
    assert_eq!(dns.data("n2.rack.node.dc1.consul.", A).await, ["10.0.0.2"]);
    assert_eq!(dns.data("n3.node.consul.", AAAA).await, ["fd00::3"]);
    let answer = dns.ask("n1.node.consul.", TXT).await;
    let mut texts: Vec<&[u8]> = Vec::new();
    for record in &answer.answers {
        let RData::TXT(text) = &record.data else { panic!("{record}") };
        texts.extend(text.txt_data.iter().map(|part| &part[..]));
    }
    texts.sort();
    assert_eq!(texts, [&b"plain"[..], b"rack=r1"]);
    assert_eq!(answer.answers[0].ttl, 30);
}

#[tokio::test]
async fn addresses_have_names() {
    let mut facts = facts();
    let instance =
        serde_json::from_value(json!({"id": "x1", "name": "cache", "address": "10.77.0.1"})).unwrap();
    let local =
        crate::registry::LocalService { instance: Arc::new(instance), origin: crate::registry::Origin::Api };
    facts.local.services.insert(purlin_model::InstanceId::new("x1").unwrap(), Arc::new(local));
    let elsewhere = serde_json::from_value(json!({"id": "x2", "name": "queue"})).unwrap();
    let there = contents([("n1/x2".to_owned(), Fact::Instance(elsewhere))]);
    for address in ["10.77.0.2", "127.0.0.9"] {
        facts.elsewhere.insert(Topic::At(address.parse().unwrap()), there.clone());
    }
    let dns = dns_with(facts, |_| {}).await;
    assert_eq!(dns.data("1.0.0.10.in-addr.arpa.", PTR).await, ["n1.node.dc1.mesh.internal."]);
    assert_eq!(dns.data("1.0.77.10.in-addr.arpa.", PTR).await, ["cache.service.mesh.internal."]);
    assert_eq!(dns.data("2.0.77.10.in-addr.arpa.", PTR).await, ["queue.service.mesh.internal."]);
    // What others have on their loopback is not there on ours.
    assert_eq!(dns.ask("9.0.0.127.in-addr.arpa.", PTR).await.metadata.response_code, ResponseCode::Refused);
    let six = "3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.";
    assert_eq!(dns.data(six, PTR).await, ["n3.node.dc1.mesh.internal."]);
    assert_eq!(dns.ask("1.1.1.1.in-addr.arpa.", PTR).await.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn the_zone_says_who_serves_it() {
    let dns = dns().await;
    assert_eq!(
        dns.data("mesh.internal.", SOA).await,
        ["ns.mesh.internal. hostmaster.mesh.internal. 1700000000 3600 600 86400 0"]
    );
    let servers = dns.ask("consul.", NS).await;
    assert_eq!(sorted(&servers.answers), ["s1.node.dc1.consul."]);
    assert_eq!(sorted(&servers.additionals), ["10.0.0.9"]);
}

#[tokio::test]
async fn ttls_come_from_the_most_exact_rule() {
    let ttl = |text: &str, seconds| (text.to_owned(), Duration::from_secs(seconds));
    let rules = [ttl("*", 1), ttl("we*", 2), ttl("web", 3)];
    for (count, expected) in [(1, 1), (2, 2), (3, 3)] {
        let rules = rules[..count].iter().cloned().collect();
        let dns = dns_with(facts(), |options| options.service_ttl = rules).await;
        assert_eq!(dns.ask("WEB.service.consul.", A).await.answers[0].ttl, expected);
    }
    assert_eq!(dns().await.ask("web.service.consul.", A).await.answers[0].ttl, 0);
}
