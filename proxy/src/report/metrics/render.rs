//! The numbers as Prometheus text, added up over the workers while they go on.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::{BOUNDS, CLASSES, Count, EdgeCounters, EdgeLabel, Framing, Metrics, Refusal, lock, read, total};

pub(super) fn text(metrics: Arc<Metrics>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Rendered(metrics)));
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = text::encode_registry(&mut out, &registry);
    out
}

#[derive(Debug)]
struct Rendered(Arc<Metrics>);

type Edges = Vec<(EdgeLabel, EdgeCounters)>;

impl Collector for Rendered {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let metrics = &*self.0;
        let edges: Edges =
            lock(&metrics.edges).iter().map(|(label, group)| (label.clone(), total(group))).collect();
        requests(&mut encoder, &edges)?;
        durations(&mut encoder, &edges)?;
        counts(&mut encoder, &edges)?;
        rare(&mut encoder, metrics)?;
        whole(&mut encoder, metrics)
    }
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: &[(Vec<(&str, &str)>, u64)],
) -> Result<(), fmt::Error> {
    if series.is_empty() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in series {
        match labels.is_empty() {
            true => family.encode_counter::<NoLabelSet, _, f64>(value, None)?,
            false => family.encode_family(labels)?.encode_counter::<NoLabelSet, _, f64>(value, None)?,
        }
    }
    Ok(())
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: &[(Vec<(&str, &str)>, f64)],
) -> Result<(), fmt::Error> {
    if series.is_empty() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in series {
        match labels.is_empty() {
            true => family.encode_gauge(value)?,
            false => family.encode_family(labels)?.encode_gauge(value)?,
        }
    }
    Ok(())
}

fn requests(encoder: &mut DescriptorEncoder<'_>, edges: &Edges) -> Result<(), fmt::Error> {
    let mut series = Vec::new();
    for (label, counters) in edges {
        for (framing, classes) in Framing::ALL.iter().zip(&counters.requests) {
            for (class, cell) in CLASSES.iter().zip(classes) {
                let mut labels = label.labels().to_vec();
                labels.extend([("protocol", framing.as_str()), ("response_class", class)]);
                series.push((labels, read(cell)));
            }
        }
    }
    series.retain(|(_, count)| *count > 0);
    counter(encoder, "purlin_proxy_requests", "Requests that ended, by the class of their answer", &series)
}

fn durations(encoder: &mut DescriptorEncoder<'_>, edges: &Edges) -> Result<(), fmt::Error> {
    let (name, help) = ("purlin_proxy_request_duration_seconds", "From the request to the end of its answer");
    let used = |counters: &EdgeCounters, class: usize| {
        counters.durations[class].buckets.iter().map(read).sum::<u64>()
    };
    let any = edges.iter().any(|(_, counters)| (0..CLASSES.len()).any(|class| used(counters, class) > 0));
    if !any {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (label, counters) in edges {
        for (class, durations) in CLASSES.iter().zip(&counters.durations) {
            let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
            let buckets: Vec<_> = bounds.zip(durations.buckets.iter().map(read)).collect();
            let count: u64 = buckets.iter().map(|(_, count)| count).sum();
            if count == 0 {
                continue;
            }
            let mut labels = label.labels().to_vec();
            labels.push(("response_class", class));
            let sum = read(&durations.sum_micros) as f64 / 1e6;
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
    }
    Ok(())
}

fn counts(encoder: &mut DescriptorEncoder<'_>, edges: &Edges) -> Result<(), fmt::Error> {
    for (what, name, help) in [
        (Count::ConnectionsOpened, "purlin_proxy_connections_opened", "Connections that were taken"),
        (Count::BytesSent, "purlin_proxy_bytes_sent", "Bytes of bodies and TCP, from source to destination"),
        (Count::BytesReceived, "purlin_proxy_bytes_received", "Bytes of bodies and TCP, back to the source"),
        (Count::ConnectFailures, "purlin_proxy_connect_failures", "Endpoints or applications not reached"),
        (Count::Retries, "purlin_proxy_retries", "Requests and connections tried at another endpoint"),
    ] {
        let series: Vec<_> =
            edges.iter().map(|(label, counters)| (label.labels().to_vec(), counters.read(what))).collect();
        counter(encoder, name, help, &series)?;
    }
    let active: Vec<_> = edges
        .iter()
        .map(|(label, counters)| {
            let (opened, closed) =
                (counters.read(Count::ConnectionsOpened), counters.read(Count::ConnectionsClosed));
            (label.labels().to_vec(), opened.saturating_sub(closed) as f64)
        })
        .collect();
    gauge(encoder, "purlin_proxy_connections_active", "Connections that are open", &active)
}

fn rare(encoder: &mut DescriptorEncoder<'_>, metrics: &Metrics) -> Result<(), fmt::Error> {
    let denied = lock(&metrics.denied).clone();
    let series: Vec<_> = denied
        .iter()
        .map(|((label, rule), count)| {
            let mut labels = label.labels().to_vec();
            labels.push(("rule", rule.as_str()));
            (labels, *count)
        })
        .collect();
    counter(encoder, "purlin_proxy_denied", "Calls that policy forbade, by the rule that decided", &series)?;
    let unroutable = lock(&metrics.unroutable).clone();
    let series: Vec<_> = unroutable
        .iter()
        .map(|((label, reason), count)| {
            let mut labels = label.labels().to_vec();
            labels.push(("reason", *reason));
            (labels, *count)
        })
        .collect();
    counter(encoder, "purlin_proxy_unroutable", "Calls for which there was no endpoint", &series)?;
    let series: Vec<_> = Refusal::ALL
        .iter()
        .map(|refusal| (vec![("reason", refusal.as_str())], read(&metrics.refused[*refusal as usize])))
        .collect();
    counter(
        encoder,
        "purlin_proxy_connections_refused",
        "Connections that were turned away at the door",
        &series,
    )
}

fn whole(encoder: &mut DescriptorEncoder<'_>, metrics: &Metrics) -> Result<(), fmt::Error> {
    let panics = [(vec![], read(&metrics.panics))];
    counter(encoder, "purlin_proxy_panics", "Bugs that ended one connection", &panics)?;
    let revision = [(vec![], read(&metrics.view_revision) as f64)];
    gauge(encoder, "purlin_proxy_view_revision", "Revision of the view that is in force", &revision)?;
    let failed = [(vec![], read(&metrics.failed_listeners) as f64)];
    gauge(encoder, "purlin_proxy_failed_listeners", "Listeners that could not be opened", &failed)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let certificates = lock(&metrics.certificates).clone();
    let series: Vec<_> = certificates
        .iter()
        .map(|(service, not_after)| (vec![("service", service.as_str())], not_after.0 as f64 / 1e3 - now))
        .collect();
    gauge(encoder, "purlin_proxy_certificate_expiry_seconds", "Until the certificate in use expires", &series)
}
