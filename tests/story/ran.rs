//! A command that ran to its end: how it ended, and what it said where.

use std::fs::File;
use std::io::{Read, Seek};

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
        // Files, not pipes: a proxy that outlives an agent would keep those open.
        let [(out, mut said), (err, mut complained)] = [(); 2].map(|()| {
            let file = tempfile::tempfile().expect("a file for what it says");
            (file.try_clone().expect("a second handle"), file)
        });
        let status = command.stdout(out).stderr(err).status();
        let status = status.unwrap_or_else(|error| panic!("purlin on {}: {error}", host.name));
        Self {
            typed: format!("purlin {}", args.join(" ")),
            code: status.code(),
            out: whole(&mut said),
            err: whole(&mut complained),
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
    pub fn was_misused(self, words: &[&str]) {
        assert!(self.code == Some(2) && self.out.is_empty(), "{}", self.told());
        has(&self.err, words);
    }
}

fn whole(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    read.unwrap_or_else(|error| panic!("what a command said: {error}"));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A text has all these words, in any case.
#[track_caller]
pub fn has(text: &str, words: &[&str]) {
    let lower = text.to_lowercase();
    for word in words {
        assert!(lower.contains(&word.to_lowercase()), "no {word:?} in: {text}");
    }
}
