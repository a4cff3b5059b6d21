//! Deltas in pieces that fit in frames, and pieces put together again.

use bytes::Bytes;
use purlin_model::limit;
use purlin_model::topic::Delta;

use super::{Down, Item, WireDelta, records};
use crate::frame::{self, FrameError};

/// Of items in one piece, unless one alone is larger. Small enough that a piece crosses a thin line well before the
/// other end takes the quiet for death.
pub const PIECE_BYTES: usize = limit::FRAME_BYTES / 16;
/// Of one delta in all its pieces: what a peer may make us hold before it is whole.
pub const TOPIC_BYTES: usize = 256 * 1024 * 1024;

/// Cuts a delta into pieces; at least one, all but the last marked `more`.
pub fn pieces(delta: &Delta) -> Result<Vec<WireDelta>, FrameError> {
    let empty = |reset| WireDelta {
        topic: delta.topic.clone(),
        revision: delta.revision,
        reset,
        set: Vec::new(),
        removed: Vec::new(),
        more: true,
    };
    let mut done = Vec::new();
    let mut current = empty(delta.reset);
    let mut weight = 0;
    let mut make_room = |current: &mut WireDelta, more: usize| {
        if weight > 0 && weight + more > PIECE_BYTES {
            done.push(std::mem::replace(current, empty(false)));
            weight = 0;
        }
        weight += more;
    };
    for key in &delta.removed {
        make_room(&mut current, key.len() + 8);
        current.removed.push(key.clone());
    }
    for (key, record) in &delta.set {
        let item = Item::new(key.clone(), record)?;
        make_room(&mut current, item.weight());
        current.set.push(item);
    }
    current.more = false;
    done.push(current);
    Ok(done)
}

/// The frames that tell a session of a delta: encoded once, shared by all who follow the topic.
pub fn delta_frames(delta: &Delta) -> Result<Vec<Bytes>, FrameError> {
    pieces(delta)?.into_iter().map(|piece| frame::encode(&Down::Delta(piece))).collect()
}

/// Puts pieces together. Of one session: its pieces come in order, those of two deltas never mixed.
#[derive(Debug, Default)]
pub struct Assembler {
    pending: Option<Pending>,
    skipped: u64,
}

#[derive(Debug)]
struct Pending {
    delta: Delta,
    bytes: usize,
}

impl Assembler {
    /// Records passed over because their kind is not known here.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Takes a piece; gives the delta when it was the last one. An error means that the session is of no more use.
    pub fn push(&mut self, piece: WireDelta) -> Result<Option<Delta>, FrameError> {
        let more = piece.more;
        let weight = piece.set.iter().map(Item::weight).sum::<usize>()
            + piece.removed.iter().map(|key| key.len() + 8).sum::<usize>();
        let found = records(&piece.set)?;
        self.skipped += found.skipped as u64;
        let mut pending = match self.pending.take() {
            None => Pending { delta: begin(&piece), bytes: 0 },
            Some(pending) => go_on(pending, &piece)?,
        };
        pending.bytes += weight;
        if pending.bytes > TOPIC_BYTES {
            return Err(FrameError::TooLong { length: pending.bytes, limit: TOPIC_BYTES });
        }
        pending.delta.set.extend(found.records);
        pending.delta.removed.extend(piece.removed);
        if more {
            self.pending = Some(pending);
            return Ok(None);
        }
        Ok(Some(pending.delta))
    }
}

fn begin(piece: &WireDelta) -> Delta {
    Delta {
        topic: piece.topic.clone(),
        revision: piece.revision,
        reset: piece.reset,
        set: Vec::new(),
        removed: Vec::new(),
    }
}

fn go_on(pending: Pending, piece: &WireDelta) -> Result<Pending, FrameError> {
    let delta = &pending.delta;
    if delta.topic == piece.topic && delta.revision == piece.revision && !piece.reset {
        return Ok(pending);
    }
    let why =
        format!("a piece of {} at {} stands between those of {}", piece.topic, piece.revision, delta.topic);
    Err(FrameError::Undecodable(why))
}

#[cfg(test)]
mod tests;
