//! `write`: a command goes into the log in the name of who sent it.

use purlin_model::Fault;
use purlin_model::command::{Actor, Outcome};
use purlin_wire::rpc::{Call, Write};

use super::Conversation;
use super::authorize::{Access, Resource, authorize, resource};

impl Conversation {
    pub(super) async fn write(&self, call: &Call) -> Result<Outcome, Fault> {
        let write: Write = Self::decode(call)?;
        let resource = resource(&write.command);
        authorize(&self.service.hub.state(), &self.caller, &resource, Access::Write)?;
        if resource == Resource::Internal {
            return Err(Fault::forbidden(format!(
                "{} is no command for a call: servers propose it themselves",
                write.command.name()
            )));
        }
        let in_tree = resource == Resource::Kv;
        let actor = Actor { node: self.caller.node().cloned(), uid: write.uid, accessor: None };
        let outcome = self.service.propose(write.request, actor, write.command).await?;
        // The agent answers its client once its view has this revision, so its session tells it now. Of the tree it
        // has no view.
        if let Some(node) = self.caller.node().filter(|_| !in_tree) {
            self.service.hub.nudge(node);
        }
        Ok(outcome)
    }
}
