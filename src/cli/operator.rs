//! `purlin operator`: the servers as a cluster, as Consul's command of that name has it.

use std::process::ExitCode;

use anyhow::bail;
use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Value, json};

use super::output::{Table, field};
use super::recover::RecoverArgs;
use super::{Session, help};
use crate::client::Path;

/// Look after the servers as a cluster
#[derive(Debug, Subcommand)]
#[command(after_help = help::OPERATOR)]
pub(super) enum OperatorVerb {
    #[command(subcommand)]
    Raft(RaftVerb),
    #[command(subcommand)]
    Autopilot(AutopilotVerb),
    #[command(subcommand)]
    Usage(UsageVerb),
    Recover(RecoverArgs),
}

/// See and change which servers agree on every write
#[derive(Debug, Subcommand)]
#[command(after_help = help::OPERATOR_RAFT)]
pub(super) enum RaftVerb {
    ListPeers(ListPeersArgs),
    TransferLeader(TransferArgs),
    AddPeer(AddPeerArgs),
    RemovePeer(RemovePeerArgs),
}

/// List the servers of the cluster
#[derive(Debug, Args)]
#[command(after_help = help::OPERATOR_LIST_PEERS)]
pub(super) struct ListPeersArgs {
    /// What any server knows, though there may be no leader
    #[arg(long)]
    stale: bool,
}

/// Hand leadership to another server
#[derive(Debug, Args)]
#[command(after_help = help::OPERATOR_TRANSFER)]
pub(super) struct TransferArgs {
    /// To this one, by the id of its node; without it, to the one whose log is the most complete
    #[arg(long, value_name = "ID")]
    id: Option<String>,
}

/// Take a server that joined the mesh into the cluster; autopilot gives it its vote
#[derive(Debug, Args)]
#[command(after_help = help::OPERATOR_ADD_PEER)]
pub(super) struct AddPeerArgs {
    /// The id of its node
    #[arg(long, value_name = "ID")]
    id: String,
    /// Where it listens, if that is not known: host:port
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
}

/// Take a server out of the cluster, with its vote
#[derive(Debug, Args)]
#[command(after_help = help::OPERATOR_REMOVE_PEER, group = ArgGroup::new("peer").required(true))]
pub(super) struct RemovePeerArgs {
    /// By the id of its node
    #[arg(long, value_name = "ID", group = "peer")]
    id: Option<String>,
    /// By its address, as list-peers shows it
    #[arg(long, value_name = "ADDRESS", group = "peer")]
    address: Option<String>,
}

/// See and change how the servers look after their own number
#[derive(Debug, Subcommand)]
#[command(after_help = help::OPERATOR_AUTOPILOT)]
pub(super) enum AutopilotVerb {
    GetConfig(GetConfigArgs),
    SetConfig(SetConfigArgs),
    State(StateArgs),
}

/// Print the settings
#[derive(Debug, Args)]
#[command(after_help = help::OPERATOR_AUTOPILOT)]
pub(super) struct GetConfigArgs {
    /// What any server knows, though there may be no leader
    #[arg(long)]
    stale: bool,
}

/// Say how each server stands
#[derive(Debug, Args)]
#[command(after_help = help::OPERATOR_AUTOPILOT_STATE)]
pub(super) struct StateArgs {
    /// What any server knows, though there may be no leader
    #[arg(long)]
    stale: bool,
}

/// Change settings; what is not named stays
#[derive(Debug, Args)]
#[command(after_help = help::OPERATOR_AUTOPILOT_SET)]
pub(super) struct SetConfigArgs {
    /// Whether a server that died is taken out of the cluster
    #[arg(long, value_name = "BOOL", num_args = 1)]
    cleanup_dead_servers: Option<bool>,
    /// A server that was not heard of for longer is not healthy
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    last_contact_threshold: Option<String>,
    /// A server whose log is further behind is not healthy
    #[arg(long, value_name = "N")]
    max_trailing_logs: Option<u64>,
    /// Dead servers stay once so few voters are left
    #[arg(long, value_name = "N")]
    min_quorum: Option<u32>,
    /// How long a new server must be healthy before it gets its vote
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    server_stabilization_time: Option<String>,
    /// A server that was silent for longer is dead, where no other takes its place
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    dead_server_last_contact_threshold: Option<String>,
}

/// See how much is used
#[derive(Debug, Subcommand)]
#[command(after_help = help::OPERATOR_USAGE)]
pub(super) enum UsageVerb {
    /// Count the instances of services
    #[command(after_help = help::OPERATOR_USAGE)]
    Instances,
}

fn duration(text: &str) -> Result<String, String> {
    purlin_model::duration::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

pub(super) async fn run(session: &mut Session, verb: &OperatorVerb) -> anyhow::Result<ExitCode> {
    match verb {
        OperatorVerb::Raft(RaftVerb::ListPeers(args)) => list_peers(session, args).await?,
        OperatorVerb::Raft(RaftVerb::TransferLeader(args)) => transfer_leader(session, args).await?,
        OperatorVerb::Raft(RaftVerb::AddPeer(args)) => add_peer(session, args).await?,
        OperatorVerb::Raft(RaftVerb::RemovePeer(args)) => remove_peer(session, args).await?,
        OperatorVerb::Autopilot(AutopilotVerb::GetConfig(args)) => get_config(session, args).await?,
        OperatorVerb::Autopilot(AutopilotVerb::SetConfig(args)) => set_config(session, args).await?,
        OperatorVerb::Autopilot(AutopilotVerb::State(args)) => state(session, args).await?,
        OperatorVerb::Usage(UsageVerb::Instances) => usage(session).await?,
        // It asks nobody, so it was carried out before.
        OperatorVerb::Recover(_) => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn stale(path: Path, stale: bool) -> Path {
    if stale { path.with("stale", "") } else { path }
}

async fn list_peers(session: &mut Session, args: &ListPeersArgs) -> anyhow::Result<()> {
    let path = stale(Path::new(&["operator", "raft", "configuration"]), args.stale);
    let answer = session.client.get(path).await?;
    if session.json() {
        session.screen.json(&answer["Servers"])?;
        return Ok(());
    }
    let servers: Vec<&Value> = answer["Servers"].as_array().into_iter().flatten().collect();
    let index = |server: &Value| server["LastIndex"].as_u64().unwrap_or(0);
    let leads = |server: &&&Value| server["Leader"] == true;
    let newest = servers.iter().find(leads).map_or(0, |leader| index(leader));
    let mut table = Table::new(&[
        "Node",
        "ID",
        "Address",
        "State",
        "Voter",
        "RaftProtocol",
        "Commit Index",
        "Trails Leader By",
    ]);
    for server in servers {
        let leader = server["Leader"] == true;
        let behind = match newest.saturating_sub(index(server)) {
            _ if leader => "-".to_owned(),
            // Only the leader knows.
            _ if newest == 0 => "-".to_owned(),
            1 => "1 commit".to_owned(),
            n => format!("{n} commits"),
        };
        let cell = |name: &str| field(server, name);
        table.row([
            cell("Node"),
            cell("ID"),
            cell("Address"),
            if leader { "leader" } else { "follower" }.to_owned(),
            cell("Voter"),
            cell("ProtocolVersion"),
            cell("LastIndex"),
            behind,
        ]);
    }
    session.screen.table(&table)?;
    Ok(())
}

async fn transfer_leader(session: &mut Session, args: &TransferArgs) -> anyhow::Result<()> {
    let path = Path::new(&["operator", "raft", "transfer-leader"]).with_some("id", args.id.as_deref());
    let answer = session.client.put(path, None).await?;
    if session.json() {
        session.screen.json(&answer)?;
        return Ok(());
    }
    session.screen.line(&format!("Success: {} leads now", field(&answer, "Node")))?;
    Ok(())
}

async fn add_peer(session: &mut Session, args: &AddPeerArgs) -> anyhow::Result<()> {
    let path = Path::new(&["operator", "raft", "peer"])
        .with("id", &args.id)
        .with_some("address", args.address.as_deref());
    let answer = session.client.post(path).await?;
    if session.json() {
        session.screen.json(&answer)?;
        return Ok(());
    }
    session.screen.line(&format!("Added peer with id \"{}\"", args.id))?;
    Ok(())
}

async fn remove_peer(session: &mut Session, args: &RemovePeerArgs) -> anyhow::Result<()> {
    let path = Path::new(&["operator", "raft", "peer"])
        .with_some("id", args.id.as_deref())
        .with_some("address", args.address.as_deref());
    session.client.delete(path).await?;
    let (what, which) = match (&args.id, &args.address) {
        (Some(id), _) => ("id", id.as_str()),
        (None, address) => ("address", address.as_deref().unwrap_or_default()),
    };
    if session.json() {
        session.screen.json(&json!({"Success": true}))?;
        return Ok(());
    }
    session.screen.line(&format!("Removed peer with {what} \"{which}\""))?;
    Ok(())
}

fn config_path() -> Path {
    Path::new(&["operator", "autopilot", "configuration"])
}

async fn get_config(session: &mut Session, args: &GetConfigArgs) -> anyhow::Result<()> {
    let config = session.client.get(stale(config_path(), args.stale)).await?;
    if session.json() {
        session.screen.json(&config)?;
        return Ok(());
    }
    for name in [
        "CleanupDeadServers",
        "LastContactThreshold",
        "MaxTrailingLogs",
        "MinQuorum",
        "ServerStabilizationTime",
        "DeadServerLastContactThreshold",
    ] {
        session.screen.line(&format!("{name} = {}", field(&config, name)))?;
    }
    Ok(())
}

async fn set_config(session: &mut Session, args: &SetConfigArgs) -> anyhow::Result<()> {
    let mut config = session.client.get(config_path()).await?;
    let changes = [
        ("CleanupDeadServers", args.cleanup_dead_servers.map(Value::from)),
        ("LastContactThreshold", args.last_contact_threshold.clone().map(Value::from)),
        ("MaxTrailingLogs", args.max_trailing_logs.map(Value::from)),
        ("MinQuorum", args.min_quorum.map(Value::from)),
        ("ServerStabilizationTime", args.server_stabilization_time.clone().map(Value::from)),
        ("DeadServerLastContactThreshold", args.dead_server_last_contact_threshold.clone().map(Value::from)),
    ];
    for (name, value) in changes {
        if let Some(value) = value {
            config[name] = value;
        }
    }
    let path = config_path().with("cas", &field(&config, "ModifyIndex"));
    let done = session.client.put(path, Some(&config)).await?;
    if done != Value::Bool(true) {
        bail!("somebody else changed the settings of autopilot meanwhile: look at them and try again");
    }
    if session.json() {
        session.screen.json(&done)?;
        return Ok(());
    }
    session.screen.line("Configuration updated!")?;
    Ok(())
}

async fn state(session: &mut Session, args: &StateArgs) -> anyhow::Result<()> {
    let path = stale(Path::new(&["operator", "autopilot", "state"]), args.stale);
    let state = session.client.get(path).await?;
    if session.json() {
        session.screen.json(&state)?;
        return Ok(());
    }
    let mut head = Table::pairs();
    head.row(["Healthy:".into(), field(&state, "Healthy")]);
    head.row(["Failure Tolerance:".into(), field(&state, "FailureTolerance")]);
    head.row(["Optimistic Failure Tolerance:".into(), field(&state, "OptimisticFailureTolerance")]);
    head.row(["Leader:".into(), field(&state, "Leader")]);
    session.screen.table(&head)?;
    session.screen.line("Voters:")?;
    for voter in state["Voters"].as_array().into_iter().flatten() {
        session.screen.line(&format!("   {}", voter.as_str().unwrap_or_default()))?;
    }
    session.screen.line("Servers:")?;
    for (id, server) in state["Servers"].as_object().into_iter().flatten() {
        session.screen.line(&format!("   {id}"))?;
        let mut table = Table::pairs();
        for (label, name) in [
            ("      Name:", "Name"),
            ("      Address:", "Address"),
            ("      Version:", "Version"),
            ("      Status:", "Status"),
            ("      Node Type:", "NodeType"),
            ("      Node Status:", "NodeStatus"),
            ("      Healthy:", "Healthy"),
            ("      Last Contact:", "LastContact"),
            ("      Last Term:", "LastTerm"),
            ("      Last Index:", "LastIndex"),
            ("      Stable Since:", "StableSince"),
        ] {
            table.row([label.into(), field(server, name)]);
        }
        session.screen.table(&table)?;
    }
    Ok(())
}

async fn usage(session: &mut Session) -> anyhow::Result<()> {
    let answer = session.client.get(Path::new(&["operator", "usage"])).await?;
    if session.json() {
        session.screen.json(&answer["Usage"])?;
        return Ok(());
    }
    let mut table = Table::new(&["Datacenter", "Nodes", "Services", "Service instances", "In the mesh"]);
    for (datacenter, usage) in answer["Usage"].as_object().into_iter().flatten() {
        let connect = usage["ConnectServiceInstances"].as_object();
        let meshed: u64 = connect.into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
        let cell = |name: &str| field(usage, name);
        let (nodes, services, instances) = (cell("Nodes"), cell("Services"), cell("ServiceInstances"));
        table.row([datacenter.clone(), nodes, services, instances, meshed.to_string()]);
    }
    session.screen.table(&table)?;
    Ok(())
}
