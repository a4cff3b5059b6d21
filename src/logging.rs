//! Logs of the process: structured lines on standard error, a filter that can change while it runs, and a tap for
//! whoever follows them over the API.

use std::io::{IsTerminal, Write};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use purlin_agent::api::{LogRequest, LogTap};
use purlin_agent::config::LogFilter;
use tokio::sync::mpsc;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// Lines that one follower may fall behind before it misses some.
const FOLLOWER_LINES: usize = 1024;
const FOLLOWERS: usize = 16;
const LEVELS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "off"];
/// Of a filter.
const FILTER_BYTES: usize = 4096;

/// They speak of much that is nobody's business but theirs. What befalls Raft is told by our own part of it.
const LIBRARIES: [(&str, &str); 3] = [("openraft", "off"), ("sled", "warn"), ("quinn", "warn")];

type Set = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// What the rest of the process may do with its logs.
#[derive(Clone)]
pub struct Logs {
    set: Set,
    followers: Followers,
    gates: Gates,
}

impl std::fmt::Debug for Logs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Logs")
    }
}

/// Who follows, and how.
#[derive(Clone, Default)]
struct Followers(Arc<Mutex<Vec<Follower>>>);

struct Follower {
    level: Level,
    json: bool,
    lines: mpsc::Sender<String>,
}

/// Lets through to followers of each form what any of them wants. Shut, it spares the whole process the question: what
/// libraries tell of every frame is then dropped where it is said.
#[derive(Clone)]
struct Gates {
    text: reload::Handle<LevelFilter, Registry>,
    json: reload::Handle<LevelFilter, Registry>,
    /// One sets them at a time, so that the last one to look is the last one to set.
    turn: Arc<Mutex<()>>,
}

/// Formatted lines of one form, on their way to those who follow in that form.
#[derive(Clone)]
struct Tap {
    followers: Followers,
    json: bool,
}

/// One line being written.
struct Line {
    tap: Tap,
    level: Level,
    bytes: Vec<u8>,
}

impl Followers {
    fn with<T>(&self, act: impl FnOnce(&mut Vec<Follower>) -> T) -> T {
        // The list is whole after each use, so a panic elsewhere does not spoil it.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, request: &LogRequest) -> Result<(mpsc::Sender<String>, mpsc::Receiver<String>), String> {
        let level = Level::from_str(&request.level).map_err(|_| {
            format!("unknown log level {:?}: trace, debug, info, warn or error", request.level)
        })?;
        let (lines, receiver) = mpsc::channel(FOLLOWER_LINES);
        self.with(|all| {
            all.retain(|one| !one.lines.is_closed());
            if all.len() >= FOLLOWERS {
                return Err(format!("{FOLLOWERS} others follow the logs already"));
            }
            all.push(Follower { level, json: request.json, lines: lines.clone() });
            Ok((lines, receiver))
        })
    }

    /// The most that anybody wants to hear in that form.
    fn wanted(&self, json: bool) -> LevelFilter {
        self.with(|all| {
            all.retain(|one| !one.lines.is_closed());
            let levels = all.iter().filter(|one| one.json == json).map(|one| one.level);
            levels.max().map_or(LevelFilter::OFF, LevelFilter::from_level)
        })
    }
}

impl Gates {
    fn set(&self, followers: &Followers) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        for (gate, json) in [(&self.text, false), (&self.json, true)] {
            // It fails only when there are no logs any more.
            let _ = gate.reload(followers.wanted(json));
        }
    }
}

impl<'a> MakeWriter<'a> for Tap {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { tap: self.clone(), level: Level::ERROR, bytes: Vec::new() }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line {
        Line { tap: self.clone(), level: *metadata.level(), bytes: Vec::new() }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.bytes);
        self.tap.followers.with(|all| {
            all.retain(|one| !one.lines.is_closed());
            for one in all.iter().filter(|one| one.json == self.tap.json && self.level <= one.level) {
                // A follower that is too slow misses lines; nobody waits for it.
                let _ = one.lines.try_send(text.trim_end().to_owned());
            }
        });
    }
}

/// Parses a filter such as `info` or `info,purlin_agent=debug`; Consul's upper-case levels and `err` are taken, too.
fn parse(filter: &str) -> Result<EnvFilter, String> {
    let filter: String = filter.to_ascii_lowercase().split(',').map(str::trim).collect::<Vec<_>>().join(",");
    let level = match filter.as_str() {
        "err" => "error",
        "warning" => "warn",
        other => other,
    };
    if level.is_empty() {
        return Err("write a level (trace, debug, info, warn, error, off) or levels by module".into());
    }
    if level.len() > FILTER_BYTES {
        return Err(format!("a log filter may have {FILTER_BYTES} bytes, not {}", level.len()));
    }
    // A misspelt level would count as the name of a module, and all others would fall silent.
    let is_unknown = |one: &&str| !one.contains(['=', '[']) && !LEVELS.contains(&one.trim());
    if let Some(unknown) = level.split(',').find(is_unknown) {
        return Err(format!(
            "{unknown:?} is not a log level; write trace, debug, info, warn, error or off, or levels by module: \
             info,purlin_agent=debug"
        ));
    }
    // A level is about us; what libraries tell of their insides is for who asks for it by module.
    let unnamed = LIBRARIES.iter().filter(|(library, _)| !level.contains(library));
    let quiet = unnamed.map(|(library, level)| format!("{library}={level}"));
    let directives = quiet.chain([level.to_owned()]).collect::<Vec<_>>().join(",");
    EnvFilter::try_new(directives).map_err(|error| {
        format!("{error}; write a level (trace, debug, info, warn, error, off) or levels by module: info,purlin_agent=debug")
    })
}

impl Logs {
    /// Starts logging for the process. `json`: one object a line.
    pub fn start(filter: &str, json: bool) -> Result<Self, String> {
        let (filter, handle) = reload::Layer::<EnvFilter, Registry>::new(parse(filter)?);
        let colours = !json && std::io::stderr().is_terminal();
        let writer = fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
        let printed = if json { writer.json().boxed() } else { writer.boxed() };
        let followers = Followers::default();
        let tap = |json| Tap { followers: followers.clone(), json };
        let (follow_text, text) = reload::Layer::new(LevelFilter::OFF);
        let (follow_json, json) = reload::Layer::new(LevelFilter::OFF);
        let layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = vec![
            printed.with_filter(filter).boxed(),
            fmt::layer().with_ansi(false).with_writer(tap(false)).with_filter(follow_text).boxed(),
            fmt::layer().json().with_writer(tap(true)).with_filter(follow_json).boxed(),
        ];
        tracing_subscriber::registry().with(layers).try_init().map_err(|error| error.to_string())?;
        let set = move |filter: &str| {
            let filter = parse(filter)?;
            handle.reload(filter).map_err(|error| error.to_string())
        };
        let gates = Gates { text, json, turn: Arc::default() };
        Ok(Self { set: Arc::new(set), followers, gates })
    }

    pub fn set(&self, filter: &str) -> Result<(), String> {
        (self.set)(filter)
    }

    /// For the agent's API.
    pub fn filter(&self) -> LogFilter {
        LogFilter(self.set.clone())
    }

    /// For the proxy.
    pub fn hook(&self) -> Set {
        self.set.clone()
    }

    /// For `agent/monitor`.
    pub fn tap(&self) -> LogTap {
        let logs = self.clone();
        LogTap(Arc::new(move |request: &LogRequest| {
            let (lines, receiver) = logs.followers.add(request)?;
            logs.gates.set(&logs.followers);
            let logs = logs.clone();
            tokio::spawn(async move {
                lines.closed().await;
                logs.gates.set(&logs.followers);
            });
            Ok(receiver)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_nobody_wants_to_hear_is_dropped_where_it_is_said() {
        let logs = Logs::start("info", true).unwrap();
        assert_eq!(LevelFilter::current(), LevelFilter::INFO);
        let request = |json| LogRequest { level: "debug".into(), json };
        let mut lines = (logs.tap().0)(&request(false)).unwrap();
        let mut others = (logs.tap().0)(&request(true)).unwrap();
        assert_eq!(LevelFilter::current(), LevelFilter::DEBUG);
        tracing::debug!("for those who follow");
        assert!(lines.recv().await.unwrap().contains("DEBUG"));
        assert!(others.recv().await.unwrap().starts_with('{'));
        drop((lines, others));
        while LevelFilter::current() != LevelFilter::INFO {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn levels_and_levels_by_module_are_taken() {
        for filter in ["info", "WARN", "err", "off", "info,purlin_agent=debug", "warn, purlin_proxy=trace"] {
            assert!(parse(filter).is_ok(), "{filter}");
        }
    }

    #[test]
    fn a_misspelt_level_silences_nothing() {
        for filter in ["dbug", "info,purlin_agent", "", "5", "info,,warn", "purlin=loud"] {
            assert!(parse(filter).is_err(), "{filter}");
        }
        assert!(parse(&"a=info,".repeat(1_000)).is_err());
    }
}
