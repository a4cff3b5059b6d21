//! The mirror without a session: what is said to it, and what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use purlin_model::topic::{Contents, Delta, Record, ServerInfo, Topic};
use purlin_model::{FaultCode, NodeName, Revision, ServiceKey, ServiceName};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{FIRST_ANSWER, Mirror, Orders, WARM, WARM_TOPICS, disk};
use crate::session::{Phase, SessionState};

fn mirror(phase: Phase) -> (Mirror, watch::Sender<SessionState>) {
    let session = watch::Sender::new(SessionState { phase, ..SessionState::default() });
    (Mirror::new(session.subscribe(), Topic::Mesh), session)
}

fn topic(n: usize) -> Topic {
    Topic::Service(ServiceKey::new(ServiceName::new(format!("s{n}")).unwrap()))
}

fn record(n: u16) -> Record {
    let node = NodeName::new("n").unwrap();
    Record::Server(ServerInfo {
        node,
        address: format!("10.0.0.1:{n}"),
        leader: false,
        voter: true,
        id: None,
        level: 0,
        sealing: Vec::new(),
    })
}

fn delta(topic: Topic, revision: u64, reset: bool, set: &[(&str, u16)]) -> Delta {
    let set = set.iter().map(|(key, n)| ((*key).to_owned(), record(*n))).collect();
    Delta { topic, revision: Revision(revision), reset, set, removed: Vec::new() }
}

fn orders(mirror: &Mirror) -> Orders {
    mirror.lock().take_orders()
}

#[tokio::test(start_paused = true)]
async fn a_first_question_follows_the_topic_and_gets_its_snapshot() {
    let (mirror, _session) = mirror(Phase::Connected);
    mirror.begin_session(None);
    let asking = tokio::spawn({
        let mirror = mirror.clone();
        async move { mirror.contents(&topic(1)).await }
    });
    assert_eq!(mirror.next_orders().await.follow, [(topic(1), Revision(0))]);
    mirror.absorb(delta(topic(1), 7, true, &[("a", 1)]));
    let contents = asking.await.unwrap().unwrap();
    assert_eq!((contents.revision, contents.records.len()), (Revision(7), 1));
    assert_eq!(mirror.peek(&topic(1)).unwrap().revision, Revision(7));
    assert_eq!(orders(&mirror), Orders::default(), "a second question follows nothing anew");
}

#[tokio::test(start_paused = true)]
async fn offline_and_unknown_is_a_fault_at_once_and_online_after_two_seconds() {
    let (offline, _session) = mirror(Phase::Offline);
    let start = Instant::now();
    assert_eq!(offline.contents(&topic(1)).await.unwrap_err().code, FaultCode::Unavailable);
    assert_eq!(start.elapsed(), Duration::ZERO);
    let (online, _session) = mirror(Phase::Connected);
    assert_eq!(online.contents(&topic(1)).await.unwrap_err().code, FaultCode::Unavailable);
    assert_eq!(start.elapsed(), FIRST_ANSWER);
}

#[tokio::test(start_paused = true)]
async fn what_is_known_stays_known_without_servers() {
    let (mirror, session) = mirror(Phase::Connected);
    mirror.pin(&BTreeSet::from([topic(1)]));
    mirror.absorb(delta(topic(1), 7, true, &[("a", 1)]));
    session.send_modify(|session| session.phase = Phase::Offline);
    assert_eq!(mirror.contents(&topic(1)).await.unwrap().revision, Revision(7));
    let waited = mirror.wait_past(&topic(1), Revision(7), Duration::from_secs(30)).await.unwrap();
    assert_eq!(waited.revision, Revision(7));
}

#[tokio::test(start_paused = true)]
async fn a_blocking_question_wakes_for_its_topic_alone() {
    let (mirror, _session) = mirror(Phase::Connected);
    mirror.pin(&BTreeSet::from([topic(1), topic(2)]));
    mirror.absorb(delta(topic(1), 5, true, &[]));
    mirror.absorb(delta(topic(2), 5, true, &[]));
    let waiting = tokio::spawn({
        let mirror = mirror.clone();
        async move { mirror.wait_past(&topic(1), Revision(5), Duration::from_secs(600)).await }
    });
    tokio::task::yield_now().await;
    mirror.absorb(delta(topic(2), 6, false, &[("b", 1)]));
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    mirror.absorb(delta(topic(1), 7, false, &[("a", 1)]));
    assert_eq!(waiting.await.unwrap().unwrap().revision, Revision(7));
}

#[tokio::test(start_paused = true)]
async fn a_new_session_resumes_from_what_is_here_but_for_the_topic_taken_afresh() {
    let (mirror, _session) = mirror(Phase::Connected);
    mirror.pin(&BTreeSet::from([Topic::Mesh, topic(1), topic(2)]));
    mirror.absorb(delta(topic(1), 7, true, &[]));
    mirror.absorb(delta(Topic::Mesh, 8, true, &[]));
    let follow = BTreeMap::from_iter(mirror.begin_session(None));
    let expected = [(topic(1), Revision(7)), (topic(2), Revision(0)), (Topic::Mesh, Revision(0))];
    assert_eq!(follow, BTreeMap::from(expected));
    assert!(!mirror.is_fresh(&topic(1)));
    mirror.absorb(delta(topic(1), 7, false, &[]));
    assert!(mirror.is_fresh(&topic(1)));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_resumed_from_another_history_but_it_serves_until_it_came_anew() {
    let history = |n| Some(purlin_model::HistoryId(uuid::Uuid::from_u128(n)));
    let (mirror, _session) = mirror(Phase::Connected);
    mirror.pin(&BTreeSet::from([topic(1)]));
    mirror.begin_session(history(1));
    mirror.absorb(delta(topic(1), 7, true, &[("a", 1)]));
    mirror.set_progress(Revision(7));
    assert_eq!(mirror.begin_session(history(1)), [(topic(1), Revision(7))]);
    assert_eq!(mirror.begin_session(history(2)), [(topic(1), Revision(0))]);
    assert_eq!(mirror.peek(&topic(1)).unwrap().records.len(), 1);
    assert_eq!(mirror.progress(), Revision(0));
    // What is on disk now must not be taken for records of the new history either.
    assert_eq!(mirror.known()[0].1.revision, Revision(0));
    mirror.absorb(delta(topic(1), 5, true, &[("b", 2)]));
    assert_eq!(mirror.peek(&topic(1)).unwrap().records.keys().collect::<Vec<_>>(), ["b"]);
    // In the middle of a session it is the same.
    mirror.set_history(history(3).unwrap());
    assert_eq!(mirror.begin_session(history(3)), [(topic(1), Revision(0))]);
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_came_back_is_sent_anew() {
    let (mirror, _session) = mirror(Phase::Connected);
    mirror.begin_session(None);
    mirror.pin(&BTreeSet::from([topic(1)]));
    assert_eq!(orders(&mirror).follow, [(topic(1), Revision(0))]);
    mirror.absorb(delta(topic(1), 7, true, &[("a", 1)]));
    mirror.pin(&BTreeSet::new());
    tokio::time::advance(WARM).await;
    mirror.forget_cold();
    assert!(mirror.peek(&topic(1)).is_none());
    mirror.pin(&BTreeSet::from([topic(1)]));
    let orders = orders(&mirror);
    assert_eq!((orders.unfollow, orders.follow), (vec![topic(1)], vec![(topic(1), Revision(0))]));
    mirror.absorb(delta(topic(1), 8, false, &[("b", 2)]));
    assert!(mirror.peek(&topic(1)).is_none(), "a late change of the old subscription is no snapshot");
}

#[tokio::test(start_paused = true)]
async fn the_number_of_warm_topics_is_bounded_and_names_without_instances_go_first() {
    let (mirror, _session) = mirror(Phase::Connected);
    let ask = |n| {
        let mirror = mirror.clone();
        async move { drop(mirror.follow(&topic(n)).unwrap()) }
    };
    ask(0).await;
    mirror.absorb(delta(topic(0), 1, true, &[("a", 1)]));
    for n in 1..=WARM_TOPICS {
        tokio::time::advance(Duration::from_millis(1)).await;
        ask(n).await;
    }
    assert_eq!(mirror.counts().0, WARM_TOPICS);
    assert!(mirror.peek(&topic(0)).is_some(), "it has records, so it outlives older names that have none");
    assert!(!mirror.lock().slots.contains_key(&topic(1)));
}

#[tokio::test(start_paused = true)]
async fn a_session_is_never_asked_for_more_topics_than_it_may_follow() {
    let (mirror, _session) = mirror(Phase::Offline);
    let most = purlin_model::limit::TOPICS_PER_SESSION;
    mirror.restore(None, (0..most).map(|n| (topic(n), Contents::default())).collect());
    let wanted = BTreeSet::from([Topic::Mesh, topic(0), topic(most)]);
    mirror.pin(&wanted);
    let follow: BTreeSet<Topic> = mirror.begin_session(None).into_iter().map(|(topic, _)| topic).collect();
    assert_eq!(follow.len(), most);
    assert!(follow.is_superset(&wanted));
}

#[tokio::test(start_paused = true)]
async fn without_servers_nothing_that_is_known_is_forgotten() {
    let (mirror, session) = mirror(Phase::Connected);
    for n in 0..WARM_TOPICS {
        drop(mirror.follow(&topic(n)).unwrap());
        mirror.absorb(delta(topic(n), 1, true, &[("a", 1)]));
    }
    session.send_modify(|session| session.phase = Phase::Offline);
    tokio::time::advance(WARM * 2).await;
    mirror.forget_cold();
    assert!(mirror.contents(&topic(0)).await.is_ok(), "nobody could tell it again");
    assert!(mirror.contents(&topic(WARM_TOPICS)).await.is_err());
    assert_eq!(mirror.counts().0, WARM_TOPICS, "what cannot become known takes nobody's place");
    session.send_modify(|session| session.phase = Phase::Connected);
    tokio::time::advance(WARM).await;
    mirror.forget_cold();
    assert_eq!(mirror.counts().0, 0);
}

#[tokio::test(start_paused = true)]
async fn topics_that_are_waited_for_are_never_dropped() {
    let (mirror, _session) = mirror(Phase::Connected);
    let waiters: Vec<_> = (0..WARM_TOPICS).map(|n| mirror.follow(&topic(n)).unwrap()).collect();
    assert_eq!(mirror.follow(&topic(WARM_TOPICS)).unwrap_err().code, FaultCode::Busy);
    drop(waiters);
    mirror.follow(&topic(WARM_TOPICS)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn visibility_waits_for_progress_and_not_for_a_session_that_is_gone() {
    let (mirror, session) = mirror(Phase::Connected);
    mirror.set_progress(Revision(5));
    assert!(mirror.visible(Revision(5), Duration::ZERO).await);
    let waiting = tokio::spawn({
        let mirror = mirror.clone();
        async move { mirror.visible(Revision(9), Duration::from_secs(60)).await }
    });
    tokio::task::yield_now().await;
    mirror.set_progress(Revision(9));
    assert!(waiting.await.unwrap());
    session.send_modify(|session| session.phase = Phase::Offline);
    assert!(!mirror.visible(Revision(10), Duration::from_secs(60)).await);
}

#[tokio::test]
async fn what_was_known_comes_back_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mirror");
    let (before, _session) = mirror(Phase::Connected);
    before.pin(&BTreeSet::from([topic(1)]));
    before.absorb(delta(topic(1), 7, true, &[("a", 1)]));
    before.follow(&topic(2)).unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    stop.cancel();
    disk::keep(before, path.clone(), stop).await;
    let (after, _session) = mirror(Phase::Offline);
    disk::restore(&after, &path);
    let expected = Contents { revision: Revision(7), records: BTreeMap::from([("a".to_owned(), record(1))]) };
    assert_eq!(*after.contents(&topic(1)).await.unwrap(), expected);
    assert!(after.peek(&topic(2)).is_none(), "what was never known is not made up");
}
