//! Consul's keys that mean nothing here: accepted, so that a Consul agent's file is a starting point, with a word on
//! what to use instead.

use purlin_model::definition::reader::{Table, says_nothing};

const JOIN: &str = "a host joins with a token: see `purlin join-token create` and `purlin agent --join`";
const GOSSIP: &str = "there is no gossip: agents talk to servers by QUIC with mutual TLS";
const TLS: &str = "certificates are made and renewed by the mesh itself";
const SERVER: &str = "what a host is, the command says: `purlin server` or `purlin agent`";
const RAFT: &str = "consensus needs no tuning here";
const METRICS: &str = "metrics are at /v1/agent/metrics?format=prometheus";
const LOGS: &str = "logs go to stderr; let systemd or your supervisor keep them";
const FEDERATION: &str = "this version has one datacenter";
const TUNING: &str = "it has no counterpart here and needs none";
const ADDRESS: &str = "use \"advertise_addr\"";
const LEAVE: &str = "stopping a unit keeps the host's place; `purlin leave` gives it up";
const UNSUPPORTED: &str = "it is not supported by this version and is NOT in force";

/// Keys of the root.
const ROOT: &[(&str, &str)] = &[
    ("advertise_addr_ipv4", ADDRESS),
    ("advertise_addr_ipv6", ADDRESS),
    ("advertise_addr_wan", ADDRESS),
    ("advertise_addr_wan_ipv4", ADDRESS),
    ("advertise_addr_wan_ipv6", ADDRESS),
    ("advertise_reconnect_timeout", GOSSIP),
    ("allow_write_http_from", UNSUPPORTED),
    ("audit", UNSUPPORTED),
    ("auto_config", JOIN),
    ("auto_encrypt", TLS),
    ("auto_reload_config", "use `purlin reload` or SIGHUP"),
    ("autopilot", "see `purlin operator autopilot set-config`"),
    ("bootstrap", "use `purlin server --bootstrap`"),
    (
        "bootstrap_expect",
        "use `purlin server --bootstrap` on the first server and a join token on the others",
    ),
    ("ca_file", TLS),
    ("ca_path", TLS),
    ("cache", TUNING),
    ("cert_file", TLS),
    ("check_output_max_size", "set \"output_max_size\" of a check"),
    ("check_update_interval", TUNING),
    ("cloud", UNSUPPORTED),
    ("config_entries", "write entries with `purlin config write`"),
    ("default_query_time", "blocking queries wait 5m unless they say otherwise"),
    ("disable_anonymous_signature", "nothing is reported to anybody"),
    ("disable_coordinates", GOSSIP),
    ("disable_host_node_id", TUNING),
    ("disable_http_unprintable_char_filter", TUNING),
    ("disable_keyring_file", GOSSIP),
    ("disable_remote_exec", "there is no remote execution"),
    ("disable_update_check", "nothing is reported to anybody"),
    ("discard_check_output", TUNING),
    ("discovery_max_stale", "discovery is answered from the agent's own live view"),
    ("enable_acl_replication", FEDERATION),
    ("enable_agent_tls_for_checks", UNSUPPORTED),
    ("enable_central_service_config", "config entries always apply"),
    ("enable_debug", TUNING),
    ("enable_syslog", LOGS),
    ("encrypt", "there is no gossip: everything between hosts is mutual TLS, without a shared key"),
    ("encrypt_verify_incoming", GOSSIP),
    ("encrypt_verify_outgoing", GOSSIP),
    ("experiments", TUNING),
    ("gossip_lan", GOSSIP),
    ("gossip_wan", GOSSIP),
    ("key_file", TLS),
    ("leave_on_terminate", LEAVE),
    ("license_path", "no licence is needed"),
    ("log_file", LOGS),
    ("log_rotate_bytes", LOGS),
    ("log_rotate_duration", LOGS),
    ("log_rotate_max_files", LOGS),
    ("max_query_time", "a blocking query waits at most 10m"),
    ("non_voting_server", RAFT),
    ("peering", UNSUPPORTED),
    ("performance", RAFT),
    ("pid_file", "let systemd or your supervisor keep the process"),
    ("primary_datacenter", FEDERATION),
    ("primary_gateways", FEDERATION),
    ("primary_gateways_interval", FEDERATION),
    ("protocol", TUNING),
    ("raft_boltdb", RAFT),
    ("raft_logstore", RAFT),
    ("raft_prevote_disabled", RAFT),
    ("raft_protocol", RAFT),
    ("raft_snapshot_interval", RAFT),
    ("raft_snapshot_threshold", RAFT),
    ("raft_trailing_logs", RAFT),
    ("read_replica", RAFT),
    ("reconnect_timeout_wan", GOSSIP),
    ("rejoin_after_leave", JOIN),
    ("reporting", "nothing is reported to anybody"),
    ("retry_interval", JOIN),
    ("retry_interval_wan", FEDERATION),
    ("retry_join", JOIN),
    ("retry_join_wan", FEDERATION),
    ("retry_max", "use \"join_timeout\" for the first join; a host that joined tries for ever"),
    ("retry_max_wan", FEDERATION),
    ("rpc", TUNING),
    ("segment", GOSSIP),
    ("segments", GOSSIP),
    ("serf_lan", GOSSIP),
    ("serf_lan_allowed_cidrs", GOSSIP),
    ("serf_wan", GOSSIP),
    ("serf_wan_allowed_cidrs", GOSSIP),
    ("server", SERVER),
    ("server_metadata", TUNING),
    ("server_name", TLS),
    ("server_rejoin_age_max", JOIN),
    ("session_ttl_min", TUNING),
    ("skip_leave_on_interrupt", LEAVE),
    ("start_join", JOIN),
    ("start_join_wan", FEDERATION),
    ("syslog_facility", LOGS),
    ("telemetry", METRICS),
    ("tls", TLS),
    ("tls_cipher_suites", TLS),
    ("tls_min_version", TLS),
    ("tls_prefer_server_cipher_suites", TLS),
    ("translate_wan_addrs", FEDERATION),
    ("ui", UNSUPPORTED),
    ("ui_config", "there is no UI in this version"),
    ("ui_content_path", "there is no UI in this version"),
    ("ui_dir", "there is no UI in this version"),
    (
        "unix_sockets",
        "the socket of the API is for its owner and group; put it into a directory of the right mode",
    ),
    ("use_streaming_backend", "changes are always streamed"),
    ("verify_incoming", TLS),
    ("verify_incoming_https", TLS),
    ("verify_incoming_rpc", TLS),
    ("verify_outgoing", TLS),
    ("verify_server_hostname", TLS),
    ("watches", "run `purlin watch` under your supervisor instead"),
    ("xds", "there is no Envoy to configure: the proxy is Purlin's own"),
];

/// Keys of the blocks that are known.
const NESTED: &[(&str, &[(&str, &str)])] = &[
    (
        "ports",
        &[
            ("https", "the API is plain HTTP on loopback or a Unix socket"),
            ("grpc", "there is no Envoy to configure: the proxy is Purlin's own"),
            ("grpc_tls", "there is no Envoy to configure: the proxy is Purlin's own"),
            ("serf_wan", GOSSIP),
            ("sidecar_min_port", "all services of a host share the mesh port"),
            ("sidecar_max_port", "all services of a host share the mesh port"),
            ("expose_min_port", UNSUPPORTED),
            ("expose_max_port", UNSUPPORTED),
        ],
    ),
    (
        "addresses",
        &[
            ("https", "the API is plain HTTP on loopback or a Unix socket"),
            ("grpc", "there is no Envoy to configure: the proxy is Purlin's own"),
            ("grpc_tls", "there is no Envoy to configure: the proxy is Purlin's own"),
        ],
    ),
    (
        "dns_config",
        &[
            ("allow_stale", "DNS is answered from the agent's own live view"),
            ("max_stale", "DNS is answered from the agent's own live view"),
            ("use_cache", "DNS is answered from the agent's own live view"),
            ("cache_max_age", "DNS is answered from the agent's own live view"),
            ("recursor_strategy", "recursors are asked in their order"),
            ("enable_additional_node_meta_txt", TUNING),
            ("prefer_namespace", TUNING),
        ],
    ),
    (
        "http_config",
        &[
            ("allow_write_http_from", UNSUPPORTED),
            ("block_endpoints", UNSUPPORTED),
            ("max_header_bytes", TUNING),
            ("use_cache", "discovery is answered from the agent's own live view"),
        ],
    ),
    (
        "connect",
        &[
            ("enable_mesh_gateway_wan_federation", FEDERATION),
            ("enable_serverless_plugin", TUNING),
            ("test_ca_leaf_root_change_spread", TUNING),
            ("virtual_ip_cidr_v4", UNSUPPORTED),
            ("virtual_ip_cidr_v6", UNSUPPORTED),
        ],
    ),
    (
        "ca_config",
        &[
            ("private_key", "keys are made where they are used and never read from a file"),
            ("root_cert", "keys are made where they are used and never read from a file"),
            ("root_cert_ttl", TUNING),
            ("intermediate_cert_ttl", TUNING),
            ("rotation_period", TUNING),
            ("private_key_type", "keys are EC P-256"),
            ("private_key_bits", "keys are EC P-256"),
            ("csr_max_per_second", TUNING),
            ("csr_max_concurrent", TUNING),
        ],
    ),
    (
        "limits",
        &[
            ("https_handshake_timeout", TUNING),
            ("rpc_handshake_timeout", TUNING),
            ("rpc_client_timeout", TUNING),
            ("rpc_max_conns_per_client", TUNING),
            ("rpc_rate", TUNING),
            ("rpc_max_burst", TUNING),
            ("kv_max_value_size", TUNING),
            ("txn_max_req_len", TUNING),
            ("request_limits", UNSUPPORTED),
        ],
    ),
    (
        "acl",
        &[
            ("down_policy", "access control is not there yet"),
            ("enable_key_list_policy", "access control is not there yet"),
            ("enable_token_persistence", "access control is not there yet"),
            ("enable_token_replication", "access control is not there yet"),
            ("policy_ttl", "access control is not there yet"),
            ("role_ttl", "access control is not there yet"),
            ("token_ttl", "access control is not there yet"),
        ],
    ),
];

/// Names every such key of the root.
pub(super) fn warn_root(table: &Table<'_>) {
    warn(table, ROOT);
}

/// Names every such key of a known block.
pub(super) fn warn_block(table: &Table<'_>, block: &str) {
    for (_, keys) in NESTED.iter().filter(|(name, _)| *name == block) {
        warn(table, keys);
    }
}

fn warn(table: &Table<'_>, keys: &[(&'static str, &'static str)]) {
    for (key, instead) in keys {
        if table.value(key).is_some_and(|value| !says_nothing(value) || value.is_boolean()) {
            table.warn(key, format!("has no effect here: {instead}"));
        }
    }
}
