use purlin_model::node::NodeRole;
use purlin_model::{Datacenter, NodeId, NodeName};

use super::{CREDENTIAL, NODE, NodeFile, NodeStore, StoreError};
use crate::file::FileError;
use crate::testing::TestCa;
use crate::tls;

fn node(ca: &TestCa) -> NodeFile {
    NodeFile {
        id: NodeId(uuid::Uuid::from_u128(7)),
        name: NodeName::new("host-1").unwrap(),
        datacenter: Datacenter::default(),
        trust_domain: ca.trust_domain.clone(),
        role: NodeRole::Agent,
        servers: vec!["10.0.0.1:8300".into()],
    }
}

#[test]
fn a_fresh_directory_is_no_node_and_a_saved_one_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let ca = TestCa::new("a.mesh.internal");
    let store = NodeStore::open(&dir.path().join("data")).unwrap();
    assert!(store.load().unwrap().is_none());
    assert!(store.load_credentials().unwrap().is_none());
    let (key, csr) = tls::new_key_and_csr().unwrap();
    store.save_roots(&[ca.root_der()]).unwrap();
    store.save_credential(&key, &ca.sign(&csr, &ca.agent("host-1"))).unwrap();
    store.save(&node(&ca)).unwrap();
    drop(store);
    let store = NodeStore::open(&dir.path().join("data")).unwrap();
    assert_eq!(store.load().unwrap(), Some(node(&ca)));
    assert_eq!(store.load_key().unwrap(), Some(key));
    let credentials = store.load_credentials().unwrap().unwrap();
    assert_eq!(*credentials.identity(), ca.agent("host-1"));
    assert_eq!((credentials.chain().len(), credentials.roots().len()), (2, 1));
}

#[test]
fn two_holders_of_one_directory_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = NodeStore::open(dir.path()).unwrap();
    let error = NodeStore::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }));
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    drop(first);
    NodeStore::open(dir.path()).unwrap();
}

#[test]
fn a_disk_too_full_for_the_note_of_who_holds_the_directory_does_not_keep_a_host_down() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", dir.path().join("lock")).unwrap();
    NodeStore::open(dir.path()).unwrap();
}

#[test]
fn joining_repeats_with_the_same_id_and_key_until_it_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let store = NodeStore::open(dir.path()).unwrap();
    let first = store.joining().unwrap();
    assert!(store.joining().unwrap() == first);
    assert!(!first.csr().unwrap().is_empty());
    store.forget_joining().unwrap();
    assert!(store.joining().unwrap() != first);
}

#[test]
fn damage_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let ca = TestCa::new("a.mesh.internal");
    let store = NodeStore::open(dir.path()).unwrap();
    store.save(&node(&ca)).unwrap();
    let path = dir.path().join(NODE);
    let text = std::fs::read_to_string(&path).unwrap().replace("host-1", "host-2");
    std::fs::write(&path, text).unwrap();
    let error = store.load().unwrap_err();
    assert!(matches!(error, StoreError::File(FileError::Corrupt { .. })), "{error}");
    assert!(error.to_string().contains(NODE), "{error}");
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ca = TestCa::new("a.mesh.internal");
    let store = NodeStore::open(dir.path()).unwrap();
    let (_, csr) = tls::new_key_and_csr().unwrap();
    store.save_roots(&[ca.root_der()]).unwrap();
    store.save_credential(&tls::new_key().unwrap(), &ca.sign(&csr, &ca.agent("a"))).unwrap();
    let error = store.load_credentials().unwrap_err();
    assert!(matches!(error, StoreError::Tls { .. }) && error.to_string().contains(CREDENTIAL), "{error}");
}
