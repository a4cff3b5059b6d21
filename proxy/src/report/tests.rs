use std::time::Duration;

use purlin_model::{Millis, ServiceName};

use super::*;

fn key(name: &str) -> ServiceKey {
    ServiceKey::new(ServiceName::new(name).unwrap())
}

#[test]
fn workers_are_added_up() {
    let metrics = Arc::new(Metrics::new(10));
    for status in [StatusCode::OK, StatusCode::CREATED, StatusCode::FORBIDDEN] {
        let worker = Reporter::new(metrics.clone(), 10);
        let edge = worker.edge(&key("web"), &key("api"), Direction::Outbound);
        edge.sent(5);
        edge.request(Framing::Http1).answered(status);
        let _open = edge.connection();
    }
    let text = metrics.text();
    let labels = r#"source="web",destination="api",direction="outbound""#;
    for line in [
        format!("purlin_proxy_requests_total{{{labels},protocol=\"http\",response_class=\"2xx\"}} 2\n"),
        format!("purlin_proxy_requests_total{{{labels},protocol=\"http\",response_class=\"4xx\"}} 1\n"),
        format!("purlin_proxy_request_duration_seconds_count{{{labels},response_class=\"2xx\"}} 2\n"),
        format!(
            "purlin_proxy_request_duration_seconds_bucket{{le=\"+Inf\",{labels},response_class=\"4xx\"}} 1\n"
        ),
        format!("purlin_proxy_bytes_sent_total{{{labels}}} 15\n"),
        format!("purlin_proxy_connections_opened_total{{{labels}}} 3\n"),
        format!("purlin_proxy_connections_active{{{labels}}} 0.0\n"),
    ] {
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("# EOF"));
}

#[test]
fn pairs_beyond_the_limit_are_counted_together() {
    let metrics = Arc::new(Metrics::new(2));
    let worker = Reporter::new(metrics.clone(), 2);
    for source in ["a", "b", "c", "d"] {
        worker.edge(&key(source), &key("api"), Direction::Inbound).sent(1);
    }
    let text = metrics.text();
    let other = r#"purlin_proxy_bytes_sent_total{source="other",destination="other",direction="inbound"} 2"#;
    assert!(text.contains(other), "{text}");
    assert!(!text.contains("\"d\""), "{text}");
}

#[test]
fn counts_outlive_the_edges_that_made_them() {
    let metrics = Arc::new(Metrics::new(1));
    let worker = Reporter::new(metrics.clone(), 1);
    for _ in 0..200 {
        worker.edge(&key("web"), &key("api"), Direction::Inbound).sent(1);
        worker.edge(&key("web"), &key("other"), Direction::Inbound).sent(1);
    }
    let text = metrics.text();
    let sent = r#"purlin_proxy_bytes_sent_total{source="web",destination="api",direction="inbound"} 200"#;
    assert!(text.contains(sent), "{text}");
}

#[test]
fn the_time_to_expiry_is_shown() {
    let metrics = Arc::new(Metrics::new(1));
    let in_an_hour = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap()
        + Duration::from_secs(3600);
    let not_after = Millis(u64::try_from(in_an_hour.as_millis()).unwrap());
    metrics.view(7, 1, [("web".to_owned(), not_after)].into());
    let text = metrics.text();
    assert!(text.contains("purlin_proxy_view_revision 7.0\n"), "{text}");
    assert!(text.contains("purlin_proxy_failed_listeners 1.0\n"), "{text}");
    assert!(text.contains("purlin_proxy_certificate_expiry_seconds{service=\"web\"} 35"), "{text}");
}
