//! Between servers: rosters go to the leader, and a probe goes to the agent that shall carry it out.

use std::time::{Duration, Instant};

use purlin_model::{Fault, NodeName};
use purlin_wire::rpc::{self, Call, Probe, ProbeVia, Probed, Roster, RosterTaken};

use super::{Conversation, Service};
use crate::liveness::{Errand, PROBE_WITHIN, ROUND_WITHIN};

/// Where a host answers probes if it did not say.
const PROBE_PORT: u16 = 8301;
/// For the leader to take a roster.
const TAKEN_WITHIN: Duration = Duration::from_secs(2);

impl Conversation {
    /// `roster`, of another server.
    pub(super) async fn roster(&self, call: &Call) -> Result<RosterTaken, Fault> {
        self.only_servers()?;
        let roster: Roster = Self::decode(call)?;
        let server = self.caller.node().ok_or_else(|| Fault::forbidden("only a server has a roster"))?;
        if !self.service.raft.is_leader() {
            return Err(Fault::unavailable("this server does not lead"));
        }
        let urgent = !roster.changes.is_empty();
        let taken = self.service.liveness().roster(server, roster, Instant::now());
        if urgent {
            self.service.look.notify_one();
        }
        Ok(taken)
    }

    /// `probe-via`, of the leader.
    pub(super) async fn probe_via(&self, call: &Call) -> Result<Probed, Fault> {
        self.only_servers()?;
        self.service.probe_here(&Self::decode(call)?).await
    }
}

impl Service {
    /// Tells the leader, another server, of the sessions here.
    pub(crate) async fn tell_leader(&self, roster: &Roster) -> Result<RosterTaken, Fault> {
        let told = self.call_leader(rpc::ROSTER, roster);
        let late = || Fault::unavailable("the leader does not answer");
        tokio::time::timeout(TAKEN_WITHIN, told).await.map_err(|_| late())?
    }

    /// Has an agent whose session is here probe a host.
    async fn probe_here(&self, via: &ProbeVia) -> Result<Probed, Fault> {
        let gone = || Fault::not_found(format!("host {} has no session here", via.helper));
        let link = self.doors.link(&via.helper).ok_or_else(gone)?;
        rpc::call(link.as_ref(), rpc::PROBE, &via.probe, ROUND_WITHIN).await
    }

    async fn probe_through(&self, helper: NodeName, server: NodeName, probe: Probe) -> Result<Probed, Fault> {
        let via = ProbeVia { helper, probe };
        if server == self.node {
            return self.probe_here(&via).await;
        }
        let unknown = || Fault::not_found(format!("nobody knows where server {server} is"));
        let address = self.hub.state().server_address(&server).ok_or_else(unknown)?;
        self.peers.call(&server, &address, rpc::PROBE_VIA, &via, ROUND_WITHIN).await
    }

    /// Asks all helpers of an errand; the first that reached the host, if any did in time.
    pub(crate) async fn run_errand(&self, errand: Errand) -> Option<NodeName> {
        let address = errand.address.or_else(|| self.usual_address(&errand.node))?;
        let within_ms = u64::try_from(PROBE_WITHIN.as_millis()).unwrap_or(u64::MAX);
        let probe = Probe { node: errand.node.clone(), address, within_ms };
        let asked = errand.helpers.into_iter().map(|(helper, server)| {
            let probe = probe.clone();
            Box::pin(async move {
                match self.probe_through(helper.clone(), server, probe).await {
                    Ok(Probed { .. }) => Ok(helper),
                    Err(fault) => {
                        tracing::debug!(%helper, %fault, "probe failed");
                        Err(fault)
                    }
                }
            })
        });
        let first = futures_util::future::select_ok(asked);
        let reached = tokio::time::timeout(ROUND_WITHIN, first).await;
        reached.ok()?.ok().map(|(helper, _)| helper)
    }

    fn usual_address(&self, node: &NodeName) -> Option<String> {
        let state = self.hub.state();
        let address = &state.node(node)?.address;
        Some(match address.parse::<std::net::IpAddr>() {
            Ok(ip) => std::net::SocketAddr::new(ip, PROBE_PORT).to_string(),
            Err(_) => format!("{address}:{PROBE_PORT}"),
        })
    }
}
