//! The table of endpoints: one line each, below `/v1/`.

use http::{Method, StatusCode};

use super::answer::{Answer, Failure};
use super::dispatch::Handler;
use super::request::Request;
use super::router::Route;
use super::{
    Api, agent, agent_check, agent_health, agent_host, agent_service, authorize, ca_config, catalog,
    catalog_write, config, connect, event, health, intentions, join_token, kv, members, metrics, operator,
    query, session, snapshot, status, txn,
};

macro_rules! table {
    ($($method:ident $pattern:literal => $handler:path;)*) => {
        vec![$(Route::<Handler> {
            method: Method::$method,
            pattern: $pattern,
            handler: |api, request| Box::pin($handler(api, request)),
        }),*]
    };
}

pub(super) fn routes() -> Vec<Route<Handler>> {
    let mut routes = agent_routes();
    routes.extend(catalog_routes());
    routes.extend(connect_routes());
    routes.extend(operator_routes());
    routes.extend(event_and_query_routes());
    routes.extend(other_routes());
    routes
}

fn agent_routes() -> Vec<Route<Handler>> {
    table! {
        GET "agent/self" => agent::me;
        GET "agent/host" => agent_host::host;
        GET "agent/version" => agent::version;
        GET "agent/metrics" => metrics::metrics;
        GET "agent/monitor" => agent::monitor;
        GET "agent/members" => members::list;
        GET "agent/proxy" => agent::proxy;
        PUT "agent/maintenance" => agent::maintenance;
        PUT "agent/reload" => agent::reload;
        PUT "agent/leave" => agent::leave;
        PUT "agent/log-level" => agent::log_level;
        PUT "agent/join/*address" => agent::join;
        PUT "agent/force-leave/:node" => members::force_leave;
        GET "agent/services" => agent_service::list;
        GET "agent/service/*id" => agent_service::one;
        PUT "agent/service/register" => agent_service::register;
        PUT "agent/service/deregister/*id" => agent_service::deregister;
        PUT "agent/service/maintenance/*id" => agent_service::maintenance;
        GET "agent/health/service/id/*id" => agent_health::by_id;
        GET "agent/health/service/name/:name" => agent_health::by_name;
        GET "agent/checks" => agent_check::list;
        PUT "agent/check/register" => agent_check::register;
        PUT "agent/check/deregister/*id" => agent_check::deregister;
        PUT "agent/check/pass/*id" => agent_check::pass;
        PUT "agent/check/warn/*id" => agent_check::warn;
        PUT "agent/check/fail/*id" => agent_check::fail;
        PUT "agent/check/update/*id" => agent_check::update;
        POST "agent/connect/authorize" => authorize::authorize;
        // As py-consul asks.
        PUT "agent/connect/authorize" => authorize::authorize;
        GET "agent/connect/ca/roots" => connect::roots;
        GET "agent/connect/ca/leaf/:service" => connect::leaf;
    }
}

fn catalog_routes() -> Vec<Route<Handler>> {
    table! {
        PUT "catalog/register" => catalog_write::register;
        PUT "catalog/deregister" => catalog_write::deregister;
        GET "catalog/datacenters" => catalog::datacenters;
        GET "catalog/nodes" => catalog::nodes;
        GET "catalog/services" => catalog::services;
        GET "catalog/service/:service" => catalog::service;
        GET "catalog/connect/:service" => catalog::connect;
        GET "catalog/node/:node" => catalog::node;
        GET "catalog/node-services/:node" => catalog::node_services;
        GET "health/node/:node" => health::node;
        GET "health/checks/:service" => health::checks;
        GET "health/state/:state" => health::state;
        GET "health/service/:service" => health::service;
        GET "health/connect/:service" => health::connect;
    }
}

fn connect_routes() -> Vec<Route<Handler>> {
    table! {
        GET "connect/ca/roots" => connect::roots;
        GET "connect/ca/configuration" => ca_config::get;
        PUT "connect/ca/configuration" => ca_config::put;
        GET "connect/intentions" => intentions::list;
        POST "connect/intentions" => intentions::create;
        GET "connect/intentions/exact" => intentions::get;
        PUT "connect/intentions/exact" => intentions::put;
        DELETE "connect/intentions/exact" => intentions::delete;
        GET "connect/intentions/match" => intentions::matching;
        GET "connect/intentions/check" => authorize::check;
        GET "connect/intentions/:id" => intentions::by_id;
        PUT "connect/intentions/:id" => intentions::by_id;
        DELETE "connect/intentions/:id" => intentions::by_id;
        PUT "config" => config::put;
        GET "config/:kind" => config::list;
        GET "config/:kind/:name" => config::get;
        DELETE "config/:kind/:name" => config::delete;
    }
}

fn operator_routes() -> Vec<Route<Handler>> {
    table! {
        GET "operator/raft/configuration" => operator::configuration;
        DELETE "operator/raft/peer" => operator::remove_peer;
        POST "operator/raft/peer" => operator::add_peer;
        POST "operator/raft/transfer-leader" => operator::transfer_leader;
        // As Consul's own command line asks.
        PUT "operator/raft/transfer-leader" => operator::transfer_leader;
        GET "operator/autopilot/configuration" => operator::get_autopilot;
        PUT "operator/autopilot/configuration" => operator::put_autopilot;
        GET "operator/autopilot/health" => operator::health;
        GET "operator/autopilot/state" => operator::state;
        GET "operator/usage" => operator::usage;
    }
}

fn event_and_query_routes() -> Vec<Route<Handler>> {
    table! {
        PUT "event/fire/:name" => event::fire;
        PUT "event/fire" => event::nameless;
        PUT "event/fire/" => event::nameless;
        GET "event/list" => event::list;
        GET "query" => query::list;
        POST "query" => query::create;
        GET "query/:id" => query::get;
        PUT "query/:id" => query::update;
        DELETE "query/:id" => query::delete;
        GET "query/:id/execute" => query::execute;
        GET "query/:id/explain" => query::explain;
    }
}

fn other_routes() -> Vec<Route<Handler>> {
    table! {
        GET "kv/**key" => kv::get;
        PUT "kv/**key" => kv::put;
        DELETE "kv/**key" => kv::delete;
        PUT "session/create" => session::create;
        PUT "session/destroy/:id" => session::destroy;
        PUT "session/renew/:id" => session::renew;
        GET "session/info/:id" => session::info;
        GET "session/node/:node" => session::of_node;
        GET "session/list" => session::list;
        PUT "txn" => txn::run;
        GET "status/leader" => status::leader;
        GET "status/peers" => status::peers;
        GET "snapshot" => snapshot::save;
        PUT "snapshot" => snapshot::restore;
        PUT "join-token" => join_token::create;
        GET "join-token" => join_token::list;
        DELETE "join-token/:id" => join_token::revoke;
        DELETE "node/:name" => members::remove;
        GET "acl/*rest" => no_acl;
        PUT "acl/*rest" => no_acl;
        POST "acl/*rest" => no_acl;
        DELETE "acl/*rest" => no_acl;
    }
}

/// What Consul answers where access control is off.
async fn no_acl(_api: &Api, _request: &Request) -> Result<Answer, Failure> {
    Err(Failure::new(StatusCode::UNAUTHORIZED, "ACL support disabled"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_endpoint_stands_twice() {
        let mut seen = BTreeSet::new();
        for route in routes() {
            assert!(seen.insert((route.pattern, route.method.to_string())), "{}", route.pattern);
        }
    }
}
