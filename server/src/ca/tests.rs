use std::time::Duration;

use purlin_model::identity::TrustDomain;
use purlin_model::intention::Action;
use purlin_model::topic::MeshInfo;
use purlin_model::{Datacenter, Millis, NodeName};

use super::*;

const NOW: Millis = Millis(1_700_000_000_000);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

fn domain() -> TrustDomain {
    TrustDomain("11111111-2222-3333-4444-555555555555.mesh.internal".into())
}

fn node() -> NodeName {
    NodeName::new("s1").unwrap()
}

fn mesh(root: &NewRoot) -> MeshInfo {
    MeshInfo {
        trust_domain: domain(),
        datacenter: Datacenter::default(),
        roots: vec![root.certificate.clone()],
        default_intention: Action::Deny,
        leaf_ttl_ms: 1,
        distrust: Default::default(),
        ca: None,
    }
}

#[test]
fn a_root_lasts_ten_years_and_has_the_id_that_consul_would_give_it() {
    let root = NewRoot::create(&domain(), NOW).unwrap();
    assert_eq!(root.certificate.not_after, NOW.plus(10 * YEAR));
    assert_eq!(root.certificate.not_before, Millis(NOW.0 - 300_000));
    assert_eq!(root.certificate.id.len(), 59);
    assert!(root.certificate.id.split(':').all(|hex| hex.len() == 2));
    assert!(root.certificate.serial.parse::<u64>().is_ok());
}

#[test]
fn only_the_recipient_and_only_that_mesh_open_what_is_sealed() {
    let key = SealingKey::generate().unwrap();
    let sealed = seal(key.public(), &node(), &domain(), "", b"secret").unwrap();
    assert_eq!(key.open(&sealed, &domain()).unwrap(), b"secret");
    assert_ne!(sealed.ciphertext, b"secret");
    assert!(key.open(&sealed, &TrustDomain("other.mesh.internal".into())).is_err());
    assert!(SealingKey::generate().unwrap().open(&sealed, &domain()).is_err());
    let mut bent = sealed;
    bent.ciphertext[0] ^= 1;
    assert!(key.open(&bent, &domain()).is_err());
}

#[test]
fn the_intermediate_is_kept_until_half_of_its_life_or_another_mesh() {
    let directory = tempfile::tempdir().unwrap();
    let root = NewRoot::create(&domain(), NOW).unwrap();
    let store = CaStore::open(directory.path()).unwrap();
    let sealed = seal(store.sealing().public(), &node(), &domain(), "", &root.key).unwrap();
    assert!(store.intermediate(&mesh(&root), NOW).unwrap().is_none());
    let made = store.renew_intermediate(&mesh(&root), &sealed, &node(), NOW).unwrap();
    assert_eq!(made.not_after(), NOW.plus(YEAR));

    let again = CaStore::open(directory.path()).unwrap();
    assert_eq!(again.sealing().public(), store.sealing().public());
    let loaded = again.intermediate(&mesh(&root), NOW).unwrap().unwrap();
    assert_eq!(loaded.certificate(), made.certificate());
    assert!(again.intermediate(&mesh(&root), NOW.plus(YEAR / 2)).unwrap().is_none());
    let other = NewRoot::create(&domain(), NOW).unwrap();
    assert!(again.intermediate(&mesh(&other), NOW).unwrap().is_none());
}

#[test]
fn keys_on_disk_are_for_the_owner_alone_and_the_root_key_is_not_among_them() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let root = NewRoot::create(&domain(), NOW).unwrap();
    let store = CaStore::open(directory.path()).unwrap();
    let sealed = seal(store.sealing().public(), &node(), &domain(), "", &root.key).unwrap();
    store.renew_intermediate(&mesh(&root), &sealed, &node(), NOW).unwrap();
    let mut files = 0;
    for entry in std::fs::read_dir(directory.path().join("ca")).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
        let bytes = std::fs::read(&path).unwrap();
        // The last bytes of PKCS#8 are the key's own.
        let secret = &root.key[36..68];
        assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{path:?}");
        files += 1;
    }
    assert_eq!(files, 2);
}
