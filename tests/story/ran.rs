//! A command that ran to its end: how it ended, and what it said where.

use crate::kit::Host;
use crate::kit::mesh::PURLIN;

/// Longer than any command may take that is not meant to go on.
const LIMIT: &str = "25";

pub struct Ran {
    typed: String,
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Runs `purlin` with these words on a host.
    pub fn purlin(host: &Host, args: &[&str]) -> Self {
        Self::with(host, &[], args)
    }

    /// The same with variables in its environment.
    pub fn with(host: &Host, env: &[(&str, &str)], args: &[&str]) -> Self {
        let mut command = host.command("timeout");
        command.args([LIMIT, PURLIN]).args(args).envs(env.iter().copied());
        let output = command.output().unwrap_or_else(|error| panic!("purlin on {}: {error}", host.name));
        Self {
            typed: format!("purlin {}", args.join(" ")),
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn told(&self) -> String {
        format!("{}: exit code {:?}\nstdout: {}\nstderr: {}", self.typed, self.code, self.out, self.err)
    }

    /// It did what it should and complained of nothing; what it printed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.code == Some(0) && self.err.is_empty(), "{}", self.told());
        self.out
    }

    /// It printed one JSON document and nothing else.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let told = self.told();
        serde_json::from_str(&self.ok()).unwrap_or_else(|error| panic!("{error}: {told}"))
    }

    /// It ended with `code`, printed nothing on standard output and one line of error, which has all these words.
    /// Lines of the log of a part that was already up do not count. Returns the line.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) -> String {
        assert!(self.code == Some(code) && self.out.is_empty(), "{} was expected: {}", code, self.told());
        let is_log = |line: &&str| line.starts_with("20") && line.contains('Z');
        let lines: Vec<&str> = self.err.lines().filter(|line| !is_log(line)).collect();
        assert!(
            lines.len() == 1 && lines[0].starts_with("purlin: "),
            "one line was expected: {}",
            self.told()
        );
        has(lines[0], words);
        lines[0].to_owned()
    }

    /// It was typed wrong: code 2, and what is right on standard error.
    #[track_caller]
    pub fn is_misused(self, words: &[&str]) {
        assert!(self.code == Some(2) && self.out.is_empty(), "{}", self.told());
        has(&self.err, words);
    }
}

/// A text has all these words, in any case.
#[track_caller]
pub fn has(text: &str, words: &[&str]) {
    let lower = text.to_lowercase();
    for word in words {
        assert!(lower.contains(&word.to_lowercase()), "no {word:?} in: {text}");
    }
}
