# Every other host: purlin agent --join TOKEN --config agent.hcl
node_name      = "host-1"
data_dir       = "/var/lib/purlin"
advertise_addr = "10.0.0.11"
log_level      = "info"

node_meta = {
  rack = "7"
}

# The API on loopback and on a Unix socket, DNS on loopback.
addresses {
  http = "127.0.0.1 unix:///run/purlin/http.sock"
}

# Names outside the mesh go to these.
recursors = ["10.0.0.53", "10.0.1.53"]

dns_config {
  node_ttl    = "5s"
  service_ttl = { "*" = "2s", "web*" = "10s" }
}

# Scripts of checks in files may run, those that come over the API may not.
enable_local_script_checks = true

check {
  name     = "disk"
  args     = ["/bin/sh", "-c", "test $(df --output=pcent / | tail -1 | tr -dc 0-9) -lt 90"]
  interval = "1m"
  status   = "passing" # until the first run, as it counts for every service of the host
}
