//! What is too long or says too little is refused where it is written, with its key.

use serde_json::json;

use super::service_faults;
use crate::limit;

#[test]
fn what_the_catalog_would_refuse_is_refused_at_once_and_named() {
    let long = |most: usize| "x".repeat(most + 1);
    let path = format!("/{}", long(limit::SOCKET_PATH_BYTES));
    for (key, value) in [
        ("region", json!({"name": "a", "locality": {"region": long(limit::WORD_BYTES)}})),
        ("zone", json!({"name": "a", "locality": {"region": "r", "zone": long(limit::WORD_BYTES)}})),
        ("socket_path", json!({"name": "a", "socket_path": path})),
        (
            "tagged_addresses",
            json!({"name": "a", "tagged_addresses": {long(limit::WORD_BYTES): {"address": "b"}}}),
        ),
        ("name", json!({"name": "a", "check": {"name": long(limit::CHECK_NAME_BYTES), "ttl": "1s"}})),
        ("notes", json!({"name": "a", "check": {"notes": long(limit::CHECK_OUTPUT_BYTES), "ttl": "1s"}})),
        (
            "destination_port",
            json!({"name": "a", "upstreams": [{"name": "b", "local_bind_port": 1, "destination_port": long(63)}]}),
        ),
    ] {
        let found = service_faults(value);
        assert!(found.len() == 1 && found[0].contains(key), "{key}\n{found:?}");
    }
}

#[test]
fn a_check_that_says_too_little_is_never_left_out_in_silence() {
    for check in [json!({"ttl": "0s"}), json!({"ttl": 0, "name": "x"}), json!({"args": []}), json!({})] {
        let found = service_faults(json!({"name": "a", "checks": [check]}));
        assert!(found.len() == 1 && found[0].contains("checks[0]"), "{found:?}");
    }
}
