//! Clients: each does one thing after another to a few keys, at any server, and records what it asked and heard.
//!
//! A key is one of the key-value tree, or the connect timeout of a service's defaults: both can be put, compared and
//! set, and deleted. A write that was not answered is repeated under its request id, as the uplink does; in the end
//! its fate may be unknown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use purlin_history::{Answer, Op};
use purlin_model::command::{Actor, Command, Done, Envelope, Outcome, RequestId};
use purlin_model::config_entry::{ConfigBody, ConfigEntry, ConfigKind, ServiceDefaults};
use purlin_model::kv::{KvPut, KvTopic, KvWrite};
use purlin_model::topic::{Record, Topic};
use purlin_model::{Fault, FaultCode, Namespace, Revision};
use purlin_wire::rpc::Consistency;
use tokio::sync::oneshot;

use super::Bug;
use super::server::Life;
use super::world::World;
use crate::state::State;

/// Of services' defaults.
pub(super) const SERVICES: [&str; 2] = ["red", "green"];
/// Of the key-value tree.
pub(super) const KEYS: [&str; 2] = ["kv/gold", "kv/grey"];
const TRIES: u64 = 5;
/// Of reads in the end, when one is to succeed.
const LOOKS: u64 = 20;

/// A value and the revision that compare-and-set names it by.
type Seen = (Option<u64>, Revision);

pub(super) async fn live(world: Arc<World>, id: u32) {
    let mut seen: BTreeMap<&str, Seen> = BTreeMap::new();
    let mut server = 1;
    while !world.is_calm() {
        let pause = if world.permille(100) { world.span(100..1_500) } else { world.span(1..60) };
        tokio::time::sleep(pause).await;
        if world.permille(200) {
            server = world.any_server();
        }
        let key = world.pick(&all_keys()).unwrap();
        let known = seen.get(key).copied().unwrap_or_default();
        let op = match world.below(100) {
            0..45 => Op::Read,
            45..70 => Op::Write(world.fresh_value()),
            70..92 => Op::Cas { expected: known.0, new: world.fresh_value() },
            _ => Op::Delete,
        };
        let ticket = world.history.begin(id, key, op);
        if op == Op::Read {
            if let Some(found) = read(&world, &mut server, key).await {
                world.tell(format_args!("client {id} read {key} {found:?}"));
                seen.insert(key, found);
                ticket.answer(Answer::Value(found.0));
            }
        } else if let Some(outcome) = write(&world, &mut server, command(key, op, known.1)).await {
            world.tell(format_args!("client {id} {key} {op:?} {outcome:?}"));
            match (op, outcome.result) {
                (Op::Cas { .. }, Ok(done)) => ticket.answer(Answer::Swapped(done == Done::Yes)),
                (_, Ok(_)) => ticket.answer(Answer::Done),
                (_, Err(fault)) => world.broke(format!("{op:?} of {key} was refused: {fault}")),
            }
        }
    }
}

/// All keys are read once more when everything is calm, so that what was lost on the way is missed.
pub(super) async fn look_at_all(world: &Arc<World>) -> Result<(), String> {
    let mut server = 1;
    for key in all_keys() {
        let ticket = world.history.begin(u32::MAX, key, Op::Read);
        let mut found = None;
        for _ in 0..LOOKS {
            if found.is_none() {
                found = read(world, &mut server, key).await;
            }
        }
        let found = found.ok_or_else(|| format!("{key} cannot be read although nothing disturbs"))?;
        ticket.answer(Answer::Value(found.0));
    }
    Ok(())
}

fn all_keys() -> Vec<&'static str> {
    SERVICES.into_iter().chain(KEYS).collect()
}

fn command(key: &str, op: Op, seen: Revision) -> Command {
    if KEYS.contains(&key) {
        return Command::Kv(kv_write(key, op, seen));
    }
    let put = |value, cas| {
        let defaults = ServiceDefaults { local_connect_timeout_ms: Some(value), ..Default::default() };
        let entry = ConfigEntry {
            name: key.into(),
            namespace: Namespace::default(),
            meta: BTreeMap::new(),
            body: ConfigBody::ServiceDefaults(defaults),
            create_index: Revision(0),
            modify_index: Revision(0),
        };
        Command::PutConfig { entry, cas }
    };
    match op {
        Op::Write(value) => put(value, None),
        Op::Cas { new, .. } => put(new, Some(seen)),
        Op::Delete | Op::Read => {
            Command::DeleteConfig { kind: ConfigKind::ServiceDefaults, name: key.into(), cas: None }
        }
    }
}

fn kv_write(key: &str, op: Op, seen: Revision) -> KvWrite {
    let put = |value: u64| KvPut { key: key.into(), value: value.to_be_bytes().to_vec().into(), flags: 0 };
    match op {
        Op::Write(value) => KvWrite::Set(put(value)),
        Op::Cas { new, .. } => KvWrite::Cas(put(new), seen),
        Op::Delete | Op::Read => KvWrite::Delete(key.into()),
    }
}

fn value(state: &State, key: &str) -> Seen {
    if KEYS.contains(&key) {
        return match state.record(&Topic::Kv(KvTopic::Key(key.into())), key) {
            Some(Record::Kv(entry)) => {
                (entry.value.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)), entry.modify_index)
            }
            _ => (None, Revision(0)),
        };
    }
    let topic = Topic::Config(ConfigKind::ServiceDefaults, Some(key.into()));
    match state.record(&topic, key) {
        Some(Record::Config(ConfigEntry {
            body: ConfigBody::ServiceDefaults(body), modify_index, ..
        })) => (body.local_connect_timeout_ms, modify_index),
        _ => (None, Revision(0)),
    }
}

async fn write(world: &Arc<World>, server: &mut u64, command: Command) -> Option<Outcome> {
    let request = RequestId(world.request());
    for _ in 0..=world.below(TRIES) {
        let command = command.clone();
        let now = world.clone();
        let propose = move |life: Arc<Life>| -> BoxFuture<'static, Result<Outcome, Fault>> {
            let at = now.wall(life.skew_ms);
            let envelope = Envelope { level: command.level(), request, actor: Actor::default(), at, command };
            Box::pin(async move { life.raft.propose(envelope).await })
        };
        match ask(world, server, propose).await {
            Some(Ok(outcome)) => {
                world.book.acknowledged(request, outcome.revision);
                return Some(outcome);
            }
            Some(Err(fault)) if fault.code != FaultCode::Unavailable => world.broke(fault.to_string()),
            _ => {}
        }
    }
    None
}

async fn read(world: &Arc<World>, server: &mut u64, key: &'static str) -> Option<Seen> {
    let consistency = world.pick(&[Consistency::Default, Consistency::Consistent]).unwrap();
    let careless = world.bug == Some(Bug::ReadWithoutBarrier);
    for _ in 0..TRIES {
        let look = move |life: Arc<Life>| -> BoxFuture<'static, Result<Seen, Fault>> {
            Box::pin(async move {
                if !(careless && life.raft.metrics().leading) {
                    life.raft.read_barrier(consistency).await?;
                }
                Ok(value(&life.raft.applied().borrow().state.0, key))
            })
        };
        if let Some(Ok(seen)) = ask(world, server, look).await {
            return Some(seen);
        }
    }
    None
}

/// Asks a server over the network. None: nobody knows what became of it. Afterwards `server` is whom to ask next.
async fn ask<T: Send + 'static>(
    world: &Arc<World>,
    server: &mut u64,
    call: impl FnOnce(Arc<Life>) -> BoxFuture<'static, Result<T, Fault>>,
) -> Option<Result<T, Fault>> {
    let patience = world.span(100..if world.permille(200) { 9_000 } else { 1_500 });
    let answered = tokio::time::timeout(patience, over_network(world, *server, call)).await;
    match answered {
        Ok(Some(Ok(found))) => Some(Ok(found)),
        unhappy => {
            tokio::time::sleep(world.span(1..200)).await;
            let told = world.servers().get(server).and_then(|server| server.life()?.raft.leader());
            let told = told.map(|leader| leader.id).filter(|_| world.permille(700));
            *server = told.unwrap_or_else(|| world.any_server());
            unhappy.ok().flatten()
        }
    }
}

async fn over_network<T: Send + 'static>(
    world: &Arc<World>,
    server: u64,
    call: impl FnOnce(Arc<Life>) -> BoxFuture<'static, Result<T, Fault>>,
) -> Option<Result<T, Fault>> {
    let lost = Duration::from_secs(3_600);
    tokio::time::sleep(world.net.travels(world).unwrap_or(lost)).await;
    let life = world.servers().get(&server)?.life()?;
    let (answer, answered) = oneshot::channel();
    let (over, work, back) = (life.over.clone(), call(life), world.net.travels(world));
    // Goes on at the server although the client may lose patience.
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = over.cancelled() => {}
            found = work => {
                tokio::time::sleep(back.unwrap_or(lost)).await;
                let _ = answer.send(found);
            }
        }
    });
    answered.await.ok()
}
