//! Regular expressions that come from outside: bounded in what they take when they are compiled, and told in one line.

use regex::{Regex, RegexBuilder};

/// Memory that one compiled expression may take.
const BYTES: usize = 256 * 1024;

/// The expression, or what is wrong with it.
pub fn compile(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text).size_limit(BYTES).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "it would take too much memory: make it simpler".into(),
        // The parser draws the place below the expression; the last line says what is wrong.
        other => {
            let text = other.to_string();
            let last = text.lines().last().unwrap_or_default();
            last.strip_prefix("error: ").unwrap_or(last).to_owned()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::compile;

    #[test]
    fn faults_are_one_line() {
        assert!(compile("^web-[0-9]+$").is_ok_and(|found| found.is_match("web-12")));
        assert_eq!(compile("(").unwrap_err(), "unclosed group");
        assert!(compile("(a{1000}){1000}").unwrap_err().contains("memory"));
        assert!(compile(r"^(\w+)-(\w+)-(\d+)$").is_ok(), "ordinary ones fit");
    }
}
