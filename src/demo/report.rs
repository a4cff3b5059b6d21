//! What the tour tells: steps on the terminal as they happen, or all of them as JSON at the end.

use std::time::Instant;

use serde::Serialize;

/// One thing shown: what anybody can type, and what was answered.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) command: String,
    pub(crate) output: String,
    pub(crate) ok: bool,
    pub(crate) ms: u64,
}

#[derive(Debug, Serialize)]
struct Summary<'a> {
    ok: bool,
    steps: &'a [Step],
}

/// Collects steps; says each at once, on standard error where standard output is for JSON.
#[derive(Debug)]
pub(crate) struct Report {
    json: bool,
    steps: Vec<Step>,
}

/// The answer to a step, and whether it is the one that was promised.
pub(crate) type Shown = (String, Result<(), String>);

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, steps: Vec::new() }
    }

    pub(crate) fn say(&self, line: &str) {
        if self.json {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
    }

    /// Runs and records a step. One that fails says why in its output.
    pub(crate) async fn step<F: Future<Output = anyhow::Result<Shown>>>(
        &mut self,
        name: &str,
        command: &str,
        show: F,
    ) {
        self.say(&format!("\n{}. {name}\n   $ {command}", self.steps.len() + 1));
        let start = Instant::now();
        let (mut output, verdict) = match show.await {
            Ok(shown) => shown,
            Err(error) => (String::new(), Err(format!("{error:#}"))),
        };
        if let Err(why) = &verdict {
            output = format!("{output}\nfailed: {why}").trim_start().to_owned();
        }
        for line in output.lines() {
            self.say(&format!("   {line}"));
        }
        let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (name, command) = (name.to_owned(), command.to_owned());
        self.steps.push(Step { name, command, output, ok: verdict.is_ok(), ms });
    }

    pub(crate) fn ok(&self) -> bool {
        !self.steps.is_empty() && self.steps.iter().all(|step| step.ok)
    }

    /// Ends the tour: the JSON, or one line that says how it went.
    pub(crate) fn finish(&self) -> anyhow::Result<()> {
        if self.json {
            println!("{}", serde_json::to_string(&Summary { ok: self.ok(), steps: &self.steps })?);
            return Ok(());
        }
        let good = self.steps.iter().filter(|step| step.ok).count();
        self.say(&format!("\n{good} of {} steps did what they say.", self.steps.len()));
        Ok(())
    }
}
