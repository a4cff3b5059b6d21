//! The certificate authority: to whom the root key is sealed, roots that follow one another, servers that are gone.

use purlin_model::topic::{CaConfig, MeshInfo, ServerInfo};
use purlin_wire::tls;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::*;
use crate::ca::{Intermediate, NewRoot};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

fn server(name: &str, sealing: u8) -> Command {
    Command::AnnounceServer(ServerInfo {
        node: node_name(name),
        address: "10.0.0.1:8300".into(),
        leader: false,
        voter: true,
        id: None,
        level: 2,
        sealing: vec![sealing; 32],
    })
}

fn sealed(name: &str, sealing: u8, root: &str) -> SealedKey {
    SealedKey {
        node: node_name(name),
        recipient: vec![sealing; 32],
        encapsulated: vec![1],
        ciphertext: vec![sealing],
        root: root.into(),
    }
}

/// Two servers in the catalog, both announced.
fn with_servers() -> Log {
    let mut log = Log::with_mesh();
    for (name, n) in [("s1", 1), ("s2", 2)] {
        log.yes(Command::AnnounceNode(Node { role: NodeRole::Server, ..member(name, n) }));
        log.yes(server(name, u8::try_from(n).unwrap()));
    }
    log
}

fn root(name: &str) -> RootCertificate {
    RootCertificate { id: name.into(), active: true, ..mesh().root }
}

fn info(log: &Log) -> MeshInfo {
    log.state.mesh_info().unwrap().clone()
}

/// An intermediate of a server, as PEM and as its fingerprint in hex.
fn intermediate(name: &str) -> (Command, String) {
    let domain = mesh().trust_domain;
    let root = NewRoot::create(&domain, NOW).unwrap();
    let made =
        Intermediate::create(&root.certificate.pem, &root.key, &domain, &node_name(name), NOW, YEAR).unwrap();
    let der = CertificateDer::from_pem_slice(made.pem().as_bytes()).unwrap();
    let put = Command::PutIntermediate { node: node_name(name), certificate_pem: made.pem() };
    (put, tls::hex(&tls::fingerprint(&der)))
}

#[test]
fn the_root_key_is_sealed_to_servers_with_the_key_that_they_told_and_to_nobody_else() {
    let mut log = with_servers();
    let touched = log.yes(Command::SealRootKey(sealed("s2", 2, "")));
    assert_eq!(touched.keys, [(Topic::Servers, "s2".to_owned())]);
    assert_eq!(log.state.sealed_root_key(&[2; 32]).unwrap().node, node_name("s2"));
    assert!(log.refused(Command::SealRootKey(sealed("s2", 9, ""))).1.contains("none with that sealing key"));
    assert!(log.refused(Command::SealRootKey(sealed("h1", 2, ""))).1.contains("none with that sealing key"));
    assert!(log.refused(Command::SealRootKey(sealed("s2", 2, "other"))).1.contains("no root other"));
    // One with another sealing key now, as after its disk was replaced, has the old one no more.
    log.yes(server("s2", 3));
    log.yes(Command::SealRootKey(sealed("s2", 3, "")));
    assert!(log.state.sealed_root_key(&[2; 32]).is_none());
}

#[test]
fn a_new_root_is_trusted_before_it_signs_and_the_old_one_after() {
    let mut log = with_servers();
    let old = info(&log).roots[0].id.clone();
    let keys = vec![sealed("s1", 1, "new"), sealed("s2", 2, "new")];
    log.yes(Command::AddRoot { root: root("new"), sealed_root_key: keys.clone() });
    let active = |log: &Log| info(log).roots.iter().map(|r| (r.id.clone(), r.active)).collect::<Vec<_>>();
    assert_eq!(active(&log), [(old.clone(), true), ("new".into(), false)]);
    assert_eq!(log.state.coming_root(), Some(("new", NOW)));
    let again = Command::AddRoot { root: root("third"), sealed_root_key: keys };
    assert!(log.refused(again).1.contains("is to become the active one already"));
    assert!(log.refused(Command::RemoveRoot { id: "new".into() }).1.contains("cannot be removed"));
    assert!(log.refused(Command::ActivateRoot { id: old.clone() }).1.contains("not about to become"));

    log.yes(Command::ActivateRoot { id: "new".into() });
    assert_eq!(active(&log), [("new".into(), true), (old.clone(), false)], "the active one comes first");
    assert_eq!(log.state.sealed_root_key(&[2; 32]).unwrap().root, "new");
    assert_eq!(log.state.retired_roots().collect::<Vec<_>>(), [(&old, NOW)]);
    assert!(log.refused(Command::RemoveRoot { id: "new".into() }).1.contains("cannot be removed"));
    let (removed, _) = log.apply(Command::RemoveRoot { id: old });
    assert_eq!(removed.result, Ok(Done::Deleted { existed: true }));
    assert_eq!(active(&log), [("new".into(), true)]);
}

#[test]
fn what_a_removed_server_signed_is_replaced_first_and_revoked_then() {
    let mut log = with_servers();
    let (put, sha256) = intermediate("s2");
    log.yes(put.clone());
    log.yes(Command::SealRootKey(sealed("s2", 2, "")));
    let sha_bytes = tls::fingerprint_of_hex(&sha256).unwrap();
    assert!(!log.state.distrusts(&sha_bytes));
    let own =
        Command::RecordCertificate { node: node_name("s2"), sha256: vec![7; 32], not_after: NOW.plus(YEAR) };
    log.yes(own);
    log.yes(Command::SetNodeStatus { node: node_name("s2"), status: NodeStatus::Failed });
    let (removed, touched) = log.apply(Command::RemoveNode { node: node_name("s2") });
    assert_eq!(removed.result, Ok(Done::Deleted { existed: true }));
    assert!(touched.keys.iter().any(|(topic, _)| *topic == Topic::Mesh), "hosts are told");

    let distrust = info(&log).distrust;
    assert!(distrust.retiring.contains(&sha256), "{distrust:?}");
    // Its own certificates need no time: nobody but it used them.
    assert!(distrust.revoked.contains(&tls::hex(&[7; 32])), "{distrust:?}");
    assert!(log.state.is_revoked(&[7; 32]) && log.state.distrusts(&sha_bytes));
    assert!(log.state.sealed_root_key(&[2; 32]).is_none());
    // What it said just before and that comes late changes nothing.
    assert_eq!(log.refused(put).0, FaultCode::NotFound);
    assert_eq!(log.refused(Command::SealRootKey(sealed("s2", 2, ""))).0, FaultCode::Conflict);

    assert!(log.state.authorities_to_revoke(NOW.plus(Duration::from_secs(30))).is_empty());
    let due = log.state.authorities_to_revoke(NOW.plus(Duration::from_secs(31)));
    assert_eq!(due, std::slice::from_ref(&sha256));
    log.yes(Command::RevokeAuthorities { sha256: due });
    assert!(info(&log).distrust.retiring.is_empty() && info(&log).distrust.revoked.contains(&sha256));
    assert!(log.state.authorities_to_revoke(NOW.plus(YEAR)).is_empty());
    assert_eq!(State::decode(&log.state.encode()).unwrap().encode(), log.state.encode());

    // Once they have expired, there is nothing left to remember.
    log.at = NOW.plus(2 * YEAR);
    log.yes(Command::RevokeAuthorities { sha256: Vec::new() });
    assert!(info(&log).distrust.is_empty());
}

#[test]
fn what_an_operator_set_wins_over_the_files_of_servers() {
    let mut log = with_servers();
    let hours = |n: u64| n * 3_600_000;
    let config = |leaf, intermediate| CaConfig {
        leaf_ttl_ms: hours(leaf),
        intermediate_ttl_ms: hours(intermediate),
        rotation_period_ms: hours(2160),
    };
    log.yes(Command::SetCaConfig(config(1, 3)));
    assert_eq!(info(&log).leaf_ttl_ms, hours(1));
    log.yes(Command::UpdateMesh { default_intention: Action::Allow, leaf_ttl_ms: hours(72) });
    assert_eq!((info(&log).leaf_ttl_ms, info(&log).default_intention), (hours(1), Action::Allow));
    assert!(log.refused(Command::SetCaConfig(config(2, 5))).1.contains("at least three times LeafCertTTL"));
    assert!(log.refused(Command::SetCaConfig(config(0, 5))).1.contains("leaf_cert_ttl"));
}

#[test]
fn a_mesh_that_used_none_of_it_has_the_bytes_it_always_had() {
    let bytes = with_servers().state.encode();
    let text = String::from_utf8_lossy(&bytes);
    for field in ["authority", "distrust", "rotation_period_ms"] {
        assert!(!text.contains(field), "{field}");
    }
}
