//! Links to peers: shared, replaced when doubted, and never cut short by an impatient caller.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use purlin_model::Datacenter;
use purlin_model::identity::{Identity, Subject, TrustDomain};
use purlin_wire::link::Peer;
use purlin_wire::memory;
use tokio::sync::Semaphore;

use super::*;

/// Makes memory links, one for each permit; keeps their far ends.
#[derive(Debug)]
struct Dialer {
    gate: Semaphore,
    made: AtomicUsize,
    far: Mutex<Vec<Arc<dyn Link>>>,
}

fn server(name: &str) -> Peer {
    let (datacenter, node) = (Datacenter::default(), NodeName::new(name).unwrap());
    let subject = Subject::Server { datacenter, node };
    let identity = Identity { trust_domain: TrustDomain("u.mesh.internal".into()), subject };
    Peer::Member { identity, certificate: [1; 32], issuer: None }
}

impl Dial for Dialer {
    fn dial<'a>(
        &'a self,
        peer: &'a NodeName,
        _address: &'a str,
    ) -> BoxFuture<'a, Result<Arc<dyn Link>, LinkError>> {
        Box::pin(async move {
            self.gate.acquire().await.unwrap().forget();
            self.made.fetch_add(1, Ordering::SeqCst);
            let (near, far) = memory::pair(server("me"), server(peer.as_str()));
            self.far.lock().unwrap().push(far);
            Ok(near)
        })
    }
}

fn peers(permits: usize) -> (Arc<Peers>, Arc<Dialer>) {
    let dialer = Dialer { gate: Semaphore::new(permits), made: AtomicUsize::new(0), far: Mutex::default() };
    let dialer = Arc::new(dialer);
    let peers = Peers::new();
    peers.dial_with(dialer.clone());
    (peers, dialer)
}

fn same(one: &Arc<dyn Link>, other: &Arc<dyn Link>) -> bool {
    Arc::ptr_eq(one, other)
}

#[tokio::test]
async fn callers_share_one_link_until_it_is_closed() {
    let (peers, dialer) = peers(9);
    let name = NodeName::new("s2").unwrap();
    let (one, other) = tokio::join!(peers.link(&name, "a:1"), peers.link(&name, "a:1"));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert!(same(&one, &other));
    dialer.far.lock().unwrap().clear();
    one.closed().await;
    let next = peers.link(&name, "a:1").await.unwrap();
    assert!(!same(&one, &next));
    // Another address is another way.
    let moved = peers.link(&name, "b:1").await.unwrap();
    assert!(!same(&moved, &next));
    assert_eq!(dialer.made.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_doubted_link_serves_until_another_is_there() {
    let (peers, dialer) = peers(1);
    let name = NodeName::new("s2").unwrap();
    let one = peers.link(&name, "a:1").await.unwrap();
    peers.doubt(&name);
    assert!(same(&one, &peers.link(&name, "a:1").await.unwrap()));
    assert!(same(&one, &peers.link(&name, "a:1").await.unwrap()));
    dialer.gate.add_permits(1);
    while same(&one, &peers.link(&name, "a:1").await.unwrap()) {
        tokio::task::yield_now().await;
    }
    assert_eq!(dialer.made.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_caller_without_patience_does_not_cut_the_dial_short() {
    let (peers, dialer) = peers(0);
    let name = NodeName::new("s2").unwrap();
    let hasty = tokio::time::timeout(Duration::from_millis(100), peers.link(&name, "a:1")).await;
    assert!(hasty.is_err());
    dialer.gate.add_permits(1);
    peers.link(&name, "a:1").await.unwrap();
    assert_eq!(dialer.made.load(Ordering::SeqCst), 1);
}

#[test]
fn each_call_of_raft_has_a_name() {
    for kind in
        [CallKind::Append, CallKind::Vote, CallKind::PreVote, CallKind::Snapshot, CallKind::TransferLeader]
    {
        assert_eq!(super::kind(method(kind)), Some(kind));
    }
    assert_eq!(kind("write"), None);
}
