//! How many come at once: after a server's death thousands of hosts open sessions here, and want whole topics.
//!
//! Who comes too early is told when to come back. Whole topics are read a few at a time, so that Raft and those who
//! have their session already are not held up.

use std::time::{Duration, Instant};

use purlin_model::Fault;
use tokio::sync::Semaphore;

use crate::issue::limiter::Limiter;

/// Sessions that are opened in one second, after a burst of as many.
const SESSIONS_A_SECOND: u32 = 500;
/// A session is kept waiting for its turn no longer than this.
const PATIENCE: Duration = Duration::from_secs(1);
/// Who is sent away shall come back between this and four times as late.
const COME_BACK: Duration = Duration::from_secs(1);
/// Whole topics that are read at once.
const WHOLE_TOPICS: usize = 8;

#[derive(Debug)]
pub(crate) struct Admission {
    sessions: Limiter,
    pub(super) whole_topics: Semaphore,
}

impl Admission {
    pub(crate) fn new() -> Self {
        Self { sessions: Limiter::new(SESSIONS_A_SECOND), whole_topics: Semaphore::new(WHOLE_TOPICS) }
    }

    /// How long a session that is to be opened must wait; the fault says when to come back.
    pub(super) fn session(&self, now: Instant) -> Result<Duration, Fault> {
        let again = COME_BACK.mul_f64(1.0 + 3.0 * fastrand::f64());
        let busy = || Fault::busy("too many hosts open a session here at once", again);
        self.sessions.reserve(now, PATIENCE).ok_or_else(busy)
    }
}

#[cfg(test)]
mod tests {
    use purlin_model::FaultCode;

    use super::*;

    #[test]
    fn a_storm_is_spread_and_who_comes_too_early_is_told_when_to_come_back() {
        let admission = Admission::new();
        let now = Instant::now();
        let waits: Vec<_> = (0..2_000).map(|_| admission.session(now)).collect();
        let at_once = waits.iter().filter(|wait| **wait == Ok(Duration::ZERO)).count();
        let later = waits.iter().filter(|wait| wait.as_ref().is_ok_and(|wait| !wait.is_zero())).count();
        assert_eq!((at_once, later), (500, 500));
        let fault = waits[1_999].clone().unwrap_err();
        assert_eq!(fault.code, FaultCode::Busy);
        assert!((1_000..=4_000).contains(&fault.retry_ms.unwrap()), "{fault}");
        assert!(fault.text.contains("come back in"), "{fault}");
        assert_eq!(admission.session(now + Duration::from_secs(2)), Ok(Duration::ZERO));
    }
}
