//! Snapshots as they leave a server and come into one.

use bytes::Bytes;
use purlin_wire::rpc::{Restoring, Saving, SnapshotRestore, SnapshotRestored, SnapshotSave};

use super::*;

/// No member: what it runs is what the catalog says, not what a live host says of itself.
fn own() -> Node {
    node("ext", 0, NodeRole::External)
}

async fn save(link: &dyn Link) -> Vec<u8> {
    let mut saving = Saving::open(link, &SnapshotSave::default(), DEADLINE).await.unwrap();
    let mut file = Vec::new();
    while let Some(bytes) = saving.next().await.unwrap() {
        file.extend_from_slice(&bytes);
    }
    assert_eq!(file.len() as u64, saving.saved.bytes);
    file
}

async fn restore(link: &dyn Link, file: &[u8]) -> Result<SnapshotRestored, Fault> {
    let mut restoring = Restoring::open(link, &SnapshotRestore::default()).await?;
    restoring.send(Bytes::copy_from_slice(file)).await?;
    restoring.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_state_comes_back_and_everybody_takes_everything_anew() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let link = connect(server.connector()).await;
    let web = Topic::Service(service_key("web"));
    write_ok(&*link, register(own(), Some(meshed("web-1", "web")))).await;
    let file = save(&*link).await;
    let path = dir.path().join("saved.snap");
    std::fs::write(&path, &file).unwrap();
    let found = crate::backup::inspect(&path).unwrap();
    let count = |name: &str| found.kinds.iter().find(|kind| kind.name == name).map(|kind| kind.count);
    assert_eq!((found.version, found.bytes), (1, file.len() as u64));
    assert_eq!((count("nodes"), count("instances")), (Some(2), Some(1)), "{found:?}");
    assert!(found.kinds.iter().map(|kind| kind.bytes).sum::<u64>() < found.bytes);

    let before = write_ok(&*link, register(own(), Some(meshed("web-2", "web")))).await;
    let mut follower = Follower::open(&*link).await;
    assert_eq!(follower.session.opened.history, None);
    follower.follow(web.clone(), Revision(0)).await;
    follower.until("the snapshot", |f| f.has(&web, "ext/web-2")).await;
    let waiting = {
        let (link, web) = (link.clone(), web.clone());
        tokio::spawn(async move {
            let ask = Ask { topic: web, consistency: Consistency::Default, after: before, wait_ms: 60_000 };
            rpc::ask(&*link, &ask, DEADLINE).await.unwrap().contents
        })
    };
    let restored = restore(&*link, &file).await.unwrap();
    assert_eq!(restored.notes, [""; 0]);
    follower.until("everything anew", |f| f.progress >= restored.revision).await;
    assert!(follower.history.is_some());
    assert_eq!((follower.resets, follower.has(&web, "ext/web-2")), (2, false));
    assert!(follower.has(&web, "ext/web-1"));
    let answered = waiting.await.unwrap();
    assert_eq!((answered.revision, answered.records.len()), (restored.revision, 1));
    // Who was away meanwhile sees by the history that it cannot resume.
    let later = Follower::open(&*link).await;
    assert_eq!(later.session.opened.history, follower.history);
    assert_eq!(
        std::fs::read_dir(dir.path().join("snapshots")).unwrap().count(),
        0,
        "the upload is still there"
    );

    // It lasts.
    drop((follower, later, link));
    server.stop().await;
    let server = start(dir.path()).await;
    let link = connect(server.connector()).await;
    assert_eq!(read(&*link, web).await.records.len(), 1);
    write_ok(&*link, register(own(), Some(meshed("web-3", "web")))).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_another_mesh_brings_its_catalog_but_not_its_identity() {
    let (theirs, ours) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = start(theirs.path()).await;
    let link = connect(server.connector()).await;
    write_ok(&*link, register(node("db", 0, NodeRole::External), Some(meshed("db-1", "db")))).await;
    let file = save(&*link).await;
    drop(link);
    server.stop().await;
    let server = start(ours.path()).await;
    let link = connect(server.connector()).await;
    let mesh = read(&*link, Topic::Mesh).await.records;
    let restored = restore(&*link, &file).await.unwrap();
    assert!(restored.notes[0].contains("keeps its own root"), "{:?}", restored.notes);
    assert_eq!(read(&*link, Topic::Mesh).await.records, mesh);
    assert_eq!(read(&*link, Topic::Service(service_key("db"))).await.records.len(), 1);
    assert_eq!(read(&*link, Topic::Servers).await.records.len(), 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_cut_snapshot_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let link = connect(server.connector()).await;
    let file = save(&*link).await;
    let at = write_ok(&*link, register(own(), Some(meshed("web-1", "web")))).await;
    let mut flipped = file.clone();
    flipped[file.len() / 2] ^= 0x10;
    for (bytes, why) in [
        (&flipped[..], "its checksum is wrong"),
        (&file[..file.len() - 1], "its checksum is wrong"),
        (&file[..10], "it is too short"),
        (&[0; 100][..], "it does not begin as a snapshot"),
    ] {
        let fault = restore(&*link, bytes).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::Invalid, "{fault}");
        assert!(fault.text.contains("nothing was changed") && fault.text.contains(why), "{fault}");
    }
    // One whose sender is gone half-way.
    let mut half = Restoring::open(&*link, &SnapshotRestore::default()).await.unwrap();
    half.send(Bytes::copy_from_slice(&file[..file.len() / 2])).await.unwrap();
    drop(half);
    let contents = read(&*link, Topic::Service(service_key("web"))).await;
    assert_eq!((contents.revision, contents.records.len()), (at, 1));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovered_server_keeps_its_data_in_another_history() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let link = connect(server.connector()).await;
    let at = write_ok(&*link, register(own(), Some(meshed("web-1", "web")))).await;
    drop(link);
    server.stop().await;
    let survey = crate::recover::look(dir.path()).unwrap();
    assert_eq!((survey.node(), survey.found().alone), ("s1", true));
    assert!(survey.found().last >= at.0);
    let history = survey.recover().await.unwrap();
    let server = start(dir.path()).await;
    let link = connect(server.connector()).await;
    assert_eq!(Follower::open(&*link).await.session.opened.history, Some(history));
    assert_eq!(read(&*link, Topic::Service(service_key("web"))).await.records.len(), 1);
    let later = write_ok(&*link, register(own(), Some(meshed("web-2", "web")))).await;
    assert!(later.0 > at.0 + 1_000_000, "{later:?}");
    assert!(crate::recover::look(dir.path()).is_err(), "it runs");
    server.stop().await;
}
