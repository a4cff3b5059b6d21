//! Writing config entries: shape, compare-and-set, and the laws between entries.

use purlin_model::command::Done;
use purlin_model::config_entry::{ConfigBody, ConfigEntry, ConfigKind, ServiceIntentions};
use purlin_model::intention::{Party, precedence};
use purlin_model::topic::Topic;
use purlin_model::{Fault, FaultCode, Revision, ServiceName, limit};

use super::entry::{GLOBAL, entry_key};
use super::{Draft, permission, validate};

/// Entries of all kinds together.
pub(super) const ENTRIES: usize = 20_000;

impl Draft {
    pub(super) fn put_config(&mut self, entry: &ConfigEntry, cas: Option<Revision>) -> Result<Done, Fault> {
        check_shape(entry)?;
        let key = entry_key(&entry.namespace, &entry.name);
        if !self.cas_holds(entry.kind(), &key, cas) {
            return Ok(Done::CasFailed);
        }
        self.store_config(entry.clone())?;
        Ok(Done::Yes)
    }

    fn cas_holds(&self, kind: ConfigKind, key: &str, cas: Option<Revision>) -> bool {
        let current = self.state.entries.get(kind, key).map_or(Revision(0), |entry| entry.modify_index);
        cas.is_none_or(|expected| expected == current)
    }

    /// Puts a well-formed entry in place, if the whole then still makes sense; equal content changes nothing.
    pub(super) fn store_config(&mut self, mut entry: ConfigEntry) -> Result<(), Fault> {
        let (kind, key) = (entry.kind(), entry_key(&entry.namespace, &entry.name));
        let old = self.state.entries.get(kind, &key).cloned();
        if let ConfigBody::ServiceIntentions(new) = &mut entry.body {
            let destination = Party::parse(&entry.name).map_err(|why| Fault::invalid(why.to_string()))?;
            let old = old.as_ref().and_then(|old| match &old.body {
                ConfigBody::ServiceIntentions(old) => Some(old),
                _ => None,
            });
            self.date_sources(new, old);
            new.sources.sort_by_key(|one| std::cmp::Reverse(precedence(&one.source, &destination)));
        }
        entry.create_index = old.as_ref().map_or(self.revision, |old| old.create_index);
        entry.modify_index = self.revision;
        if old.is_some_and(|old| old.same_content(&entry)) {
            return Ok(());
        }
        check_size(&entry)?;
        let have = self.state.entries.len();
        if entry.create_index == self.revision && have >= ENTRIES {
            return Err(validate::too_many("config entries", have + 1, ENTRIES));
        }
        self.state.entries.insert(key.clone(), entry);
        self.state.entries.check_permissions()?;
        self.touch_config(kind, key);
        Ok(())
    }

    /// A source that says what it said before keeps its times.
    fn date_sources(&self, new: &mut ServiceIntentions, old: Option<&ServiceIntentions>) {
        for source in &mut new.sources {
            let of = |one: &&purlin_model::intention::SourceIntention| {
                one.source == source.source && one.source_namespace == source.source_namespace
            };
            let old = old.and_then(|old| old.sources.iter().find(of));
            (source.created_at, source.updated_at) =
                old.map_or((self.at, self.at), |old| (old.created_at, old.updated_at));
            if old.is_some_and(|old| old != source) {
                source.updated_at = self.at;
            }
        }
    }

    pub(super) fn delete_config(
        &mut self,
        kind: ConfigKind,
        name: &str,
        cas: Option<Revision>,
    ) -> Result<Done, Fault> {
        if !self.cas_holds(kind, name, cas) {
            return Ok(Done::CasFailed);
        }
        if !self.state.entries.remove(kind, name) {
            return Ok(Done::Deleted { existed: false });
        }
        self.state.entries.check_permissions()?;
        self.touch_config(kind, name.to_owned());
        Ok(Done::Deleted { existed: true })
    }

    fn touch_config(&mut self, kind: ConfigKind, key: String) {
        self.touch(Topic::Config(kind, None), key.clone());
        self.touch(Topic::Config(kind, Some(key.clone())), key);
    }
}

/// An entry grows source by source, but must always fit into one frame to those who follow it.
fn check_size(entry: &ConfigEntry) -> Result<(), Fault> {
    let bytes = validate::encoded_bytes(entry)?;
    if bytes <= limit::CONFIG_ENTRY_BYTES {
        return Ok(());
    }
    Err(Fault::new(
        FaultCode::TooLarge,
        format!(
            "{} {} would have {bytes} bytes, at most {} are allowed",
            entry.kind(),
            entry.name,
            limit::CONFIG_ENTRY_BYTES
        ),
    ))
}

/// What an entry must be for itself.
fn check_shape(entry: &ConfigEntry) -> Result<(), Fault> {
    let of = format!("{} {}", entry.kind(), entry.name);
    validate::meta(&of, &entry.meta)?;
    let service = |name: &str| ServiceName::new(name).map_err(|why| Fault::invalid(why.to_string()));
    match &entry.body {
        ConfigBody::ServiceDefaults(defaults) => {
            service(&entry.name)?;
            if defaults.local_connect_timeout_ms == Some(0) {
                return Err(Fault::invalid(format!("{of}: LocalConnectTimeoutMs must be above 0")));
            }
        }
        ConfigBody::ProxyDefaults(_) if entry.name != GLOBAL => {
            return Err(Fault::invalid(format!("{of}: the one name of proxy-defaults is {GLOBAL:?}")));
        }
        ConfigBody::ProxyDefaults(_) => {}
        ConfigBody::ServiceIntentions(intentions) => {
            let destination = Party::parse(&entry.name).map_err(|why| Fault::invalid(why.to_string()))?;
            permission::check_sources(&of, &destination, &intentions.sources)?;
        }
    }
    Ok(())
}
