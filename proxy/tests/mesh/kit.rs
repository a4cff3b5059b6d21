//! Hosts with a proxy each, and the agent's side of the conversation.

use std::net::SocketAddr;
use std::time::Duration;

use purlin_model::intention::{Action, Intention, Party, Policy, Rule};
use purlin_model::service::Protocol;
use purlin_model::view::{
    Absence, Credential, Dial, Endpoint, Listener, LocalInstance, LocalPort, Part, PartKey, Settings, Target,
    TargetKey, View,
};
use purlin_model::{Datacenter, InstanceId, Millis, Namespace, NodeName, ServiceKey, ServiceName};
use purlin_proxy::{Config, Proxy, ProxyHandle};
use purlin_wire::frame::{self, FrameReader};
use purlin_wire::local::{FromProxy, PROTOCOL, ToProxy};
use purlin_wire::testing::TestCa;
use purlin_wire::tls;
use tokio::io::{AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};

/// Longer than anything here takes; a test that waits so long has failed.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A wait with an end, so that what never comes is a failure and not a hang.
pub(crate) async fn within<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(LONG, work).await.expect("it never came")
}

pub(crate) fn key(name: &str) -> ServiceKey {
    ServiceKey::new(ServiceName::new(name).unwrap())
}

pub(crate) fn free_port(ip: &str) -> SocketAddr {
    std::net::TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

/// The agent's end of the socket.
pub(crate) struct Agent {
    reader: FrameReader<ReadHalf<DuplexStream>>,
    writer: WriteHalf<DuplexStream>,
    pub(crate) has_revision: u64,
}

impl Agent {
    pub(crate) async fn connect(stream: DuplexStream) -> Self {
        let (read, mut writer) = tokio::io::split(stream);
        let mut reader = FrameReader::new(read, purlin_model::limit::FRAME_BYTES);
        frame::write(&mut writer, &ToProxy::Hello { version: "test".into(), protocol: PROTOCOL })
            .await
            .unwrap();
        let Some(FromProxy::Hello { has_revision, .. }) = reader.next().await.unwrap() else {
            panic!("the proxy did not say hello");
        };
        Self { reader, writer, has_revision }
    }

    pub(crate) async fn send(&mut self, frame: &ToProxy) {
        frame::write(&mut self.writer, frame).await.unwrap();
    }

    pub(crate) async fn write_raw(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).await.unwrap();
    }

    /// Waits until the proxy has hung up.
    pub(crate) async fn ended(&mut self) {
        while let Ok(Some(_)) = tokio::time::timeout(LONG, self.reader.next::<FromProxy>()).await.unwrap() {}
    }

    pub(crate) async fn hang_up(&mut self) {
        self.writer.shutdown().await.unwrap();
        self.ended().await;
    }

    pub(crate) async fn receive(&mut self) -> FromProxy {
        tokio::time::timeout(LONG, self.reader.next()).await.unwrap().unwrap().unwrap()
    }

    /// Failed listeners of the next view that is in force.
    pub(crate) async fn applied(&mut self, wanted: u64) -> Vec<(String, String)> {
        loop {
            if let FromProxy::Applied { revision, failed_listeners } = self.receive().await
                && revision == wanted
            {
                return failed_listeners;
            }
        }
    }
}

pub(crate) struct Host {
    pub(crate) proxy: ProxyHandle,
    pub(crate) agent: Agent,
    pub(crate) ip: String,
    pub(crate) inbound: SocketAddr,
    view: View,
    sent: View,
}

/// An instance as other hosts call it.
#[derive(Clone)]
pub(crate) struct Remote {
    pub(crate) endpoint: Endpoint,
}

pub(crate) fn config() -> Config {
    Config { workers: 2, drain_deadline: Duration::from_secs(5), ..Config::default() }
}

impl Host {
    pub(crate) async fn new(ca: &TestCa, ip: &str) -> Self {
        Self::with(ca, ip, config()).await
    }

    pub(crate) async fn with(ca: &TestCa, ip: &str, config: Config) -> Self {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let proxy = Proxy::start_with_stream(config, theirs).unwrap();
        let agent = Agent::connect(ours).await;
        let inbound = free_port(ip);
        let settings = Settings {
            node: NodeName::new(format!("host-{ip}")).unwrap(),
            datacenter: Datacenter::default(),
            trust_domain: ca.trust_domain.clone(),
            inbound: vec![inbound],
            roots: vec![ca.root_der()],
            revoked: Default::default(),
            detection_timeout_ms: 100,
            locality: None,
        };
        let mut host =
            Self { proxy, agent, ip: ip.into(), inbound, view: View::default(), sent: View::default() };
        host.set(PartKey::Settings, Part::Settings(settings));
        host
    }

    pub(crate) fn set(&mut self, key: PartKey, part: Part) {
        self.view.parts.insert(key, part);
    }

    pub(crate) fn remove(&mut self, key: &PartKey) {
        self.view.parts.remove(key);
    }

    pub(crate) fn part(&mut self, key: &PartKey) -> &mut Part {
        self.view.parts.get_mut(key).unwrap()
    }

    /// Sends what differs and waits until it is in force; answers with listeners that failed.
    pub(crate) async fn apply(&mut self) -> Vec<(String, String)> {
        self.view.revision += 1;
        let (set, removed) = self.view.changes_since(&self.sent);
        let frame = ToProxy::View {
            revision: self.view.revision,
            reset: false,
            set: set.into_iter().map(|(key, part)| (key.clone(), part.clone())).collect(),
            removed: removed.into_iter().cloned().collect(),
            last: true,
        };
        self.agent.send(&frame).await;
        self.sent = self.view.clone();
        self.agent.applied(self.view.revision).await
    }

    pub(crate) fn credential(&mut self, ca: &TestCa, service: &str) {
        let (private, csr) = tls::new_key_and_csr().unwrap();
        let identity = ca.service(service);
        let credential = Credential {
            service: key(service),
            identity: identity.to_string(),
            chain: ca.sign(&csr, &identity),
            key: private,
            not_before: Millis(0),
            not_after: Millis(u64::MAX),
        };
        self.set(PartKey::Credential(key(service)), Part::Credential(credential));
    }

    /// An instance on this host; nobody may call it yet.
    pub(crate) fn instance(
        &mut self,
        ca: &TestCa,
        id: &str,
        dial: SocketAddr,
        protocol: Option<Protocol>,
    ) -> Remote {
        let service = id.split('-').next().unwrap();
        let suffix = format!("{service}.default.dc1.internal.{}", ca.trust_domain);
        let server_name = format!("{id}.default.{suffix}");
        let instance = LocalInstance {
            id: InstanceId::new(id).unwrap(),
            service: key(service),
            ports: vec![LocalPort {
                server_name: server_name.clone(),
                service_server_name: suffix,
                name: None,
                protocol: None,
                dial: Dial::Tcp(dial),
            }],
            healthy: true,
            protocol,
            connect_timeout_ms: 2000,
            request_timeout_ms: None,
            max_connections: None,
        };
        self.set(PartKey::Local(instance.id.clone()), Part::Local(instance));
        if !self.view.parts.contains_key(&PartKey::Credential(key(service))) {
            self.credential(ca, service);
        }
        if !self.view.parts.contains_key(&PartKey::Policy(key(service))) {
            self.policy(service, &[]);
        }
        let endpoint = Endpoint {
            node: NodeName::new(format!("host-{}", self.ip)).unwrap(),
            instance: InstanceId::new(id).unwrap(),
            address: self.inbound,
            server_name,
            weight: 1,
            locality: None,
            local: false,
        };
        Remote { endpoint }
    }

    pub(crate) fn policy(&mut self, destination: &str, rules: &[(&str, Rule)]) {
        let intentions = rules.iter().map(|(source, rule)| Intention {
            source: Party::parse(source).unwrap(),
            source_namespace: Namespace::default(),
            destination: Party::parse(destination).unwrap(),
            rule: rule.clone(),
        });
        let policy = Policy::new(key(destination), Action::Deny, intentions.collect());
        self.set(PartKey::Policy(key(destination)), Part::Policy(policy));
    }

    pub(crate) fn allow(&mut self, source: &str, destination: &str) {
        self.policy(destination, &[(source, Rule::L4(Action::Allow))]);
    }

    /// A local port on which `source` finds `service`.
    pub(crate) fn upstream(
        &mut self,
        ca: &TestCa,
        source: &str,
        service: &str,
        protocol: Option<Protocol>,
        endpoints: &[&Remote],
    ) -> SocketAddr {
        if !self.view.parts.contains_key(&PartKey::Credential(key(source))) {
            self.credential(ca, source);
        }
        let bind = free_port(&self.ip);
        let listener = Listener {
            bind,
            network_namespace: None,
            source: key(source),
            source_instance: InstanceId::new(format!("{source}-1")).unwrap(),
            target: TargetKey::local(key(service)),
            connect_timeout_ms: 3000,
        };
        self.set(PartKey::Listener(bind), Part::Listener(listener));
        self.target(ca, service, protocol, endpoints, None);
        bind
    }

    pub(crate) fn target(
        &mut self,
        ca: &TestCa,
        service: &str,
        protocol: Option<Protocol>,
        endpoints: &[&Remote],
        absence: Option<Absence>,
    ) {
        let target = TargetKey::local(key(service));
        let part = Target {
            key: target.clone(),
            protocol,
            identity: ca.service(service).to_string(),
            endpoints: endpoints.iter().map(|one| one.endpoint.clone()).collect(),
            absence,
        };
        self.set(PartKey::Target(target), Part::Target(part));
    }
}

/// Waits until `check` holds for the proxy's numbers.
pub(crate) async fn metric(host: &Host, what: &str, check: impl Fn(f64) -> bool) {
    let deadline = tokio::time::Instant::now() + LONG;
    loop {
        let text = host.proxy.metrics_text();
        let sum: f64 = text
            .lines()
            .filter(|line| what.split(' ').all(|word| line.contains(word)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum();
        if check(sum) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what} is {sum}\n{text}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The usual two hosts: `web` on one may call `api` on the other.
pub(crate) struct Pair {
    pub(crate) ca: TestCa,
    pub(crate) web: Host,
    pub(crate) api: Host,
    pub(crate) remote: Remote,
    /// Where `web` finds `api`.
    pub(crate) upstream: SocketAddr,
}

impl Pair {
    pub(crate) async fn new(app: SocketAddr, protocol: Option<Protocol>) -> Self {
        let ca = TestCa::new("11111111-2222-3333-4444-555555555555.mesh.internal");
        let mut api = Host::new(&ca, "127.0.0.3").await;
        let remote = api.instance(&ca, "api-1", app, protocol);
        api.allow("web", "api");
        assert_eq!(api.apply().await, []);
        let mut web = Host::new(&ca, "127.0.0.2").await;
        let upstream = web.upstream(&ca, "web", "api", protocol, &[&remote]);
        assert_eq!(web.apply().await, []);
        Self { ca, web, api, remote, upstream }
    }

    /// Both services on one host, which is `api`; the other is idle.
    pub(crate) async fn local(app: SocketAddr, protocol: Option<Protocol>) -> Self {
        let ca = TestCa::new("11111111-2222-3333-4444-555555555555.mesh.internal");
        let mut api = Host::new(&ca, "127.0.0.4").await;
        let mut remote = api.instance(&ca, "api-1", app, protocol);
        remote.endpoint.local = true;
        api.allow("web", "api");
        let upstream = api.upstream(&ca, "web", "api", protocol, &[&remote]);
        assert_eq!(api.apply().await, []);
        let web = Host::new(&ca, "127.0.0.2").await;
        Self { ca, web, api, remote, upstream }
    }
}
