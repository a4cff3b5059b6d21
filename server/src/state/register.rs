//! Registration: a host, at most one instance and checks, all or nothing; and their way out.

use std::collections::BTreeSet;

use purlin_model::check::{Check, NODE_ALIVE};
use purlin_model::command::{Deregister, DeregisterWhat, Done, Register};
use purlin_model::node::{Node, NodeRole, NodeStatus};
use purlin_model::service::Instance;
use purlin_model::{CheckId, Fault, FaultCode, InstanceId, NodeName, limit};

use super::{Draft, validate};

/// Checks of one instance, or of a node itself, all together.
const CHECK_GROUP_BYTES: usize = 768 * 1024;
const _: () = assert!(2 * CHECK_GROUP_BYTES + 2 * limit::COMMAND_BYTES < limit::FRAME_BYTES);

impl Draft {
    pub(super) fn register(&mut self, register: &Register) -> Result<Done, Fault> {
        let name = &register.node.name;
        self.register_node(&register.node, register.skip_node_update)?;
        if let Some(instance) = &register.instance {
            self.register_instance(name, instance)?;
        }
        if register.checks.len() > limit::CHECKS_PER_NODE {
            return Err(validate::too_many("checks", register.checks.len(), limit::CHECKS_PER_NODE));
        }
        for check in &register.checks {
            self.register_check(name, check)?;
        }
        if let (true, Some(instance)) = (register.replace_checks, &register.instance) {
            let kept: BTreeSet<&CheckId> = register.checks.iter().map(|check| &check.id).collect();
            for id in self.checks_of_instance(name, &instance.id) {
                if !kept.contains(&id) {
                    self.drop_check(name, &id);
                }
            }
        }
        let mut groups: BTreeSet<Option<&InstanceId>> =
            register.checks.iter().map(|check| check.service_id.as_ref()).collect();
        groups.extend(register.instance.as_ref().map(|instance| Some(&instance.id)));
        for group in groups {
            self.check_group_size(name, group)?;
        }
        Ok(Done::Yes)
    }

    /// Discovery hands out an instance with all checks that count for it, in one frame.
    fn check_group_size(&self, node: &NodeName, group: Option<&InstanceId>) -> Result<(), Fault> {
        let Some(host) = self.host(node) else { return Ok(()) };
        let ids = host.checks_of.get(&group.cloned());
        let checks = ids.into_iter().flatten().filter_map(|id| host.checks.get(id));
        let mut bytes = 0;
        for check in checks {
            bytes += validate::encoded_bytes(check)?;
        }
        if bytes <= CHECK_GROUP_BYTES {
            return Ok(());
        }
        let whose = group.map_or_else(|| format!("node {node}"), |id| format!("service {id} on node {node}"));
        let text = format!(
            "the checks of {whose} have {bytes} bytes together, at most {CHECK_GROUP_BYTES} are allowed"
        );
        Err(Fault::new(FaultCode::TooLarge, text))
    }

    fn register_node(&mut self, node: &Node, skip_update: bool) -> Result<(), Fault> {
        let holder = self.host(&node.name).map(|host| host.node.clone());
        let Some(holder) = holder else {
            return self.register_new_node(node);
        };
        if let (Some(own), Some(given)) = (holder.id, node.id)
            && own != given
        {
            return Err(Fault::conflict(format!(
                "node {} has the id {own}, not {given}: another host holds this name",
                node.name
            )));
        }
        // A member tells about itself; whoever registers a service on it from outside does not change the host.
        let outsider = node.role == NodeRole::External && holder.role != NodeRole::External;
        if skip_update || outsider {
            return Ok(());
        }
        validate::node(node)?;
        if node.role != NodeRole::External && holder.role == NodeRole::External {
            return Err(Fault::conflict(format!(
                "node {} is an external node of the catalog: deregister it before a host of that name registers",
                node.name
            )));
        }
        if let Some(id) = node.id.filter(|_| holder.id.is_none()) {
            self.id_is_free(id, &node.name)?;
        }
        self.put_node(Node {
            id: holder.id.or(node.id),
            role: holder.role,
            status: holder.status,
            ..node.clone()
        });
        Ok(())
    }

    fn register_new_node(&mut self, node: &Node) -> Result<(), Fault> {
        validate::node(node)?;
        self.has_room_for(node)?;
        if let Some(id) = node.id {
            self.id_is_free(id, &node.name)?;
        }
        let node = Node { status: NodeStatus::Alive, ..node.clone() };
        match node.role {
            NodeRole::External => self.put_node(node),
            NodeRole::Agent | NodeRole::Server => self.put_member(node)?,
        }
        Ok(())
    }

    fn id_is_free(&self, id: purlin_model::NodeId, name: &NodeName) -> Result<(), Fault> {
        match self.state.catalog.by_id.get(&id).filter(|other| *other != name) {
            Some(other) => {
                Err(Fault::conflict(format!("node id {id} belongs to node {other}, not to {name}")))
            }
            None => Ok(()),
        }
    }

    fn register_instance(&mut self, node: &NodeName, instance: &Instance) -> Result<(), Fault> {
        validate::instance(instance)?;
        let Some(host) = self.host(node) else {
            return Err(Fault::internal(format!("node {node} vanished while registering on it")));
        };
        let new = !host.instances.contains_key(&instance.id);
        if new && host.instances.len() >= limit::INSTANCES_PER_NODE {
            return Err(validate::too_many(
                &format!("instances on node {node}"),
                host.instances.len() + 1,
                limit::INSTANCES_PER_NODE,
            ));
        }
        self.put_instance(node, instance.clone());
        Ok(())
    }

    fn register_check(&mut self, node: &NodeName, check: &Check) -> Result<(), Fault> {
        if check.node != *node {
            return Err(Fault::invalid(format!(
                "check {} is of node {}, but the registration is of node {node}",
                check.id, check.node
            )));
        }
        validate::check(check)?;
        let Some(host) = self.host(node).cloned() else {
            return Err(Fault::internal(format!("node {node} vanished while registering on it")));
        };
        if host.node.role != NodeRole::External && check.id.as_str() == NODE_ALIVE {
            return Err(Fault::invalid(format!(
                "check id {NODE_ALIVE} of node {node} is the servers' own: choose another"
            )));
        }
        if !host.checks.contains_key(&check.id) && host.checks.len() >= limit::CHECKS_PER_NODE {
            return Err(validate::too_many(
                &format!("checks on node {node}"),
                host.checks.len() + 1,
                limit::CHECKS_PER_NODE,
            ));
        }
        let mut check = check.clone();
        validate::cut(&mut check.output, limit::CHECK_OUTPUT_BYTES);
        (check.service_name, check.service_tags) = (None, Vec::new());
        if let Some(id) = &check.service_id {
            let Some(instance) = host.instances.get(id) else {
                return Err(Fault::invalid(format!(
                    "check {} names service id {id}, which is not registered on node {node}",
                    check.id
                )));
            };
            check.service_name = Some(instance.name.clone());
            check.service_tags = instance.tags.clone();
        }
        self.put_check(check);
        Ok(())
    }

    pub(super) fn deregister(&mut self, deregister: &Deregister) -> Result<Done, Fault> {
        let node = &deregister.node;
        let existed = match &deregister.what {
            DeregisterWhat::Node => return self.remove_node(node),
            DeregisterWhat::Instance(id) => self.drop_instance(node, id),
            DeregisterWhat::Check(id) => {
                let member = self.host(node).is_some_and(|host| host.node.role != NodeRole::External);
                if member && id.as_str() == NODE_ALIVE {
                    return Err(Fault::invalid(format!(
                        "check {NODE_ALIVE} of node {node} is the servers' own and stays while the node does"
                    )));
                }
                self.drop_check(node, id)
            }
        };
        Ok(Done::Deleted { existed })
    }
}
