//! The tour: what a mesh is for, each step with a command that anybody can type and the answer it really gave.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hyper::StatusCode;

use super::apps::{App, get};
use super::dig::{self, RecordType};
use super::relay::{Seen, Tap};
use super::report::{Report, Shown};

/// A change is in force everywhere within this, or the step fails.
const SETTLE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(100);
/// Calls in a row that must be answered by the healthy instance.
const CALLS: usize = 10;
/// So much of an answer is shown.
const SHOWN_BYTES: usize = 4000;

/// Where everything is.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) binary: PathBuf,
    pub(crate) domain: String,
    /// The HTTP API and DNS of the host of `web`, and the API of the host of `api` v1.
    pub(crate) api: SocketAddr,
    pub(crate) dns: SocketAddr,
    pub(crate) api_of_v1: SocketAddr,
    pub(crate) web: SocketAddr,
    pub(crate) tap: Tap,
    pub(crate) v1: Option<App>,
}

pub(crate) async fn walk(stage: &mut Stage, report: &mut Report) {
    discover(stage, report).await;
    authorize(stage, report).await;
    prove(stage, report).await;
    fail_over(stage, report).await;
}

fn verdict(good: bool, why: &str) -> Result<(), String> {
    if good { Ok(()) } else { Err(why.to_owned()) }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_BYTES) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.trim_end().to_owned(),
    }
}

/// Repeats `show` until it shows what it should or `SETTLE` is over; then what it showed last.
async fn settled<F: Future<Output = anyhow::Result<Shown>>>(
    mut show: impl FnMut() -> F,
) -> anyhow::Result<Shown> {
    let start = Instant::now();
    loop {
        match show().await {
            Ok((output, Ok(()))) => return Ok((output, Ok(()))),
            other if start.elapsed() > SETTLE => return other,
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

impl Stage {
    /// Runs this binary as an operator would.
    async fn purlin(&self, words: &[&str]) -> anyhow::Result<String> {
        let address = format!("--http-addr={}", self.api);
        let run =
            tokio::process::Command::new(&self.binary).args(words).arg(address).stdin(Stdio::null()).output();
        let output = tokio::time::timeout(SETTLE, run).await.context("the command took too long")??;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("{}: {}{}", output.status, said, String::from_utf8_lossy(&output.stderr));
        }
        Ok(said)
    }

    fn typed(&self, words: &[&str]) -> String {
        format!("purlin {} --http-addr={}", words.join(" "), self.api)
    }

    fn curl(&self, path: &str) -> String {
        format!("curl 'http://{}{path}'", self.api)
    }

    async fn json(api: SocketAddr, path: &str) -> anyhow::Result<(String, serde_json::Value)> {
        let (status, body) = get(api, path).await?;
        if status != StatusCode::OK {
            bail!("{path}: {status} {body}");
        }
        let value = serde_json::from_str(&body)?;
        Ok((body, value))
    }

    async fn call_web(&self) -> anyhow::Result<(StatusCode, String)> {
        get(self.web, "/").await
    }

    /// The connection between the proxies that carried the most.
    fn busiest(&self) -> anyhow::Result<Seen> {
        let seen =
            self.tap.connections().into_iter().max_by_key(|seen| seen.sent.len() + seen.received.len());
        seen.context("no connection passed between the proxies")
    }
}

async fn discover(stage: &Stage, report: &mut Report) {
    let name = format!("api.service.{}", stage.domain);
    let dig = |kind: &str| {
        format!("dig @{} -p {} +noall +answer {name} {kind}", stage.dns.ip(), stage.dns.port())
            .trim_end()
            .to_owned()
    };
    let ask = |kind| {
        let name = name.clone();
        settled(move || {
            let name = name.clone();
            async move {
                let answers = dig::ask(stage.dns, &name, kind).await?;
                let two = verdict(answers.len() == 2, "two instances of api were expected");
                Ok((answers.join("\n"), two))
            }
        })
    };
    report.step("DNS finds the two instances of api", &dig("A"), ask(RecordType::A)).await;
    report.step("DNS tells their ports as well", &dig("SRV"), ask(RecordType::SRV)).await;

    let path = "/v1/health/service/api?passing";
    let found = settled(|| async {
        let (body, value) = Stage::json(stage.api, path).await?;
        let two = value.as_array().is_some_and(|entries| entries.len() == 2);
        Ok((cut(&body), verdict(two, "two healthy instances of api were expected")))
    });
    report.step("the API finds them", &stage.curl(path), found).await;

    let words = ["catalog", "services"];
    let listed = async {
        let output = stage.purlin(&words).await?;
        let both = verdict(output.contains("web") && output.contains("api"), "web and api were expected");
        Ok((output, both))
    };
    report.step("and so does the command line", &stage.typed(&words), listed).await;
}

async fn authorize(stage: &Stage, report: &mut Report) {
    let command = format!("curl http://{}/", stage.web);
    let refused = settled(|| async {
        let (status, body) = stage.call_web().await?;
        let right = status == StatusCode::FORBIDDEN && body.contains("purlin intention create");
        Ok((format!("HTTP {status}\n{body}"), verdict(right, "a 403 that names the way out was expected")))
    });
    report.step("web may not call api: no intention allows it", &command, refused).await;

    let words = ["intention", "create", "web", "api"];
    let created = async { Ok((stage.purlin(&words).await?, Ok(()))) };
    report.step("so an operator allows it", &stage.typed(&words), created).await;

    let allowed = settled(|| async {
        let (status, body) = stage.call_web().await?;
        let right = status == StatusCode::OK && body.contains("hello from api");
        Ok((format!("HTTP {status}\n{body}"), verdict(right, "the answer of api was expected")))
    });
    report.step("and the call goes through", &command, allowed).await;
}

async fn prove(stage: &Stage, report: &mut Report) {
    let path = |service: &str| format!("/v1/agent/connect/ca/leaf/{service}");
    let command =
        format!("curl http://{}{}; curl http://{}{}", stage.api, path("web"), stage.api_of_v1, path("api"));
    let proved = async {
        // Through the relay until a whole handshake with the first host has been seen.
        let (_, seen) = settled(|| async {
            let (_, body) = stage.call_web().await?;
            let complete = stage.tap.connections().iter().any(|seen| seen.negotiated().is_some());
            Ok((body, verdict(complete, "no handshake between the proxies was seen")))
        })
        .await?;
        seen.map_err(anyhow::Error::msg)?;
        let negotiated = stage.busiest()?.negotiated().context("no ServerHello was seen")?;
        let (_, answer) = stage.call_web().await?;
        let caller =
            answer.lines().find(|line| line.starts_with("caller:")).unwrap_or("caller: none").to_owned();
        let (_, web) = Stage::json(stage.api, &path("web")).await?;
        let (_, api) = Stage::json(stage.api_of_v1, &path("api")).await?;
        let text = |leaf: &serde_json::Value, key: &str| leaf[key].as_str().unwrap_or("?").to_owned();
        let line = |who: &str, leaf: &serde_json::Value| {
            let (uri, from, to) =
                (text(leaf, "ServiceURI"), text(leaf, "ValidAfter"), text(leaf, "ValidBefore"));
            format!("{who}: {uri}\n        valid {from} to {to}")
        };
        let output = format!(
            "{}\n{}\n{} with key exchange {}\nas the proxy of api told it, {caller}",
            line("client", &web),
            line("server", &api),
            negotiated.version,
            negotiated.key_exchange
        );
        let right = negotiated.version == "TLS 1.3"
            && text(&web, "ServiceURI").ends_with("/svc/web")
            && text(&api, "ServiceURI").ends_with("/svc/api")
            && caller.contains(&text(&web, "ServiceURI"));
        Ok((output, verdict(right, "both identities, over TLS 1.3, were expected")))
    };
    report.step("who called whom: the two certificates", &command, proved).await;

    let sniffed = async {
        let seen = stage.busiest()?;
        let first: Vec<String> = seen.sent.iter().take(24).map(|byte| format!("{byte:02x}")).collect();
        let output = format!(
            "{} bytes to api, {} bytes back, all of them TLS records; the first: {}",
            seen.sent.len(),
            seen.received.len(),
            first.join(" ")
        );
        let secret = seen.is_tls() && !seen.contains(b"hello from api");
        Ok((output, verdict(secret, "something else than TLS passed between the proxies")))
    };
    let relay = "(a relay between the proxies kept what passed: what tcpdump -X would show)";
    report.step("what a stranger on the network sees", relay, sniffed).await;
}

async fn fail_over(stage: &mut Stage, report: &mut Report) {
    let calls = format!("for i in $(seq {CALLS}); do curl -s http://{}/; done", stage.web);
    let spread = settled(|| async {
        let (lines, v1, v2) = count(stage, 2 * CALLS).await?;
        Ok((lines, verdict(v1 > 0 && v2 > 0, "both versions of api were expected to answer")))
    });
    report.step("both versions of api answer", &calls, spread).await;

    // Its listener and connections are closed with it.
    drop(stage.v1.take());
    let stage = &*stage;
    let moved = settled(|| async {
        let (lines, v1, v2) = count(stage, CALLS).await?;
        Ok((lines, verdict(v1 == 0 && v2 == CALLS, "version 2 alone was expected to answer")))
    });
    let killed = format!("kill <api v1>; {calls}");
    report.step("api v1 is killed, and traffic moves to v2", &killed, moved).await;

    let path = "/v1/health/service/api";
    let after = settled(|| async {
        let (_, value) = Stage::json(stage.api, path).await?;
        let mut lines = Vec::new();
        let mut healthy = Vec::new();
        for entry in value.as_array().into_iter().flatten() {
            let statuses =
                entry["Checks"].as_array().into_iter().flatten().filter_map(|check| check["Status"].as_str());
            let bad = statuses.clone().any(|status| status == "critical");
            let id = entry["Service"]["ID"].as_str().unwrap_or("?").to_owned();
            let node = entry["Node"]["Node"].as_str().unwrap_or("?");
            lines.push(format!("{id} on {node}: {}", statuses.collect::<Vec<_>>().join(", ")));
            if !bad {
                healthy.push(id);
            }
        }
        Ok((
            lines.join("\n"),
            verdict(healthy == ["api-v2"] && lines.len() == 2, "v1 critical, v2 passing was expected"),
        ))
    });
    report.step("the catalog knows", &stage.curl(path), after).await;
}

/// Calls through web; a line of what was answered, and how often each version did.
async fn count(stage: &Stage, calls: usize) -> anyhow::Result<(String, usize, usize)> {
    let (mut v1, mut v2, mut other) = (0, 0, Vec::new());
    for _ in 0..calls {
        let (status, body) = stage.call_web().await?;
        match body {
            body if body.contains("hello from api v1") => v1 += 1,
            body if body.contains("hello from api v2") => v2 += 1,
            body => other.push(format!("{status} {}", body.trim_end())),
        }
    }
    let line = format!("{calls} calls: {v1} answered by v1, {v2} by v2, {} by nobody", other.len());
    Ok(([vec![line], other].concat().join("\n"), v1, v2))
}
