//! What each type of watch asks, and what of an answer is news. Pure.

use serde_json::Value;

use super::WatchArgs;
use crate::client::{Path, Polled};
use crate::run::Usage;

/// Consul's types of watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum Kind {
    Key,
    Keyprefix,
    Services,
    Nodes,
    Service,
    Checks,
    Event,
    #[value(name = "connect_roots")]
    ConnectRoots,
    #[value(name = "connect_leaf")]
    ConnectLeaf,
    #[value(name = "agent_service")]
    AgentService,
}

/// What an answer says of itself, and the next question waits past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum At {
    Index(u64),
    Hash(String),
}

impl At {
    pub(super) fn of(polled: &Polled) -> Self {
        match &polled.hash {
            Some(hash) => Self::Hash(hash.clone()),
            None => Self::Index(polled.index.unwrap_or_default()),
        }
    }

    /// For the program; what has no index shows none.
    pub(super) fn index(&self) -> u64 {
        match self {
            Self::Index(index) => *index,
            Self::Hash(_) => 0,
        }
    }
}

#[derive(Debug)]
pub(super) struct Plan {
    kind: Kind,
    path: Path,
}

impl Plan {
    pub(super) fn of(args: &WatchArgs) -> Result<Self, Usage> {
        let service = || {
            let name = args.service.as_deref().filter(|name| !name.is_empty());
            name.ok_or_else(|| Usage("Must specify a single service to watch: --service".into()))
        };
        let some = |text: &Option<String>, what: &str| match text.as_deref() {
            None | Some("") => Err(Usage(format!("Must specify a single {what} to watch: --{what}"))),
            Some(text) => Ok(text.to_owned()),
        };
        let path = match args.kind {
            Kind::Key => Path::new(&["kv", &some(&args.key, "key")?]),
            Kind::Keyprefix => Path::new(&["kv", &some(&args.prefix, "prefix")?]).with("recurse", "true"),
            Kind::Services => Path::new(&["catalog", "services"]),
            Kind::Nodes => Path::new(&["catalog", "nodes"]),
            Kind::Service => {
                let path = Path::new(&["health", "service", service()?]);
                let path = if args.passingonly == Some(true) { path.with("passing", "true") } else { path };
                args.tag.iter().fold(path, |path, tag| path.with("tag", tag))
            }
            Kind::Checks => match (&args.service, &args.state) {
                (Some(_), Some(_)) => return Err(Usage("Cannot specify service and state".into())),
                (Some(_), None) => Path::new(&["health", "checks", service()?]),
                (None, state) => Path::new(&["health", "state", state.as_deref().unwrap_or("any")]),
            },
            Kind::Event => Path::new(&["event", "list"]).with_some("name", args.name.as_deref()),
            Kind::ConnectRoots => Path::new(&["agent", "connect", "ca", "roots"]),
            Kind::ConnectLeaf => Path::new(&["agent", "connect", "ca", "leaf", service()?]),
            Kind::AgentService => Path::new(&["agent", "service", service()?]),
        };
        let path = if args.stale { path.with("stale", "true") } else { path };
        Ok(Self { kind: args.kind, path })
    }

    /// The question, answered once there is something past `at`.
    pub(super) fn path(&self, at: Option<&At>) -> Path {
        match at {
            None => self.path.clone(),
            Some(At::Index(index)) => self.path.clone().with("index", &index.to_string()),
            Some(At::Hash(hash)) => self.path.clone().with("hash", hash),
        }
    }

    /// Whether an index went back. Those of events are made of their ids and go where they like.
    pub(super) fn fell(&self, last: &At, now: &At) -> bool {
        self.kind != Kind::Event && matches!((last, now), (At::Index(last), At::Index(now)) if now < last)
    }

    /// As Consul's watches show it: one key stands alone, not in a list of one.
    pub(super) fn shape(&self, value: Value) -> Value {
        match (self.kind, value) {
            (Kind::Key, Value::Array(items)) => items.into_iter().next().unwrap_or_default(),
            (_, value) => value,
        }
    }

    /// What of `now` was not in `last`; of events, those that came since.
    pub(super) fn news(&self, last: &Value, now: &Value) -> Option<Value> {
        if last == now {
            return None;
        }
        let (Kind::Event, Value::Array(now_events)) = (self.kind, now) else { return Some(now.clone()) };
        let newest = last.as_array().and_then(|last| last.last());
        let known =
            newest.and_then(|newest| now_events.iter().rposition(|event| event["ID"] == newest["ID"]));
        let fresh = now_events.get(known.map_or(0, |at| at + 1)..).unwrap_or_default();
        (!fresh.is_empty()).then(|| fresh.to_vec().into())
    }
}
