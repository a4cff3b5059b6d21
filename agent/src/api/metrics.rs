//! `GET agent/metrics`: what this host measures, as Prometheus text or in the JSON form of Consul's agents.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Api;
use super::answer::{Answer, Content, Failure};
use super::request::Request;
use super::shape::instant;

/// What Prometheus scrapers negotiate; ours ends with `# EOF`.
const EXPOSITION: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `GET agent/metrics?format=prometheus`
pub(super) async fn metrics(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let text = api.core.metrics_text().await;
    match request.query.filled("format") {
        Some("prometheus") => {
            let mut answer = Answer::empty();
            answer.content = Content::Text(EXPOSITION, text);
            Ok(answer)
        }
        None | Some("json") => {
            let now = instant(api.core.config().clock.now());
            Ok(Answer::json(to_json(&text, &now)))
        }
        Some(other) => {
            Err(Failure::invalid(format!("format {other:?} is not known: it is \"prometheus\" or none")))
        }
    }
}

/// One line of the exposition.
struct Sample<'a> {
    name: &'a str,
    labels: Map<String, Value>,
    value: f64,
}

/// A histogram or summary, as far as Consul's form has room for it.
struct Distribution {
    labels: Map<String, Value>,
    count: f64,
    sum: f64,
}

/// Gauges as they are, counters with their count, histograms and summaries as samples of count, sum and mean.
fn to_json(text: &str, now: &str) -> Value {
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    let (mut gauges, mut counters) = (Vec::new(), Vec::new());
    let mut samples: BTreeMap<(String, String), Distribution> = BTreeMap::new();
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            kinds.extend(kind.split_once(' '));
            continue;
        }
        let Some(sample) = parse_line(line) else { continue };
        let kind_of = |name: &str| kinds.get(name).copied();
        let base = |suffix: &str| sample.name.strip_suffix(suffix);
        let distribution =
            |suffix| base(suffix).filter(|name| matches!(kind_of(name), Some("histogram" | "summary")));
        if let Some(name) = distribution("_count").or(distribution("_sum")) {
            let key = (name.to_owned(), Value::Object(sample.labels.clone()).to_string());
            let labels = sample.labels;
            let entry = samples.entry(key).or_insert(Distribution { labels, count: 0.0, sum: 0.0 });
            if sample.name.ends_with("_count") {
                entry.count = sample.value;
            } else {
                entry.sum = sample.value;
            }
        } else if kind_of(sample.name) == Some("counter")
            || base("_total").and_then(kind_of) == Some("counter")
        {
            counters.push(aggregate(
                base("_total").unwrap_or(sample.name),
                sample.labels,
                sample.value,
                sample.value,
            ));
        } else if kind_of(sample.name) == Some("gauge") {
            // JSON has no infinity; what never ends is left out.
            if sample.value.is_finite() {
                gauges.push(json!({"Name": sample.name, "Value": sample.value, "Labels": sample.labels}));
            }
        }
    }
    let samples: Vec<Value> =
        samples.into_iter().map(|((name, _), of)| aggregate(&name, of.labels, of.count, of.sum)).collect();
    json!({"Timestamp": now, "Gauges": gauges, "Points": [], "Counters": counters, "Samples": samples})
}

fn aggregate(name: &str, labels: Map<String, Value>, count: f64, sum: f64) -> Value {
    let mean = if count > 0.0 { sum / count } else { 0.0 };
    json!({"Name": name, "Count": count as u64, "Rate": 0.0, "Sum": sum, "Min": 0.0, "Max": 0.0, "Mean": mean,
           "Stddev": 0.0, "Labels": labels})
}

/// `name{label="value",…} 1.5`; comments and what is malformed are nothing.
fn parse_line(line: &str) -> Option<Sample<'_>> {
    if line.starts_with('#') {
        return None;
    }
    let (name, rest) = match line.find('{') {
        Some(open) => (line.get(..open)?, line.get(open + 1..)?),
        None => {
            let (name, value) = line.split_once(' ')?;
            let value = value.split(' ').next()?.parse().ok()?;
            return Some(Sample { name, labels: Map::new(), value });
        }
    };
    let mut labels = Map::new();
    let mut rest = rest;
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(after) = rest.strip_prefix('}') {
            let value = after.trim_start().split(' ').next()?.parse().ok()?;
            return Some(Sample { name, labels, value });
        }
        let (label, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        labels.insert(label.to_owned(), value.into());
        rest = after;
    }
}

/// A label's value up to its closing quote, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exposition_becomes_consuls_json() {
        let text = "# HELP a_seconds How long.\n# TYPE a_seconds gauge\na_seconds{service=\"w\\\"eb\"} 1.5\n\
                    a_seconds{service=\"x\"} +Inf\n\
                    # TYPE hits counter\nhits_total{source=\"web\",class=\"2xx\"} 7\n\
                    # TYPE took histogram\ntook_bucket{le=\"1\"} 2\ntook_count 4\ntook_sum 8\n# EOF\n";
        let value = to_json(text, "now");
        assert_eq!(
            value["Gauges"],
            json!([{"Name": "a_seconds", "Value": 1.5, "Labels": {"service": "w\"eb"}}])
        );
        assert_eq!(value["Counters"][0]["Name"], "hits");
        assert_eq!(value["Counters"][0]["Count"], 7);
        assert_eq!(value["Counters"][0]["Labels"], json!({"source": "web", "class": "2xx"}));
        assert_eq!(value["Samples"][0]["Name"], "took");
        assert_eq!(value["Samples"][0]["Mean"], 2.0);
        assert_eq!(value["Samples"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn malformed_lines_are_skipped() {
        for line in ["", "x", "x{", "x{a=\"b} 1", "x{a=\"b\"} y", "# EOF"] {
            assert!(parse_line(line).is_none(), "{line}");
        }
    }
}
