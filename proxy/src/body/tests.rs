use http_body_util::BodyExt;
use purlin_model::{ServiceKey, ServiceName};
use std::sync::Arc;

use super::*;
use crate::report::{Direction, Metrics, Reporter};

fn edge() -> Rc<Edge> {
    let key = |name| ServiceKey::new(ServiceName::new(name).unwrap());
    Reporter::new(Arc::new(Metrics::new(8)), 8).edge(&key("web"), &key("api"), Direction::Outbound)
}

async fn data(body: &mut Body) -> Option<String> {
    let frame = body.frame().await?.unwrap();
    Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
}

#[tokio::test]
async fn a_body_can_be_lent_again_from_its_first_byte() {
    let lent = Lent::new(Body::text("all of it".into()), edge());
    let mut first = Body::Lent(lent.lend());
    assert_eq!(first.size_hint().exact(), Some(9));
    assert_eq!(data(&mut first).await.as_deref(), Some("all of it"));
    assert!(lent.is_whole());
    let mut second = Body::Lent(lent.lend());
    assert_eq!((second.size_hint().exact(), second.is_end_stream()), (Some(9), false));
    assert_eq!(data(&mut second).await.as_deref(), Some("all of it"));
    assert!(second.is_end_stream());
    assert!(second.frame().await.is_none());
}

#[tokio::test]
async fn an_old_loan_takes_nothing_from_the_new_one() {
    let lent = Lent::new(Body::text("all of it".into()), edge());
    let mut first = Body::Lent(lent.lend());
    let mut second = Body::Lent(lent.lend());
    assert!(matches!(first.frame().await.unwrap(), Err(BodyError::Withdrawn)));
    assert_eq!(data(&mut second).await.as_deref(), Some("all of it"));
}

#[tokio::test]
async fn a_long_body_is_sent_only_once() {
    let long = "x".repeat(REMEMBERED_BYTES + 1);
    let lent = Lent::new(Body::text(long.clone()), edge());
    let mut body = Body::Lent(lent.lend());
    assert!(lent.is_whole());
    assert_eq!(data(&mut body).await, Some(long));
    assert!(!lent.is_whole());
}

#[tokio::test]
async fn a_settled_body_is_remembered_no_longer() {
    let lent = Lent::new(Body::text("all of it".into()), edge());
    let mut body = Body::Lent(lent.lend());
    lent.settle();
    assert_eq!(data(&mut body).await.as_deref(), Some("all of it"));
    assert!(!lent.is_whole() && lent.shared.borrow().taken.is_empty());
}
