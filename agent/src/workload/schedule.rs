//! When a certificate is to be renewed, and when to try again. Pure but for the jitter.

use std::time::Duration;

use purlin_model::Millis;
use tokio::time::Instant;

const FIRST_RETRY: Duration = Duration::from_millis(250);
const MOST_RETRY: Duration = Duration::from_secs(30);
/// No certificate is made for less; one with less left is a sign of clocks that disagree.
const SHORTEST_LIFE: Duration = Duration::from_secs(5);

/// The next moment to act, by both clocks: the monotonic one stands still while a machine sleeps, the wall clock may
/// be set. Whichever comes first counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Schedule {
    at: Instant,
    at_wall: Option<Millis>,
    failures: u32,
}

impl Schedule {
    /// At once.
    pub(super) fn now() -> Self {
        Self { at: Instant::now(), at_wall: None, failures: 0 }
    }

    /// At any moment within `span`, of which `share` says which.
    pub(super) fn within(span: Duration, share: f64) -> Self {
        Self { at: Instant::now() + span.mul_f64(share.clamp(0.0, 1.0)), at_wall: None, failures: 0 }
    }

    /// For a certificate that came at `issued` and is good for `life` since: at between 50 and 70 % of it. `share`, from
    /// 0 to 1, says where between.
    pub(super) fn renewal(issued: Millis, life: Duration, now: Millis, share: f64) -> Self {
        let due = issued.plus(life.mul_f64(0.5 + 0.2 * share.clamp(0.0, 1.0)));
        Self { at: Instant::now() + due.since(now), at_wall: Some(due), failures: 0 }
    }

    /// After a try that failed. A certificate with little life left is tried for more often.
    pub(super) fn retry(self, left: Option<Duration>, share: f64) -> Self {
        let failures = self.failures.saturating_add(1);
        let pause = FIRST_RETRY.saturating_mul(1 << failures.min(10)).min(MOST_RETRY);
        let pause = left.map_or(pause, |left| pause.min(left / 8)).max(FIRST_RETRY);
        Self { at: Instant::now() + pause.mul_f64(0.5 + 0.5 * share), at_wall: None, failures }
    }

    /// A reason why the last try failed may be gone: the first failure is tried again at once, later ones soon.
    pub(super) fn sooner(self) -> Self {
        let Some(more) = self.failures.checked_sub(1) else { return self };
        let soon = Instant::now() + FIRST_RETRY.saturating_mul(more.min(40));
        Self { at: self.at.min(soon), ..self }
    }

    /// A server can be reached again: whatever failed so far is tried now, and not by all at once.
    pub(super) fn at_last(self, share: f64) -> Self {
        match self.failures {
            0 => self,
            _ => Self { at: self.at.min(Instant::now() + FIRST_RETRY.mul_f64(share)), ..self },
        }
    }

    pub(super) fn is_due(&self, now: Instant, wall: Millis) -> bool {
        self.at <= now || self.at_wall.is_some_and(|due| due <= wall)
    }

    pub(super) fn at(&self) -> Instant {
        self.at
    }

    /// Tries in a row that failed.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }
}

/// How long a certificate that came just now is good for, though the clocks of this host and of the server that signed
/// it may disagree, and though its beginning is dated back. `ttl`: what the mesh gives new ones; zero if not known.
pub(super) fn life(not_before: Millis, not_after: Millis, now: Millis, ttl: Duration) -> Duration {
    let full = not_after.since(not_before);
    let known = if ttl.is_zero() { full } else { full.min(ttl) };
    let left = not_after.since(now);
    if left < SHORTEST_LIFE { known } else { known.min(left) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn renews_between_half_and_seven_tenths_of_life() {
        let start = Instant::now();
        let renewal = |share| Schedule::renewal(Millis(0), Duration::from_secs(10), Millis(0), share);
        assert_eq!(renewal(0.0).at - start, Duration::from_secs(5));
        assert_eq!(renewal(1.0).at - start, Duration::from_secs(7));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_should_have_been_renewed_is_due_at_once() {
        let late = Schedule::renewal(Millis(0), Duration::from_secs(10), Millis(9_000), 0.5);
        assert!(late.is_due(Instant::now(), Millis(9_000)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_slept_renews_by_the_wall_clock() {
        let renewal = Schedule::renewal(Millis(0), Duration::from_secs(10), Millis(0), 0.0);
        assert!(!renewal.is_due(Instant::now(), Millis(4_999)));
        assert!(renewal.is_due(Instant::now(), Millis(5_000)));
    }

    #[tokio::test(start_paused = true)]
    async fn retries_are_bounded_and_quick_when_time_is_short() {
        let mut schedule = Schedule::now();
        for _ in 0..40 {
            schedule = schedule.retry(None, 1.0);
        }
        assert_eq!(schedule.at - Instant::now(), MOST_RETRY);
        let short = schedule.retry(Some(Duration::from_secs(4)), 1.0);
        assert_eq!(short.at - Instant::now(), Duration::from_millis(500));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_first_failure_good_news_means_at_once() {
        let failed = Schedule::now().retry(None, 1.0);
        assert!(!failed.is_due(Instant::now(), Millis(0)));
        assert!(failed.sooner().is_due(Instant::now(), Millis(0)));
        let again = failed.retry(None, 1.0);
        assert!(!again.sooner().is_due(Instant::now(), Millis(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_long_outage_a_server_that_is_back_is_asked_at_once() {
        let mut schedule = Schedule::now();
        for _ in 0..1_000 {
            schedule = schedule.retry(None, 1.0);
        }
        assert!(!schedule.sooner().is_due(Instant::now(), Millis(0)));
        assert!(schedule.at_last(0.0).is_due(Instant::now(), Millis(0)));
        let untouched = Schedule::renewal(Millis(0), Duration::from_secs(10), Millis(0), 0.0);
        assert_eq!(untouched.at_last(0.0), untouched, "what has not failed has its time");
    }

    #[test]
    fn clocks_that_disagree_do_not_make_a_certificate_look_old_or_young() {
        let ttl = Duration::from_secs(10);
        let minutes = |m: u64| Millis(m * 60_000);
        let signed = |back: u64| (minutes(100 - back), minutes(100).plus(ttl));
        let (from, to) = signed(5);
        assert_eq!(life(from, to, minutes(100), ttl), ttl);
        assert_eq!(life(from, to, minutes(95), ttl), ttl, "this host is behind");
        assert_eq!(life(from, to, minutes(105), ttl), ttl, "this host is ahead");
        assert_eq!(life(from, to, minutes(100), Duration::ZERO), ttl);
        let shorter = life(minutes(100), minutes(101), minutes(100), Duration::from_secs(3600));
        assert_eq!(shorter, Duration::from_secs(60), "what was signed counts");
    }
}
