//! How long a change takes from being applied here until the last of the sessions that follow it has it.
//!
//! One change is measured at a time, which costs nothing worth naming. Agents say with their next beat how long ago
//! they were brought how far, so that waiting for the beat does not count.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::Histogram;
use purlin_model::Revision;

/// A change that somebody has not taken by then is counted as having taken so long.
const GIVEN_UP: Duration = Duration::from_secs(60);
const BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

#[derive(Debug)]
pub(crate) struct Propagation {
    histogram: Histogram,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    revision: Revision,
    applied: Instant,
    waits_for: HashSet<u64>,
    longest: Duration,
}

impl Default for Propagation {
    fn default() -> Self {
        Self { histogram: Histogram::new(BUCKETS), running: None }
    }
}

impl Propagation {
    pub(super) fn histogram(&self) -> Histogram {
        self.histogram.clone()
    }

    /// Whether the next change should be measured.
    pub(super) fn is_free(&mut self, now: Instant) -> bool {
        let late = |running: &Running| now.saturating_duration_since(running.applied) >= GIVEN_UP;
        if self.running.as_ref().is_some_and(late) {
            self.histogram.observe(GIVEN_UP.as_secs_f64());
            self.running = None;
        }
        self.running.is_none()
    }

    /// A change was applied that these sessions follow.
    pub(super) fn begin(&mut self, revision: Revision, waits_for: HashSet<u64>, applied: Instant) {
        if !waits_for.is_empty() {
            self.running = Some(Running { revision, applied, waits_for, longest: Duration::ZERO });
        }
    }

    /// A session was brought so far, each so many milliseconds before now.
    pub(super) fn taken(&mut self, session: u64, marks: &[(Revision, u64)], now: Instant) {
        let Some(running) = &mut self.running else { return };
        let ago = marks.iter().filter(|(at, _)| *at >= running.revision).map(|(_, ago)| *ago).max();
        let Some(ago) = ago.filter(|_| running.waits_for.remove(&session)) else { return };
        let took = now.saturating_duration_since(running.applied).saturating_sub(Duration::from_millis(ago));
        running.longest = running.longest.max(took);
        self.conclude();
    }

    /// A session ended, and is waited for no more.
    pub(super) fn gone(&mut self, session: u64) {
        if let Some(running) = &mut self.running
            && running.waits_for.remove(&session)
        {
            self.conclude();
        }
    }

    fn conclude(&mut self) {
        if let Some(done) = self.running.take_if(|running| running.waits_for.is_empty())
            && !done.longest.is_zero()
        {
            self.histogram.observe(done.longest.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode_registry;
    use prometheus_client::registry::Registry;

    use super::*;

    fn sum(propagation: &Propagation) -> String {
        let mut registry = Registry::default();
        registry.register("p", "p", propagation.histogram());
        let mut text = String::new();
        encode_registry(&mut text, &registry).unwrap();
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap_or("").to_owned();
        format!("{} {}", line("p_sum"), line("p_count"))
    }

    #[test]
    fn the_last_that_has_it_counts_and_waiting_for_the_beat_does_not() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut propagation = Propagation::default();
        assert!(propagation.is_free(start));
        propagation.begin(Revision(7), HashSet::from([1, 2, 3]), start);
        assert!(!propagation.is_free(start));
        propagation.taken(1, &[(Revision(6), 900), (Revision(7), 600), (Revision(9), 1)], at(1_000));
        propagation.taken(2, &[(Revision(6), 10)], at(1_100));
        propagation.taken(4, &[(Revision(8), 10)], at(1_100));
        propagation.taken(2, &[(Revision(8), 250)], at(2_000));
        assert_eq!(sum(&propagation), "p_sum 0.0 p_count 0");
        propagation.gone(3);
        assert_eq!(sum(&propagation), "p_sum 1.75 p_count 1");
        assert!(propagation.is_free(at(2_000)));
    }

    #[test]
    fn one_that_never_takes_it_is_given_up() {
        let start = Instant::now();
        let mut propagation = Propagation::default();
        propagation.begin(Revision(1), HashSet::new(), start);
        assert!(propagation.is_free(start), "nobody follows it");
        propagation.begin(Revision(1), HashSet::from([1]), start);
        assert!(!propagation.is_free(start + GIVEN_UP - Duration::from_millis(1)));
        assert!(propagation.is_free(start + GIVEN_UP));
        assert_eq!(sum(&propagation), "p_sum 60.0 p_count 1");
    }
}
