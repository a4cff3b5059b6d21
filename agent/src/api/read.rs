//! How reads are answered: consistency, blocking, and the headers that tell a client where it stands.
//!
//! What the agent follows is answered from its own view, which needs no server; everything else, and `?consistent`,
//! goes to a server.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, select_all, try_join_all};
use purlin_model::topic::{Contents, Topic};
use purlin_model::{Fault, Revision, duration};
use purlin_wire::rpc::{Ask, Consistency};
use serde_json::Value;

use super::Api;
use super::answer::{Answer, Failure};
use super::request::{Query, Request};
use crate::core::AskMeta;
use crate::filter::Filter;

/// Consul's figures: how long a blocking query waits when nobody says, and at most.
const DEFAULT_WAIT: Duration = Duration::from_secs(300);
const MAX_WAIT: Duration = Duration::from_secs(600);

/// What the query says about how to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mode {
    /// Answer once something is newer than this; zero: at once.
    pub(super) after: Revision,
    pub(super) wait: Duration,
    pub(super) consistency: Consistency,
    pub(super) cached: bool,
}

impl Mode {
    /// `spread` is a random share in 0..1 of the sixteenth that is added to the wait.
    pub(super) fn of(query: &Query, spread: f64) -> Result<Self, Failure> {
        let wait = match query.filled("wait") {
            None => DEFAULT_WAIT,
            Some(text) => duration::parse(text).map_err(|_| Failure::invalid("Invalid wait time"))?,
        };
        let wait = if wait.is_zero() { DEFAULT_WAIT } else { wait.min(MAX_WAIT) };
        let after = match query.filled("index") {
            None => 0,
            Some(text) => text.parse().map_err(|_| Failure::invalid("Invalid index"))?,
        };
        let (stale, consistent, cached) = (query.has("stale"), query.has("consistent"), query.has("cached"));
        if consistent && stale {
            return Err(Failure::invalid("Cannot specify ?stale with ?consistent, conflicting semantics."));
        }
        if consistent && cached {
            return Err(Failure::invalid("Cannot specify ?cached with ?consistent, conflicting semantics."));
        }
        let consistency = match (stale, consistent) {
            (true, _) => Consistency::Stale,
            (_, true) => Consistency::Consistent,
            _ => Consistency::Default,
        };
        let wait = wait + wait.div_f64(16.0).mul_f64(spread.clamp(0.0, 1.0));
        Ok(Self { after: Revision(after), wait, consistency, cached })
    }

    fn is_blocking(&self) -> bool {
        self.after > Revision(0)
    }
}

/// Where an answer's facts came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) index: Revision,
    pub(super) known_leader: bool,
    pub(super) last_contact_ms: u64,
    /// Absent: this agent's own view.
    pub(super) server: Option<Consistency>,
    pub(super) cached: bool,
}

impl Source {
    /// The headers of Consul's reads.
    pub(super) fn mark(&self, answer: Answer) -> Answer {
        let answer = answer
            .header("x-consul-index", self.index.0.max(1).to_string())
            .header("x-consul-knownleader", self.known_leader.to_string())
            .header("x-consul-lastcontact", self.last_contact_ms.to_string())
            .header("x-consul-default-acl-policy", "allow");
        let (backend, level) = match self.server {
            None => ("streaming", "stale"),
            Some(Consistency::Default) => ("blocking-query", "leader"),
            Some(Consistency::Consistent) => ("blocking-query", "consistent"),
            Some(Consistency::Stale) => ("blocking-query", "stale"),
        };
        let answer =
            answer.header("x-consul-query-backend", backend).header("x-consul-effective-consistency", level);
        if !self.cached {
            return answer;
        }
        answer.header("x-cache", if self.server.is_none() { "HIT" } else { "MISS" }).header("age", "0")
    }

    /// With an index that is not a revision.
    pub(super) fn at(self, index: u64) -> Self {
        Self { index: Revision(index), ..self }
    }

    /// A JSON answer with these headers.
    pub(super) fn json(&self, value: Value) -> Answer {
        self.mark(Answer::json(value))
    }
}

/// Topics that this agent follows: from its own view, unless the caller wants them confirmed by a leader.
pub(super) async fn followed<const N: usize>(
    api: &Api,
    request: &Request,
    topics: [Topic; N],
) -> Result<([Arc<Contents>; N], Source), Failure> {
    let mode = Mode::of(&request.query, fastrand::f64())?;
    followed_in(api, mode, topics).await
}

async fn followed_in<const N: usize>(
    api: &Api,
    mode: Mode,
    topics: [Topic; N],
) -> Result<([Arc<Contents>; N], Source), Failure> {
    if mode.consistency == Consistency::Consistent {
        return asked_in(api, mode, topics).await;
    }
    if mode.is_blocking() {
        let waits = topics.iter().map(|topic| api.core.wait_past(topic, mode.after, mode.wait).boxed());
        first(waits.collect()).await?;
    }
    let known = try_join_all(topics.iter().map(|topic| api.core.contents(topic))).await?;
    let known = array(known)?;
    let source = view_source(api, &known, mode.cached);
    Ok((known, source))
}

/// As `followed`, without waiting for a change: `?index` and `?wait` mean nothing.
pub(super) async fn now<const N: usize>(
    api: &Api,
    request: &Request,
    topics: [Topic; N],
) -> Result<([Arc<Contents>; N], Source), Failure> {
    let mode = Mode { after: Revision(0), ..Mode::of(&request.query, 0.0)? };
    followed_in(api, mode, topics).await
}

/// Topics as a server has them. Where none can be reached, `?stale` is content with what is here.
pub(super) async fn asked<const N: usize>(
    api: &Api,
    request: &Request,
    topics: [Topic; N],
) -> Result<([Arc<Contents>; N], Source), Failure> {
    let mode = Mode::of(&request.query, fastrand::f64())?;
    asked_in(api, mode, topics).await
}

async fn asked_in<const N: usize>(
    api: &Api,
    mode: Mode,
    topics: [Topic; N],
) -> Result<([Arc<Contents>; N], Source), Failure> {
    if mode.consistency == Consistency::Stale && !api.core.session().is_connected() {
        let known: Option<Vec<_>> = topics.iter().map(|topic| api.core.peek(topic)).collect();
        if let Some(known) = known {
            let known = array(known)?;
            let source = view_source(api, &known, mode.cached);
            return Ok((known, source));
        }
    }
    let answers = ask_all(api, mode, &topics).await?;
    let meta = worst(&answers);
    let known = array(answers.into_iter().map(|(contents, _)| Arc::new(contents)).collect())?;
    let source = Source {
        index: newest(&known),
        known_leader: meta.known_leader,
        last_contact_ms: meta.last_contact_ms,
        server: Some(mode.consistency),
        cached: mode.cached,
    };
    Ok((known, source))
}

async fn ask_all(api: &Api, mode: Mode, topics: &[Topic]) -> Result<Vec<(Contents, AskMeta)>, Fault> {
    let ask = |topic: &Topic, after, wait: Duration| Ask {
        topic: topic.clone(),
        consistency: mode.consistency,
        after,
        wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
    };
    if mode.is_blocking() {
        let waits = topics.iter().map(|topic| api.core.ask(ask(topic, mode.after, mode.wait)).boxed());
        let (answer, at) = first_at(waits.collect()).await?;
        if topics.len() == 1 {
            return Ok(vec![answer]);
        }
        // One is newer; the others are read as they are now.
        let mut answers = try_join_all(
            topics
                .iter()
                .enumerate()
                .filter(|(n, _)| *n != at)
                .map(|(_, topic)| api.core.ask(ask(topic, Revision(0), Duration::ZERO))),
        )
        .await?;
        answers.insert(at.min(answers.len()), answer);
        return Ok(answers);
    }
    try_join_all(topics.iter().map(|topic| api.core.ask(ask(topic, Revision(0), Duration::ZERO)))).await
}

async fn first<T>(waits: Vec<BoxFuture<'_, Result<T, Fault>>>) -> Result<T, Fault> {
    first_at(waits).await.map(|(value, _)| value)
}

async fn first_at<T>(waits: Vec<BoxFuture<'_, Result<T, Fault>>>) -> Result<(T, usize), Fault> {
    let (first, at, _) = select_all(waits).await;
    first.map(|value| (value, at))
}

fn array<const N: usize>(known: Vec<Arc<Contents>>) -> Result<[Arc<Contents>; N], Failure> {
    known.try_into().map_err(|_| Fault::internal("an answer is missing").into())
}

fn newest(known: &[Arc<Contents>]) -> Revision {
    known.iter().map(|contents| contents.revision).max().unwrap_or_default()
}

fn worst(answers: &[(Contents, AskMeta)]) -> AskMeta {
    AskMeta {
        known_leader: answers.iter().all(|(_, meta)| meta.known_leader),
        last_contact_ms: answers.iter().map(|(_, meta)| meta.last_contact_ms).max().unwrap_or_default(),
    }
}

/// Facts of this agent's own view, as old as its session is broken.
pub(super) fn view_source(api: &Api, known: &[Arc<Contents>], cached: bool) -> Source {
    let session = api.core.session();
    let connected = session.is_connected();
    let silent = api.core.config().clock.now().since(session.since);
    Source {
        index: newest(known),
        known_leader: connected,
        last_contact_ms: if connected { 0 } else { u64::try_from(silent.as_millis()).unwrap_or(u64::MAX) },
        server: None,
        cached,
    }
}

/// The `?filter` of a request, checked against `schema`.
pub(super) fn filter_of(
    request: &Request,
    schema: impl FnOnce() -> Value,
) -> Result<Option<Filter>, Failure> {
    match request.query.filled("filter") {
        None => Ok(None),
        Some(text) => Ok(Some(Filter::parse(text, &schema())?)),
    }
}

/// Keeps the items that `?filter` wants.
pub(super) fn filtered(
    request: &Request,
    schema: impl FnOnce() -> Value,
    mut items: Vec<Value>,
) -> Result<Vec<Value>, Failure> {
    if let Some(filter) = filter_of(request, schema)? {
        items.retain(|item| filter.keeps(item));
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn mode(text: &str) -> Result<Mode, Failure> {
        Mode::of(&Query::parse(text).unwrap(), 0.0)
    }

    #[test]
    fn waits_are_bounded_and_spread() {
        assert_eq!(mode("").unwrap().wait, DEFAULT_WAIT);
        assert_eq!(mode("index=7&wait=10s").unwrap().wait, Duration::from_secs(10));
        assert_eq!(mode("wait=2h").unwrap().wait, MAX_WAIT);
        let spread = Mode::of(&Query::parse("wait=16s").unwrap(), 1.0).unwrap();
        assert_eq!(spread.wait, Duration::from_secs(17));
        assert_eq!(mode("index=7").unwrap().after, Revision(7));
    }

    #[test]
    fn malformed_waits_are_refused_in_consuls_words() {
        assert_eq!(mode("index=x"), Err(Failure::invalid("Invalid index")));
        assert_eq!(mode("index=-1"), Err(Failure::invalid("Invalid index")));
        assert_eq!(mode("wait=10"), Err(Failure::invalid("Invalid wait time")));
        assert_eq!(mode("stale&consistent").unwrap_err().status, StatusCode::BAD_REQUEST);
        assert_eq!(mode("cached&consistent").unwrap_err().status, StatusCode::BAD_REQUEST);
        assert_eq!(mode("stale").unwrap().consistency, Consistency::Stale);
    }

    #[test]
    fn the_index_is_never_zero() {
        let source = Source {
            index: Revision(0),
            known_leader: true,
            last_contact_ms: 0,
            server: Some(Consistency::Default),
            cached: false,
        };
        let answer = source.json(Value::Null);
        let index = answer.headers.iter().find(|(name, _)| name.as_str() == "x-consul-index");
        assert_eq!(index.map(|(_, value)| value.as_bytes()), Some(&b"1"[..]));
    }
}
