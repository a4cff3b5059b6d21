use std::sync::Arc;
use std::time::Duration;

use purlin_model::topic::{Record, ServerInfo, Topic};
use purlin_model::{Fault, FaultCode, NodeName, Revision, limit};

use super::{ask, call, cancelled, read_call, read_call_of_stranger, reply, reply_asked};
use crate::frame::{self, FrameError};
use crate::link::{Link, Peer};
use crate::memory::{Faults, pair_with_faults};
use crate::rpc::{
    ASK, Ask, Asked, Call, Down, Item, OpenSession, Opened, SESSION, STRANGER_CALL_BYTES, Up, accept_session,
    open_session,
};

const PATIENCE: Duration = Duration::from_secs(10);

fn links() -> (Arc<dyn Link>, Arc<dyn Link>, Faults) {
    pair_with_faults(Peer::Stranger, Peer::Stranger)
}

async fn say(link: &dyn Link, method: &str) -> Result<String, Fault> {
    call(link, method, "question", PATIENCE).await
}

#[tokio::test]
async fn an_answer_comes_back_and_so_does_a_fault() {
    let (near, far, _) = links();
    let answers = async {
        for answer in [Ok("answer".to_owned()), Err(Fault::conflict("taken by host-2"))] {
            let mut stream = far.accept().await.unwrap();
            let asked = read_call(&mut stream).await.unwrap();
            assert_eq!(
                (asked.method.as_str(), asked.decode::<String>().unwrap().as_str()),
                ("m", "question")
            );
            reply(&mut stream, &answer).await.unwrap();
        }
    };
    let asks = async { (say(&*near, "m").await, say(&*near, "m").await) };
    let ((first, second), ()) = tokio::join!(asks, answers);
    assert_eq!(first, Ok("answer".to_owned()));
    assert_eq!(second, Err(Fault::conflict("taken by host-2")));
}

#[tokio::test(start_paused = true)]
async fn silence_is_unavailable_after_the_deadline() {
    let (near, _far, _) = links();
    let fault = say(&*near, "write").await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Unavailable);
    assert!(fault.text.contains("write") && fault.text.contains("10000 ms"), "{}", fault.text);
}

#[tokio::test]
async fn a_broken_link_is_unavailable_at_once() {
    let (near, far, faults) = links();
    let breaks = async {
        let stream = far.accept().await.unwrap();
        faults.cut();
        drop(stream);
    };
    let (answer, ()) = tokio::join!(say(&*near, "write"), breaks);
    assert_eq!(answer.unwrap_err().code, FaultCode::Unavailable);
    assert_eq!(say(&*near, "write").await.unwrap_err().code, FaultCode::Unavailable);
}

#[tokio::test]
async fn a_server_that_drops_the_call_is_unavailable() {
    let (near, far, _) = links();
    let drops = async { drop(far.accept().await.unwrap()) };
    let (answer, ()) = tokio::join!(say(&*near, "write"), drops);
    let fault = answer.unwrap_err();
    assert_eq!(fault.code, FaultCode::Unavailable, "{}", fault.text);
}

#[tokio::test]
async fn a_caller_who_gives_up_is_noticed() {
    let (near, far, _) = links();
    let asking = tokio::spawn(async move { say(&*near, "slow").await });
    let mut stream = far.accept().await.unwrap();
    read_call(&mut stream).await.unwrap();
    asking.abort();
    cancelled(&mut stream.read).await;
    assert!(reply(&mut stream, &Ok(())).await.is_err());
}

#[tokio::test]
async fn what_does_not_fit_is_too_large_on_each_side() {
    let (near, far, _) = links();
    let huge = "x".repeat(limit::FRAME_BYTES);
    let fault = call::<_, ()>(&*near, "write", &huge, PATIENCE).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::TooLarge);
    let answers = async {
        let mut stream = far.accept().await.unwrap();
        read_call(&mut stream).await.unwrap();
        reply(&mut stream, &Ok(huge.as_str())).await.unwrap();
    };
    let (answer, ()) = tokio::join!(say(&*near, "read"), answers);
    assert_eq!(answer.unwrap_err().code, FaultCode::TooLarge);
}

#[tokio::test]
async fn a_stranger_may_say_little() {
    let (near, far, _) = links();
    let large = Call::new("join", &"x".repeat(STRANGER_CALL_BYTES)).unwrap();
    for large_is_fine in [true, false] {
        let mut out = near.open().await.unwrap();
        frame::write(&mut out.write, &large).await.unwrap();
        let mut stream = far.accept().await.unwrap();
        let read = if large_is_fine {
            read_call(&mut stream).await
        } else {
            read_call_of_stranger(&mut stream).await
        };
        assert_eq!(read.is_ok(), large_is_fine, "{read:?}");
    }
}

#[test]
fn a_body_of_another_call_is_the_callers_fault() {
    let wrong = Call::new(ASK, &7_u8).unwrap();
    assert_eq!(wrong.decode::<Ask>().unwrap_err().code, FaultCode::Invalid);
    let unknown = Call::new(&"m".repeat(5000), &()).unwrap().unknown();
    assert!(unknown.code == FaultCode::NotFound && unknown.text.len() < 300);
}

fn question() -> Ask {
    Ask { topic: Topic::Servers, consistency: Default::default(), after: Revision(0), wait_ms: 0 }
}

fn server(i: usize, bytes: usize) -> (String, Record) {
    let node = NodeName::new(format!("n{i}")).unwrap();
    let info = ServerInfo {
        node,
        address: "x".repeat(bytes),
        leader: false,
        voter: true,
        id: None,
        level: 0,
        sealing: Vec::new(),
    };
    (format!("n{i}"), Record::Server(info))
}

#[tokio::test]
async fn a_large_answer_comes_in_parts_and_whole() {
    for (count, bytes) in [(0, 0), (3, 10), (60, 200_000)] {
        let (near, far, _) = links();
        let records: Vec<_> = (0..count).map(|i| server(i, bytes)).collect();
        let mut items: Vec<Item> =
            records.iter().map(|(key, record)| Item::new(key, record).unwrap()).collect();
        items.push(Item { key: "?".into(), kind: "of tomorrow".into(), body: vec![] });
        let asked = Asked {
            revision: Revision(5),
            records: items,
            known_leader: true,
            last_contact_ms: 12,
            more: false,
        };
        let answers = async {
            let mut stream = far.accept().await.unwrap();
            assert_eq!(read_call(&mut stream).await.unwrap().decode::<Ask>().unwrap(), question());
            reply_asked(&mut stream, Ok(asked)).await.unwrap();
        };
        let question = question();
        let (answer, ()) = tokio::join!(ask(&*near, &question, PATIENCE), answers);
        let answer = answer.unwrap();
        assert_eq!(answer.contents.records.len(), count);
        assert!(records.iter().all(|(key, record)| answer.contents.records.get(key) == Some(record)));
        assert_eq!((answer.contents.revision, answer.known_leader), (Revision(5), true));
        assert_eq!((answer.last_contact_ms, answer.skipped), (12, 1));
    }
}

#[tokio::test]
async fn ask_hands_on_a_fault() {
    let (near, far, _) = links();
    let answers = async {
        let mut stream = far.accept().await.unwrap();
        read_call(&mut stream).await.unwrap();
        reply_asked(&mut stream, Err(Fault::unavailable("No cluster leader"))).await.unwrap();
    };
    let question = question();
    let (answer, ()) = tokio::join!(ask(&*near, &question, PATIENCE), answers);
    assert_eq!(answer, Err(Fault::unavailable("No cluster leader")));
}

#[tokio::test]
async fn a_session_goes_both_ways_until_one_side_finishes() {
    let (near, far, faults) = links();
    let server = async {
        let mut stream = far.accept().await.unwrap();
        let opening = read_call(&mut stream).await.unwrap();
        assert_eq!(opening.method, SESSION);
        assert_eq!(opening.decode::<OpenSession>().unwrap().version, "0.1.0");
        accept_session(stream, Opened { beat_ms: 1000, history: None }).await.unwrap()
    };
    let open = OpenSession { version: "0.1.0".into(), ..OpenSession::default() };
    let (session, (mut down, mut up)) = tokio::join!(open_session(&*near, &open, PATIENCE), server);
    let mut session = session.unwrap();
    assert_eq!(session.opened.beat_ms, 1000);
    let follow = Up::Follow(vec![(Topic::Mesh, Revision(0))]);
    session.sender.send(&follow).await.unwrap();
    down.send_encoded(&frame::encode(&Down::Progress(Revision(4))).unwrap()).await.unwrap();
    assert_eq!(up.next().await.unwrap(), Some(follow));
    assert_eq!(session.receiver.next().await.unwrap(), Some(Down::Progress(Revision(4))));
    session.sender.finish().await.unwrap();
    assert!(up.next().await.unwrap().is_none());
    faults.cut();
    assert!(matches!(session.receiver.next().await, Err(FrameError::Io(_))));
}

#[tokio::test]
async fn a_refused_session_says_why() {
    let (near, far, _) = links();
    let server = async {
        let mut stream = far.accept().await.unwrap();
        read_call(&mut stream).await.unwrap();
        reply::<Opened>(&mut stream, &Err(Fault::forbidden("host-1 was removed"))).await.unwrap();
    };
    let open = OpenSession::default();
    let (session, ()) = tokio::join!(open_session(&*near, &open, PATIENCE), server);
    assert_eq!(session.unwrap_err(), Fault::forbidden("host-1 was removed"));
}
