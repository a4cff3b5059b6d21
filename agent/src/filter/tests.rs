use proptest::prelude::{ProptestConfig, any, proptest};
use serde_json::{Value, json};

use super::{Filter, MAX_DEPTH, MAX_MATCHES, MAX_TEXT};

fn schema() -> Value {
    json!({
        "Node": {"Node": "", "Meta": {"*": ""}},
        "Service": {"Service": "", "Tags": [""], "Meta": {"*": ""}, "Port": 0, "Kind": "", "Native": false},
        "Checks": [{"Status": "", "CheckID": ""}],
    })
}

fn item() -> Value {
    json!({
        "Node": {"Node": "host-1", "Meta": {"os": "debian"}},
        "Service": {"Service": "web", "Tags": ["v1", "blue"], "Meta": {"version": "1.2", "a-b": "x"}, "Port": 8080,
                    "Native": true},
        "Checks": [{"Status": "passing", "CheckID": "a"}, {"Status": "warning", "CheckID": "b"}],
    })
}

fn keeps(text: &str) -> bool {
    Filter::parse(text, &schema()).unwrap_or_else(|error| panic!("{text}: {error}")).keeps(&item())
}

fn refusal(text: &str) -> (usize, String) {
    let error = Filter::parse(text, &schema()).expect_err(text);
    (error.column, error.why)
}

#[test]
fn expressions_that_hold() {
    for text in [
        "Service.Service == web",
        "Service.Service == \"web\"",
        "Service.Service == `web`",
        "Service.Port == 8080",
        "Service.Native == true",
        "Service.Tags contains v1",
        "v1 in Service.Tags",
        "\"v1\" in Service.Tags and blue in Service.Tags",
        "v2 not in Service.Tags",
        "Service.Tags not contains v2",
        "Service.Meta.version == 1.2",
        "Service.Meta[\"a-b\"] == x",
        "Service.Meta.a-b == x",
        "Service.Meta contains version",
        "version in Service.Meta",
        "Service.Meta.absent is empty",
        "Service.Meta.absent != x",
        "Service.Kind is empty",
        "Service.Kind == \"\"",
        "Service.Kind != connect-proxy",
        "Service.Tags is not empty",
        "Service.Service matches `^w.b$`",
        "Service.Service not matches `^api`",
        "Service.Service contains e",
        "Checks.Status == warning",
        "not Service.Service == api",
        "not (Service.Service == api or Service.Port == 1)",
        "Service.Service == api and Service.Port == 1 or Service.Port == 8080",
        "Node.Node == host-1",
    ] {
        assert!(keeps(text), "{text}");
    }
}

#[test]
fn expressions_that_do_not_hold() {
    for text in [
        "Service.Service == api",
        "Service.Port != 8080",
        "Service.Meta.absent == x",
        "Service.Meta.absent == \"\"",
        "Service.Kind != \"\"",
        "Service.Meta.absent is not empty",
        "v2 in Service.Tags",
        "Checks.Status == critical",
        "Service.Port == 8080 and (Service.Service == api or Service.Service == db)",
        "Service.Service matches \"^\\d+$\"",
    ] {
        assert!(!keeps(text), "{text}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    assert_eq!(refusal("Service.Nope == 1").0, 1);
    assert!(refusal("Service.Nope == 1").1.contains("\"Service.Nope\""));
    assert_eq!(refusal("Service.Port == many").0, 1);
    assert_eq!(refusal("Service.Service ==").0, 19);
    assert_eq!(refusal("Service.Service = web").0, 17);
    assert_eq!(refusal("(Service.Service == web").0, 24);
    assert_eq!(refusal("Service.Service == web extra").0, 24);
    assert_eq!(refusal("Service.Service matches `(`").0, 25);
    assert_eq!(refusal("Service.Service == \"web").0, 20);
    assert!(Filter::parse("", &schema()).is_err());
    assert!(Filter::parse("Service is empty", &schema()).is_err());
    assert!(Filter::parse("Checks == 1", &schema()).is_err());
}

#[test]
fn size_and_depth_end_where_they_should() {
    let nested = |depth| format!("{}Service.Port == 1{}", "(".repeat(depth), ")".repeat(depth));
    assert!(Filter::parse(&nested(MAX_DEPTH - 1), &schema()).is_ok());
    assert!(Filter::parse(&nested(MAX_DEPTH), &schema()).is_err());
    let chain = |count: usize| vec!["Service.Port == 1"; count].join(" or ");
    assert!(Filter::parse(&chain(MAX_MATCHES), &schema()).is_ok());
    assert!(Filter::parse(&chain(MAX_MATCHES + 1), &schema()).is_err());
    assert!(Filter::parse(&" ".repeat(MAX_TEXT + 1), &schema()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = Filter::parse(&text, &schema()).map(|filter| filter.keeps(&item()));
    }

    #[test]
    fn no_mixture_of_tokens_panics(parts in proptest::collection::vec(proptest::sample::select(vec![
        "Service", ".", "Tags", "Meta", "[", "]", "\"k\"", "==", "!=", "in", "not", "is", "empty", "contains", "matches",
        "and", "or", "(", ")", "1", "-2", "`x`", " ",
    ]), 0..40)) {
        let _ = Filter::parse(&parts.concat(), &schema()).map(|filter| filter.keeps(&item()));
    }
}
