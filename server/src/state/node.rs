//! Members of the mesh: how a host comes in, tells about itself, fails, leaves and is removed.

use std::time::Duration;

use purlin_model::check::{Check, NODE_ALIVE, Status};
use purlin_model::command::{Done, Join};
use purlin_model::node::{Node, NodeRole, NodeStatus};
use purlin_model::{CheckId, Fault, NodeId, NodeName, Revision};

use super::{Draft, validate};

/// Nodes of the catalog; external ones leave room for hosts.
pub(super) const NODES: usize = 40_000;
pub(super) const NODES_WITH_EXTERNAL: usize = 20_000;

impl Draft {
    /// That one more node may come into the catalog, or that this one is there already.
    pub(super) fn has_room_for(&self, node: &Node) -> Result<(), Fault> {
        let most = if node.role == NodeRole::External { NODES_WITH_EXTERNAL } else { NODES };
        let have = self.state.catalog.hosts.len();
        if have < most || self.host(&node.name).is_some() {
            return Ok(());
        }
        Err(validate::too_many("nodes in the catalog", have + 1, most))
    }

    /// A host comes in with a token. The name of a live host stays with it; that of a dead one goes to the newcomer.
    pub(super) fn join(&mut self, join: &Join) -> Result<Done, Fault> {
        let datacenter = self.mesh()?.info.datacenter.clone();
        self.use_token(join)?;
        let node = Node {
            id: Some(join.id),
            name: join.name.clone(),
            datacenter,
            address: join.address.clone(),
            tagged_addresses: Default::default(),
            meta: Default::default(),
            locality: None,
            mesh_port: join.mesh_port,
            role: join.role,
            status: NodeStatus::Alive,
            version: String::new(),
            create_index: Revision(0),
            modify_index: Revision(0),
        };
        validate::node(&node)?;
        self.free_name(join)?;
        self.free_id(&join.name, join.id)?;
        self.has_room_for(&node)?;
        let old = self.host(&join.name).map(|host| host.node.clone());
        let node = match old {
            Some(old) => Node {
                address: node.address,
                mesh_port: node.mesh_port,
                role: node.role,
                datacenter: node.datacenter,
                status: NodeStatus::Alive,
                ..(*old).clone()
            },
            None => node,
        };
        self.put_member(node)?;
        self.note_joining_key(&join.name, &join.key_sha256);
        Ok(Done::Yes)
    }

    /// Refuses a name that another live host holds; a dead host of that name is removed.
    fn free_name(&mut self, join: &Join) -> Result<(), Fault> {
        let name = &join.name;
        let Some(holder) = self.host(name).map(|host| host.node.clone()) else {
            if !self.has_joined_with(name, &join.key_sha256) {
                // Another host had that name until it was reaped: it cannot come back any more.
                self.revoke_certificates(name);
            }
            return Ok(());
        };
        if holder.id == Some(join.id) && self.has_joined_with(name, &join.key_sha256) {
            return Ok(());
        }
        if holder.role == NodeRole::External {
            return Err(Fault::conflict(format!(
                "node name {name} belongs to an external node of the catalog ({}): choose another node_name, or \
                 deregister that node first",
                holder.address
            )));
        }
        if holder.status == NodeStatus::Alive {
            return Err(Fault::conflict(format!(
                "node name {name} is held by a live node ({}): choose another node_name, or stop that host and run \
                 `purlin node remove {name}`",
                holder.address
            )));
        }
        self.forget_member(name);
        Ok(())
    }

    /// Refuses an id that a live host of another name has; a dead one was renamed, and its old name goes.
    fn free_id(&mut self, name: &NodeName, id: NodeId) -> Result<(), Fault> {
        let Some(other) = self.state.catalog.by_id.get(&id).filter(|other| *other != name).cloned() else {
            return Ok(());
        };
        let alive = self.host(&other).is_some_and(|host| host.node.status == NodeStatus::Alive);
        if alive {
            return Err(Fault::conflict(format!(
                "node id {id} belongs to the live node {other}: give {name} another node_id, or, if its data_dir is a copy of \
                 that of {other}, an empty one"
            )));
        }
        self.forget_member(&other);
        Ok(())
    }

    /// A member tells about itself, which also proves that it is alive.
    pub(super) fn announce_node(&mut self, node: &Node) -> Result<Done, Fault> {
        validate::node(node)?;
        let (Some(id), true) = (node.id, node.role != NodeRole::External) else {
            return Err(Fault::invalid(
                "a node without an id, or an external one, cannot announce itself: register it",
            ));
        };
        if let Some(holder) = self.host(&node.name).map(|host| host.node.clone()) {
            self.same_member(&holder, id)?;
        } else {
            self.free_id(&node.name, id)?;
        }
        self.has_room_for(node)?;
        self.put_member(Node { status: NodeStatus::Alive, ..node.clone() })?;
        Ok(Done::Yes)
    }

    /// Refuses to take one member for another of the same name.
    pub(super) fn same_member(&self, holder: &Node, id: NodeId) -> Result<(), Fault> {
        if holder.id.is_some_and(|own| own != id) || holder.role == NodeRole::External {
            return Err(Fault::conflict(format!(
                "node name {} belongs to another node ({}): choose another node_name and join again",
                holder.name, holder.address
            )));
        }
        Ok(())
    }

    pub(super) fn set_node_status(&mut self, name: &NodeName, status: NodeStatus) -> Result<Done, Fault> {
        let Some(node) = self.host(name).map(|host| host.node.clone()) else {
            return Err(Fault::not_found(format!("no node {name} in the catalog")));
        };
        if node.role == NodeRole::External {
            return Err(Fault::invalid(format!("node {name} is external: nobody watches whether it lives")));
        }
        self.put_member(Node { status, ..(*node).clone() })?;
        Ok(Done::Yes)
    }

    /// Takes a host that is gone out of the catalog, with all it registered.
    pub(super) fn remove_node(&mut self, name: &NodeName) -> Result<Done, Fault> {
        let Some(node) = self.host(name).map(|host| host.node.clone()) else {
            // One that was reaped could still come back.
            return Ok(Done::Deleted { existed: self.revoke_certificates(name) });
        };
        if node.role != NodeRole::External && node.status == NodeStatus::Alive {
            return Err(Fault::conflict(format!(
                "node {name} is alive and would come back: stop its agent first (`purlin leave` there)"
            )));
        }
        self.forget_member(name);
        Ok(Done::Deleted { existed: true })
    }

    /// A host that left runs nothing any more, and nobody checks it.
    pub(super) fn release_node(&mut self, name: &NodeName) -> Result<Done, Fault> {
        let Some(host) = self.host(name).cloned() else { return Ok(Done::Deleted { existed: false }) };
        if host.node.status != NodeStatus::Left {
            return Err(Fault::conflict(format!("node {name} has not left: it keeps what it registered")));
        }
        for id in host.instances.keys() {
            self.drop_instance(name, id);
        }
        for id in host.checks.keys() {
            self.drop_check(name, id);
        }
        Ok(Done::Yes)
    }

    /// The catalog forgets a host that is gone. Its certificates stay, so that it comes back by itself if it does.
    pub(super) fn reap_node(&mut self, name: &NodeName) -> Result<Done, Fault> {
        let Some(node) = self.host(name).map(|host| host.node.clone()) else {
            return Ok(Done::Deleted { existed: false });
        };
        if node.role != NodeRole::Agent || node.status == NodeStatus::Alive {
            return Err(Fault::conflict(format!(
                "node {name} is no agent that is gone: it stays in the catalog"
            )));
        }
        self.drop_node(name);
        self.forget_lapsed();
        Ok(Done::Deleted { existed: true })
    }

    /// Nothing is left of the host, and its certificates count no more.
    pub(super) fn forget_member(&mut self, name: &NodeName) {
        self.distrust_server(name);
        self.forget_server(name);
        self.revoke_certificates(name);
        self.drop_node(name);
    }

    /// Puts a member and the check that stands for its being alive.
    pub(super) fn put_member(&mut self, node: Node) -> Result<(), Fault> {
        let check = alive_check(&node)?;
        self.put_node(node);
        self.put_check(check);
        Ok(())
    }
}

/// What `serfHealth` says of a member: it counts for every instance of the node.
pub(super) fn alive_check(node: &Node) -> Result<Check, Fault> {
    let (status, output) = match node.status {
        NodeStatus::Alive => (Status::Passing, "Agent alive and reachable"),
        NodeStatus::Failed | NodeStatus::Left => (Status::Critical, "Agent not live or unreachable"),
    };
    Ok(Check {
        node: node.name.clone(),
        id: CheckId::new(NODE_ALIVE).map_err(|why| Fault::internal(why.to_string()))?,
        name: "Serf Health Status".into(),
        status,
        notes: String::new(),
        output: output.into(),
        service_id: None,
        service_name: None,
        service_tags: Vec::new(),
        kind: String::new(),
        interval: Duration::ZERO,
        timeout: Duration::ZERO,
        create_index: Revision(0),
        modify_index: Revision(0),
    })
}
