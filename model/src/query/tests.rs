use std::sync::Arc;

use serde_json::json;

use super::*;

fn query(name: &str, service: &str) -> PreparedQuery {
    PreparedQuery {
        id: Uuid::from_u128(name.bytes().map(u128::from).sum::<u128>() + 1),
        name: name.into(),
        service: ServiceQuery { service: service.into(), ..ServiceQuery::default() },
        ..PreparedQuery::default()
    }
}

fn template(name: &str, service: &str, regexp: &str) -> PreparedQuery {
    let template = Template { regexp: regexp.into(), remove_empty_tags: false };
    PreparedQuery { template: Some(template), ..query(name, service) }
}

fn service_of(queries: &[PreparedQuery], text: &str) -> Option<String> {
    resolve(queries.iter(), text).unwrap().map(|query| query.service.service)
}

#[test]
fn an_id_a_name_and_the_longest_prefix_are_tried_in_this_order() {
    let queries = [
        query("web", "by-name"),
        template("", "all-${name.full}", ""),
        template("geo-", "geo-${name.suffix}", ""),
        template("geo-db-", "${name.prefix}${name.suffix}", ""),
        query("geo-exact", "exact"),
    ];
    for (text, expected) in [
        ("web", "by-name"),
        ("WEB", "by-name"),
        ("webs", "all-webs"),
        ("geo-x", "geo-x"),
        ("Geo-X", "geo-X"),
        ("geo-db-7", "geo-db-7"),
        ("geo-exact", "exact"),
        ("geo-exactly", "geo-exactly"),
        ("geo-", "geo-"),
        ("é", "all-é"),
    ] {
        assert_eq!(service_of(&queries, text).as_deref(), Some(expected), "{text}");
    }
    assert_eq!(service_of(&queries, &queries[0].id.to_string()).as_deref(), Some("by-name"));
    let by_id = resolve(queries.iter(), &queries[2].id.to_string()).unwrap_err();
    assert!(by_id.text.contains("only be resolved up by name"), "{by_id}");
    assert_eq!(service_of(&queries[..1], "other"), None);
    assert_eq!(service_of(&queries, ""), None);
    let nameless = PreparedQuery { session: Some(Uuid::from_u128(1)), ..query("", "x") };
    assert_eq!(service_of(&[nameless], ""), None);
}

#[test]
fn texts_are_filled_in_from_the_name() {
    let mut one = template("geo-", "${match(1)}", "^geo-(.*)-([^-]+)$");
    one.service.tags =
        vec!["${match(2)}".into(), "${match(9)}${match(-1)}".into(), "$${x} $y ${ name.full }".into()];
    one.service.near = "${name.prefix}|${agent.segment}".into();
    one.service.node_meta.insert("k".into(), "${match(0)}".into());
    one.service.failover.datacenters = vec!["dc-${match(2)}".into()];
    let filled = one.render("geo-my-db-primary").unwrap().service;
    assert_eq!(filled.service, "my-db");
    assert_eq!(filled.tags, ["primary", "", "${x} $y geo-my-db-primary"]);
    assert_eq!(filled.near, "geo-|");
    assert_eq!(filled.node_meta["k"], "geo-my-db-primary");
    assert_eq!(filled.failover.datacenters, ["dc-primary"]);
    // A name that does not match leaves the groups empty.
    assert_eq!(one.render("geo-x").unwrap().service.service, "");
    if let Some(template) = &mut one.template {
        template.remove_empty_tags = true;
    }
    assert_eq!(
        one.render("geo-my-db-primary").unwrap().service.tags,
        ["primary", "${x} $y geo-my-db-primary"]
    );
    // What is no template is not touched.
    assert_eq!(query("web", "${name.full}").render("web").unwrap().service.service, "${name.full}");
}

fn refusal(query: &PreparedQuery) -> String {
    query.check().unwrap_err().text
}

#[test]
fn what_makes_no_sense_is_refused() {
    assert_eq!(query("web", "web").check(), Ok(()));
    assert_eq!(template("", "${name.full}", "").check(), Ok(()));
    let bound = PreparedQuery { session: Some(Uuid::from_u128(1)), ..query("", "web") };
    assert_eq!(bound.check(), Ok(()));
    assert_eq!(refusal(&query("", "web")), "Invalid prepared query: Must be bound to a session");
    assert_eq!(refusal(&query("web", "")), "Invalid prepared query: Must provide a Service name to query");
    let change = |change: &dyn Fn(&mut PreparedQuery)| {
        let mut query = query("web", "web");
        change(&mut query);
        refusal(&query)
    };
    assert!(change(&|query| query.token = "<hidden>".into()).contains("redacted"));
    assert!(change(&|query| query.ttl = "10".into()).contains("Bad DNS TTL '10'"));
    assert!(change(&|query| query.ttl = "-1s".into()).contains("Bad DNS TTL"));
    assert!(change(&|query| query.name = "a\tb".into()).contains("control"));
    assert!(
        change(&|query| _ = query.service.node_meta.insert(String::new(), "x".into())).contains("metadata")
    );
    let both = change(&|query| {
        query.service.failover = Failover { nearest: 1, datacenters: vec![], targets: vec!["dc2".into()] };
    });
    assert!(both.contains("Targets cannot be populated"), "{both}");
    for (service, regexp, words) in [
        ("${name.fall}", "", "name.fall"),
        ("${name.full", "", "without its"),
        ("${match(x)}", "", "match(x)"),
        ("${upper(name.full)}", "", "unknown"),
        ("x", "(", "Bad Regexp: unclosed group"),
    ] {
        let text = refusal(&template("geo-", service, regexp));
        assert!(text.contains(words) && !text.contains('\n'), "{text}");
    }
}

#[test]
fn limits_hold_at_their_edge() {
    let edge = |most: usize, change: &dyn Fn(&mut PreparedQuery, usize)| {
        for (size, fits) in [(most, true), (most + 1, false)] {
            let mut query = query("web", "web");
            change(&mut query, size);
            let code = query.check().err().map(|fault| fault.code);
            assert_eq!(code, (!fits).then_some(FaultCode::TooLarge), "{size}");
        }
    };
    edge(limit::QUERY_NAME_BYTES, &|query, n| query.name = "n".repeat(n));
    edge(TEXT_BYTES, &|query, n| query.service.service = "s".repeat(n));
    edge(TEXT_BYTES, &|query, n| query.service.near = "s".repeat(n));
    edge(TEXT_BYTES, &|query, n| query.service.tags = vec!["t".repeat(n)]);
    edge(limit::TAGS, &|query, n| query.service.tags = vec!["t".into(); n]);
    edge(CHECKS, &|query, n| query.service.ignore_checks = vec!["c".into(); n]);
    edge(DATACENTERS, &|query, n| query.service.failover.datacenters = vec!["d".into(); n]);
    edge(DATACENTERS, &|query, n| query.service.failover.targets = vec!["d".into(); n]);
    edge(limit::META_PAIRS, &|query, n| {
        query.service.node_meta = (0..n).map(|n| (n.to_string(), "v".into())).collect();
    });
    edge(limit::META_VALUE_BYTES, &|query, n| {
        query.service.service_meta = BTreeMap::from([("k".into(), "v".repeat(n))]);
    });
    edge(TEXT_BYTES, &|query, n| {
        query.template = Some(Template { regexp: "r".repeat(n), remove_empty_tags: false });
    });
    let long = template("", &"${name.full}".repeat(40), "");
    assert_eq!(long.check(), Ok(()));
    assert_eq!(long.render(&"n".repeat(100)).unwrap_err().code, FaultCode::TooLarge);
}

fn entry(status: &str) -> ServiceEntry {
    let node = json!({"name": "n1", "address": "10.0.0.1", "meta": {"rack": "7"}});
    let instance = json!({"id": "web-1", "name": "web", "tags": ["Primary", "v1"], "meta": {"engine": "pg"}});
    let checks = json!([
        {"node": "n1", "id": "serfHealth", "name": "s", "status": "passing"},
        {"node": "n1", "id": "flaky", "name": "f", "status": status},
    ]);
    ServiceEntry {
        node: Arc::new(serde_json::from_value(node).unwrap()),
        instance: Arc::new(serde_json::from_value(instance).unwrap()),
        checks: serde_json::from_value(checks).unwrap(),
    }
}

#[test]
fn critical_instances_are_never_an_answer_unless_the_check_is_ignored() {
    let mut all = query("q", "web").service;
    assert!(all.finds(&entry("passing")) && all.finds(&entry("warning")) && !all.finds(&entry("critical")));
    all.only_passing = true;
    assert!(all.finds(&entry("passing")) && !all.finds(&entry("warning")));
    all.ignore_checks = vec!["flaky".into()];
    assert!(all.finds(&entry("warning")) && all.finds(&entry("critical")));
}

#[test]
fn tags_and_metadata_are_conditions() {
    let finds = |change: &dyn Fn(&mut ServiceQuery)| {
        let mut service = query("q", "web").service;
        change(&mut service);
        service.finds(&entry("passing"))
    };
    assert!(finds(&|service| service.tags = vec!["primary".into(), "V1".into(), "!replica".into()]));
    assert!(!finds(&|service| service.tags = vec!["primary".into(), "v2".into()]));
    assert!(!finds(&|service| service.tags = vec!["!PRIMARY".into()]));
    let pair = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    assert!(finds(&|service| service.node_meta = pair("rack", "7")));
    assert!(!finds(&|service| service.node_meta = pair("rack", "8")));
    assert!(finds(&|service| service.service_meta = pair("engine", "pg")));
    assert!(!finds(&|service| service.service_meta = pair("engine", "")));
    assert!(!finds(&|service| service.service_meta = pair("none", "x")));
}
