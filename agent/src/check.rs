//! Runs the checks that are registered on this host and tells the registry what they found.
//!
//! One task a check, started and stopped by what changed in the registry: a probe that hangs delays nobody else, and a
//! check whose definition stayed the same is not disturbed. TTLs, local aliases and the removal of services that stay
//! critical are kept by one task each.

mod alias;
mod http;
mod http2;
mod net;
mod process;
mod threshold;
mod tls;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use purlin_model::check::{CheckDefinition, Probe, Status};
use purlin_model::{CheckId, limit};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::core::Core;
use crate::registry::{LocalState, Registry};
use threshold::Thresholds;

/// Probes over the network that may be under way at once, and processes that checks may have.
const NETWORK_PROBES: usize = 512;
const PROCESSES: usize = 64;
/// Statuses are written to disk at most so often.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// When removing a service failed, or nothing falls due; and for tasks that ended by themselves.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
const NETWORK_TIMEOUT: Duration = Duration::from_secs(10);
const PROCESS_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub struct Options {
    /// For aliases of other hosts, whose checks it follows. Absent: such checks say that they cannot know.
    pub core: Option<Core>,
    /// Certificate authorities that TLS probes trust, PEM. Absent: those of the operating system.
    pub roots: Option<PathBuf>,
    /// The program that knows of the host's units.
    pub systemctl: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self { core: None, roots: None, systemctl: "systemctl".into() }
    }
}

/// What one run of a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    status: Status,
    output: String,
}

impl Verdict {
    fn new(status: Status, output: impl Into<String>) -> Self {
        Self { status, output: output.into() }
    }

    fn critical(output: impl Into<String>) -> Self {
        Self::new(Status::Critical, output)
    }
}

/// What probes share.
struct Tools {
    tls: tls::Configs,
    network: Semaphore,
    processes: Semaphore,
    systemctl: PathBuf,
}

pub struct Runner;

/// Dropping it stops every check; [`Handle::stop`] saves what they last said as well.
pub struct Handle {
    registry: Registry,
    tasks: Vec<Task>,
}

impl Runner {
    /// Starts the checks of `registry`, now and as they come and go.
    pub fn start(registry: Registry, options: Options) -> Handle {
        let tools = Arc::new(Tools {
            tls: tls::Configs::new(options.roots),
            network: Semaphore::new(NETWORK_PROBES),
            processes: Semaphore::new(PROCESSES),
            systemctl: options.systemctl,
        });
        let tasks = vec![
            Task::spawn(supervise(registry.clone(), options.core, tools)),
            Task::spawn(alias::follow_local(registry.clone())),
            Task::spawn(keep_deadlines(registry.clone())),
            Task::spawn(keep_saved(registry.clone())),
        ];
        Handle { registry, tasks }
    }
}

impl Handle {
    pub async fn stop(mut self) {
        self.tasks.clear();
        if let Err(fault) = self.registry.save().await {
            warn!("what checks last said is not saved: {fault}");
        }
    }
}

/// A task that ends with its holder.
struct Task(JoinHandle<()>);

impl Task {
    fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(future))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Keeps one task for each check that is probed.
async fn supervise(registry: Registry, core: Option<Core>, tools: Arc<Tools>) {
    let mut states = registry.watch();
    let mut running: BTreeMap<CheckId, (Arc<CheckDefinition>, Task)> = BTreeMap::new();
    let mut seen = None;
    let mut look_again = interval(LOOK_AGAIN);
    loop {
        let state = states.borrow_and_update().clone();
        let died = running.values().any(|(_, task)| task.0.is_finished());
        if seen != Some(state.definitions) || died {
            seen = Some(state.definitions);
            adjust(&mut running, &state, |definition| {
                start(definition.clone(), registry.clone(), core.clone(), tools.clone())
            });
        }
        tokio::select! {
            changed = states.changed() => if changed.is_err() { return },
            // One that fell over is started again though nothing else happens.
            _ = look_again.tick() => {}
        }
    }
}

/// Stops what is gone or changed and starts what is new; touches nothing else.
fn adjust(
    running: &mut BTreeMap<CheckId, (Arc<CheckDefinition>, Task)>,
    state: &LocalState,
    start: impl Fn(&Arc<CheckDefinition>) -> Option<Task>,
) {
    running.retain(|id, (definition, task)| {
        let wanted = state.checks.get(id).and_then(|local| local.definition.as_ref());
        let died = task.0.is_finished();
        if died {
            warn!(check = %id, "the check's task ended by itself, it is started again");
        }
        wanted.is_some_and(|wanted| wanted == definition) && !died
    });
    for (id, local) in &state.checks {
        let Some(definition) = &local.definition else { continue };
        if !running.contains_key(id)
            && let Some(task) = start(definition)
        {
            running.insert(id.clone(), (definition.clone(), task));
        }
    }
}

fn start(
    definition: Arc<CheckDefinition>,
    registry: Registry,
    core: Option<Core>,
    tools: Arc<Tools>,
) -> Option<Task> {
    match &definition.probe {
        // Deadlines are kept for all of them by one task.
        Probe::Ttl { .. } => None,
        Probe::Alias { node: Some(node), .. } if node != registry.node() => {
            Some(Task::spawn(alias::follow_remote(definition, registry, core)))
        }
        Probe::Alias { .. } => None,
        _ => Some(Task::spawn(repeat(definition, registry, tools))),
    }
}

/// Probes for as long as the task lives. The first run comes at a random moment of the first interval, so that the
/// checks of a host that starts, or of many hosts that were told at once, do not fall together.
async fn repeat(definition: Arc<CheckDefinition>, registry: Registry, tools: Arc<Tools>) {
    let mut thresholds = Thresholds::new(&definition);
    sleep(definition.interval.mul_f64(fastrand::f64())).await;
    loop {
        let verdict = run(&definition, &tools).await;
        debug!(check = %definition.id, status = verdict.status.as_str(), "check ran");
        match thresholds.judge(verdict.status) {
            Some(status) => {
                registry.set_status(&definition.id, status, &verdict.output);
            }
            None => {
                info!(check = %definition.id, found = verdict.status.as_str(), "check has not reached its threshold")
            }
        }
        sleep(definition.interval).await;
    }
}

/// One run, in bounded time. Waiting for a free slot does not count.
async fn run(definition: &CheckDefinition, tools: &Tools) -> Verdict {
    let is_process = matches!(definition.probe, Probe::Script { .. } | Probe::OsService { .. });
    let slots = if is_process { &tools.processes } else { &tools.network };
    let Ok(_slot) = slots.acquire().await else { return Verdict::critical("the agent is stopping") };
    let span = span_of(definition, is_process);
    let output = definition.output_max_size.clamp(1, limit::CHECK_OUTPUT_BYTES);
    let probe: futures_util::future::BoxFuture<'_, Verdict> = match &definition.probe {
        Probe::Http { url, method, headers, body, disable_redirects, tls } => {
            let request = http::Request { url, method, headers, body, redirects: !disable_redirects, output };
            Box::pin(http::probe(request, tls, &tools.tls))
        }
        Probe::Tcp { address, tls } => Box::pin(net::tcp(address, tls.as_ref(), &tools.tls)),
        Probe::Udp { address } => Box::pin(net::udp(address, span)),
        Probe::Grpc { target, tls } => Box::pin(http2::grpc(target, tls.as_ref(), &tools.tls)),
        Probe::H2Ping { address, tls } => Box::pin(http2::ping(address, tls.as_ref(), &tools.tls)),
        Probe::Script { args } => Box::pin(process::script(args, output)),
        Probe::OsService { unit } => Box::pin(process::unit(&tools.systemctl, unit)),
        Probe::Ttl { .. } | Probe::Alias { .. } => Box::pin(async { Verdict::critical("nothing to run") }),
    };
    timeout(span, probe).await.unwrap_or_else(|_| {
        let span = purlin_model::duration::format(span);
        Verdict::critical(format!("{} check timed out after {span}", definition.probe.kind()))
    })
}

fn span_of(definition: &CheckDefinition, is_process: bool) -> Duration {
    match definition.timeout {
        Duration::ZERO if is_process => PROCESS_TIMEOUT,
        Duration::ZERO => NETWORK_TIMEOUT,
        given => given,
    }
}

/// Makes silent TTL checks critical and removes services that were critical for too long.
async fn keep_deadlines(registry: Registry) {
    loop {
        let (due, next) = registry.expire(Instant::now());
        for service in &due {
            match registry.deregister(service).await {
                Ok(()) => warn!(service = %service, "service was critical for too long, it is deregistered"),
                Err(fault) => warn!(service = %service, "service cannot be deregistered: {fault}"),
            }
        }
        let next = next.filter(|_| due.is_empty()).unwrap_or_else(|| Instant::now() + LOOK_AGAIN);
        tokio::select! {
            () = sleep_until(next) => {}
            () = registry.deadline_changed() => {}
        }
    }
}

async fn keep_saved(registry: Registry) {
    loop {
        registry.unsaved().await;
        if let Err(fault) = registry.save().await {
            warn!("what checks last said is not saved: {fault}");
        }
        sleep(SAVE_EVERY).await;
    }
}
