//! Every limit that more than one room must agree on. Sizes are bytes unless the name says otherwise.

/// A DNS label (RFC 1035).
pub const LABEL_BYTES: usize = 63;
pub const SERVICE_NAME_BYTES: usize = 128;
pub const NODE_NAME_BYTES: usize = 128;
pub const INSTANCE_ID_BYTES: usize = 255;
pub const CHECK_ID_BYTES: usize = 512;

/// Tags of one instance, and the bytes of one tag.
pub const TAGS: usize = 256;
pub const TAG_BYTES: usize = 256;
/// Metadata pairs of a node or an instance, and the bytes of a key and of a value (Consul's figures).
pub const META_PAIRS: usize = 64;
pub const META_KEY_BYTES: usize = 128;
pub const META_VALUE_BYTES: usize = 512;
/// Named ports of one instance.
pub const NAMED_PORTS: usize = 32;
/// Upstreams of one instance.
pub const UPSTREAMS: usize = 256;
/// Instances and checks that one host may register.
pub const INSTANCES_PER_NODE: usize = 2_000;
pub const CHECKS_PER_NODE: usize = 4_000;
/// An address: a host name has no more (RFC 1035).
pub const ADDRESS_BYTES: usize = 255;
/// Tagged addresses of a node or an instance.
pub const TAGGED_ADDRESSES: usize = 32;
/// Regions, zones, names of tagged addresses and other words.
pub const WORD_BYTES: usize = 128;
/// The path of a Unix socket, as the kernel has it.
pub const SOCKET_PATH_BYTES: usize = 107;
/// The name of a check.
pub const CHECK_NAME_BYTES: usize = 512;
/// What a check says: cut to this, as Consul does.
pub const CHECK_OUTPUT_BYTES: usize = 4 * 1024;
/// Sources of one service-intentions entry, and permissions of one source.
pub const INTENTION_SOURCES: usize = 4_096;
pub const PERMISSIONS: usize = 128;
/// One config entry, encoded.
pub const CONFIG_ENTRY_BYTES: usize = 512 * 1024;

/// A key and a value of the key-value tree. Consul's figure for values.
pub const KV_KEY_BYTES: usize = 4 * 1024;
pub const KV_VALUE_BYTES: usize = 512 * 1024;
/// Keys of the tree, and the bytes of all keys and values together.
pub const KV_KEYS: usize = 1_000_000;
pub const KV_BYTES: usize = 512 * 1024 * 1024;

/// User events that are kept; the oldest goes first (Consul's figure).
pub const EVENTS: usize = 256;
/// What a user event may carry: as much as a message of Consul's gossip.
pub const EVENT_PAYLOAD_BYTES: usize = 512;
pub const EVENT_NAME_BYTES: usize = 128;
/// One expression that says whom a user event concerns.
pub const EVENT_FILTER_BYTES: usize = 512;

/// Prepared queries of a mesh, and one of them, encoded.
pub const QUERIES: usize = 4_096;
pub const QUERY_BYTES: usize = 16 * 1024;
/// The name of a prepared query: no name of DNS is longer.
pub const QUERY_NAME_BYTES: usize = 253;

/// Sessions of the mesh, the bytes of an id, and the checks that one is bound to.
pub const SESSIONS: usize = 100_000;
pub const SESSION_ID_BYTES: usize = 64;
pub const SESSION_CHECKS: usize = 64;

/// Operations of one transaction.
pub const TXN_OPS: usize = 128;

/// A body of the HTTP API.
pub const API_BODY_BYTES: usize = 512 * 1024;
/// One command in the Raft log, encoded: a value of the tree with all that stands around it.
pub const COMMAND_BYTES: usize = KV_VALUE_BYTES + 64 * 1024;
/// One frame between processes. Snapshots of a topic are cut into frames below it.
pub const FRAME_BYTES: usize = 4 * 1024 * 1024;
/// Topics that one session may follow.
pub const TOPICS_PER_SESSION: usize = 10_000;

const _: () = assert!(CONFIG_ENTRY_BYTES < COMMAND_BYTES && COMMAND_BYTES < FRAME_BYTES);
const _: () = assert!(KV_VALUE_BYTES + 2 * KV_KEY_BYTES < COMMAND_BYTES);
const _: () = assert!(API_BODY_BYTES < FRAME_BYTES);
