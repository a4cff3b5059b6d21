//! What agents and servers say to each other. A call is one stream: a `Call` frame, then frames of that method.
//!
//! Bodies are self-describing maps: a reader skips fields it does not know and fills in those that are missing.
//! The answerer knows that a caller gave up when the caller's side of the stream ends (see [`cancelled`]).

mod bytes_field;
mod bytes_list;
mod call;
mod cluster;
mod delta;
#[cfg(test)]
mod golden;
mod operator;
mod record;
mod roster;
#[cfg(test)]
mod samples;
mod session;
mod snapshot;

use purlin_model::command::{Command, Outcome, RequestId};
use purlin_model::identity::TrustDomain;
use purlin_model::node::NodeRole;
use purlin_model::topic::Topic;
use purlin_model::{Datacenter, Fault, HistoryId, NodeId, NodeName, Revision, ServiceKey};
use serde::{Deserialize, Serialize};

use crate::frame::Vocabulary;

pub use call::{
    Answer, STRANGER_CALL_BYTES, ask, call, call_raw, cancelled, read_call, read_call_of_stranger, reply,
    reply_asked, try_call,
};
pub use cluster::{
    ADMIT, Admit, Admitted, BARRIER, Barrier, CERTIFY, Certify, PROPOSE, Proposal, Raw, Reached,
};
pub use delta::{Assembler, PIECE_BYTES, TOPIC_BYTES, delta_frames, pieces};
pub use operator::{
    AskMembers, MEMBERS, Members, OPERATE, Operate, Operated, Operation, Peer, ServerState, USAGE, Usage,
};
pub use record::{Records, records};
pub use roster::{
    Contact, PROBE, PROBE_VIA, Presence, Probe, ProbeVia, Probed, ROSTER, ROSTER_AT_ONCE, Roster,
    RosterTaken, name_sum,
};
pub use session::{
    Receiver, Sender, ServerReceiver, ServerSender, Session, SessionReceiver, SessionSender, accept_session,
    open_session,
};
pub use snapshot::{
    CHUNK_BYTES, Chunk, Restoring, SNAPSHOT_RESTORE, SNAPSHOT_SAVE, Saving, SnapshotRestore,
    SnapshotRestored, SnapshotSave, SnapshotSaved, next_chunk, send_chunk,
};

/// First frame of every stream. An unknown method gets a `Reply` with a fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    pub method: String,
    #[serde(with = "bytes_field")]
    pub body: Vec<u8>,
}

/// First frame of the answer; for `session`, what follows are `Down` frames.
pub type Reply<T> = Result<T, Fault>;

pub const WRITE: &str = "write";
pub const ASK: &str = "ask";
pub const SESSION: &str = "session";
pub const SIGN_LEAF: &str = "sign-leaf";
pub const RENEW_NODE: &str = "renew-node";
pub const RENEW_BY_KEY: &str = "renew-by-key";
pub const JOIN: &str = "join";

/// `write`: propose a command. Answer: `Outcome`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    pub request: RequestId,
    #[serde(default)]
    pub uid: Option<u32>,
    pub command: Command,
}

/// Consul's consistency modes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Consistency {
    #[default]
    Default,
    Consistent,
    Stale,
}

/// `ask`: read a topic once, at the latest when it is newer than `after` or `wait_ms` passed. Answer: `Asked`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    pub topic: Topic,
    #[serde(default)]
    pub consistency: Consistency,
    /// Zero: at once.
    #[serde(default)]
    pub after: Revision,
    #[serde(default)]
    pub wait_ms: u64,
}

/// Answer of `ask`. What does not fit in one frame goes on in the next, of the same form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub revision: Revision,
    pub records: Vec<Item>,
    pub known_leader: bool,
    /// Age of what a follower answered from, in milliseconds.
    pub last_contact_ms: u64,
    /// Another frame follows with more records.
    #[serde(default)]
    pub more: bool,
}

/// A keyed record on the wire. One of a kind that the reader does not know is skipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub key: String,
    pub kind: String,
    #[serde(with = "bytes_field")]
    pub body: Vec<u8>,
}

/// `session`: opens it. Answer: `Opened`, then `Down` frames one way and `Up` frames the other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession {
    /// Of the agent's software.
    #[serde(default)]
    pub version: String,
    /// Where the host answers probes of other hosts, `host:port`; absent where it answers none.
    #[serde(default)]
    pub probe: Option<String>,
    /// The agent has a session elsewhere and would give it up for this one: a server that is no better off refuses.
    #[serde(default)]
    pub moves: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// How often the agent shall send `Up::Beat`, and hears `Down::Beat`.
    pub beat_ms: u64,
    /// Which history the revisions of this session are of; absent in the first one of a mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryId>,
}

/// `session`, agent to server. The session is the host's heartbeat and carries what it follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Up {
    /// The first one comes when all that this host follows so far was said: before it, no `Progress` is told.
    Beat,
    /// With the revision that is already here, to resume from; zero for none.
    Follow(Vec<(Topic, Revision)>),
    Unfollow(Vec<Topic>),
    /// Goodbye: this host leaves in order.
    Leave,
    /// Comes before a beat: how far the host was brought since the last one, and how many milliseconds ago.
    Applied(Vec<(Revision, u64)>),
}

/// `session`, server to agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Down {
    Beat,
    Delta(WireDelta),
    /// Every followed topic is now as of this revision or later.
    Progress(Revision),
    /// From now on the agent shall send `Up::Beat` so often, in milliseconds, and hears `Down::Beat` as often.
    Pace(u64),
    /// The agent shall look for another server, and stay if no other takes it.
    Move,
    /// From here on revisions are of another history; all that is followed comes anew.
    History(HistoryId),
}

impl Vocabulary for Up {
    const VARIANTS: &'static [&'static str] = &["Beat", "Follow", "Unfollow", "Leave", "Applied"];
}

impl Vocabulary for Down {
    const VARIANTS: &'static [&'static str] = &["Beat", "Delta", "Progress", "Pace", "Move", "History"];
}

/// A delta, or a piece of one: `more` says that the next frame goes on with the same topic and revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireDelta {
    pub topic: Topic,
    pub revision: Revision,
    pub reset: bool,
    pub set: Vec<Item>,
    pub removed: Vec<String>,
    #[serde(default)]
    pub more: bool,
}

/// `sign-leaf`: a certificate for a service that this node has registered. Answer: `Signed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignLeaf {
    pub service: ServiceKey,
    /// PKCS#10, DER. Only its public key is taken.
    #[serde(with = "bytes_field")]
    pub csr: Vec<u8>,
}

/// `renew-node`: a new certificate for the node itself. Answer: `Signed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewNode {
    #[serde(with = "bytes_field")]
    pub csr: Vec<u8>,
}

/// `renew-by-key`: a new certificate for a host that cannot show one any more, as when it was off until its own had
/// expired. A stranger may call it: the request, signed with the key that the host joined with, proves who it is, and
/// the certificate is of use only to who has that key. Answer: `Signed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewByKey {
    pub node: NodeName,
    #[serde(with = "bytes_field")]
    pub csr: Vec<u8>,
}

/// Leaf first, then intermediates; DER.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    #[serde(with = "bytes_list")]
    pub chain: Vec<Vec<u8>>,
}

/// `join`: how a stranger becomes a member. Answer: `Joined`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    pub token: String,
    pub secret: String,
    #[serde(with = "bytes_field")]
    pub csr: Vec<u8>,
    pub id: NodeId,
    pub name: NodeName,
    pub role: NodeRole,
    pub datacenter: Option<Datacenter>,
    pub address: String,
    pub mesh_port: Option<u16>,
    pub version: String,
}

impl std::fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinRequest")
            .field("token", &self.token)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    pub trust_domain: TrustDomain,
    pub datacenter: Datacenter,
    /// Leaf first, then intermediates; DER.
    #[serde(with = "bytes_list")]
    pub chain: Vec<Vec<u8>>,
    /// DER.
    #[serde(with = "bytes_list")]
    pub roots: Vec<Vec<u8>>,
    /// `host:port` of every server.
    pub servers: Vec<String>,
}

/// Answers of `write`.
pub type Written = Outcome;
