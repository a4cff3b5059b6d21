use clap::Parser;
use serde_json::json;

use super::*;
use crate::cli::{Cli, Verb};

fn args(line: &str) -> WatchArgs {
    let command = <Cli as clap::CommandFactory>::command();
    let words = crate::cli::argv::rewrite(&command, line.split_whitespace().map(Into::into));
    match Cli::try_parse_from(words).unwrap().verb {
        Verb::Watch(args) => args,
        other => panic!("{other:?}"),
    }
}

fn plan(line: &str) -> Plan {
    Plan::of(&args(line)).unwrap()
}

fn path(line: &str) -> String {
    let text = format!("{:?}", plan(line).path(None));
    text.trim_start_matches("Path(\"/v1/").trim_end_matches("\")").to_owned()
}

#[test]
fn each_type_asks_for_its_own() {
    for (line, expected) in [
        ("purlin watch -type=key -key=a/b", "kv/a%2Fb"),
        ("purlin watch -type=keyprefix -prefix=a/", "kv/a%2F?recurse=true"),
        ("purlin watch -type services", "catalog/services"),
        ("purlin watch -type=nodes -stale", "catalog/nodes?stale=true"),
        (
            "purlin watch -type=service -service=web -tag=v1 -tag=blue -passingonly=true",
            "health/service/web?passing=true&tag=v1&tag=blue",
        ),
        ("purlin watch -type=service -service=web -passingonly false", "health/service/web"),
        ("purlin watch -type=checks", "health/state/any"),
        ("purlin watch -type=checks -state=critical", "health/state/critical"),
        ("purlin watch -type=checks -service=web", "health/checks/web"),
        ("purlin watch -type=event", "event/list"),
        ("purlin watch -type=event -name=deploy", "event/list?name=deploy"),
        ("purlin watch -type=connect_roots", "agent/connect/ca/roots"),
        ("purlin watch -type=connect_leaf -service=web", "agent/connect/ca/leaf/web"),
        ("purlin watch -type=agent_service -service=web-1", "agent/service/web-1"),
    ] {
        assert_eq!(path(line), expected, "{line}");
    }
    for (line, words) in [
        ("purlin watch -type=key", "key"),
        ("purlin watch -type=keyprefix -prefix=", "prefix"),
        ("purlin watch -type=service", "service"),
        ("purlin watch -type=connect_leaf", "service"),
        ("purlin watch -type=checks -service=web -state=any", "Cannot specify"),
    ] {
        let refusal = Plan::of(&args(line)).unwrap_err().to_string();
        assert!(refusal.contains(words), "{line}: {refusal}");
    }
}

#[test]
fn what_follows_the_program_belongs_to_it() {
    let found = args("purlin watch -type=nodes -shell=false notify -name -shell=true --stale");
    assert_eq!(found.child, ["notify", "-name", "-shell=true", "--stale"]);
    assert!(!found.shell && !found.stale && found.name.is_none());
    assert!(args("purlin watch -type=nodes notify").shell);
    assert!(args("purlin watch -shell -type=nodes notify").shell);
}

fn watch(line: &str) -> Watch {
    Watch { plan: plan(line), at: None, last: None, failures: 0 }
}

fn polled(index: u64, value: Value) -> Polled {
    Polled { value, index: Some(index), hash: None }
}

#[test]
fn only_what_changed_is_told() {
    let mut watch = watch("purlin watch -type=nodes");
    assert_eq!(watch.hear(polled(7, json!([1]))), Some((At::Index(7), json!([1]))));
    assert_eq!(watch.at, Some(At::Index(7)));
    assert_eq!(watch.hear(polled(7, json!([1]))), None, "the wait was over");
    assert_eq!(watch.hear(polled(8, json!([1]))), None, "something else changed");
    assert_eq!(watch.at, Some(At::Index(8)));
    assert_eq!(watch.hear(polled(9, json!([2]))), Some((At::Index(9), json!([2]))));
}

#[test]
fn an_index_that_falls_begins_anew() {
    let mut watch = watch("purlin watch -type=nodes");
    watch.hear(polled(70, json!([1])));
    assert_eq!(watch.hear(polled(3, json!([2]))), Some((At::Index(3), json!([2]))));
    assert_eq!(watch.at, None, "the next question does not wait");
    assert_eq!(watch.hear(polled(3, json!([2]))), None);
    assert_eq!(watch.at, Some(At::Index(3)));
}

#[test]
fn events_are_told_once_whatever_their_index() {
    let event = |id: &str| json!({"ID": id, "Name": "deploy"});
    let mut watch = watch("purlin watch -type=event");
    assert_eq!(watch.hear(polled(90, json!([event("a")]))).unwrap().1, json!([event("a")]));
    assert_eq!(watch.hear(polled(5, json!([event("a"), event("b")]))).unwrap().1, json!([event("b")]));
    assert_eq!(watch.at, Some(At::Index(5)));
    // After a failure the question is put anew, and what was told is not told again.
    watch.fail(ClientError::Refused { status: StatusCode::INTERNAL_SERVER_ERROR, text: "x".into() }).unwrap();
    assert_eq!(watch.at, None);
    assert_eq!(watch.hear(polled(5, json!([event("a"), event("b")]))), None);
    let more = json!([event("b"), event("c"), event("d")]);
    assert_eq!(watch.hear(polled(6, more)).unwrap().1, json!([event("c"), event("d")]));
}

#[test]
fn failures_are_waited_out_and_refusals_are_final() {
    let mut watch = watch("purlin watch -type=nodes");
    let refused = |status| ClientError::Refused { status, text: "no".into() };
    let pauses: Vec<u64> =
        (0..7).map(|_| watch.fail(refused(StatusCode::INTERNAL_SERVER_ERROR)).unwrap().as_secs()).collect();
    assert_eq!(pauses, [5, 20, 45, 80, 125, 180, 180]);
    watch.hear(polled(1, json!([])));
    assert_eq!(watch.fail(refused(StatusCode::NOT_FOUND)).unwrap(), BACK_OFF);
    assert!(watch.fail(refused(StatusCode::BAD_REQUEST)).is_err());
}

#[test]
fn one_key_stands_alone() {
    let plan = plan("purlin watch -type=key -key=a");
    assert_eq!(plan.shape(json!([{"Key": "a"}])), json!({"Key": "a"}));
    assert_eq!(plan.shape(Value::Null), Value::Null);
    let hash = Polled { value: Value::Null, index: None, hash: Some("ab".into()) };
    assert_eq!((At::of(&hash).index(), At::of(&hash)), (0, At::Hash("ab".into())));
}
