//! Records as they travel: a kind by name and a body, so that a reader passes over kinds it does not know.

use purlin_model::topic::Record;
use serde::de::DeserializeOwned;

use super::Item;
use crate::frame::{self, FrameError};

const NODE: &str = "node";
const INSTANCE: &str = "instance";
const CHECK: &str = "check";
const ENTRY: &str = "entry";
const SERVICE_SUMMARY: &str = "service-summary";
const CONFIG: &str = "config";
const MESH: &str = "mesh";
const SERVER: &str = "server";
const JOIN_TOKEN: &str = "join-token";
const KV: &str = "kv";
const KV_KEY: &str = "kv-key";
const EVENT: &str = "event";
const QUERY: &str = "query";
const SESSION: &str = "session";
const TXN_RESULT: &str = "txn-result";
const TXN_ERROR: &str = "txn-error";

/// What came of a list of items.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    pub records: Vec<(String, Record)>,
    /// Of kinds that this build does not know.
    pub skipped: usize,
}

impl Item {
    pub fn new(key: impl Into<String>, record: &Record) -> Result<Self, FrameError> {
        let (kind, body) = match record {
            Record::Node(body) => (NODE, frame::encode_body(body)),
            Record::Instance(body) => (INSTANCE, frame::encode_body(body)),
            Record::Check(body) => (CHECK, frame::encode_body(body)),
            Record::Entry(body) => (ENTRY, frame::encode_body(body)),
            Record::ServiceSummary(body) => (SERVICE_SUMMARY, frame::encode_body(body)),
            Record::Config(body) => (CONFIG, frame::encode_body(body)),
            Record::Mesh(body) => (MESH, frame::encode_body(body)),
            Record::Server(body) => (SERVER, frame::encode_body(body)),
            Record::JoinToken(body) => (JOIN_TOKEN, frame::encode_body(body)),
            Record::Kv(body) => (KV, frame::encode_body(body)),
            Record::KvKey => (KV_KEY, Ok(Vec::new())),
            Record::Event(body) => (EVENT, frame::encode_body(body)),
            Record::Query(body) => (QUERY, frame::encode_body(body)),
            Record::Session(body) => (SESSION, frame::encode_body(body)),
            Record::TxnResult(body) => (TXN_RESULT, frame::encode_body(body)),
            Record::TxnError(body) => (TXN_ERROR, frame::encode_body(body)),
        };
        Ok(Self { key: key.into(), kind: kind.into(), body: body? })
    }

    /// `None`: of a kind that this build does not know.
    pub fn record(&self) -> Result<Option<Record>, FrameError> {
        let record = match self.kind.as_str() {
            NODE => Record::Node(self.decode()?),
            INSTANCE => Record::Instance(self.decode()?),
            CHECK => Record::Check(self.decode()?),
            ENTRY => Record::Entry(self.decode()?),
            SERVICE_SUMMARY => Record::ServiceSummary(self.decode()?),
            CONFIG => Record::Config(self.decode()?),
            MESH => Record::Mesh(self.decode()?),
            SERVER => Record::Server(self.decode()?),
            JOIN_TOKEN => Record::JoinToken(self.decode()?),
            KV => Record::Kv(self.decode()?),
            KV_KEY => Record::KvKey,
            EVENT => Record::Event(self.decode()?),
            QUERY => Record::Query(self.decode()?),
            SESSION => Record::Session(self.decode()?),
            TXN_RESULT => Record::TxnResult(self.decode()?),
            TXN_ERROR => Record::TxnError(self.decode()?),
            _ => return Ok(None),
        };
        Ok(Some(record))
    }

    fn decode<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        frame::decode_body(&self.body)
            .map_err(|e| FrameError::Undecodable(format!("{} {:?}: {e}", self.kind, self.key)))
    }

    /// About as many bytes as it takes in a frame.
    pub(super) fn weight(&self) -> usize {
        self.key.len() + self.kind.len() + self.body.len() + 32
    }
}

/// Reads a list; one broken item fails it all, an unknown one is counted.
pub fn records(items: &[Item]) -> Result<Records, FrameError> {
    let mut all = Records { records: Vec::with_capacity(items.len()), skipped: 0 };
    for item in items {
        match item.record()? {
            Some(record) => all.records.push((item.key.clone(), record)),
            None => all.skipped += 1,
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
