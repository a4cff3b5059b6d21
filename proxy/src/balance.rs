//! Which endpoint gets the next request: the cheaper of two, drawn by weight. Pure: clock and dice are passed in.
//!
//! Cost is peak-EWMA latency times load. An endpoint that just failed is passed over while another one is at hand;
//! when all have failed, the one whose rest ends first is tried.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Latency fades with this time constant, so that a slow endpoint is tried again.
const DECAY: Duration = Duration::from_secs(10);
/// The drawn endpoint keeps the request unless the other one is this much cheaper: noise must not defeat weights.
const TOLERANCE: f64 = 2.0;

/// What is known of one endpoint by one worker.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    in_flight: Cell<u32>,
    latency: Cell<Option<(f64, Instant)>>,
    rest_until: Cell<Option<Instant>>,
    failures: Cell<u32>,
}

/// One that may be chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub(crate) weight: u16,
    pub(crate) stats: &'a Stats,
    /// Tried already for this request.
    pub(crate) tried: bool,
}

impl Stats {
    pub(crate) fn begin(&self) {
        self.in_flight.set(self.in_flight.get().saturating_add(1));
    }

    pub(crate) fn end(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }

    /// A higher latency counts at once, a lower one bit by bit.
    pub(crate) fn observe(&self, latency: Duration, now: Instant) {
        let fresh = latency.as_secs_f64();
        let kept = match self.latency.get() {
            Some((old, at)) => {
                let old_share = decay(now.saturating_duration_since(at));
                if fresh >= old { fresh } else { old * old_share + fresh * (1.0 - old_share) }
            }
            None => fresh,
        };
        self.latency.set(Some((kept, now)));
        self.failures.set(0);
        self.rest_until.set(None);
    }

    /// It could not be reached: rests twice as long with each failure in a row.
    pub(crate) fn fail(&self, now: Instant, rest: Duration, rest_max: Duration) {
        let failures = self.failures.get();
        self.failures.set(failures.saturating_add(1));
        let span = rest.saturating_mul(1 << failures.min(16)).min(rest_max);
        self.rest_until.set(Some(now + span));
    }

    fn rests(&self, now: Instant) -> bool {
        self.rest_until.get().is_some_and(|until| until > now)
    }

    fn latency(&self, now: Instant) -> Option<f64> {
        let (latency, at) = self.latency.get()?;
        Some(latency * decay(now.saturating_duration_since(at)))
    }
}

fn decay(age: Duration) -> f64 {
    (-age.as_secs_f64() / DECAY.as_secs_f64()).exp()
}

/// Those who may be chosen, without a list of them being built for each request.
pub(crate) struct Field<'a, F: Fn(usize) -> Candidate<'a>> {
    pub(crate) len: usize,
    /// All weights are equal, so that a draw need not look at each.
    pub(crate) uniform: bool,
    pub(crate) candidate: F,
}

/// The index of the chosen candidate; none where all were tried.
pub(crate) fn pick<'a, F: Fn(usize) -> Candidate<'a>>(
    field: &Field<'a, F>,
    now: Instant,
    dice: &mut fastrand::Rng,
) -> Option<usize> {
    let Some(first) = field.draw(None, now, dice) else {
        return field.soonest();
    };
    let Some(second) = field.draw(Some(first), now, dice) else {
        return Some(first);
    };
    let (one, other) = ((field.candidate)(first), (field.candidate)(second));
    let (cost, other_cost) = costs(&one, &other, now);
    Some(if other_cost * TOLERANCE < cost { second } else { first })
}

impl<'a, F: Fn(usize) -> Candidate<'a>> Field<'a, F> {
    /// One open candidate, each with a chance in proportion to its weight.
    fn draw(&self, except: Option<usize>, now: Instant, dice: &mut fastrand::Rng) -> Option<usize> {
        let open = |index: usize| {
            let one = (self.candidate)(index);
            Some(index) != except && !one.tried && !one.stats.rests(now)
        };
        // Nearly always one of these is open; the long way is for when many are not.
        for _ in 0..if self.uniform && self.len > 0 { 4 } else { 0 } {
            let index = dice.usize(..self.len);
            if open(index) {
                return Some(index);
            }
        }
        let eligible = || (0..self.len).filter(|&index| open(index));
        let total: u64 = eligible().map(|index| u64::from(weight(&(self.candidate)(index)))).sum();
        if total == 0 {
            return None;
        }
        let mut mark = dice.u64(..total);
        for index in eligible() {
            match mark.checked_sub(u64::from(weight(&(self.candidate)(index)))) {
                Some(rest) => mark = rest,
                None => return Some(index),
            }
        }
        None
    }

    fn soonest(&self) -> Option<usize> {
        let untried = (0..self.len).filter(|&index| !(self.candidate)(index).tried);
        untried.min_by_key(|&index| (self.candidate)(index).stats.rest_until.get())
    }
}

/// A weight of zero keeps an endpoint as the last resort, not as a target: it counts as one among others' hundreds.
fn weight(one: &Candidate<'_>) -> u32 {
    match one.weight {
        0 => 1,
        weight => u32::from(weight) * 100,
    }
}

fn costs(one: &Candidate<'_>, other: &Candidate<'_>, now: Instant) -> (f64, f64) {
    let mean = f64::from(weight(one) + weight(other)) / 2.0;
    let load = |c: &Candidate<'_>| 1.0 + f64::from(c.stats.in_flight.get()) * mean / f64::from(weight(c));
    match (one.stats.latency(now), other.stats.latency(now)) {
        (Some(a), Some(b)) => (a * load(one), b * load(other)),
        // Nobody knows how slow a new one is: only load tells.
        _ => (load(one), load(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(weights: &[u16], stats: &[Stats], now: Instant, rounds: usize) -> Vec<f64> {
        let mut dice = fastrand::Rng::with_seed(7);
        let mut counts = vec![0usize; weights.len()];
        for _ in 0..rounds {
            let candidate = |i: usize| Candidate { weight: weights[i], stats: &stats[i], tried: false };
            let uniform = weights.iter().all(|weight| *weight == weights[0]);
            let field = Field { len: weights.len(), uniform, candidate };
            counts[pick(&field, now, &mut dice).unwrap()] += 1;
        }
        counts.iter().map(|&count| count as f64 / rounds as f64).collect()
    }

    fn stats(count: usize) -> Vec<Stats> {
        (0..count).map(|_| Stats::default()).collect()
    }

    fn near(share: f64, expected: f64) {
        assert!((share - expected).abs() < 0.02, "{share} is not near {expected}");
    }

    #[test]
    fn equal_endpoints_share_evenly() {
        for share in shares(&[1, 1, 1, 1], &stats(4), Instant::now(), 20_000) {
            near(share, 0.25);
        }
    }

    #[test]
    fn weights_decide_the_shares_of_idle_endpoints() {
        let shares = shares(&[1, 3, 6], &stats(3), Instant::now(), 20_000);
        near(shares[0], 0.1);
        near(shares[1], 0.3);
        near(shares[2], 0.6);
    }

    #[test]
    fn noise_in_latency_does_not_defeat_weights() {
        let (now, stats) = (Instant::now(), stats(2));
        stats[0].observe(Duration::from_micros(1000), now);
        stats[1].observe(Duration::from_micros(1300), now);
        let shares = shares(&[1, 1], &stats, now, 20_000);
        near(shares[0], 0.5);
    }

    #[test]
    fn a_slow_endpoint_gets_nothing_until_its_record_fades() {
        let (now, stats) = (Instant::now(), stats(2));
        stats[0].observe(Duration::from_millis(1), now);
        stats[1].observe(Duration::from_millis(500), now);
        near(shares(&[1, 1], &stats, now, 1000)[1], 0.0);
        let later = now + Duration::from_secs(70);
        stats[0].observe(Duration::from_millis(1), later);
        let share = shares(&[1, 1], &stats, later, 1000)[1];
        assert!(share > 0.4, "{share}");
    }

    #[test]
    fn load_moves_requests_away_in_proportion_to_weight() {
        let (now, stats) = (Instant::now(), stats(2));
        (0..10).for_each(|_| stats[0].begin());
        near(shares(&[1, 1], &stats, now, 1000)[0], 0.0);
        (0..10).for_each(|_| stats[0].end());
        near(shares(&[1, 1], &stats, now, 20_000)[0], 0.5);
    }

    #[test]
    fn failed_endpoints_rest_longer_each_time_and_come_back() {
        let (now, stats) = (Instant::now(), stats(2));
        let (rest, max) = (Duration::from_secs(1), Duration::from_secs(3));
        stats[0].fail(now, rest, max);
        near(shares(&[1, 1], &stats, now, 1000)[0], 0.0);
        near(shares(&[1, 1], &stats, now + rest, 20_000)[0], 0.5);
        stats[0].fail(now, rest, max);
        near(shares(&[1, 1], &stats, now + rest, 1000)[0], 0.0);
        (0..40).for_each(|_| stats[0].fail(now, rest, max));
        near(shares(&[1, 1], &stats, now + max, 20_000)[0], 0.5);
    }

    #[test]
    fn when_all_failed_the_first_to_recover_is_tried_and_each_only_once() {
        let (now, stats) = (Instant::now(), stats(2));
        stats[0].fail(now, Duration::from_secs(2), Duration::from_secs(2));
        stats[1].fail(now, Duration::from_secs(1), Duration::from_secs(2));
        let mut dice = fastrand::Rng::with_seed(1);
        let mut tried = [false, false];
        let mut order = vec![];
        for _ in 0..3 {
            let candidate = |i: usize| Candidate { weight: 1, stats: &stats[i], tried: tried[i] };
            let Some(index) = pick(&Field { len: 2, uniform: true, candidate }, now, &mut dice) else {
                break;
            };
            tried[index] = true;
            order.push(index);
        }
        assert_eq!(order, [1, 0]);
    }
}
