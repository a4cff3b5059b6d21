//! One source of one destination, put or deleted: a change of the service-intentions entry it lives in.

use std::collections::BTreeMap;

use purlin_model::command::Done;
use purlin_model::config_entry::{ConfigBody, ConfigEntry, ConfigKind, ServiceIntentions};
use purlin_model::intention::{Party, SourceIntention};
use purlin_model::{Fault, Namespace, Revision};

use super::entry::entry_key;
use super::{Draft, permission};

impl Draft {
    pub(super) fn put_intention(
        &mut self,
        destination: &Party,
        namespace: &Namespace,
        source: &SourceIntention,
    ) -> Result<Done, Fault> {
        let name = destination.to_string();
        let old =
            self.state.entries.get(ConfigKind::ServiceIntentions, &entry_key(namespace, &name)).cloned();
        let mut entry = old.map_or_else(
            || ConfigEntry {
                name: name.clone(),
                namespace: namespace.clone(),
                meta: BTreeMap::new(),
                body: ConfigBody::ServiceIntentions(ServiceIntentions::default()),
                create_index: Revision(0),
                modify_index: Revision(0),
            },
            |old| (*old).clone(),
        );
        let ConfigBody::ServiceIntentions(body) = &mut entry.body else {
            return Err(Fault::internal(format!("the service-intentions of {name} hold something else")));
        };
        let same = |one: &SourceIntention| {
            one.source == source.source && one.source_namespace == source.source_namespace
        };
        match body.sources.iter_mut().find(|one| same(one)) {
            Some(one) => *one = source.clone(),
            None => body.sources.push(source.clone()),
        }
        permission::check_sources(&format!("service-intentions {name}"), destination, &body.sources)?;
        self.store_config(entry)?;
        Ok(Done::Yes)
    }

    /// Without its last source an entry says nothing and goes.
    pub(super) fn delete_intention(&mut self, source: &Party, destination: &Party) -> Result<Done, Fault> {
        let name = destination.to_string();
        let Some(old) = self.state.entries.get(ConfigKind::ServiceIntentions, &name).cloned() else {
            return Ok(Done::Deleted { existed: false });
        };
        let mut entry = (*old).clone();
        let ConfigBody::ServiceIntentions(body) = &mut entry.body else {
            return Err(Fault::internal(format!("the service-intentions of {name} hold something else")));
        };
        let before = body.sources.len();
        body.sources.retain(|one| one.source != *source || one.source_namespace != Namespace::default());
        if body.sources.len() == before {
            return Ok(Done::Deleted { existed: false });
        }
        if body.sources.is_empty() {
            return self.delete_config(ConfigKind::ServiceIntentions, &name, None);
        }
        self.store_config(entry)?;
        Ok(Done::Deleted { existed: true })
    }
}
