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

pub(super) const LOCK: &str = "\
Examples:
  purlin lock jobs/nightly ./backup.sh              One at a time, wherever it is started
  purlin lock -n 3 jobs/build make                  Three at a time
  purlin lock --try 10s --child-exit-code jobs/nightly ./backup.sh

The lock is a key of the tree, PREFIX/.lock, held by a session. It is given back when the command ends; when this
process dies, the session runs out within 30 s. Exit code 1: no lock, or it was lost.";

pub(super) const SESSION: &str = "\
Examples:
  purlin session create --name backup --ttl 30s
  purlin session list
  purlin session destroy ID";

pub(super) const SESSION_CREATE: &str = "\
Examples:
  purlin session create --name backup --ttl 30s --behavior delete
  purlin session create --node-check serfHealth --service-check service:web";

pub(super) const SESSION_LIST: &str = "\
Examples:
  purlin session list
  purlin session list --node host-1";

pub(super) const SESSION_INFO: &str = "\
Example:
  purlin session info 2f3c1f6e-9a51-4a3e-b2a3-3f6d1e8c7b90";

pub(super) const SESSION_RENEW: &str = "\
Example:
  purlin session renew 2f3c1f6e-9a51-4a3e-b2a3-3f6d1e8c7b90";

pub(super) const SESSION_DESTROY: &str = "\
Example:
  purlin session destroy 2f3c1f6e-9a51-4a3e-b2a3-3f6d1e8c7b90";

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
  purlin connect ca set-config --config-file ca.json
  purlin connect ca roots";

pub(super) const CONNECT_CA_GET: &str = "\
Example:
  purlin connect ca get-config";

pub(super) const CONNECT_CA_SET: &str = "\
Examples:
  purlin connect ca set-config --config-file ca.json
  echo '{\"Provider\": \"consul\", \"Config\": {\"LeafCertTTL\": \"24h\"}}' | purlin connect ca set-config --config-file -";

pub(super) const CONNECT_CA_ROOTS: &str = "\
Examples:
  purlin connect ca roots
  purlin connect ca roots --format json";

pub(super) const EVENT: &str = "\
Examples:
  purlin event --name deploy v2                     Every agent lists it
  purlin event --name restart --service '^web$' --tag '^v1$'";

pub(super) const WATCH: &str = "\
Examples:
  purlin watch --type services                      Show them once
  purlin watch --type service --service web --passingonly true 'jq length'
  purlin watch --type event --name deploy --shell=false /usr/local/bin/on-deploy --dry-run
  purlin watch --type checks --state critical 'cat >> alarms'

The program gets JSON on its standard input, and the index as CONSUL_INDEX and PURLIN_INDEX. If it fails, the watch
ends with exit code 1; if no agent answers, the watch tries again.";

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

pub(super) const SNAPSHOT: &str = "\
Examples:
  purlin snapshot save backup.snap                  Save everything to a file, verified
  purlin snapshot inspect backup.snap               See what is in it
  purlin snapshot restore backup.snap               Make it the state of the mesh";

pub(super) const SNAPSHOT_SAVE: &str = "\
Examples:
  purlin snapshot save backup.snap
  purlin snapshot save --stale backup.snap          Also while there is no leader

The file holds the root key of the mesh only as ciphertext for its servers. Keep it as you keep a database dump.";

pub(super) const SNAPSHOT_RESTORE: &str = "\
Example:
  purlin snapshot restore backup.snap

The file is verified before anything is changed. Servers, roots and members stay those of the running mesh.";

pub(super) const SNAPSHOT_INSPECT: &str = "\
Examples:
  purlin snapshot inspect backup.snap
  purlin snapshot inspect --format json backup.snap";

pub(super) const OPERATOR_RECOVER: &str = "\
Examples:
  purlin operator recover --data-dir /var/lib/purlin          Says what would be lost, and asks
  purlin operator recover --data-dir /var/lib/purlin --yes

While a majority of the servers can still be brought back, bring it back instead: nothing is lost then.";
