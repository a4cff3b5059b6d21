//! The mirror on disk: what an agent that starts without servers answers from.
//!
//! Saved a moment after a change, and the less often the longer it takes; what is followed for good comes first when
//! there is more than fits.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use purlin_model::topic::{Contents, Topic};
use purlin_model::{HistoryId, Revision};
use purlin_wire::rpc::{Item, records};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Mirror;
use crate::store;

const VERSION: u16 = 1;
/// Of all records together.
const BYTES: usize = 64 * 1024 * 1024;
/// From a change to its saving.
const SETTLE: Duration = Duration::from_millis(500);
/// Saving takes at most one part in so many of the time.
const SHARE: u32 = 20;
/// Between two looks for topics that went cold.
const SWEEP: Duration = Duration::from_secs(30);

#[derive(Serialize, Deserialize)]
struct Stored {
    topics: Vec<StoredTopic>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    history: Option<HistoryId>,
}

#[derive(Serialize, Deserialize)]
struct StoredTopic {
    topic: Topic,
    revision: Revision,
    items: Vec<Item>,
}

/// Takes in what an earlier run left.
pub fn restore(mirror: &Mirror, path: &Path) {
    let Some(stored) = store::load_or_warn::<Stored>(path, VERSION) else { return };
    let history = stored.history;
    let topics = stored.topics.into_iter().filter_map(|stored| {
        let found = records(&stored.items).ok()?;
        // A record of a kind that this build does not know may be what changed: take the topic anew.
        (found.skipped == 0).then(|| {
            let records = found.records.into_iter().collect();
            (stored.topic, Contents { revision: stored.revision, records })
        })
    });
    mirror.restore(history, topics.collect());
}

/// Keeps the file up to date until told to stop, and writes it a last time then.
pub async fn keep(mirror: Mirror, path: PathBuf, stop: CancellationToken) {
    let mut changes = mirror.all_changes();
    changes.mark_changed();
    while let Some(Ok(())) = stop.run_until_cancelled(changes.changed()).await {
        if stop.run_until_cancelled(sleep(SETTLE)).await.is_none() {
            break;
        }
        changes.borrow_and_update();
        let begun = Instant::now();
        save(&mirror, &path).await;
        let rest = begun.elapsed() * SHARE;
        if stop.run_until_cancelled(sleep(rest)).await.is_none() {
            break;
        }
    }
    save(&mirror, &path).await;
}

async fn save(mirror: &Mirror, path: &Path) {
    // Asked first: topics that came in since are then of that history or of a later one, and are taken anew.
    let history = mirror.history();
    let known = mirror.known();
    let path = path.to_owned();
    let saved =
        tokio::task::spawn_blocking(move || store::save(&path, VERSION, &Stored::of(history, known))).await;
    if let Err(why) =
        saved.map_err(|error| error.to_string()).and_then(|saved| saved.map_err(|error| error.to_string()))
    {
        warn!("what the servers said is not saved, a restart without them would begin with less: {why}");
    }
}

impl Stored {
    /// As much as fits.
    fn of(history: Option<HistoryId>, known: Vec<(Topic, Arc<Contents>)>) -> Self {
        let mut topics = Vec::with_capacity(known.len());
        let mut bytes = 0;
        for (topic, contents) in known {
            let items = contents.records.iter().map(|(key, record)| Item::new(key.clone(), record));
            let Ok(items) = items.collect::<Result<Vec<_>, _>>() else { continue };
            let weight: usize = items.iter().map(|item| item.key.len() + item.body.len() + 64).sum();
            if bytes + weight > BYTES {
                continue;
            }
            bytes += weight;
            topics.push(StoredTopic { topic, revision: contents.revision, items });
        }
        Self { topics, history }
    }
}

/// Drops topics that nobody asks for any more, until told to stop.
pub async fn sweep(mirror: Mirror, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(SWEEP) => mirror.forget_cold(),
        }
    }
}
