//! Several holders: each contender holds a key of its own by its session, and a common key lists those that have a
//! place. A contender whose session is gone loses its place to the next who looks.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::{Found, look, put};
use crate::client::{Client, Path};

/// The number by which clients of Consul know such keys.
const FLAGS: u64 = 0xe0f6_9a2b_aa41_4de0;

pub(super) struct Semaphore {
    client: Client,
    prefix: String,
    session: String,
    limit: u32,
}

/// What the common key holds, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Places {
    limit: u32,
    holders: BTreeMap<String, bool>,
}

/// The keys below the prefix, read.
struct State {
    places: Places,
    /// Of the common key; zero: it is not there.
    index: u64,
}

impl Semaphore {
    pub(super) fn new(client: Client, prefix: &str, session: &str, limit: u32) -> Self {
        Self { client, prefix: prefix.into(), session: session.into(), limit }
    }

    fn common(&self) -> Path {
        Path::new(&["kv", &format!("{}/.lock", self.prefix)])
    }

    fn own(&self) -> Path {
        Path::new(&["kv", &format!("{}/{}", self.prefix, self.session)])
    }

    /// Waits for a change below the prefix. Whoever has a place but no session any more is left out.
    async fn state(&self, index: &mut u64) -> anyhow::Result<State> {
        let tree = Path::new(&["kv", &format!("{}/", self.prefix)]).with("recurse", "");
        let found = look(&self.client, tree, index).await?;
        read(&format!("{}/.lock", self.prefix), &found, self.limit)
    }

    async fn put_places(&self, state: &State) -> anyhow::Result<bool> {
        let path = self.common().with("cas", &state.index.to_string()).with("flags", &FLAGS.to_string());
        put(&self.client, path, serde_json::to_vec(&state.places)?).await
    }

    pub(super) async fn acquire(&self) -> anyhow::Result<()> {
        let path = self.own().with("acquire", &self.session).with("flags", &FLAGS.to_string());
        if !put(&self.client, path, Vec::new()).await? {
            bail!("the session {} cannot contend at {}", self.session, self.prefix);
        }
        let mut index = 0;
        loop {
            let mut state = self.state(&mut index).await?;
            if state.places.holders.len() >= self.limit as usize {
                continue;
            }
            state.places.holders.insert(self.session.clone(), true);
            if self.put_places(&state).await? {
                return Ok(());
            }
            index = 0;
        }
    }

    /// Waits for a change, then tells.
    pub(super) async fn holds(&self, index: &mut u64) -> anyhow::Result<bool> {
        Ok(self.state(index).await?.places.holders.contains_key(&self.session))
    }

    async fn give_back(&self) -> anyhow::Result<()> {
        loop {
            let mut state = self.state(&mut 0).await?;
            if state.places.holders.remove(&self.session).is_none() || self.put_places(&state).await? {
                return Ok(());
            }
        }
    }

    /// Gives the place back, and removes what nobody needs any more.
    pub(super) async fn release(&self) -> anyhow::Result<()> {
        let given_back = self.give_back().await;
        // Who could not even contend leaves nothing behind either.
        self.client.delete(self.own()).await?;
        given_back?;
        let state = self.state(&mut 0).await?;
        if state.places.holders.is_empty() && state.index > 0 {
            self.client.delete(self.common().with("cas", &state.index.to_string())).await?;
        }
        Ok(())
    }
}

fn read(common: &str, found: &[Found], limit: u32) -> anyhow::Result<State> {
    let alive: BTreeSet<&str> =
        found.iter().filter(|one| one.key != common).filter_map(|one| one.session.as_deref()).collect();
    let Some(lock) = found.iter().find(|one| one.key == common) else {
        return Ok(State { places: Places { limit, holders: BTreeMap::new() }, index: 0 });
    };
    if lock.flags != FLAGS {
        bail!("the key {common} is there and no semaphore: choose another prefix");
    }
    let mut places: Places =
        serde_json::from_slice(&lock.value).with_context(|| format!("the key {common} is no semaphore"))?;
    if places.limit != limit {
        bail!("the semaphore at {common} has {} places, not {limit}", places.limit);
    }
    places.holders.retain(|session, _| alive.contains(session.as_str()));
    Ok(State { places, index: lock.modify_index })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(key: &str, session: Option<&str>, value: &str) -> Found {
        Found {
            key: key.into(),
            value: value.into(),
            flags: FLAGS,
            session: session.map(str::to_owned),
            modify_index: 7,
        }
    }

    #[test]
    fn who_has_no_session_any_more_has_no_place() {
        let places = r#"{"Limit":2,"Holders":{"a":true,"b":true}}"#;
        let keys = [found("s/.lock", None, places), found("s/a", Some("a"), ""), found("s/b", None, "")];
        let state = read("s/.lock", &keys, 2).unwrap();
        assert_eq!(
            (state.places.holders.into_keys().collect::<Vec<_>>(), state.index),
            (vec!["a".to_owned()], 7)
        );
        assert!(read("s/.lock", &keys, 3).is_err());
        assert!(read("s/.lock", &[found("s/.lock", None, "not JSON")], 2).is_err());
        let other = Found { flags: 0, ..found("s/.lock", None, places) };
        assert!(read("s/.lock", &[other], 2).is_err());
        assert_eq!(read("s/.lock", &[], 2).unwrap().index, 0);
    }
}
