//! Transactions: every operation is carried out on a copy of the state, which is kept only if all of them went well.

use purlin_model::command::{Deregister, DeregisterWhat, Done, Register};
use purlin_model::kv::{KvEntry, KvWrite};
use purlin_model::node::{Node, NodeRole};
use purlin_model::topic::Record;
use purlin_model::txn::{Change, Txn, TxnDone, TxnError, TxnOp, TxnRead, TxnResult};
use purlin_model::{Blob, Fault, FaultCode, NodeName, Revision, limit};

use super::{Draft, State, validate};

/// Of all results of one transaction.
const RESULT_BYTES: usize = 1024 * 1024;
const _: () = assert!(RESULT_BYTES + limit::COMMAND_BYTES < limit::FRAME_BYTES);

type Results = Result<Vec<TxnResult>, String>;

impl State {
    /// Carries out reads against this state: the records of the topic that asks for them.
    pub(super) fn read_txn(&self, reads: &[TxnRead]) -> Vec<(String, Record)> {
        let mut records = Vec::new();
        for (op, read) in reads.iter().take(limit::TXN_OPS).enumerate() {
            match self.txn_read(read) {
                Ok(results) => {
                    let record = |(n, result)| (format!("{op:04}/{n:08}"), Record::TxnResult(result));
                    records.extend(results.into_iter().enumerate().map(record));
                }
                Err(what) => records.push((format!("{op:04}"), Record::TxnError(TxnError { op, what }))),
            }
        }
        records
    }

    fn txn_read(&self, read: &TxnRead) -> Results {
        let entry = |key: &str| self.kv.get(key).map(|entry| (**entry).clone());
        let one = |result| Ok(vec![result]);
        match read {
            TxnRead::Get(key) => match entry(key) {
                Some(entry) => one(TxnResult::Kv(entry)),
                None => Err(format!("key {key:?} doesn't exist")),
            },
            TxnRead::GetOrEmpty(key) => one(TxnResult::Kv(entry(key).unwrap_or_else(|| KvEntry {
                key: key.clone(),
                value: Blob::default(),
                flags: 0,
                lock_index: 0,
                session: None,
                create_index: Revision(0),
                modify_index: Revision(0),
            }))),
            TxnRead::GetTree(prefix) => {
                Ok(self.kv.tree(prefix).map(|entry| TxnResult::Kv((**entry).clone())).collect())
            }
            TxnRead::CheckIndex(key, index) => match entry(key) {
                Some(entry) if entry.modify_index == *index => one(bare(entry)),
                Some(entry) => Err(format!(
                    "failed index check for key {key:?}, current modify index {} != {index}",
                    entry.modify_index
                )),
                None => Err(format!("failed to check index, key {key:?} doesn't exist")),
            },
            TxnRead::CheckSession(key, session) => match entry(key) {
                Some(entry) if entry.session == *session => one(bare(entry)),
                Some(entry) => {
                    let name = |id: &Option<_>| id.as_ref().map(ToString::to_string).unwrap_or_default();
                    Err(format!(
                        "failed session check for key {key:?}, current session {:?} != {:?}",
                        name(&entry.session),
                        name(session)
                    ))
                }
                None => Err(format!("failed to check session, key {key:?} doesn't exist")),
            },
            TxnRead::CheckNotExists(key) => match entry(key) {
                Some(_) => Err(format!("key {key:?} exists")),
                None => Ok(Vec::new()),
            },
            TxnRead::Node(name) => match self.node(name) {
                Some(node) => one(TxnResult::Node(node.clone())),
                None => Err(format!("node {:?} doesn't exist", name.as_str())),
            },
            TxnRead::Service(node, id) => match self.catalog.host(node).and_then(|h| h.instances.get(id)) {
                Some(instance) => one(TxnResult::Service((**instance).clone())),
                None => Err(format!("service {:?} on node {:?} doesn't exist", id.as_str(), node.as_str())),
            },
            TxnRead::Check(node, id) => match self.catalog.host(node).and_then(|h| h.checks.get(id)) {
                Some(check) => one(TxnResult::Check((**check).clone())),
                None => Err(format!("check {:?} on node {:?} doesn't exist", id.as_str(), node.as_str())),
            },
        }
    }
}

/// Without the value, which only a read that asks for it gets.
fn bare(entry: KvEntry) -> TxnResult {
    TxnResult::Kv(KvEntry { value: Blob::default(), ..entry })
}

impl Draft {
    pub(super) fn txn(&mut self, txn: &Txn) -> Result<Done, Fault> {
        if txn.ops.len() > limit::TXN_OPS {
            let text =
                format!("Transaction contains too many operations ({} > {})", txn.ops.len(), limit::TXN_OPS);
            return Err(Fault::new(FaultCode::TooLarge, text));
        }
        let mut all = self.clone();
        let mut done = TxnDone::default();
        for (op, operation) in txn.ops.iter().enumerate() {
            match all.operate(operation) {
                Ok(results) => done.results.extend(results),
                Err(what) => done.errors.push(TxnError { op, what }),
            }
        }
        if !done.errors.is_empty() {
            done.results.clear();
            return Ok(Done::Txn(Box::new(done)));
        }
        let bytes = validate::encoded_bytes(&done)?;
        if bytes > RESULT_BYTES {
            let text = format!(
                "the results of the transaction have {bytes} bytes, at most {RESULT_BYTES} are allowed: read less in \
                 one that writes"
            );
            return Err(Fault::new(FaultCode::TooLarge, text));
        }
        *self = all;
        Ok(Done::Txn(Box::new(done)))
    }

    fn operate(&mut self, op: &TxnOp) -> Results {
        match op {
            TxnOp::Read(read) => self.state.txn_read(read),
            TxnOp::Kv(write) => self.txn_kv(write),
            TxnOp::Node { name, change } => self.txn_node(name, change),
            TxnOp::Service { node, id, change } => {
                let index = self.host(node).and_then(|host| host.instances.get(id)).map(|i| i.modify_index);
                let what = format!("service {:?} on node {:?}", id.as_str(), node.as_str());
                let gone = DeregisterWhat::Instance(id.clone());
                let Some(instance) = self.condition(&what, change, index, node, gone)? else {
                    return Ok(Vec::new());
                };
                let register = Register { instance: Some(instance.clone()), ..self.on(node)? };
                self.register(&register).map_err(|fault| fault.text)?;
                self.state.txn_read(&TxnRead::Service(node.clone(), instance.id.clone()))
            }
            TxnOp::Check { node, id, change } => {
                let index = self.host(node).and_then(|host| host.checks.get(id)).map(|c| c.modify_index);
                let what = format!("check {:?} on node {:?}", id.as_str(), node.as_str());
                let gone = DeregisterWhat::Check(id.clone());
                let Some(check) = self.condition(&what, change, index, node, gone)? else {
                    return Ok(Vec::new());
                };
                let register = Register { checks: vec![check.clone()], ..self.on(node)? };
                self.register(&register).map_err(|fault| fault.text)?;
                self.state.txn_read(&TxnRead::Check(node.clone(), check.id.clone()))
            }
            TxnOp::EndSession(id) => {
                self.end_session(id);
                Ok(Vec::new())
            }
        }
    }

    fn txn_kv(&mut self, write: &KvWrite) -> Results {
        let key = write.key();
        if let KvWrite::Lock(put, _) = write
            && self.state.sessions.is_delayed(&put.key, self.at)
        {
            return Err(format!("failed to lock key {key:?} due to lock delay"));
        }
        match (self.write_kv(write).map_err(|fault| fault.text)?, write) {
            (Done::CasFailed, KvWrite::Lock(..)) => {
                Err(format!("failed to lock key {key:?}, lock is already held"))
            }
            (Done::CasFailed, KvWrite::Unlock(..)) => {
                Err(format!("failed to unlock key {key:?}, lock isn't held, or is held by another session"))
            }
            (Done::CasFailed, KvWrite::DeleteCas(..)) => {
                Err(format!("failed to delete key {key:?}, index is stale"))
            }
            (Done::CasFailed, _) => Err(format!("failed to set key {key:?}, index is stale")),
            (_, KvWrite::Set(_) | KvWrite::Cas(..) | KvWrite::Lock(..) | KvWrite::Unlock(..)) => {
                Ok(self.state.kv.get(key).map(|entry| bare((**entry).clone())).into_iter().collect())
            }
            _ => Ok(Vec::new()),
        }
    }

    fn txn_node(&mut self, name: &NodeName, change: &Change<Node>) -> Results {
        let index = self.host(name).map(|host| host.node.modify_index);
        let what = format!("node {:?}", name.as_str());
        let Some(node) = self.condition(&what, change, index, name, DeregisterWhat::Node)? else {
            return Ok(Vec::new());
        };
        let register = Register {
            node: node.clone(),
            skip_node_update: false,
            instance: None,
            checks: Vec::new(),
            replace_checks: false,
        };
        self.register(&register).map_err(|fault| fault.text)?;
        self.state.txn_read(&TxnRead::Node(name.clone()))
    }

    /// What is to be put, once its condition is met; a deletion is carried out here.
    fn condition<'a, T>(
        &mut self,
        what: &str,
        change: &'a Change<T>,
        index: Option<Revision>,
        node: &NodeName,
        gone: DeregisterWhat,
    ) -> Result<Option<&'a T>, String> {
        match change {
            Change::Set(value) => return Ok(Some(value)),
            Change::Cas(value, wanted) if index.unwrap_or_default() == *wanted => return Ok(Some(value)),
            Change::Cas(..) => return Err(format!("failed to set {what}, index is stale")),
            Change::DeleteCas(wanted) if index != Some(*wanted) => {
                return Err(format!("failed to delete {what}, index is stale"));
            }
            Change::Delete | Change::DeleteCas(_) => {}
        }
        let deregister = Deregister { node: node.clone(), what: gone };
        self.deregister(&deregister).map(|_| None).map_err(|fault| fault.text)
    }

    /// A registration on a node that is there and stays as it is.
    fn on(&self, node: &NodeName) -> Result<Register, String> {
        let Some(host) = self.host(node) else {
            return Err(format!("node {:?} doesn't exist", node.as_str()));
        };
        // Who writes into another's host is refused before; the node itself is not touched here.
        let node = Node { role: NodeRole::External, ..(*host.node).clone() };
        Ok(Register {
            node,
            skip_node_update: true,
            instance: None,
            checks: Vec::new(),
            replace_checks: false,
        })
    }
}
