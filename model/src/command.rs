//! The one vocabulary of writing: every change of replicated state is a `Command` in an `Envelope`.
//!
//! Applying is a function of the log alone. Times, ids and random values are written into the command before it is
//! proposed; expiry is a command too.

use serde::{Deserialize, Serialize};

use crate::autopilot::AutopilotConfig;
use crate::check::Check;
use crate::config_entry::{ConfigEntry, ConfigKind};
use crate::event::UserEvent;
use crate::fault::Fault;
use crate::history::Restore;
use crate::identity::TrustDomain;
use crate::intention::{Action, Party, SourceIntention};
use crate::kv::KvWrite;
use crate::node::{Node, NodeRole, NodeStatus};
use crate::query::PreparedQuery;
use crate::service::Instance;
use crate::session::SessionWrite;
use crate::topic::{CaConfig, RootCertificate, ServerInfo};
use crate::txn::{Txn, TxnDone};
use crate::{CheckId, Datacenter, InstanceId, Millis, Namespace, NodeId, NodeName, Revision};

/// The newest form of command that this build writes and understands. An entry of a higher level stops the server.
pub const LEVEL: u16 = 2;
/// What every build of ours understands: the level of a mesh until all its servers say that they know more.
pub const FIRST_LEVEL: u16 = 1;

/// Identifies a request, so that a repeat returns the first outcome instead of acting twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub uuid::Uuid);

/// On whose behalf something is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The host whose authenticated session carried it; absent: the server itself.
    pub node: Option<NodeName>,
    /// The local user behind it, where the kernel told.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Accessor of the access token; absent until access control lands.
    #[serde(default)]
    pub accessor: Option<String>,
}

/// What lies in the Raft log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    pub level: u16,
    pub request: RequestId,
    pub actor: Actor,
    /// The leader's wall clock when it proposed.
    pub at: Millis,
    pub command: Command,
}

impl std::fmt::Display for Envelope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.command.name(), self.request.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "one at a time, and never in a collection")]
pub enum Command {
    /// The first of all: what the mesh is. Refused once there is one.
    CreateMesh(CreateMesh),
    /// A host comes in with a join token, or is told apart from one that holds its name.
    Join(Join),
    /// A host that joined tells its address, role and version; keeps its status alive.
    AnnounceNode(Node),
    /// A server's verdict on a host.
    SetNodeStatus {
        node: NodeName,
        status: NodeStatus,
    },
    /// A host and all that it registered are gone.
    RemoveNode {
        node: NodeName,
    },
    /// One registration: a host, at most one instance, and checks, all or nothing.
    Register(Register),
    Deregister(Deregister),
    PutConfig {
        entry: ConfigEntry,
        cas: Option<Revision>,
    },
    DeleteConfig {
        kind: ConfigKind,
        name: String,
        cas: Option<Revision>,
    },
    /// One source of one destination, put or replaced.
    PutIntention {
        destination: Party,
        destination_namespace: Namespace,
        source: SourceIntention,
    },
    DeleteIntention {
        source: Party,
        destination: Party,
    },
    CreateJoinToken(JoinToken),
    RevokeJoinToken {
        id: String,
    },
    /// A server's certificate authority key pair, certified by the root: kept so that it can be revoked.
    PutIntermediate {
        node: NodeName,
        certificate_pem: String,
    },
    /// A server tells where it listens; one that says it leads takes that from the others.
    AnnounceServer(ServerInfo),
    /// A certificate was signed for a host: kept so that it is revoked when the host is removed or replaced.
    RecordCertificate {
        node: NodeName,
        sha256: Vec<u8>,
        not_after: Millis,
    },
    /// What the configuration of the leader says of the whole mesh.
    UpdateMesh {
        default_intention: Action,
        leaf_ttl_ms: u64,
    },
    /// One change of the key-value tree.
    Kv(KvWrite),
    PutAutopilot {
        config: AutopilotConfig,
        cas: Option<Revision>,
    },
    /// Who leads and who has a vote, as the leader sees it.
    PutVoters {
        leader: NodeName,
        voters: Vec<NodeName>,
    },
    /// A server belongs to the cluster no more.
    ForgetServer {
        node: NodeName,
    },
    /// A step of replacing the state by a snapshot.
    Restore(Restore),
    /// Something happened that hosts want to hear of.
    FireEvent(UserEvent),
    /// A prepared query, made or (with `create` off) replaced.
    PutQuery {
        query: PreparedQuery,
        create: bool,
    },
    DeleteQuery {
        id: uuid::Uuid,
    },
    /// What a host that left had registered is gone; the host itself is still known as one that left.
    ReleaseNode {
        node: NodeName,
    },
    /// A host that left or failed long ago is no longer in the catalog. Unlike one that was removed it may come back.
    ReapNode {
        node: NodeName,
    },
    Session(SessionWrite),
    Txn(Txn),
    /// The root key as ciphertext for one more server, or for one that has another sealing key now.
    SealRootKey(SealedKey),
    /// A further root, trusted from now on: it becomes the active one when everybody had time to hear of it.
    AddRoot {
        root: RootCertificate,
        sealed_root_key: Vec<SealedKey>,
    },
    /// A root that was added signs from now on; the one before is trusted as long as its certificates live.
    ActivateRoot {
        id: String,
    },
    /// A root that is not active is trusted no more.
    RemoveRoot {
        id: String,
    },
    /// Certificates of servers that are gone, which hosts had time to replace, are trusted no more.
    RevokeAuthorities {
        /// SHA-256 each, as hex.
        sha256: Vec<String>,
    },
    /// How certificates are made, as an operator wants it; wins over what configuration files say.
    SetCaConfig(CaConfig),
}

impl Command {
    /// The level from which on it is understood. It is proposed only once every server of the mesh has that level.
    pub fn level(&self) -> u16 {
        match self {
            Self::Kv(_) | Self::Session(_) | Self::Txn(_) | Self::Restore(_) => 2,
            Self::PutAutopilot { .. } | Self::PutVoters { .. } | Self::ForgetServer { .. } => 2,
            Self::FireEvent(_) | Self::PutQuery { .. } | Self::DeleteQuery { .. } => 2,
            Self::ReleaseNode { .. } | Self::ReapNode { .. } => 2,
            Self::SealRootKey(_)
            | Self::AddRoot { .. }
            | Self::ActivateRoot { .. }
            | Self::RemoveRoot { .. }
            | Self::RevokeAuthorities { .. }
            | Self::SetCaConfig(_) => 2,
            _ => FIRST_LEVEL,
        }
    }

    /// For logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::CreateMesh(_) => "create-mesh",
            Self::Join(_) => "join",
            Self::AnnounceNode(_) => "announce-node",
            Self::SetNodeStatus { .. } => "set-node-status",
            Self::RemoveNode { .. } => "remove-node",
            Self::Register(_) => "register",
            Self::Deregister(_) => "deregister",
            Self::PutConfig { .. } => "put-config",
            Self::DeleteConfig { .. } => "delete-config",
            Self::PutIntention { .. } => "put-intention",
            Self::DeleteIntention { .. } => "delete-intention",
            Self::CreateJoinToken(_) => "create-join-token",
            Self::RevokeJoinToken { .. } => "revoke-join-token",
            Self::PutIntermediate { .. } => "put-intermediate",
            Self::AnnounceServer(_) => "announce-server",
            Self::RecordCertificate { .. } => "record-certificate",
            Self::UpdateMesh { .. } => "update-mesh",
            Self::Kv(_) => "kv",
            Self::PutAutopilot { .. } => "put-autopilot",
            Self::PutVoters { .. } => "put-voters",
            Self::ForgetServer { .. } => "forget-server",
            Self::Restore(_) => "restore",
            Self::FireEvent(_) => "fire-event",
            Self::PutQuery { .. } => "put-query",
            Self::DeleteQuery { .. } => "delete-query",
            Self::ReleaseNode { .. } => "release-node",
            Self::ReapNode { .. } => "reap-node",
            Self::Session(_) => "session",
            Self::Txn(_) => "txn",
            Self::SealRootKey(_) => "seal-root-key",
            Self::AddRoot { .. } => "add-root",
            Self::ActivateRoot { .. } => "activate-root",
            Self::RemoveRoot { .. } => "remove-root",
            Self::RevokeAuthorities { .. } => "revoke-authorities",
            Self::SetCaConfig(_) => "set-ca-config",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateMesh {
    pub trust_domain: TrustDomain,
    pub datacenter: Datacenter,
    pub root: RootCertificate,
    /// The root's private key, encrypted to each server's sealing key.
    pub sealed_root_key: Vec<SealedKey>,
    pub default_intention: Action,
    pub leaf_ttl_ms: u64,
}

/// The root key as ciphertext that one server can open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedKey {
    pub node: NodeName,
    /// The sealing key's public half (HPKE, X25519).
    pub recipient: Vec<u8>,
    pub encapsulated: Vec<u8>,
    pub ciphertext: Vec<u8>,
    /// The id of the root whose key it is; empty: the one that founded the mesh.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub root: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Of the join token.
    pub token: String,
    /// The secret's SHA-256; the secret itself never enters the log.
    pub secret_sha256: Vec<u8>,
    /// SHA-256 of the joining key: a retry with the same key costs no use.
    pub key_sha256: Vec<u8>,
    pub id: NodeId,
    pub name: NodeName,
    pub role: NodeRole,
    pub address: String,
    pub mesh_port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// Created or updated, unless `skip_node_update` and it exists.
    pub node: Node,
    pub skip_node_update: bool,
    pub instance: Option<Instance>,
    pub checks: Vec<Check>,
    /// Checks of the instance that are not among `checks` go away.
    pub replace_checks: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deregister {
    pub node: NodeName,
    pub what: DeregisterWhat,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeregisterWhat {
    Node,
    Instance(InstanceId),
    Check(CheckId),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    pub id: String,
    pub secret_sha256: Vec<u8>,
    pub role: NodeRole,
    pub expires: Millis,
    pub uses: u32,
    pub created: Millis,
}

/// A join token as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokenInfo {
    pub id: String,
    pub role: NodeRole,
    pub created: Millis,
    pub expires: Millis,
    pub uses: u32,
    pub uses_left: u32,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Where it stands in the log.
    pub revision: Revision,
    pub result: Result<Done, Fault>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// Carried out, or already so.
    Yes,
    /// The condition was not met, as the index of a compare-and-set or the holder of a lock; nothing changed.
    CasFailed,
    /// Deleted, or there was nothing to delete.
    Deleted { existed: bool },
    /// What each operation brought, or which failed.
    Txn(Box<TxnDone>),
}
