//! How many lines a worker may write about what outsiders do: beyond that it only counts, so that nobody fills the
//! disk with refused calls.

use std::cell::Cell;
use std::time::{Duration, Instant};

const SPAN: Duration = Duration::from_secs(1);
/// Lines in each span.
const LINES: u32 = 100;

#[derive(Debug, Default)]
pub(super) struct Quota {
    since: Cell<Option<Instant>>,
    written: Cell<u32>,
    left_out: Cell<u64>,
}

impl Quota {
    /// Whether to write a line now; `Some` with how many were left out before it.
    pub(super) fn take(&self, now: Instant) -> Option<u64> {
        if self.since.get().is_none_or(|since| now.saturating_duration_since(since) >= SPAN) {
            self.since.set(Some(now));
            self.written.set(0);
        }
        if self.written.get() >= LINES {
            self.left_out.set(self.left_out.get().saturating_add(1));
            return None;
        }
        self.written.set(self.written.get() + 1);
        Some(self.left_out.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_what_was_left_out_is_told() {
        let quota = Quota::default();
        let begin = Instant::now();
        let written = (0..1_000).filter(|_| quota.take(begin).is_some()).count();
        assert_eq!(written, LINES as usize);
        assert_eq!(quota.take(begin + SPAN), Some(900));
        assert_eq!(quota.take(begin + SPAN), Some(0));
    }
}
