//! What is in a snapshot file, for `purlin snapshot inspect`: verified, understood, and told by kind.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::rc::Rc;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::raft::{SnapshotError, Verified};
use crate::state::{STATE_HEADER_BYTES, State};

/// Parts of the state that are themselves made of tables.
const COMPOUND: &[&str] = &["kv", "mesh", "certificates", "touches", "history", "restoring"];
/// Tables whose names say little outside of the state.
const NAMES: &[(&str, &str)] = &[
    ("node", "nodes"),
    ("entries", "config-entries"),
    ("tokens", "join-tokens"),
    ("kv.entries", "kvs"),
    ("kv.graves", "kv-tombstones"),
    ("mesh.mesh", "mesh"),
    ("mesh.intermediates", "intermediates"),
    ("mesh.servers", "servers"),
    ("certificates.of", "certificates"),
    ("certificates.revoked", "revoked-certificates"),
    ("certificates.joined_with", "joining-keys"),
    ("touches.at", "topic-indexes"),
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// Term, index and the start of the checksum: tells snapshots apart.
    pub id: String,
    pub bytes: u64,
    pub index: u64,
    pub term: u64,
    /// Of the file's form.
    pub version: u8,
    /// Of the newest change in it.
    pub revision: u64,
    pub trust_domain: Option<String>,
    /// The largest first.
    pub kinds: Vec<Kind>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    pub name: String,
    pub count: u64,
    pub bytes: u64,
}

/// Why a file is no snapshot that this build can restore. One line that names the file.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct InspectError(String);

impl From<SnapshotError> for InspectError {
    fn from(error: SnapshotError) -> Self {
        Self(error.to_string())
    }
}

/// Reads a snapshot file to its end, checks it, and tells what is in it. Blocks on the disk.
pub fn inspect(path: &Path) -> Result<Inspected, InspectError> {
    let verified = Verified::open(path)?;
    let wrong = |why: &dyn fmt::Display| InspectError(format!("snapshot {}: {why}", path.display()));
    let mut input = verified.state().map_err(|error| wrong(&error))?;
    let state = State::decode_from(&mut input).map_err(|error| wrong(&error))?;
    drop(input);
    let kinds = tally(verified.state().map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
    let last = verified.head.last;
    let (term, index) = last.map_or((0, 0), |last| (last.term, last.index));
    Ok(Inspected {
        id: format!("{term}-{index}-{:08x}", verified.state_crc32),
        bytes: verified.bytes,
        index,
        term,
        version: verified.version(),
        revision: state.applied().0,
        trust_domain: state.mesh_info().map(|mesh| mesh.trust_domain.to_string()),
        kinds,
    })
}

/// Counts what a state holds without knowing its tables one by one.
fn tally(mut input: impl Read) -> Result<Vec<Kind>, rmp_serde::decode::Error> {
    let mut header = [0; STATE_HEADER_BYTES];
    input.read_exact(&mut header).map_err(rmp_serde::decode::Error::InvalidDataRead)?;
    let at = Rc::new(Cell::new(0));
    let mut kinds = BTreeMap::new();
    let mut reader = rmp_serde::Deserializer::new(Counted { input, at: at.clone() });
    Tables { at: &at, kinds: &mut kinds }.deserialize(&mut reader)?;
    let kind = |(name, (count, bytes))| Kind { name, count, bytes };
    let mut kinds: Vec<Kind> = kinds.into_iter().map(kind).filter(|kind| kind.count > 0).collect();
    kinds.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
    Ok(kinds)
}

/// Knows how far it was read.
struct Counted<R> {
    input: R,
    at: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.at.set(self.at.get() + read as u64);
        Ok(read)
    }
}

type Kinds = BTreeMap<String, (u64, u64)>;

fn add(kinds: &mut Kinds, name: &str, count: u64, bytes: u64) {
    let shown = NAMES.iter().find(|(own, _)| *own == name).map_or(name, |(_, shown)| shown);
    let kind = kinds.entry(shown.replace(['_', '.'], "-")).or_default();
    *kind = (kind.0 + count, kind.1 + bytes);
}

/// The fields of the state.
struct Tables<'a> {
    at: &'a Cell<u64>,
    kinds: &'a mut Kinds,
}

impl<'de> DeserializeSeed<'de> for Tables<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tables<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tables")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            let (at, before) = (self.at, self.at.get());
            if name == "hosts" {
                map.next_value_seed(Hosts { at, kinds: self.kinds })?;
            } else if COMPOUND.contains(&name.as_str()) {
                map.next_value_seed(Parts { at, kinds: self.kinds, of: Some(&name) })?;
            } else {
                let count = map.next_value_seed(Count)?;
                add(self.kinds, &name, count, at.get() - before);
            }
        }
        Ok(())
    }
}

/// Hosts, each with what runs there.
struct Hosts<'a> {
    at: &'a Cell<u64>,
    kinds: &'a mut Kinds,
}

impl<'de> DeserializeSeed<'de> for Hosts<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Hosts<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of hosts")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut hosts: A) -> Result<(), A::Error> {
        while hosts.next_element_seed(Parts { at: self.at, kinds: self.kinds, of: None })?.is_some() {}
        Ok(())
    }
}

/// The fields of one host, or the tables of a part of the state.
struct Parts<'a> {
    at: &'a Cell<u64>,
    kinds: &'a mut Kinds,
    of: Option<&'a str>,
}

impl<'de> DeserializeSeed<'de> for Parts<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Parts<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of parts, or nothing")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            let before = self.at.get();
            let found = map.next_value_seed(Count)?;
            let whole = self.of.map_or(name.clone(), |of| format!("{of}.{name}"));
            // These are one thing with many fields.
            let count = if matches!(whole.as_str(), "node" | "mesh.mesh") { found.min(1) } else { found };
            add(self.kinds, &whole, count, self.at.get() - before);
        }
        Ok(())
    }
}

/// How many things a table has; what is no table has none.
struct Count;

impl<'de> DeserializeSeed<'de> for Count {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<u64, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Count {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_unit<E>(self) -> Result<u64, E> {
        Ok(0)
    }

    fn visit_none<E>(self) -> Result<u64, E> {
        Ok(0)
    }

    fn visit_bool<E>(self, _: bool) -> Result<u64, E> {
        Ok(0)
    }

    fn visit_u64<E>(self, _: u64) -> Result<u64, E> {
        Ok(0)
    }

    fn visit_i64<E>(self, _: i64) -> Result<u64, E> {
        Ok(0)
    }

    fn visit_f64<E>(self, _: f64) -> Result<u64, E> {
        Ok(0)
    }

    fn visit_str<E>(self, _: &str) -> Result<u64, E> {
        Ok(0)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<u64, E> {
        Ok(0)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<u64, A::Error> {
        let mut count = 0;
        while seq.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<u64, A::Error> {
        let mut count = 0;
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(count)
    }
}
