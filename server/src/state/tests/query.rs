//! Prepared queries: one name for one query, and told apart when they change.

use std::sync::Arc;

use purlin_model::limit;
use purlin_model::query::{PreparedQuery, ServiceQuery, Template};
use uuid::Uuid;

use super::*;

fn query(n: u128, name: &str) -> PreparedQuery {
    PreparedQuery {
        id: Uuid::from_u128(n),
        name: name.into(),
        service: ServiceQuery { service: "web".into(), ..ServiceQuery::default() },
        ..PreparedQuery::default()
    }
}

fn template(n: u128, name: &str) -> PreparedQuery {
    PreparedQuery { template: Some(Template::default()), ..query(n, name) }
}

fn create(query: PreparedQuery) -> Command {
    Command::PutQuery { query, create: true }
}

fn replace(query: PreparedQuery) -> Command {
    Command::PutQuery { query, create: false }
}

fn found(log: &Log, n: u128) -> Option<PreparedQuery> {
    let id = Uuid::from_u128(n);
    let contents = log.read(&Topic::Queries(Some(id)));
    assert!(contents.records.len() <= 1);
    contents.records.into_values().next().map(|record| match record {
        Record::Query(query) => query,
        other => panic!("{other:?}"),
    })
}

#[test]
fn a_query_is_made_replaced_and_deleted() {
    let mut log = Log::new();
    let made = log.yes(create(query(1, "web"))).revision;
    log.yes(create(query(2, "other")));
    let one = found(&log, 1).unwrap();
    assert_eq!((one.create_index, one.modify_index), (made, made));
    assert_eq!(log.read(&Topic::Queries(Some(Uuid::from_u128(1)))).revision, made, "not touched by another");
    let changed = PreparedQuery { ttl: "10s".into(), ..query(1, "web") };
    let touched = log.yes(replace(changed.clone()));
    let one = found(&log, 1).unwrap();
    assert_eq!((one.create_index, one.modify_index, one.ttl.as_str()), (made, touched.revision, "10s"));
    let id = Uuid::from_u128(1).to_string();
    let both = [(Topic::Queries(None), id.clone()), (Topic::Queries(Some(Uuid::from_u128(1))), id)];
    assert_eq!(touched.keys, both);
    // What says the same is no change.
    assert!(log.yes(replace(changed)).keys.is_empty());
    let (gone, touched) = log.apply(Command::DeleteQuery { id: Uuid::from_u128(1) });
    assert_eq!(gone.result, Ok(Done::Deleted { existed: true }));
    assert_eq!(touched.keys, both);
    assert_eq!(found(&log, 1), None);
    assert_eq!(log.keys(&Topic::Queries(None)), [Uuid::from_u128(2).to_string()]);
}

#[test]
fn what_is_not_there_can_neither_be_replaced_nor_deleted_and_what_is_not_made_again() {
    let mut log = Log::new();
    log.yes(create(query(1, "web")));
    let (code, text) = log.refused(replace(query(2, "x")));
    assert_eq!(code, FaultCode::NotFound);
    assert!(text.starts_with("Cannot modify non-existent prepared query: '"), "{text}");
    assert_eq!(log.refused(Command::DeleteQuery { id: Uuid::from_u128(2) }).0, FaultCode::NotFound);
    assert_eq!(log.refused(create(query(1, "y"))).0, FaultCode::Conflict);
    assert_eq!(log.refused(create(query(3, ""))).1, "Invalid prepared query: Must be bound to a session");
}

#[test]
fn a_name_stands_for_one_query() {
    let mut log = Log::new();
    log.yes(create(query(1, "web")));
    log.yes(create(template(2, "")));
    assert_eq!(log.refused(create(query(3, "WEB"))).1, "name 'WEB' aliases an existing query name");
    assert_eq!(log.refused(create(template(3, "web"))).1, "name 'web' aliases an existing query name");
    assert_eq!(log.refused(create(template(3, ""))).1, "a query template with an empty name already exists");
    let id = Uuid::from_u128(1).to_string();
    assert_eq!(log.refused(create(query(3, &id))).1, format!("name '{id}' aliases an existing query ID"));
    // Its own name is no other's.
    log.yes(replace(query(1, "Web")));
    log.yes(replace(template(2, "")));
    for n in [4, 5] {
        let session = Some(Uuid::from_u128(n));
        let (_, text) = log.refused(create(PreparedQuery { session, ..query(n, "") }));
        assert!(text.starts_with("invalid session"), "the name is no reason: {text}");
    }
}

#[test]
fn there_are_not_too_many_nor_too_large_ones() {
    let mut log = Log::new();
    for n in 0..limit::QUERIES as u128 {
        // One by one through the log would only take long.
        log.state.queries.insert(Arc::new(query(n, &format!("q{n}"))));
    }
    assert_eq!(log.refused(create(query(1 << 40, "one-more"))).0, FaultCode::TooLarge);
    log.yes(replace(query(0, "another-name")));
    let large = |bytes: usize| {
        let tags = vec!["t".repeat(400); bytes / 400];
        PreparedQuery { service: ServiceQuery { tags, ..query(0, "x").service }, ..query(0, "x") }
    };
    log.yes(replace(large(limit::QUERY_BYTES - 1_500)));
    let (code, text) = log.refused(replace(large(limit::QUERY_BYTES + 400)));
    assert_eq!(code, FaultCode::TooLarge);
    assert!(text.contains(&limit::QUERY_BYTES.to_string()), "{text}");
}

#[test]
fn a_snapshot_keeps_them() {
    let mut log = Log::new();
    log.yes(create(query(1, "web")));
    let again = State::decode(&log.state.encode()).unwrap();
    assert_eq!(again.read(&Topic::Queries(None)), log.read(&Topic::Queries(None)));
}
