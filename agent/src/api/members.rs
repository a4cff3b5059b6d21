//! Members of the mesh: who they are, and sending away those that are gone.

use purlin_model::command::{Command, Done};
use purlin_model::node::{Node, NodeRole, NodeStatus};
use purlin_model::topic::{Record, Topic};
use purlin_model::{Fault, NodeName, Revision};
use purlin_wire::rpc::{Ask, Consistency};
use serde_json::Value;

use super::Api;
use super::answer::{Answer, Failure};
use super::read::{asked, filtered};
use super::request::Request;
use super::shape::{self, schema};
use super::status::servers_in;

/// `GET agent/members`. With no server reachable: what is known here, at least this host.
pub(super) async fn list(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let own = api.core.config().node();
    let answer = match api.core.session().is_connected() {
        true => asked(api, request, [Topic::Nodes, Topic::Servers]).await.ok(),
        false => None,
    };
    let (nodes, servers) = match answer {
        Some(([nodes, servers], _)) => (Some(nodes), servers_in(&servers)),
        None => (api.core.peek(&Topic::Nodes), Vec::new()),
    };
    let mut members: Vec<&Node> = Vec::new();
    for record in nodes.iter().flat_map(|nodes| nodes.records.values()) {
        match record {
            Record::Node(node) if node.role != NodeRole::External => members.push(node),
            _ => {}
        }
    }
    if !members.iter().any(|node| node.name == own.name) {
        members.push(&own);
    }
    let port = |node: &Node| {
        let server = servers.iter().find(|server| server.node == node.name);
        let port = server.and_then(|server| server.address.rsplit_once(':')?.1.parse().ok());
        match port {
            Some(port) => port,
            None if node.name == own.name => super::agent::own_port(api),
            None => node.mesh_port.unwrap_or_default(),
        }
    };
    let shapes: Vec<Value> = members.into_iter().map(|node| shape::node::member(node, port(node))).collect();
    Ok(Answer::json(filtered(request, schema::member, shapes)?.into()))
}

/// `PUT agent/force-leave/:node?prune`: a host that will not come back is told to have left, or (prune) forgotten.
pub(super) async fn force_leave(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let node = gone_node(api, request).await?;
    let command = if request.query.flag("prune")? {
        Command::RemoveNode { node }
    } else {
        Command::SetNodeStatus { node, status: NodeStatus::Left }
    };
    write(api, request, command).await?;
    Ok(Answer::empty())
}

/// `DELETE node/:name`: forgets a host that failed or left, with all that it registered. Purlin's own.
pub(super) async fn remove(api: &Api, request: &Request) -> Result<Answer, Failure> {
    let unknown = match gone_node(api, request).await {
        Ok(node) => {
            write(api, request, Command::RemoveNode { node }).await?;
            return Ok(Answer::json(true.into()));
        }
        Err(failure) if failure.is_not_found() => failure,
        Err(failure) => return Err(failure),
    };
    // The catalog may have forgotten a host that could still come back: that is ended, too.
    let node = NodeName::new(request.parameter(0)).map_err(|error| Failure::invalid(error.to_string()))?;
    match write(api, request, Command::RemoveNode { node }).await? {
        Done::Deleted { existed: false } => Err(unknown),
        _ => Ok(Answer::json(true.into())),
    }
}

/// The node that the path names, if nobody is alive there.
async fn gone_node(api: &Api, request: &Request) -> Result<NodeName, Failure> {
    let name = NodeName::new(request.parameter(0)).map_err(|error| Failure::invalid(error.to_string()))?;
    let topic = Topic::Node(name.clone());
    let ask = Ask { topic, consistency: Consistency::Default, after: Revision(0), wait_ms: 0 };
    let (contents, _) = api.core.ask(ask).await?;
    let node = contents.records.values().find_map(|record| match record {
        Record::Node(node) => Some(node),
        _ => None,
    });
    match node {
        None => Err(Failure::not_found(format!("No node found with name '{name}'"))),
        Some(node) if node.status == NodeStatus::Alive && node.role != NodeRole::External => {
            Err(Failure::invalid(format!(
                "node \"{name}\" is alive: run \"purlin leave\" there, or stop its agent, before you remove it"
            )))
        }
        Some(_) => Ok(name),
    }
}

/// Proposes a command and gives its outcome, a refusal as a failure.
pub(super) async fn write(api: &Api, request: &Request, command: Command) -> Result<Done, Failure> {
    let outcome = api.core.write(command, request.peer.uid()).await?;
    outcome.result.map_err(|fault: Fault| fault.into())
}
