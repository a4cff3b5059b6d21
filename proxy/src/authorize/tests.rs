use http::HeaderMap;
use purlin_model::intention::{HeaderForm, HeaderMatch};
use purlin_model::{Namespace, ServiceName};

use super::*;

fn key(name: &str) -> ServiceKey {
    ServiceKey::new(ServiceName::new(name).unwrap())
}

fn intention(source: &str, destination: &str, rule: Rule) -> Intention {
    Intention {
        source: Party::parse(source).unwrap(),
        source_namespace: Namespace::default(),
        destination: Party::parse(destination).unwrap(),
        rule,
    }
}

fn guard(default: Action, intentions: Vec<Intention>) -> Guard {
    Guard::new(&Policy::new(key("api"), default, intentions))
}

fn permission(action: Action, path: PathForm) -> Permission {
    Permission { action, path, headers: vec![], methods: vec![] }
}

fn ask(guard: &Guard, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<(), Denial> {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    guard.verdict(&key("web"), Call::Request(Facts { method: &method, path, headers: Some(&map) }))
}

use http::HeaderName;

fn l7(permissions: Vec<Permission>) -> Guard {
    guard(Action::Allow, vec![intention("web", "api", Rule::L7(permissions))])
}

#[test]
fn the_default_decides_where_no_intention_matches() {
    let denied = guard(Action::Deny, vec![]).verdict(&key("web"), Call::Connection).unwrap_err();
    assert_eq!(
        denied.body(),
        "web may not call api: no intention matches; default policy deny\n\
         to allow it: purlin intention create web api\n"
    );
    assert!(guard(Action::Allow, vec![]).verdict(&key("web"), Call::Connection).is_ok());
}

#[test]
fn an_exact_intention_beats_a_wildcard_and_is_named() {
    let guard = guard(
        Action::Allow,
        vec![
            intention("*", "*", Rule::L4(Action::Allow)),
            intention("*", "api", Rule::L4(Action::Allow)),
            intention("web", "api", Rule::L4(Action::Deny)),
        ],
    );
    let denied = guard.verdict(&key("web"), Call::Connection).unwrap_err();
    assert_eq!(
        denied.body(),
        "web may not call api: intention web -> api (deny, precedence 9)\n\
         to allow it: purlin intention create -replace web api\n"
    );
    assert!(guard.verdict(&key("other"), Call::Connection).is_ok());
}

#[test]
fn a_deciding_wildcard_is_not_replaced_but_beaten() {
    let guard = guard(Action::Allow, vec![intention("*", "api", Rule::L4(Action::Deny))]);
    let denied = guard.verdict(&key("web"), Call::Connection).unwrap_err();
    assert_eq!(denied.remedy(), "purlin intention create web api");
}

#[test]
fn a_missing_policy_denies() {
    let denied = authorize(None, &key("web"), &key("api"), Call::Connection).unwrap_err();
    assert!(denied.body().contains("no policy is known"), "{}", denied.body());
}

#[test]
fn rules_for_requests_deny_connections() {
    let guard = l7(vec![permission(Action::Allow, PathForm::Any)]);
    assert!(guard.verdict(&key("web"), Call::Connection).is_err());
    assert!(ask(&guard, "GET", "/", &[]).is_ok());
}

#[test]
fn the_first_matching_permission_decides_and_none_denies() {
    let guard = l7(vec![
        permission(Action::Deny, PathForm::Prefix("/admin".into())),
        permission(Action::Allow, PathForm::Prefix("/".into())),
    ]);
    assert!(ask(&guard, "GET", "/", &[]).is_ok());
    let denied = ask(&guard, "GET", "/admin/x", &[]).unwrap_err();
    assert!(denied.body().contains("permission 1 denies GET /admin/x"), "{}", denied.body());
    let only = l7(vec![permission(Action::Allow, PathForm::Exact("/a".into()))]);
    assert!(ask(&only, "GET", "/a", &[]).is_ok());
    assert!(ask(&only, "GET", "/a/", &[]).unwrap_err().body().contains("no permission allows GET /a/"));
}

#[test]
fn both_readings_of_a_path_must_be_allowed() {
    let guard = l7(vec![permission(Action::Allow, PathForm::Prefix("/public/".into()))]);
    assert!(ask(&guard, "GET", "/public/a", &[]).is_ok());
    for path in ["/public/../admin", "/public/%2e%2e/admin", "/public/..%2fadmin"] {
        assert!(ask(&guard, "GET", path, &[]).is_err(), "{path}");
    }
}

#[test]
fn a_denied_path_cannot_be_reached_under_another_spelling() {
    let guard = l7(vec![
        permission(Action::Deny, PathForm::Exact("/secret".into())),
        permission(Action::Allow, PathForm::Prefix("/".into())),
    ]);
    assert!(ask(&guard, "GET", "/open;v=1", &[]).is_ok());
    for path in [
        "/secret;a=b",
        "//secret",
        "/%73ecret",
        "/%2573ecret",
        "/x/../secret",
        "/x/..;/secret",
        "/secret%3Ba",
    ] {
        assert!(ask(&guard, "GET", path, &[]).is_err(), "{path}");
    }
}

#[test]
fn path_patterns_cover_the_whole_path() {
    let guard = l7(vec![permission(Action::Allow, PathForm::Regex("/v[0-9]+|/w".into()))]);
    assert!(ask(&guard, "GET", "/v12", &[]).is_ok());
    assert!(ask(&guard, "GET", "/w", &[]).is_ok());
    assert!(ask(&guard, "GET", "/v12/x", &[]).is_err());
    assert!(ask(&guard, "GET", "/x/w", &[]).is_err());
}

#[test]
fn an_unreadable_pattern_denies_even_where_others_would_allow() {
    let guard = l7(vec![
        permission(Action::Allow, PathForm::Any),
        permission(Action::Deny, PathForm::Regex("(".into())),
    ]);
    let denied = ask(&guard, "GET", "/", &[]).unwrap_err();
    assert!(denied.body().contains("cannot be read"), "{}", denied.body());
}

#[test]
fn methods_limit_a_permission() {
    let mut get = permission(Action::Allow, PathForm::Any);
    get.methods = vec!["GET".into(), "head".into()];
    let guard = l7(vec![get]);
    assert!(ask(&guard, "GET", "/", &[]).is_ok());
    assert!(ask(&guard, "HEAD", "/", &[]).is_ok());
    assert!(ask(&guard, "POST", "/", &[]).is_err());
}

#[test]
fn header_forms() {
    let check = |form: HeaderForm, invert, ignore_case, headers: &[(&str, &str)], allowed| {
        let mut rule = permission(Action::Allow, PathForm::Any);
        rule.headers = vec![HeaderMatch { name: "X-Team".into(), form: form.clone(), invert, ignore_case }];
        let verdict = ask(&l7(vec![rule]), "GET", "/", headers);
        assert_eq!(
            verdict.is_ok(),
            allowed,
            "{form:?} invert={invert} ignore_case={ignore_case} {headers:?}"
        );
    };
    let blue: &[_] = &[("x-team", "Blue-One")];
    check(HeaderForm::Present, false, false, blue, true);
    check(HeaderForm::Present, false, false, &[], false);
    check(HeaderForm::Present, true, false, &[], true);
    check(HeaderForm::Exact("Blue-One".into()), false, false, blue, true);
    check(HeaderForm::Exact("blue-one".into()), false, false, blue, false);
    check(HeaderForm::Exact("BLUE-one".into()), false, true, blue, true);
    check(HeaderForm::Prefix("Blue".into()), false, false, blue, true);
    check(HeaderForm::Suffix("one".into()), false, true, blue, true);
    check(HeaderForm::Suffix("one".into()), false, false, blue, false);
    check(HeaderForm::Contains("e-O".into()), false, false, blue, true);
    check(HeaderForm::Regex("Blue-.*".into()), false, false, blue, true);
    check(HeaderForm::Regex("lue-.*".into()), false, false, blue, false);
    check(HeaderForm::Regex("blue-.*".into()), false, true, blue, true);
    check(HeaderForm::Exact("Blue-One".into()), true, false, blue, false);
    check(HeaderForm::Exact("Blue-One".into()), true, false, &[], true);
    // A second value cannot hide behind a first that matches.
    check(
        HeaderForm::Exact("Blue-One".into()),
        false,
        false,
        &[("x-team", "Blue-One"), ("x-team", "Red")],
        false,
    );
}

#[test]
fn conditions_on_lost_headers_deny() {
    let mut rule = permission(Action::Allow, PathForm::Any);
    rule.headers =
        vec![HeaderMatch { name: "x".into(), form: HeaderForm::Present, invert: true, ignore_case: false }];
    let guard = l7(vec![rule]);
    assert!(guard.needs_headers());
    let facts = Facts { method: &Method::GET, path: "/", headers: None };
    assert!(guard.verdict(&key("web"), Call::Request(facts)).is_err());
}

#[test]
fn another_namespace_is_another_source() {
    let guard = guard(Action::Deny, vec![intention("*", "api", Rule::L4(Action::Allow))]);
    let stranger =
        ServiceKey { namespace: Namespace::new("other").unwrap(), name: ServiceName::new("web").unwrap() };
    assert!(guard.verdict(&stranger, Call::Connection).is_err());
}
