//! What operators ask of a server that is alone; what several do is told by the lab.

use purlin_model::autopilot::AutopilotConfig;
use purlin_wire::rpc::{AskMembers, Members, Operate, Operated, Operation, Peer, Usage};

use super::*;

async fn members(link: &dyn Link, stale: bool) -> Members {
    rpc::call(link, rpc::MEMBERS, &AskMembers { stale, forwarded: false }, DEADLINE).await.unwrap()
}

async fn operate(link: &dyn Link, what: Operate) -> Result<Operated, Fault> {
    rpc::call(link, rpc::OPERATE, &Operation { what, forwarded: false }, DEADLINE).await
}

#[tokio::test]
async fn a_server_alone_is_a_healthy_cluster_that_nothing_may_be_taken_from() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let link = connect(server.connector()).await;
    let looked_at = async {
        loop {
            let seen = members(&*link, false).await;
            if seen.healthy {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let seen = tokio::time::timeout(DEADLINE, looked_at).await.expect("nobody looks after it");
    let one = &seen.servers[0];
    assert_eq!((seen.servers.len(), seen.failure_tolerance), (1, 0));
    assert!(one.leader && one.voter && one.name == "s1" && one.version == "0.1.0", "{one:?}");
    assert_eq!(one.address, server.quic_addrs()[0].to_string());
    assert!(one.last_index > Some(0) && one.stable_since.is_some());
    let own = one.id.expect("its host is known");
    assert_eq!(members(&*link, true).await.servers[0].id, Some(own));

    for peer in [Peer::Id(own), Peer::Address(one.address.clone())] {
        let fault = operate(&*link, Operate::RemovePeer(peer)).await.unwrap_err();
        assert!(fault.text.contains("no other voter"), "{fault}");
    }
    let fault =
        operate(&*link, Operate::RemovePeer(Peer::Address("10.9.9.9:8300".into()))).await.unwrap_err();
    assert_eq!(fault.text, "address \"10.9.9.9:8300\" was not found in the Raft configuration");
    let stranger = NodeId(uuid::Uuid::from_u128(9));
    let fault = operate(&*link, Operate::AddPeer { id: stranger, address: None }).await.unwrap_err();
    assert!(fault.code == FaultCode::NotFound && fault.text.contains("server --join"), "{fault}");
    // There is nobody to leave to, so it stays what it is.
    server.leave().await;
    assert_eq!(members(&*link, false).await.servers.len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn settings_are_written_by_comparing_and_what_is_used_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let link = connect(server.connector()).await;
    let config = AutopilotConfig { min_quorum: 3, ..AutopilotConfig::default() };
    let put = |cas| Command::PutAutopilot { config: config.clone(), cas: Some(Revision(cas)) };
    let written = write_ok(&*link, put(0)).await;
    assert_eq!(write(&*link, put(0)).await.unwrap().result, Ok(Done::CasFailed));
    let seen = members(&*link, false).await.autopilot;
    assert_eq!((seen.min_quorum, seen.modify_index), (3, written));
    // What the leader says of the servers is no command for a call, whoever calls.
    for command in [
        Command::PutVoters { leader: node_name("s1"), voters: Vec::new() },
        Command::ForgetServer { node: node_name("s1") },
    ] {
        assert_eq!(write(&*link, command).await.unwrap_err().code, FaultCode::Forbidden);
    }

    write_ok(&*link, register(node("out", 0, NodeRole::External), Some(meshed("a", "api")))).await;
    let usage: Usage = rpc::call(&*link, rpc::USAGE, &(), DEADLINE).await.unwrap();
    assert_eq!((usage.nodes, usage.services, usage.instances, usage.meshed), (2, 1, 1, 1));
    server.stop().await;
}
