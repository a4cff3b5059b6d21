# A Consul client agent's file as it may have been written for Consul. It is valid here; what has no meaning is named
# with what to use instead: purlin validate consul-agent.hcl
datacenter     = "dc1"
data_dir       = "/opt/consul"
node_name      = "app-3"
bind_addr      = "10.0.0.13"
client_addr    = "127.0.0.1"
server         = false
retry_join     = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
encrypt        = "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s="
log_level      = "INFO"
leave_on_terminate         = true
enable_local_script_checks = true

ports {
  grpc = 8502
}

tls {
  defaults {
    ca_file         = "/etc/consul.d/ca.pem"
    verify_outgoing = true
  }
}

telemetry {
  prometheus_retention_time = "60s"
}

acl {
  enabled = false
}

connect {
  enabled = true
}

service {
  name = "billing"
  port = 7000
  connect {
    sidecar_service {
      proxy {
        upstreams {
          destination_name = "db"
          local_bind_port  = 5432
        }
      }
    }
  }
  check {
    id       = "billing-http"
    http     = "http://127.0.0.1:7000/health"
    method   = "GET"
    interval = "10s"
    timeout  = "1s"
  }
}
