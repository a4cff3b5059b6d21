use std::sync::Arc;

use purlin_model::intention::{Action, Policy};
use purlin_model::{ServiceKey, ServiceName};

use super::*;
use crate::authorize::Guard;
use crate::report::{Direction, Metrics, Reporter};

fn key(name: &str) -> ServiceKey {
    ServiceKey::new(ServiceName::new(name).unwrap())
}

fn forbid(edge: &Edge, call: Call<'_>) -> Result<(), Denial> {
    Guard::new(&Policy::new(edge.destination.clone(), Action::Deny, vec![])).verdict(&edge.source, call)
}

#[tokio::test]
async fn what_is_forbidden_now_is_cut_and_nothing_else() {
    let live = Rc::<Live>::default();
    let reporter = Reporter::new(Arc::new(Metrics::new(8)), 8);
    let enter = |destination: &str| {
        live.enter(reporter.edge(&key("web"), &key(destination), Direction::Inbound), What::Connection)
    };
    let (api, db) = (enter("api"), enter("db"));
    assert_eq!(api.unless_cut(async { 1 }).await, Ok(1));
    live.recheck(&[key("api")].into(), |_, _| Ok(()));
    assert_eq!(api.unless_cut(async { 2 }).await, Ok(2));
    let waiting = api.unless_cut(std::future::pending::<()>());
    let ((), cut) = tokio::join!(async { live.recheck(&[key("api")].into(), forbid) }, waiting);
    assert_eq!(cut.unwrap_err().destination, key("api"));
    assert_eq!(db.unless_cut(async { 3 }).await, Ok(3));
}

#[test]
fn places_are_used_again() {
    let live = Rc::<Live>::default();
    let reporter = Reporter::new(Arc::new(Metrics::new(8)), 8);
    for _ in 0..100 {
        let edge = reporter.edge(&key("web"), &key("api"), Direction::Inbound);
        let _two = (live.enter(edge.clone(), What::Connection), live.enter(edge, What::Connection));
    }
    assert_eq!(live.entries.borrow().len(), 2);
}
