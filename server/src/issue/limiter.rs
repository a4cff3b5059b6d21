//! A token bucket: so many a second, with a burst of one second's worth. Time is given, never read.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Limiter {
    interval: Duration,
    burst: Duration,
    /// When the bucket would be empty if nobody took more; in the past: it has something in it.
    empty_at: Mutex<Option<Instant>>,
}

impl Limiter {
    pub(crate) fn new(per_second: u32) -> Self {
        let burst = Duration::from_secs(1);
        Self { interval: burst / per_second.max(1), burst, empty_at: Mutex::new(None) }
    }

    /// Takes a place and says how long to wait for it; `None`: longer than `patience`, and nothing was taken.
    pub(crate) fn reserve(&self, now: Instant, patience: Duration) -> Option<Duration> {
        let mut empty_at = self.empty_at.lock().unwrap_or_else(PoisonError::into_inner);
        let next = empty_at.map_or(now, |at| at.max(now)) + self.interval;
        let wait = next.saturating_duration_since(now).saturating_sub(self.burst);
        if wait > patience {
            return None;
        }
        *empty_at = Some(next);
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_each_waits_its_turn_and_the_impatient_are_sent_away() {
        let limiter = Limiter::new(50);
        let now = Instant::now();
        let patience = Duration::from_millis(500);
        for n in 0..50 {
            assert_eq!(limiter.reserve(now, patience), Some(Duration::ZERO), "{n}");
        }
        for n in 1..=25 {
            assert_eq!(limiter.reserve(now, patience), Some(Duration::from_millis(20 * n)), "{n}");
        }
        assert_eq!(limiter.reserve(now, patience), None);
        // Those who were sent away took no place.
        let later = now + Duration::from_millis(20);
        assert_eq!(limiter.reserve(later, patience), Some(patience));
        let rested = now + Duration::from_secs(10);
        assert_eq!(limiter.reserve(rested, patience), Some(Duration::ZERO));
    }
}
