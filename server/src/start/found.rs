//! A new mesh: its trust domain and its root, whose key is sealed before it is forgotten.

use purlin_model::command::{Command, CreateMesh, Envelope, FIRST_LEVEL, RequestId};
use purlin_model::identity::TrustDomain;
use purlin_model::intention::Action;
use purlin_model::topic::MeshInfo;
use purlin_model::{Fault, ServiceName};

use super::millis;
use crate::ca::{CaStore, NewRoot, seal};
use crate::feed::Hub;
use crate::raft::RaftHandle;
use crate::state::State;
use crate::{Config, StartError};

/// Of leaf certificates, where nobody said anything: Consul's.
const LEAF_TTL: std::time::Duration = std::time::Duration::from_secs(72 * 3600);

/// Makes the mesh.
pub(super) async fn found_mesh(
    config: &Config,
    ca: &CaStore,
    raft: &RaftHandle<State>,
    hub: &Hub,
) -> Result<MeshInfo, StartError> {
    let trust_domain = TrustDomain(format!("{}.{}", uuid::Uuid::new_v4(), domain(config)?));
    let root = NewRoot::create(&trust_domain, (config.clock)())?;
    let sealed = seal(ca.sealing().public(), &config.node, &trust_domain, "", &root.key)?;
    let create = CreateMesh {
        trust_domain,
        datacenter: config.datacenter.clone(),
        root: root.certificate,
        sealed_root_key: vec![sealed],
        default_intention: config.default_intention.unwrap_or(Action::Deny),
        leaf_ttl_ms: millis(config.leaf_ttl.unwrap_or(LEAF_TTL)),
    };
    let envelope = Envelope {
        level: FIRST_LEVEL,
        request: RequestId(uuid::Uuid::new_v4()),
        actor: Default::default(),
        at: (config.clock)(),
        command: Command::CreateMesh(create),
    };
    raft.propose(envelope).await?.result?;
    let state = hub.state();
    let mesh = state.mesh_info().ok_or_else(|| Fault::internal("the new mesh is not there"))?;
    tracing::info!(trust_domain = %mesh.trust_domain, "mesh founded");
    Ok(mesh.clone())
}

fn domain(config: &Config) -> Result<String, StartError> {
    let domain = config.domain.trim_matches('.').to_ascii_lowercase();
    let is_label = |label: &str| ServiceName::new(label).is_ok_and(|label| label.is_dns_label());
    if domain.len() > 200 || !domain.split('.').all(is_label) {
        return Err(StartError::BadDomain(config.domain.chars().take(80).collect()));
    }
    Ok(domain)
}
