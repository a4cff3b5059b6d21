//! How much of an answer goes into which packet.

use super::*;

/// So many instances, each with an address of its own.
fn many(count: u16) -> Facts {
    let entries = (0..count).map(|n| {
        let address = format!("10.1.{}.{}", n / 256, n % 256);
        entry(node("n1", "10.0.0.1"), &format!("b{n}"), "passing", json!({"address": address, "name": "big"}))
    });
    let here = [(service("big"), contents(entries)), (Topic::Services, summaries(&["big"]))];
    Facts { here: here.into(), ..Facts::default() }
}

#[tokio::test]
async fn udp_without_edns_gets_a_few_answers_and_hears_that_there_are_more() {
    for (truncate, limit, expected) in [(true, 3, 3), (false, 3, 3), (true, 0, 29)] {
        let change = |options: &mut DnsOptions| {
            options.enable_truncate = truncate;
            options.udp_answer_limit = limit;
        };
        let dns = dns_with(many(100), change).await;
        let bytes = dns.udp(&question("big.service.consul.", A, None).to_vec().unwrap()).await;
        assert!(bytes.len() <= 512, "{}", bytes.len());
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!((answer.answers.len(), answer.metadata.truncation), (expected, truncate), "limit {limit}");
    }
    let dns = dns_with(many(3), |_| {}).await;
    let bytes = dns.udp(&question("big.service.consul.", A, None).to_vec().unwrap()).await;
    assert!(!Message::from_vec(&bytes).unwrap().metadata.truncation, "all three fit");
}

#[tokio::test]
async fn edns_and_tcp_make_room_for_more() {
    let dns = dns_with(many(400), |_| {}).await;
    for (payload, most) in [(0, 512), (1232, 1232), (4096, 4096), (65_535, 4096)] {
        let bytes = dns.udp(&question("big.service.consul.", SRV, Some(payload)).to_vec().unwrap()).await;
        assert!(bytes.len() <= most && bytes.len() > most / 2, "{} of {most}", bytes.len());
        let answer = Message::from_vec(&bytes).unwrap();
        assert!(answer.metadata.truncation && answer.edns.is_some());
    }
    let bytes = dns.tcp(&question("big.service.consul.", A, None).to_vec().unwrap()).await;
    let answer = Message::from_vec(&bytes).unwrap();
    assert_eq!((answer.answers.len(), answer.metadata.truncation), (400, false));
    let dns = dns_with(many(2000), |_| {}).await;
    let bytes = dns.tcp(&question("big.service.consul.", SRV, None).to_vec().unwrap()).await;
    let answer = Message::from_vec(&bytes).unwrap();
    assert!(answer.metadata.truncation && answer.answers.len() > 500, "{}", answer.answers.len());
}

#[tokio::test]
async fn additional_records_that_do_not_fit_are_no_truncation() {
    let dns = dns_with(many(8), |options| options.udp_answer_limit = 0).await;
    let bytes = dns.udp(&question("big.service.consul.", SRV, Some(512)).to_vec().unwrap()).await;
    let answer = Message::from_vec(&bytes).unwrap();
    assert!(bytes.len() <= 512);
    assert_eq!((answer.answers.len(), answer.metadata.truncation), (8, false));
    assert!((1..8).contains(&answer.additionals.len()), "{}", answer.additionals.len());
}

#[tokio::test]
async fn answers_come_in_changing_order_and_are_limited_where_asked() {
    let dns = dns_with(many(20), |options| options.a_record_limit = 5).await;
    let mut orders = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let question = question("big.service.consul.", A, Some(4096)).to_vec().unwrap();
        let answer = Message::from_vec(&dns.udp(&question).await).unwrap();
        assert_eq!(answer.answers.len(), 5);
        orders.insert(answer.answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>());
    }
    assert!(orders.len() > 1, "twenty answers in one order");
}
