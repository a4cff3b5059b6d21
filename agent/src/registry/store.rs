//! The registry on disk: registrations of the API, maintenance mode and what checks last said, in one file.

use std::path::Path;
use std::time::Duration;

use purlin_model::check::{CheckDefinition, Status};
use purlin_model::service::ServiceDefinition;
use purlin_model::{CheckId, Fault, Millis};
use purlin_wire::file::{self, FileError};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::layers::{Layers, Maintenance};
use super::marks::Marks;
use super::{LocalState, Options, Origin, validate};

/// Of the file's contents; raised when an older build could not read it rightly.
const VERSION: u16 = 1;

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Stored {
    #[serde(default)]
    services: Vec<ServiceDefinition>,
    #[serde(default)]
    checks: Vec<CheckDefinition>,
    #[serde(default)]
    maintenance: Maintenance,
    #[serde(default)]
    statuses: Vec<StoredStatus>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredStatus {
    id: CheckId,
    status: Status,
    output: String,
    /// Of a TTL check that was alive: the wall-clock time at which it would have expired.
    #[serde(default)]
    expires: Option<Millis>,
}

impl Stored {
    pub(super) fn take(layers: &Layers, marks: &Marks, state: &LocalState, now: Millis) -> Self {
        let (services, checks, maintenance) = layers.of_api();
        let instant = tokio::time::Instant::now();
        let statuses = marks
            .iter()
            .filter(|(id, _)| state.checks.contains_key(*id))
            .map(|(id, mark)| StoredStatus {
                id: id.clone(),
                status: mark.status,
                output: mark.output.clone(),
                expires: mark.deadline.map(|at| now.plus(at.saturating_duration_since(instant))),
            })
            .collect();
        Self { services, checks, maintenance, statuses }
    }

    /// Puts what was stored in force, without what this agent's configuration no longer allows.
    pub(super) fn restore(self, options: &Options, layers: &mut Layers, marks: &mut Marks) {
        let mut services = self.services;
        services
            .retain_mut(|definition| is_allowed(validate::service(definition, Origin::Api, options.checks)));
        let mut checks = self.checks;
        checks.retain_mut(|check| is_allowed(validate::check(check, Origin::Api, options.checks)));
        layers.restore(services, checks);
        layers.restore_maintenance(self.maintenance);
        let now = options.clock.now();
        for stored in self.statuses {
            // A TTL that ran out while nobody watched expires at once.
            let left = stored
                .expires
                .map(|expires| expires.since(now))
                .map(|left| left.min(Duration::from_secs(86_400)));
            marks.restore(stored.id, stored.status, stored.output, left);
        }
    }
}

fn is_allowed(verdict: Result<(), Fault>) -> bool {
    if let Err(fault) = &verdict {
        warn!("a registration of the last run is dropped: {fault}");
    }
    verdict.is_ok()
}

pub(super) fn load(path: Option<&Path>) -> Result<Stored, Fault> {
    let Some(path) = path else { return Ok(Stored::default()) };
    let loaded = match file::load(path, VERSION) {
        Err(FileError::Missing(_)) => return Ok(Stored::default()),
        Err(error) => {
            return Err(Fault::internal(format!("the registry of this host cannot be read: {error}")));
        }
        Ok(loaded) => loaded,
    };
    let damaged = |why: String| {
        Fault::internal(format!(
            "the registry of this host cannot be read: {} is damaged: {why}",
            path.display()
        ))
    };
    if loaded.version != VERSION {
        return Err(damaged(format!("there is no version {}", loaded.version)));
    }
    rmp_serde::from_slice(&loaded.body).map_err(|error| damaged(error.to_string()))
}

/// Blocks until it is on the disk.
pub(super) fn save(path: &Path, stored: &Stored) -> Result<(), Fault> {
    let failed = |why: &dyn std::fmt::Display| {
        Fault::internal(format!("the registry of this host cannot be saved: {why}"))
    };
    let body = rmp_serde::to_vec_named(stored).map_err(|error| failed(&error))?;
    file::save(path, VERSION, &body).map_err(|error| failed(&error))
}
