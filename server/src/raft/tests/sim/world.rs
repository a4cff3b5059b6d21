//! One seed's world: its dice, its clock, what it tells, and how a run goes from first election to last check.

use std::collections::BTreeMap;
use std::fmt::{Arguments, Write};
use std::hash::{DefaultHasher, Hasher};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use purlin_history::History;
use purlin_model::Millis;
use tokio::sync::watch;
use tokio::time::Instant;

use super::invariant::Book;
use super::net::Net;
use super::server::{Life, Server};
use super::{Bug, agent, client, faults};

const CLIENTS: u32 = 4;
const AGENTS: u32 = 3;
/// Longer than any run.
const RUN_MAX: Duration = Duration::from_secs(600);
/// How long all servers may take to agree once nothing disturbs them.
const HEALED_WITHIN: Duration = Duration::from_secs(60);

pub(super) struct World {
    pub bug: Option<Bug>,
    pub net: Net,
    pub history: History,
    pub book: Book,
    dice: Mutex<fastrand::Rng>,
    servers: OnceLock<BTreeMap<u64, Server>>,
    began: Instant,
    trace: Mutex<DefaultHasher>,
    tells: bool,
    values: AtomicU64,
    /// Faults are over, and clients and agents come to an end.
    calm: AtomicBool,
    broken: watch::Sender<Option<String>>,
}

impl World {
    /// Runs a seed to its end: what happened in one line, or what broke.
    pub(super) fn run(seed: u64, bug: Option<Bug>) -> Result<String, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let world = Arc::new(Self::new(seed, bug));
            let mut broken = world.broken.subscribe();
            tokio::select! {
                biased;
                why = broken.wait_for(Option::is_some) => Err(why.unwrap().clone().unwrap()),
                told = tokio::time::timeout(RUN_MAX, live(&world)) => {
                    told.unwrap_or_else(|_| Err(format!("it comes to no end: {}", state(&world))))
                }
            }
        })
    }

    fn new(seed: u64, bug: Option<Bug>) -> Self {
        Self {
            bug,
            net: Net::default(),
            history: History::new(),
            book: Book::default(),
            dice: Mutex::new(fastrand::Rng::with_seed(seed)),
            servers: OnceLock::new(),
            began: Instant::now(),
            trace: Mutex::new(DefaultHasher::new()),
            tells: std::env::var_os(super::processes::TELL).is_some(),
            values: AtomicU64::new(1),
            calm: AtomicBool::new(false),
            broken: watch::Sender::new(None),
        }
    }

    pub(super) fn servers(&self) -> &BTreeMap<u64, Server> {
        self.servers.get().unwrap()
    }

    pub(super) fn any_server(&self) -> u64 {
        1 + self.below(self.servers().len() as u64)
    }

    pub(super) fn lives(&self) -> Vec<Arc<Life>> {
        self.servers().values().filter_map(Server::life).collect()
    }

    /// An invariant does not hold: the run ends here.
    pub(super) fn broke(&self, why: String) {
        self.tell(format_args!("BROKEN {why}"));
        self.broken.send_if_modified(|broken| {
            let first = broken.is_none();
            broken.get_or_insert(why);
            first
        });
    }

    /// An event: all of them together are the trace by which two runs are compared.
    pub(super) fn tell(&self, what: Arguments<'_>) {
        let mut line = String::new();
        write!(line, "{:>10.3} {what}", self.began.elapsed().as_secs_f64()).unwrap();
        self.trace.lock().unwrap().write(line.as_bytes());
        if self.tells {
            eprintln!("{line}");
        }
    }

    pub(super) fn below(&self, end: u64) -> u64 {
        self.dice.lock().unwrap().u64(0..end)
    }

    /// Whether something happens that does so in so many of a thousand cases.
    pub(super) fn permille(&self, of: u64) -> bool {
        self.below(1_000) < of
    }

    pub(super) fn span(&self, millis: Range<u64>) -> Duration {
        Duration::from_millis(self.dice.lock().unwrap().u64(millis))
    }

    pub(super) fn pick<T: Clone>(&self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { from.get(self.below(from.len() as u64) as usize).cloned() }
    }

    /// A value that nobody has written yet.
    pub(super) fn fresh_value(&self) -> u64 {
        self.values.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn request(&self) -> uuid::Uuid {
        uuid::Uuid::from_u128(self.dice.lock().unwrap().u128(..))
    }

    pub(super) fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// The wall clock of a server whose clock is off by so much.
    pub(super) fn wall(&self, skew_ms: i64) -> Millis {
        let since = i64::try_from(self.began.elapsed().as_millis()).unwrap();
        Millis(u64::try_from(1_700_000_000_000 + since + skew_ms).unwrap())
    }
}

async fn live(world: &Arc<World>) -> Result<String, String> {
    let count = if world.permille(250) { 5 } else { 3 };
    let servers = (1..=count).map(|id| (id, Server::new(world, id, count))).collect();
    world.servers.set(servers).ok().unwrap();
    for server in world.servers().values() {
        server.start(world).await;
    }
    world.servers()[&1].initialize(world).await;
    let clients: Vec<_> = (0..CLIENTS).map(|id| tokio::spawn(client::live(world.clone(), id))).collect();
    let agents: Vec<_> = (0..AGENTS).map(|id| tokio::spawn(agent::live(world.clone(), id))).collect();
    faults::strike(world).await;
    world.calm.store(true, Ordering::Relaxed);
    world.tell(format_args!("calm"));
    for client in clients {
        client.await.map_err(|error| error.to_string())?;
    }
    tokio::time::timeout(HEALED_WITHIN, converge(world)).await.map_err(|_| {
        format!("the servers do not agree {HEALED_WITHIN:?} after all faults ended: {}", state(world))
    })?;
    client::look_at_all(world).await?;
    world.book.settle();
    let views = agents.into_iter().map(|agent| async { agent.await.map_err(|error| error.to_string()) });
    let views = futures_util::future::try_join_all(views).await?;
    world.book.check(world, &views)?;
    let operations = world.history.operations().len();
    let (trace, entries) = (world.trace.lock().unwrap().finish(), world.book.entries());
    Ok(format!("trace {trace:016x}, {count} servers, {operations} operations, {entries} entries"))
}

/// Until all servers know one leader and have applied as much as it has.
async fn converge(world: &Arc<World>) {
    loop {
        let lives = world.lives();
        let leaders: Vec<_> = lives.iter().map(|life| life.raft.leader().map(|leader| leader.id)).collect();
        let applied: Vec<_> = lives.iter().map(|life| life.raft.applied().borrow().revision).collect();
        let agreed = leaders.windows(2).all(|two| two[0] == two[1]) && leaders[0].is_some();
        if agreed && applied.windows(2).all(|two| two[0] == two[1]) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn state(world: &World) -> String {
    let mut told = String::new();
    for life in world.lives() {
        let metrics = life.raft.metrics();
        let leader = life.raft.leader().map(|leader| leader.id);
        write!(told, "\n  server {} leader {leader:?} {metrics:?}", life.raft.id()).unwrap();
    }
    told
}
