//! Rosters of other servers, and probes through agents.

use purlin_model::identity::{Identity, Subject};
use purlin_wire::link::Peer;
use purlin_wire::rpc::{
    Contact, PROBE, PROBE_VIA, Presence, Probe, ProbeVia, Probed, ROSTER, Roster, RosterTaken, name_sum,
};

use super::serving::link_as;
use super::*;

async fn as_server(server: &ServerHandle, name: &str) -> Arc<dyn Link> {
    let own = server.credentials().borrow().identity().clone();
    let subject = Subject::Server { datacenter: Datacenter::default(), node: node_name(name) };
    let identity = Identity { subject, ..own };
    link_as(server, Peer::Member { identity, certificate: [7; 32], issuer: Some([8; 32]) }).await
}

fn roster(number: u64, whole: bool, hosts: &[&str]) -> Roster {
    let here = |host: &&str| Presence {
        node: node_name(host),
        contact: Contact::Here,
        silent_ms: 0,
        beat_ms: 1_000,
        probe: None,
    };
    let names: Vec<NodeName> = hosts.iter().map(|host| node_name(host)).collect();
    Roster {
        boot: uuid::Uuid::from_u128(1),
        number,
        whole,
        changes: hosts.iter().map(here).collect(),
        more: false,
        count: names.len() as u64,
        sum: name_sum(names.iter()),
    }
}

#[tokio::test]
async fn only_a_server_tells_of_sessions_and_the_leader_asks_for_all_of_what_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let other = as_server(&server, "s2").await;
    let tell = async |link: &dyn Link, roster: Roster| {
        rpc::call::<_, RosterTaken>(link, ROSTER, &roster, DEADLINE).await
    };
    assert!(tell(&*other, roster(3, false, &["h1"])).await.unwrap().tell_all);
    let taken = tell(&*other, roster(4, true, &["h1", "h2", "h3"])).await.unwrap();
    assert!(!taken.tell_all);
    let agent = join::joined(&server, "h1").await;
    let fault = tell(&*agent, roster(5, true, &["h1"])).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Forbidden);
    let known = async {
        while !server.metrics_text().contains("purlin_server_rosters 2") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, known).await.is_ok(), "{}", server.metrics_text());
    server.stop().await;
}

#[tokio::test]
async fn a_probe_goes_to_the_agent_that_shall_carry_it_out() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let leader = as_server(&server, "s2").await;
    let agent = join::joined(&server, "h1").await;
    let probe = Probe { node: node_name("h2"), address: "10.0.0.2:8301".into(), within_ms: 1_000 };
    let via = ProbeVia { helper: node_name("h1"), probe: probe.clone() };
    let ask = async || rpc::call::<_, Probed>(&*leader, PROBE_VIA, &via, DEADLINE).await;
    assert_eq!(ask().await.unwrap_err().code, FaultCode::NotFound, "it has no session yet");
    let _session = Follower::open(&*agent).await;
    let boot = uuid::Uuid::from_u128(9);
    let answer = async {
        let mut stream = agent.accept().await.unwrap();
        let call = rpc::read_call(&mut stream).await.unwrap();
        assert_eq!(call.method, PROBE);
        assert_eq!(call.decode::<Probe>().unwrap(), probe);
        rpc::reply(&mut stream, &Ok(Probed { boot })).await.unwrap();
    };
    let (probed, ()) = tokio::join!(ask(), answer);
    assert_eq!(probed.unwrap(), Probed { boot });
    let fault = rpc::call::<_, Probed>(&*agent, PROBE_VIA, &via, DEADLINE).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Forbidden);
    server.stop().await;
}

#[tokio::test]
async fn the_last_that_has_a_change_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let link = connect(server.connector()).await;
    let mut follower = Follower::open(&*link).await;
    let web = Topic::Service(service_key("web"));
    follower.follow(web.clone(), Revision(0)).await;
    follower.until("the snapshot", |f| f.topics.contains_key(&web)).await;
    let own = node("s1", 0, NodeRole::External);
    let at = write_ok(&*link, register(own, Some(meshed("web-1", "web")))).await;
    follower.until("the change", |f| f.progress >= at).await;
    follower.session.sender.send(&Up::Applied(vec![(at, 0)])).await.unwrap();
    let measured = async {
        while !server.metrics_text().contains("purlin_server_propagation_seconds_count 1") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, measured).await.is_ok(), "{}", server.metrics_text());
    server.stop().await;
}
