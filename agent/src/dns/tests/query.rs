//! Prepared queries over DNS.

use super::*;

fn with_queries(queries: &[serde_json::Value]) -> Facts {
    let mut facts = facts();
    let records = queries.iter().enumerate().map(|(n, query)| {
        let mut query = query.clone();
        query["id"] = uuid::Uuid::from_u128(n as u128).to_string().into();
        (n.to_string(), Fact::Query(serde_json::from_value(query).unwrap()))
    });
    facts.here.insert(Topic::Queries(None), contents(records));
    facts
}

#[tokio::test]
async fn a_query_answers_with_what_it_finds_for_as_long_as_it_says() {
    let facts = with_queries(&[
        json!({"name": "front", "service": {"service": "WEB", "tags": ["v1"]}, "ttl": "10s"}),
        json!({"name": "healthy", "service": {"service": "web", "only_passing": true}}),
        json!({"name": "broken", "service": {"service": "sick"}}),
        json!({"name": "emergency", "service": {"service": "sick", "ignore_checks": ["c"]}}),
        json!({"name": "nothing", "service": {"service": "none"}}),
        json!({"name": "mesh", "service": {"service": "web", "connect": true}}),
        json!({"name": "geo-", "template": {"regexp": "^geo-(.*)$"}, "service": {"service": "${match(1)}"}}),
    ]);
    let dns = dns_with(facts, |options| {
        options.service_ttl = [("web".to_owned(), Duration::from_secs(3))].into();
    })
    .await;
    for name in ["front.query.consul.", "FRONT.query.dc1.mesh.internal."] {
        assert_eq!(dns.data(name, A).await, ["10.0.0.1"], "{name}");
    }
    assert_eq!(dns.ask("front.query.consul.", A).await.answers[0].ttl, 10);
    assert_eq!(dns.ask("healthy.query.consul.", A).await.answers[0].ttl, 3);
    assert_eq!(dns.nothing("healthy.query.consul.", AAAA).await, ResponseCode::NoError);
    let found = ["1 1 8080 n3.node.dc1.consul.", "1 7 8080 n1.node.dc1.consul."];
    assert_eq!(dns.data("_front._tcp.query.consul.", SRV).await, found);
    assert_eq!(dns.data("mesh.query.consul.", SRV).await, ["1 1 20000 n3.node.dc1.consul."]);
    assert_eq!(dns.data("emergency.query.consul.", A).await, ["10.0.0.4"]);
    assert_eq!(dns.data("geo-web.query.consul.", A).await, ["10.0.0.1", "10.9.0.2"]);
    for name in ["broken", "nothing", "unknown", "geo-", "geo-none"] {
        let code = dns.nothing(&format!("{name}.query.consul."), A).await;
        assert_eq!(code, ResponseCode::NXDomain, "{name}");
    }
}

#[tokio::test]
async fn what_is_near_comes_first() {
    let facts = with_queries(&[
        json!({"name": "here", "service": {"service": "web", "near": "_agent"}}),
        json!({"name": "there", "service": {"service": "web", "near": "n1"}}),
    ]);
    let dns = dns_with(facts, |_| {}).await;
    for (name, first) in [("here", "10.9.0.2"), ("there", "10.0.0.1")] {
        for _ in 0..10 {
            let answer = dns.ask(&format!("{name}.query.consul."), A).await;
            assert_eq!(answer.answers[0].data.to_string(), first);
        }
    }
}

#[tokio::test]
async fn queries_that_cannot_be_known_are_a_failure() {
    let dns = dns().await;
    let answer = dns.ask("front.query.consul.", A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}
