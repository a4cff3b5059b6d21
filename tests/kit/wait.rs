//! Waiting for a state, with a limit; never for a span of time.

use std::time::{Duration, Instant};

/// Asks `state` again and again until it answers; panics with the last refusal after `limit`.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut state: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match state() {
            Ok(value) => return value,
            Err(why) if start.elapsed() > limit => panic!("{what}: not within {limit:?}: {why}"),
            Err(_) => std::thread::sleep(Duration::from_millis(25)),
        }
    }
}

pub const SOON: Duration = Duration::from_secs(10);
pub const LONG: Duration = Duration::from_secs(40);
