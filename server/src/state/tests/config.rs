//! Config entries and intentions.

use purlin_model::config_entry::{
    ConfigBody, ConfigEntry, ConfigKind, ProxyDefaults, ServiceDefaults, ServiceIntentions,
};
use purlin_model::intention::{Party, PathForm, Permission, Rule, SourceIntention};
use purlin_model::service::Protocol;

use super::super::config::ENTRIES;
use super::*;

fn entry(name: &str, body: ConfigBody) -> ConfigEntry {
    ConfigEntry {
        name: name.into(),
        namespace: Namespace::default(),
        meta: BTreeMap::new(),
        body,
        create_index: Revision(0),
        modify_index: Revision(0),
    }
}

fn put(entry: ConfigEntry) -> Command {
    Command::PutConfig { entry, cas: None }
}

fn defaults(name: &str, protocol: Option<Protocol>) -> Command {
    put(entry(name, ConfigBody::ServiceDefaults(ServiceDefaults { protocol, ..Default::default() })))
}

fn proxy_defaults(name: &str, protocol: Option<Protocol>) -> Command {
    put(entry(name, ConfigBody::ProxyDefaults(ProxyDefaults { protocol, detection_timeout_ms: None })))
}

fn source(name: &str, rule: Rule) -> SourceIntention {
    SourceIntention {
        source: Party::parse(name).unwrap(),
        source_namespace: Namespace::default(),
        rule,
        description: String::new(),
        legacy_meta: BTreeMap::new(),
        created_at: Millis(0),
        updated_at: Millis(0),
    }
}

fn allow(name: &str) -> SourceIntention {
    source(name, Rule::L4(Action::Allow))
}

fn l7(name: &str, path: PathForm) -> SourceIntention {
    let permission = Permission { action: Action::Allow, path, headers: vec![], methods: vec!["GET".into()] };
    source(name, Rule::L7(vec![permission]))
}

fn prefix(name: &str) -> SourceIntention {
    l7(name, PathForm::Prefix("/".into()))
}

fn intentions(name: &str, sources: Vec<SourceIntention>) -> Command {
    put(entry(name, ConfigBody::ServiceIntentions(ServiceIntentions { sources })))
}

fn put_one(destination: &str, source: SourceIntention) -> Command {
    Command::PutIntention {
        destination: Party::parse(destination).unwrap(),
        destination_namespace: Namespace::default(),
        source,
    }
}

fn delete_one(source: &str, destination: &str) -> Command {
    let (source, destination) = (Party::parse(source).unwrap(), Party::parse(destination).unwrap());
    Command::DeleteIntention { source, destination }
}

fn get(log: &Log, kind: ConfigKind, name: &str) -> Option<ConfigEntry> {
    match log.state.record(&Topic::Config(kind, Some(name.into())), name) {
        Some(Record::Config(entry)) => Some(entry),
        _ => None,
    }
}

fn sources(log: &Log, name: &str) -> Vec<SourceIntention> {
    match get(log, ConfigKind::ServiceIntentions, name).map(|entry| entry.body) {
        Some(ConfigBody::ServiceIntentions(body)) => body.sources,
        _ => Vec::new(),
    }
}

#[test]
fn compare_and_set_needs_the_index_that_is_there() {
    let mut log = Log::new();
    let with = |protocol, cas| {
        let body =
            ConfigBody::ServiceDefaults(ServiceDefaults { protocol: Some(protocol), ..Default::default() });
        Command::PutConfig { entry: entry("web", body), cas: Some(Revision(cas)) }
    };
    assert_eq!(log.apply(with(Protocol::Http, 5)).0.result, Ok(Done::CasFailed));
    assert_eq!(log.apply(with(Protocol::Http, 0)).0.result, Ok(Done::Yes));
    assert_eq!(log.apply(with(Protocol::Http, 0)).0.result, Ok(Done::CasFailed));
    let index = get(&log, ConfigKind::ServiceDefaults, "web").unwrap().modify_index;
    assert_eq!(log.apply(with(Protocol::Grpc, index.0)).0.result, Ok(Done::Yes));
    let delete = |cas| Command::DeleteConfig {
        kind: ConfigKind::ServiceDefaults,
        name: "web".into(),
        cas: Some(Revision(cas)),
    };
    assert_eq!(log.apply(delete(index.0)).0.result, Ok(Done::CasFailed));
    assert_eq!(log.apply(delete(index.0 + 2)).0.result, Ok(Done::Deleted { existed: true }));
}

#[test]
fn equal_content_wakes_nobody_and_another_touches_both_topics() {
    let mut log = Log::new();
    let touched = log.yes(defaults("web", Some(Protocol::Http)));
    let kind = ConfigKind::ServiceDefaults;
    let both =
        [(Topic::Config(kind, None), "web".into()), (Topic::Config(kind, Some("web".into())), "web".into())];
    assert_eq!(touched.keys, both);
    assert_eq!(log.yes(defaults("web", Some(Protocol::Http))).keys, []);
    log.yes(defaults("api", Some(Protocol::Http)));
    assert_eq!(log.state.revision(&Topic::Config(kind, Some("web".into()))), Revision(10));
    assert_eq!(log.keys(&Topic::Config(kind, None)), ["api", "web"]);
    assert_eq!(log.keys(&Topic::Config(ConfigKind::ProxyDefaults, None)), [""; 0]);
}

#[test]
fn permissions_need_a_declared_protocol_that_has_requests() {
    let mut log = Log::new();
    let text = log.refused(intentions("api", vec![prefix("web")])).1;
    assert!(text.contains("need protocol http, http2 or grpc, but none is declared"), "{text}");
    log.yes(defaults("api", Some(Protocol::Tcp)));
    assert!(log.refused(put_one("api", prefix("web"))).1.contains("but it is tcp"));
    log.yes(proxy_defaults("global", Some(Protocol::Http)));
    // The service's own word counts before that for all.
    log.refused(put_one("api", prefix("web")));
    log.yes(defaults("api", None));
    log.yes(put_one("api", prefix("web")));
}

#[test]
fn the_protocol_stays_while_permissions_need_it() {
    let mut log = Log::new();
    log.yes(defaults("api", Some(Protocol::Http2)));
    log.yes(intentions("api", vec![prefix("web")]));
    log.refused(defaults("api", Some(Protocol::Tcp)));
    let delete =
        || Command::DeleteConfig { kind: ConfigKind::ServiceDefaults, name: "api".into(), cas: None };
    log.refused(delete());
    log.yes(proxy_defaults("global", Some(Protocol::Http)));
    assert_eq!(log.apply(delete()).0.result, Ok(Done::Deleted { existed: true }));
    log.refused(proxy_defaults("global", None));
    log.refused(Command::DeleteConfig { kind: ConfigKind::ProxyDefaults, name: "global".into(), cas: None });
    log.apply(delete_one("web", "api"));
    log.yes(proxy_defaults("global", None));
}

#[test]
fn one_intention_is_put_replaced_and_deleted_within_its_entry() {
    let mut log = Log::new();
    log.yes(put_one("api", allow("*")));
    log.at = NOW.plus(Duration::from_secs(60));
    log.yes(put_one("api", allow("web")));
    let names = |log: &Log| sources(log, "api").iter().map(|one| one.source.to_string()).collect::<Vec<_>>();
    // The most exact first, as Consul lists them.
    assert_eq!(names(&log), ["web", "*"]);
    log.at = NOW.plus(Duration::from_secs(120));
    log.yes(put_one("api", source("web", Rule::L4(Action::Deny))));
    let all = sources(&log, "api");
    assert_eq!(all[0].rule, Rule::L4(Action::Deny));
    assert_eq!((all[0].created_at, all[0].updated_at), (NOW.plus(Duration::from_secs(60)), log.at));
    assert_eq!((all[1].created_at, all[1].updated_at), (NOW, NOW));
    assert_eq!(log.apply(delete_one("nobody", "api")).0.result, Ok(Done::Deleted { existed: false }));
    assert_eq!(log.apply(delete_one("*", "api")).0.result, Ok(Done::Deleted { existed: true }));
    assert_eq!(names(&log), ["web"]);
    assert_eq!(log.apply(delete_one("web", "api")).0.result, Ok(Done::Deleted { existed: true }));
    assert!(get(&log, ConfigKind::ServiceIntentions, "api").is_none());
    assert_eq!(log.apply(delete_one("web", "api")).0.result, Ok(Done::Deleted { existed: false }));
}

#[test]
fn putting_the_same_intention_again_changes_nothing() {
    let mut log = Log::new();
    log.yes(put_one("api", allow("web")));
    log.at = NOW.plus(Duration::from_secs(60));
    assert_eq!(log.yes(put_one("api", allow("web"))).keys, []);
    assert_eq!(log.yes(intentions("api", vec![allow("web")])).keys, []);
}

#[test]
fn intentions_that_cannot_be_enforced_are_refused() {
    let mut log = Log::new();
    log.yes(proxy_defaults("global", Some(Protocol::Http)));
    let twice = intentions("api", vec![allow("web"), allow("web")]);
    for (command, why) in [
        (intentions("api", vec![]), "at least one source"),
        (twice, "there twice"),
        (intentions("*", vec![prefix("web")]), "destination of their own"),
        (intentions("api", vec![source("web", Rule::L7(vec![]))]), "at least one permission"),
        (intentions("api", vec![l7("web", PathForm::Exact("a".into()))]), "does not start with"),
        (intentions("api", vec![l7("web", PathForm::Regex("(".into()))]), "not a regular expression"),
        (
            intentions("api", vec![l7("web", PathForm::Regex("((a{99}){99}){99}".into()))]),
            "not a regular expression",
        ),
        (intentions("a/b", vec![allow("web")]), "service name"),
        (proxy_defaults("mine", None), "\"global\""),
        (defaults("a b", None), "service name"),
    ] {
        let (code, text) = log.refused(command);
        assert_eq!(code, FaultCode::Invalid, "{text}");
        assert!(text.contains(why), "{text} does not say {why}");
    }
    log.yes(intentions("*", vec![allow("web"), allow("*")]));
}

#[test]
fn an_entry_that_grows_source_by_source_stays_within_its_limit() {
    let mut log = Log::new();
    let described = |n: usize| SourceIntention { description: "d".repeat(512), ..allow(&format!("s{n}")) };
    let mut taken = 0;
    let refusal = loop {
        match log.apply(put_one("api", described(taken))).0.result {
            Ok(_) => taken += 1,
            Err(fault) => break fault,
        }
    };
    assert_eq!(refusal.code, FaultCode::TooLarge);
    assert!(refusal.text.starts_with("service-intentions api would have"), "{refusal}");
    assert_eq!(sources(&log, "api").len(), taken);
}

#[test]
fn config_entries_are_bounded_and_those_that_are_there_can_change() {
    let mut log = Log::with_mesh();
    for n in 0..ENTRIES {
        log.yes(defaults(&format!("s{n}"), None));
    }
    let (code, text) = log.refused(defaults("one-more", None));
    assert_eq!(code, FaultCode::TooLarge);
    assert!(text.contains("too many config entries"), "{text}");
    log.yes(defaults("s0", Some(Protocol::Http)));
    log.apply(Command::DeleteConfig { kind: ConfigKind::ServiceDefaults, name: "s1".into(), cas: None });
    log.yes(defaults("one-more", None));
}
