//! The conversation with a scripted proxy in this process.

use std::sync::Arc;
use std::time::Duration;

use purlin_model::intention::{Action, Policy};
use purlin_model::view::{Part, PartKey, View};
use purlin_model::{ServiceKey, ServiceName, limit};
use purlin_wire::frame::{self, FrameReader};
use purlin_wire::link::Stream;
use purlin_wire::local::{FromProxy, PROTOCOL, ToProxy};
use tokio::io::{DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Dialer, Keeper, ProxyHandle, ProxyPort};
use crate::metrics::Metrics;

/// The proxy's end of one connection.
struct Proxy {
    read: FrameReader<ReadHalf<DuplexStream>>,
    write: WriteHalf<DuplexStream>,
}

impl Proxy {
    async fn hear(&mut self) -> ToProxy {
        self.read.next_known().await.unwrap().unwrap()
    }

    async fn say(&mut self, message: FromProxy) {
        frame::write(&mut self.write, &message).await.unwrap();
    }

    async fn greet(&mut self, protocol: u16) {
        assert!(matches!(self.hear().await, ToProxy::Hello { protocol: PROTOCOL, .. }));
        self.say(FromProxy::Hello { version: "0.1.0".into(), protocol, pid: 7, has_revision: 0 }).await;
    }

    /// The next view: whether it resets, how many parts are set, and its revision.
    async fn view(&mut self) -> (bool, usize, u64) {
        match self.hear().await {
            ToProxy::View { reset, set, revision, last: true, .. } => (reset, set.len(), revision),
            other => panic!("{other:?}"),
        }
    }
}

struct Scene {
    handle: ProxyHandle,
    view: watch::Sender<Arc<View>>,
    connections: mpsc::Receiver<Proxy>,
    _stop: tokio_util::sync::DropGuard,
}

fn scene() -> Scene {
    let (sender, connections) = mpsc::channel(4);
    let dialer = Dialer(Arc::new(move || {
        let sender = sender.clone();
        Box::pin(async move {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let (read, write) = tokio::io::split(far);
            let proxy = Proxy { read: FrameReader::new(read, limit::FRAME_BYTES), write };
            sender.send(proxy).await.map_err(|_| std::io::ErrorKind::ConnectionRefused)?;
            let (read, write) = tokio::io::split(near);
            Ok(Stream { read: Box::new(read), write: Box::new(write) })
        })
    }));
    let view = watch::Sender::new(Arc::default());
    let stop = CancellationToken::new();
    let metrics = Metrics::new(Vec::new());
    let (handle, keeper) =
        Keeper::new(ProxyPort::Memory(dialer), view.subscribe(), metrics, "0.1.0".into(), stop.clone());
    tokio::spawn(keeper.run());
    Scene { handle, view, connections, _stop: stop.drop_guard() }
}

fn view(revision: u64, services: u64) -> Arc<View> {
    let policies = (0..services).map(|n| {
        let key = ServiceKey::new(ServiceName::new(format!("s{n}")).unwrap());
        (PartKey::Policy(key.clone()), Part::Policy(Policy::new(key, Action::Deny, Vec::new())))
    });
    Arc::new(View { revision, parts: policies.collect() })
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_gets_the_whole_view_and_then_what_changed() {
    let mut scene = scene();
    scene.view.send_replace(view(1, 3));
    let mut proxy = scene.connections.recv().await.unwrap();
    proxy.greet(PROTOCOL).await;
    assert_eq!(proxy.view().await, (true, 3, 1));
    scene.view.send_replace(view(2, 5));
    assert_eq!(proxy.view().await, (false, 2, 2));
    drop(proxy);
    let mut next = scene.connections.recv().await.unwrap();
    next.greet(PROTOCOL).await;
    assert_eq!(next.view().await, (true, 5, 2));
}

#[tokio::test(start_paused = true)]
async fn before_there_is_a_view_a_proxy_keeps_what_it_has() {
    let mut scene = scene();
    let mut proxy = scene.connections.recv().await.unwrap();
    proxy.greet(PROTOCOL).await;
    scene.handle.watch().wait_for(|state| state.connected).await.unwrap();
    scene.view.send_replace(view(1, 1));
    assert_eq!(proxy.view().await, (true, 1, 1), "the first that it hears is a view with parts");
}

#[tokio::test(start_paused = true)]
async fn what_was_applied_and_which_listeners_failed_is_known() {
    let mut scene = scene();
    let mut proxy = scene.connections.recv().await.unwrap();
    proxy.greet(PROTOCOL).await;
    let failed = vec![("127.0.0.1:80".to_owned(), "permission denied".to_owned())];
    proxy.say(FromProxy::Applied { revision: 4, failed_listeners: failed.clone() }).await;
    let mut states = scene.handle.watch();
    let state = states.wait_for(|state| state.applied == 4).await.unwrap().clone();
    assert_eq!((state.pid, state.failed_listeners), (7, failed));
    drop(proxy);
    states.wait_for(|state| !state.connected).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn figures_are_asked_for_by_number_and_not_waited_for_too_long() {
    let mut scene = scene();
    assert_eq!(scene.handle.scrape(Duration::from_secs(1)).await, None);
    let mut proxy = scene.connections.recv().await.unwrap();
    proxy.greet(PROTOCOL).await;
    scene.handle.watch().wait_for(|state| state.connected).await.unwrap();
    assert_eq!(scene.handle.scrape(Duration::from_secs(1)).await, None, "it hangs");
    let ToProxy::Scrape { id: first } = proxy.hear().await else { panic!("no scrape") };
    let asking = tokio::spawn({
        let handle = scene.handle.clone();
        async move { handle.scrape(Duration::from_secs(1)).await }
    });
    let ToProxy::Scrape { id: second } = proxy.hear().await else { panic!("no scrape") };
    proxy.say(FromProxy::Metrics { id: first, text: "late".into() }).await;
    proxy.say(FromProxy::Metrics { id: second, text: "a 1".into() }).await;
    assert_eq!(asking.await.unwrap().as_deref(), Some("a 1"));
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_was_told_to_end_is_not_started_again() {
    let mut scene = scene();
    let mut proxy = scene.connections.recv().await.unwrap();
    proxy.greet(PROTOCOL).await;
    scene.handle.watch().wait_for(|state| state.connected).await.unwrap();
    let draining = tokio::spawn({
        let handle = scene.handle.clone();
        async move { handle.drain(Duration::from_secs(5)).await }
    });
    assert!(matches!(proxy.hear().await, ToProxy::Drain { deadline_ms: 5000 }));
    drop(proxy);
    draining.await.unwrap();
    assert!(scene.connections.recv().await.is_none(), "nobody dials any more");
}

#[tokio::test(start_paused = true)]
async fn a_proxy_of_another_protocol_is_named_and_tried_again() {
    let mut scene = scene();
    let mut old = scene.connections.recv().await.unwrap();
    old.greet(PROTOCOL + 1).await;
    let mut states = scene.handle.watch();
    let state = states.wait_for(|state| state.reason.is_some()).await.unwrap().clone();
    assert!(state.reason.unwrap().contains("restart purlin-proxy"));
    let mut new = scene.connections.recv().await.unwrap();
    new.greet(PROTOCOL).await;
    states.wait_for(|state| state.connected).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_log_filter_is_told_to_each_proxy() {
    let mut scene = scene();
    scene.handle.set_log_filter("debug");
    for _ in 0..2 {
        let mut proxy = scene.connections.recv().await.unwrap();
        proxy.greet(PROTOCOL).await;
        assert!(matches!(proxy.hear().await, ToProxy::LogLevel { filter } if filter == "debug"));
    }
}
