//! User events: counted, kept in a ring, and told one by one.

use purlin_model::event::UserEvent;
use purlin_model::limit;

use super::*;

fn event(n: u128) -> UserEvent {
    UserEvent { id: uuid::Uuid::from_u128(n), name: format!("event-{n}"), ..UserEvent::default() }
}

fn names(log: &Log) -> Vec<String> {
    let records = log.read(&Topic::Events).records.into_values();
    records
        .map(|record| if let Record::Event(event) = record { event.name } else { panic!("{record:?}") })
        .collect()
}

#[test]
fn events_are_counted_and_stand_in_their_order() {
    let mut log = Log::new();
    // Whoever fires does not say which it is.
    log.yes(Command::FireEvent(UserEvent { ltime: 77, ..event(9) }));
    let touched = log.yes(Command::FireEvent(event(3)));
    assert_eq!(names(&log), ["event-9", "event-3"]);
    let key = UserEvent { ltime: 2, ..event(3) }.key();
    assert_eq!(touched.keys, [(Topic::Events, key.clone())]);
    let Some(Record::Event(second)) = log.state.record(&Topic::Events, &key) else { panic!("no event") };
    assert_eq!((second.ltime, second.id), (2, event(3).id));
    assert_eq!(log.read(&Topic::Events).revision, touched.revision);
}

#[test]
fn the_oldest_goes_when_the_ring_is_full() {
    let mut log = Log::new();
    let most = limit::EVENTS as u128;
    for n in 1..=most {
        log.yes(Command::FireEvent(event(n)));
    }
    assert_eq!((names(&log).len(), names(&log)[0].as_str()), (limit::EVENTS, "event-1"));
    let touched = log.yes(Command::FireEvent(event(most + 1)));
    assert_eq!((names(&log).len(), names(&log)[0].as_str()), (limit::EVENTS, "event-2"));
    // Followers hear of what came and of what went.
    assert_eq!(touched.keys.len(), 2);
    let gone = touched.keys.iter().filter(|(topic, key)| log.state.record(topic, key).is_none());
    assert_eq!(gone.count(), 1);
}

#[test]
fn what_is_no_event_is_refused() {
    let mut log = Log::new();
    log.yes(Command::FireEvent(event(1)));
    assert_eq!(log.refused(Command::FireEvent(event(1))).0, FaultCode::Conflict);
    let large = UserEvent { payload: vec![0; limit::EVENT_PAYLOAD_BYTES + 1], ..event(2) };
    assert_eq!(log.refused(Command::FireEvent(large)).0, FaultCode::TooLarge);
    let filter = UserEvent { node_filter: "(".into(), ..event(2) };
    assert_eq!(log.refused(Command::FireEvent(filter)).0, FaultCode::Invalid);
}

#[test]
fn a_snapshot_keeps_the_count() {
    let mut log = Log::new();
    for n in 0..3 {
        log.yes(Command::FireEvent(event(n)));
    }
    let mut again = Log { state: State::decode(&log.state.encode()).unwrap(), ..log };
    assert_eq!(names(&again), ["event-0", "event-1", "event-2"]);
    again.yes(Command::FireEvent(event(7)));
    assert_eq!(names(&again)[3], "event-7");
}

#[test]
fn a_mesh_without_events_and_queries_is_written_as_the_first_release_wrote_it() {
    let mut log = Log::with_mesh();
    let names_of = |log: &Log| {
        let bytes = log.state.encode();
        ["events", "queries"].map(|name| bytes.windows(name.len()).any(|part| part == name.as_bytes()))
    };
    assert_eq!(names_of(&log), [false, false]);
    log.yes(Command::FireEvent(event(1)));
    assert_eq!(names_of(&log), [true, false]);
}
