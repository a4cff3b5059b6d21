//! Durations as operators write them: Go's form, as Consul takes it (`10s`, `1m30s`, `250ms`, `72h`).

use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration: write a number with a unit, such as \"10s\", \"250ms\" or \"1h30m\"")]
pub struct DurationError {
    text: String,
}

/// Parses Go's duration form. Negative spans are refused: nothing here can last less than no time.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let refuse = || DurationError { text: text.chars().take(40).collect() };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos = 0f64;
    if rest.is_empty() {
        return Err(refuse());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(refuse)?;
        let number: f64 = rest[..digits].parse().map_err(|_| refuse())?;
        rest = &rest[digits..];
        let unit_len = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..unit_len] {
            "ns" => 1f64,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(refuse()),
        };
        nanos += number * unit;
        rest = &rest[unit_len..];
    }
    if !nanos.is_finite() || nanos > i64::MAX as f64 {
        return Err(refuse());
    }
    Ok(Duration::from_nanos(nanos as u64))
}

/// Formats as Go does: `1m30s`, `250ms`, `0s`.
pub fn format(span: Duration) -> String {
    let nanos = span.as_nanos();
    if nanos == 0 {
        return "0s".into();
    }
    if nanos < 1_000_000_000 {
        let (value, unit) = match nanos {
            n if n >= 1_000_000 => (nanos as f64 / 1e6, "ms"),
            n if n >= 1_000 => (nanos as f64 / 1e3, "µs"),
            _ => (nanos as f64, "ns"),
        };
        return format!("{value}{unit}");
    }
    let seconds = span.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let fraction = f64::from(span.subsec_nanos()) / 1e9 + (seconds % 60) as f64;
    match (hours, minutes) {
        (0, 0) => format!("{fraction}s"),
        (0, m) => format!("{m}m{fraction}s"),
        (h, m) => format!("{h}h{m}m{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_go_durations() {
        for (text, millis) in
            [("10s", 10_000), ("1m30s", 90_000), ("250ms", 250), ("1.5h", 5_400_000), ("0", 0)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(format(Duration::from_secs(90)), "1m30s");
        assert_eq!(format(Duration::from_secs(259_200)), "72h0m0s");
        assert_eq!(format(Duration::from_millis(250)), "250ms");
    }

    #[test]
    fn refuses_what_is_no_duration() {
        for text in ["", "10", "s", "-5s", "10x", "1..5s", "999999999999h"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
