//! Builds the view anew whenever something it is made from changes, and says which topics that takes.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use purlin_model::node::Node;
use purlin_model::view::View;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Built, Inputs, build, wanted_topics};
use crate::core::mesh_of;
use crate::mirror::Mirror;
use crate::registry::Registry;
use crate::workload::Workloads;

/// What the task needs.
pub struct Driver {
    pub registry: Arc<Registry>,
    pub mirror: Mirror,
    pub workloads: Workloads,
    pub own: Node,
    pub inbound: Vec<SocketAddr>,
    pub detection_timeout: Option<Duration>,
    pub own_addresses: Vec<IpAddr>,
    pub view: watch::Sender<Arc<View>>,
    pub stop: CancellationToken,
}

impl Driver {
    /// Runs until told to stop. A burst of changes makes one view.
    pub async fn run(self) {
        let mut local = self.registry.watch();
        let mut topics = self.mirror.changes();
        let mut credentials = self.workloads.changes();
        let mut definitions = None;
        let mut said = BTreeSet::new();
        loop {
            let now = local.borrow_and_update().definitions;
            if definitions.replace(now) != Some(now) {
                self.pin();
            }
            topics.borrow_and_update();
            credentials.borrow_and_update();
            self.rebuild(&mut said);
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = local.changed() => if changed.is_err() { return },
                changed = topics.changed() => if changed.is_err() { return },
                changed = credentials.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Has the topics followed that this host cannot do without.
    pub fn pin(&self) {
        let (wanted, too_many) = wanted_topics(&self.own.name, &self.registry.local());
        if too_many {
            warn!(
                "the services of this host need more topics than one session may follow: some upstreams stay pending, some \
                 services are not found here without servers"
            );
        }
        self.mirror.pin(&wanted);
    }

    /// Publishes a view if it differs from the last one.
    pub fn rebuild(&self, said: &mut BTreeSet<String>) {
        let Some(mesh) = mesh_of(&self.mirror) else { return };
        let local = self.registry.local();
        let credentials = self.workloads.credentials();
        let built = build(&Inputs {
            node: &self.own,
            inbound: &self.inbound,
            detection_timeout: self.detection_timeout,
            own_addresses: &self.own_addresses,
            mesh: &mesh,
            local: &local,
            credentials: &credentials,
            topic: &|topic| self.mirror.peek(topic),
        });
        report(&built, said);
        let changed = self.view.send_if_modified(|view| {
            if view.parts == built.parts {
                return false;
            }
            *view = Arc::new(View { revision: view.revision + 1, parts: built.parts });
            true
        });
        if changed {
            debug!(revision = self.view.borrow().revision, "the proxy gets a new view");
        }
    }
}

/// Says once what was left out and why, and again if it comes back.
fn report(built: &Built, said: &mut BTreeSet<String>) {
    let now: BTreeSet<String> = built.skipped.iter().cloned().collect();
    for line in now.difference(said) {
        warn!("{line}");
    }
    *said = now;
}
