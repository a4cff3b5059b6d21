//! The examples below each command's help: what people type most.

pub(super) const ROOT: &str = "\
Examples:
  purlin demo                                       See a whole mesh work on this machine
  purlin server --bootstrap --config /etc/purlin    Start the first server
  purlin join-token create --ttl 1h --uses 10       Let more hosts in
  purlin agent --join TOKEN --config /etc/purlin    Bring a host in
  purlin members                                    See the hosts
  purlin intention create web api                   Let web call api

Exit codes: 0 done, 1 failed, 2 wrong usage. Long flags may be written with one dash, as Consul does.";

pub(super) const SERVER: &str = "\
Examples:
  purlin server --bootstrap --config /etc/purlin/server.hcl
  purlin server --join TOKEN --config /etc/purlin
  purlin server --config /etc/purlin                Go on with what is in data_dir";

pub(super) const AGENT: &str = "\
Examples:
  purlin agent --join TOKEN --config /etc/purlin/agent.hcl
  purlin agent --join @/run/token --data-dir /var/lib/purlin
  purlin agent --config /etc/purlin                 Go on with what is in data_dir";

pub(super) const PROXY: &str = "\
Example:
  purlin proxy --runtime-dir /run/purlin";

pub(super) const DEV: &str = "\
Examples:
  purlin dev
  purlin dev --config ./services.hcl --data-dir ./data";

pub(super) const DEMO: &str = "\
Examples:
  purlin demo                                       Go on until Ctrl-C
  purlin demo --once --format json                  Tell the steps as JSON and exit";

pub(super) const VALIDATE: &str = "\
Examples:
  purlin validate /etc/purlin
  purlin validate server.hcl services.json";

pub(super) const RELOAD: &str = "\
Example:
  purlin reload";

pub(super) const LEAVE: &str = "\
Example:
  purlin leave";

pub(super) const INFO: &str = "\
Examples:
  purlin info
  purlin info --format json";

pub(super) const MONITOR: &str = "\
Examples:
  purlin monitor
  purlin monitor --log-level debug --log-json";

pub(super) const LOG_LEVEL: &str = "\
Examples:
  purlin log-level debug
  purlin log-level info,purlin_agent=debug,purlin_proxy=trace";

pub(super) const MAINT: &str = "\
Examples:
  purlin maint --enable --reason 'new disk'         Take the host out of service
  purlin maint --enable --service web-1             Take one instance out
  purlin maint --disable
  purlin maint                                      Show what is in maintenance";

pub(super) const MEMBERS: &str = "\
Examples:
  purlin members
  purlin members --detailed --status failed";

pub(super) const FORCE_LEAVE: &str = "\
Examples:
  purlin force-leave host-3
  purlin force-leave --prune host-3";

pub(super) const NODE: &str = "\
Example:
  purlin node remove host-3";

pub(super) const CATALOG: &str = "\
Examples:
  purlin catalog datacenters
  purlin catalog nodes --service web
  purlin catalog services --tags";

pub(super) const CATALOG_DATACENTERS: &str = "\
Example:
  purlin catalog datacenters";

pub(super) const CATALOG_NODES: &str = "\
Examples:
  purlin catalog nodes --detailed
  purlin catalog nodes --service web
  purlin catalog nodes --filter 'Meta.rack == \"7\"'";

pub(super) const CATALOG_SERVICES: &str = "\
Examples:
  purlin catalog services --tags
  purlin catalog services --node host-1";

pub(super) const SERVICES: &str = "\
Examples:
  purlin services register web.hcl
  purlin services register --name web --port 8080
  purlin services deregister --id web";

pub(super) const SERVICES_REGISTER: &str = "\
Examples:
  purlin services register web.hcl api.json
  purlin services register --name web --port 8080 --tag v1 --meta version=1";

pub(super) const SERVICES_DEREGISTER: &str = "\
Examples:
  purlin services deregister web.hcl
  purlin services deregister --id web-1";

pub(super) const INTENTION: &str = "\
Examples:
  purlin intention create web api                   web may call api
  purlin intention create --deny '*' db             Nobody may call db
  purlin intention check web api                    Exit code 0: allowed, 1: denied
  purlin intention list";

pub(super) const INTENTION_CREATE: &str = "\
Examples:
  purlin intention create web api
  purlin intention create --deny --replace web api
  purlin intention create --description 'nightly export' --meta owner=data etl db
  purlin intention create --file intention.json";

pub(super) const INTENTION_DELETE: &str = "\
Example:
  purlin intention delete web api";

pub(super) const INTENTION_GET: &str = "\
Examples:
  purlin intention get web api
  purlin intention get --format json web api";

pub(super) const INTENTION_LIST: &str = "\
Examples:
  purlin intention list
  purlin intention list --filter 'DestinationName == \"api\"'";

pub(super) const INTENTION_CHECK: &str = "\
Example:
  purlin intention check web api && echo 'web may call api'";

pub(super) const INTENTION_MATCH: &str = "\
Examples:
  purlin intention match api                        Who may call api, in deciding order
  purlin intention match --source web               Whom web may call";

pub(super) const CONFIG: &str = "\
Examples:
  purlin config write api-defaults.hcl
  purlin config list --kind service-defaults
  purlin config read --kind service-defaults --name api
  purlin config delete --kind service-defaults --name api";

pub(super) const CONFIG_WRITE: &str = "\
Examples:
  purlin config write api-defaults.hcl
  echo '{\"Kind\": \"service-defaults\", \"Name\": \"api\", \"Protocol\": \"http\"}' | purlin config write -
  purlin config write --cas --modify-index 42 api-defaults.hcl";

pub(super) const CONFIG_READ: &str = "\
Example:
  purlin config read --kind service-defaults --name api";

pub(super) const CONFIG_LIST: &str = "\
Example:
  purlin config list --kind service-intentions";

pub(super) const CONFIG_DELETE: &str = "\
Examples:
  purlin config delete --kind service-defaults --name api
  purlin config delete --filename api-defaults.hcl";

pub(super) const KV: &str = "\
Examples:
  purlin kv put app/colour blue
  purlin kv get app/colour
  purlin kv get --recurse app/                      All below app/
  purlin kv delete app/colour";

pub(super) const KV_GET: &str = "\
Examples:
  purlin kv get app/colour
  purlin kv get --detailed app/colour
  purlin kv get --recurse app/
  purlin kv get --keys --separator=/ app/           One level of keys, as a directory";

pub(super) const KV_PUT: &str = "\
Examples:
  purlin kv put app/colour blue
  purlin kv put app/config @config.json
  echo blue | purlin kv put app/colour -
  purlin kv put --cas --modify-index 42 app/colour green
  purlin kv put --acquire --session ID app/leader host-1";

pub(super) const KV_DELETE: &str = "\
Examples:
  purlin kv delete app/colour
  purlin kv delete --recurse app/
  purlin kv delete --cas --modify-index 42 app/colour";

pub(super) const KV_EXPORT: &str = "\
Example:
  purlin kv export app/ > app.json";

pub(super) const KV_IMPORT: &str = "\
Examples:
  purlin kv import @app.json
  purlin kv export app/ | purlin kv import --prefix copy/ -";

pub(super) const JOIN_TOKEN: &str = "\
Examples:
  purlin join-token create --ttl 1h --uses 10
  purlin join-token list
  purlin join-token revoke ID";

pub(super) const JOIN_TOKEN_CREATE: &str = "\
Examples:
  purlin join-token create --ttl 1h --uses 10       For ten agents within the hour
  purlin join-token create --role server
  TOKEN=$(purlin join-token create)";

pub(super) const JOIN_TOKEN_LIST: &str = "\
Example:
  purlin join-token list";

pub(super) const JOIN_TOKEN_REVOKE: &str = "\
Example:
  purlin join-token revoke 6f1c6c7e-2c8f-4a3a-9d0e-6a9c6c1c2d3e";

pub(super) const CONNECT: &str = "\
Example:
  purlin connect ca get-config";

pub(super) const CONNECT_CA: &str = "\
Examples:
  purlin connect ca get-config
  purlin connect ca roots";

pub(super) const CONNECT_CA_GET: &str = "\
Example:
  purlin connect ca get-config";

pub(super) const CONNECT_CA_ROOTS: &str = "\
Examples:
  purlin connect ca roots
  purlin connect ca roots --format json";

pub(super) const VERSION: &str = "\
Examples:
  purlin version
  purlin version --format json";

pub(super) const COMPLETION: &str = "\
Examples:
  purlin completion bash > /etc/bash_completion.d/purlin
  purlin completion zsh > ~/.zfunc/_purlin
  purlin completion fish > ~/.config/fish/completions/purlin.fish";

pub(super) const OPERATOR: &str = "\
Examples:
  purlin operator raft list-peers
  purlin operator raft transfer-leader
  purlin operator autopilot state";

pub(super) const OPERATOR_RAFT: &str = "\
Examples:
  purlin operator raft list-peers
  purlin operator raft remove-peer --id 5f9e0c3a-0000-4000-8000-000000000003";

pub(super) const OPERATOR_LIST_PEERS: &str = "\
Examples:
  purlin operator raft list-peers
  purlin operator raft list-peers --stale           Without a leader too
  purlin operator raft list-peers --format json";

pub(super) const OPERATOR_TRANSFER: &str = "\
Examples:
  purlin operator raft transfer-leader
  purlin operator raft transfer-leader --id 5f9e0c3a-0000-4000-8000-000000000002";

pub(super) const OPERATOR_ADD_PEER: &str = "\
Examples:
  purlin operator raft add-peer --id 5f9e0c3a-0000-4000-8000-000000000004
  purlin operator raft add-peer --id 5f9e0c3a-0000-4000-8000-000000000004 --address 10.0.0.4:8300

A server that is started with `purlin server --join TOKEN` needs no such command.";

pub(super) const OPERATOR_REMOVE_PEER: &str = "\
Examples:
  purlin operator raft remove-peer --id 5f9e0c3a-0000-4000-8000-000000000003
  purlin operator raft remove-peer --address 10.0.0.3:8300

Refused where the voters that would be left could not agree. Stop the server first, or it may come back.";

pub(super) const OPERATOR_AUTOPILOT: &str = "\
Examples:
  purlin operator autopilot get-config
  purlin operator autopilot state";

pub(super) const OPERATOR_AUTOPILOT_SET: &str = "\
Examples:
  purlin operator autopilot set-config --cleanup-dead-servers=false
  purlin operator autopilot set-config --server-stabilization-time 30s --min-quorum 3";

pub(super) const OPERATOR_AUTOPILOT_STATE: &str = "\
Examples:
  purlin operator autopilot state
  purlin operator autopilot state --format json";

pub(super) const OPERATOR_USAGE: &str = "\
Example:
  purlin operator usage instances";
