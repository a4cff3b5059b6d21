//! Sessions: snapshots and changes, progress, and the life of hosts.

use super::*;

fn own() -> Node {
    node("s1", 0, NodeRole::External)
}

#[tokio::test]
async fn a_session_brings_all_of_a_topic_then_its_changes_then_how_far_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let link = connect(server.connector()).await;
    write_ok(&*link, register(own(), Some(meshed("web-1", "web")))).await;
    let web = Topic::Service(service_key("web"));
    let mut follower = Follower::open(&*link).await;
    follower.follow(web.clone(), Revision(0)).await;
    follower.until("the snapshot", |f| f.has(&web, "s1/web-1")).await;
    assert_eq!(follower.resets, 1);
    let at = write_ok(&*link, register(own(), Some(meshed("web-2", "web")))).await;
    follower.until("the change", |f| f.has(&web, "s1/web-2")).await;
    assert_eq!((follower.resets, follower.topics[&web].revision), (1, at));
    // A write to what is not followed is told as progress, and at once: whoever wrote it waits for that.
    let at = write_ok(&*link, register(own(), Some(meshed("api-1", "api")))).await;
    follower.until("the progress", |f| f.progress >= at).await;
    assert_eq!(follower.topics.len(), 1);

    // Who was away for a while is told what it missed, not everything.
    let have = follower.topics[&web].revision;
    let mut held = follower.topics.remove(&web).unwrap();
    drop(follower);
    write_ok(&*link, register(own(), Some(meshed("web-3", "web")))).await;
    let mut again = Follower::open(&*link).await;
    again.topics.insert(web.clone(), std::mem::take(&mut held));
    again.follow(web.clone(), have).await;
    again.until("what was missed", |f| f.has(&web, "s1/web-3")).await;
    assert_eq!((again.resets, again.topics[&web].records.len()), (0, 3));
    server.stop().await;
}

#[tokio::test]
async fn a_restart_lets_followers_resume_where_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let link = connect(server.connector()).await;
    let at = write_ok(&*link, register(own(), Some(meshed("web-1", "web")))).await;
    server.stop().await;
    let server = start(dir.path()).await;
    let link = connect(server.connector()).await;
    let web = Topic::Service(service_key("web"));
    let mut follower = Follower::open(&*link).await;
    follower.follow(web.clone(), at).await;
    follower.until("the answer", |f| f.topics.contains_key(&web)).await;
    assert_eq!((follower.resets, follower.topics[&web].records.len()), (0, 0), "nothing was missed");
    server.stop().await;
}

#[tokio::test]
async fn a_session_does_not_say_how_far_it_is_before_it_knows_what_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let link = connect(server.connector()).await;
    write_ok(&*link, register(own(), Some(meshed("web-1", "web")))).await;
    let mut follower = Follower::open(&*link).await;
    // An agent that came back holds topics that are behind: it must not hear that it is up to date.
    for _ in 0..2 {
        let heard = follower.session.receiver.next().await.unwrap().unwrap();
        assert_eq!(heard, Down::Beat);
    }
    let web = Topic::Service(service_key("web"));
    follower.follow(web.clone(), Revision(0)).await;
    follower.until("the progress", |f| f.progress > Revision(0)).await;
    assert!(follower.has(&web, "s1/web-1"));
    server.stop().await;
}

#[tokio::test]
async fn a_host_that_says_goodbye_has_left_and_one_that_speaks_again_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let link = connect(server.connector()).await;
    let status = |contents: &Contents| match &contents.records["node"] {
        Record::Node(node) => node.status,
        other => panic!("{other:?}"),
    };
    let host = Topic::Node(node_name("h1"));
    let agent = join::joined(&server, "h1").await;
    let mut follower = Follower::open(&*agent).await;
    follower.session.sender.send(&Up::Leave).await.unwrap();
    // The stream ends once the catalog says so.
    while follower.session.receiver.next().await.is_ok_and(|message| message.is_some()) {}
    assert_eq!(status(&read(&*link, host.clone()).await), NodeStatus::Left);

    let mut follower = Follower::open(&*agent).await;
    follower.follow(host.clone(), Revision(0)).await;
    let alive =
        |f: &Follower| f.topics.get(&host).is_some_and(|contents| status(contents) == NodeStatus::Alive);
    follower.until("its return", alive).await;
    server.stop().await;
}

#[tokio::test]
async fn a_host_that_falls_silent_is_failed() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let agent = join::joined(&server, "h1").await;
    let silent = Follower::open(&*agent).await;
    let link = connect(server.connector()).await;
    let mut watcher = Follower::open(&*link).await;
    let failed = Topic::Checks(Some(purlin_model::check::Status::Critical));
    watcher.follow(failed.clone(), Revision(0)).await;
    watcher.until("the verdict", |f| f.has(&failed, "h1/serfHealth")).await;
    drop(silent);
    server.stop().await;
}
