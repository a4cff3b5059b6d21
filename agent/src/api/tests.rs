//! The API over real sockets, with an agent that is whole and a server in the same process.

mod host;
mod limits;
mod query;
mod server;

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::Full;
use purlin_model::command::{Command, DeregisterWhat};
use purlin_model::limit;
use purlin_wire::token::JoinTokenText;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use host::{Host, send_over};

fn web() -> Value {
    json!({
        "name": "web", "ID": "web-1", "Tags": ["v1", "Blue"], "Port": 8080, "Meta": {"version": "1"},
        "Check": {"CheckID": "alive", "TTL": "60s", "Status": "passing"},
        "Connect": {"SidecarService": {"Proxy": {"Upstreams": [{"DestinationName": "api", "LocalBindPort": 9191}]}}},
    })
}

async fn with_web() -> Host {
    let host = Host::start().await;
    let said = host.put("/v1/agent/service/register", web()).await;
    assert_eq!((said.status, said.text.as_str()), (StatusCode::OK, ""));
    assert_eq!(said.header("x-purlin-sync"), "synced");
    host
}

fn names(value: &Value, field: &str) -> Vec<String> {
    value.as_array().unwrap().iter().map(|item| item[field].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_registration_is_visible_when_it_is_answered() {
    let host = with_web().await;
    let services = host.get("/v1/agent/services").await.json();
    assert_eq!(services["web-1"]["Port"], 8080);
    assert_eq!(services["web-1-sidecar-proxy"]["Kind"], "connect-proxy");
    let found = host.get("/v1/health/service/web").await;
    assert_eq!(found.json()[0]["Service"]["ID"], "web-1");
    assert_eq!(found.json()[0]["Node"]["Node"], "host-1");
    assert!(found.index() > 0);
    assert_eq!(found.header("x-consul-knownleader"), "true");
    assert_eq!(found.header("x-extra"), "yes");
    let item = host.get("/v1/catalog/service/web").await.json();
    assert_eq!(item[0]["ServiceTags"], json!(["v1", "Blue"]));
    let all = host.get("/v1/catalog/services").await.json();
    assert_eq!(all, json!({"web": ["Blue", "v1"], "web-sidecar-proxy": ["Blue", "v1"]}));
    let checks = host.get("/v1/health/checks/web").await.json();
    assert_eq!(names(&checks, "CheckID"), ["alive"]);
}

#[tokio::test]
async fn a_deregistration_is_gone_when_it_is_answered() {
    let host = with_web().await;
    assert_eq!(host.put("/v1/agent/service/deregister/web-1", Value::Null).await.status, StatusCode::OK);
    assert_eq!(host.get("/v1/health/service/web").await.json(), json!([]));
    let again = host.put("/v1/agent/service/deregister/web-1", Value::Null).await;
    assert_eq!(again.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn without_a_server_a_registration_is_kept_here() {
    let host = Host::start_alone(None, false).await;
    let mut session = host.agent.core().watch_session();
    session.wait_for(|session| session.phase == crate::session::Phase::Offline).await.unwrap();
    let said = host.put("/v1/agent/service/register", web()).await;
    assert_eq!((said.status, said.header("x-purlin-sync")), (StatusCode::OK, "offline"));
    assert!(host.get("/v1/agent/services").await.json().get("web-1").is_some());
    assert_eq!(host.get("/v1/agent/members").await.json()[0]["Name"], "host-1");
    let unknown = host.get("/v1/health/service/never-asked").await;
    assert_eq!(unknown.status, StatusCode::INTERNAL_SERVER_ERROR);
    host.connector.refuse(false);
}

#[tokio::test]
async fn the_sidecar_is_found_and_cannot_be_changed() {
    let host = with_web().await;
    for path in ["/v1/health/connect/web", "/v1/health/service/web-sidecar-proxy"] {
        let found = host.get(path).await.json();
        let service = &found[0]["Service"];
        assert_eq!(
            (&service["ID"], &service["Port"]),
            (&json!("web-1-sidecar-proxy"), &json!(20_000)),
            "{path}"
        );
        assert_eq!(service["Proxy"]["DestinationServiceID"], "web-1");
        assert!(names(&found[0]["Checks"], "CheckID").contains(&"alive".to_owned()));
    }
    let item = host.get("/v1/catalog/connect/web").await.json();
    assert_eq!(item[0]["ServiceName"], "web-sidecar-proxy");
    let node = host.get("/v1/catalog/node/host-1").await.json();
    assert!(node["Services"].get("web-1-sidecar-proxy").is_some());
    let derived = host.put("/v1/agent/service/deregister/web-1-sidecar-proxy", Value::Null).await;
    assert_eq!(derived.status, StatusCode::BAD_REQUEST);
    assert!(derived.text.contains("derived"), "{}", derived.text);
    let body = json!({"Name": "web-sidecar-proxy", "Port": 1});
    assert_eq!(host.put("/v1/agent/service/register", body).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn discovery_is_narrowed_by_tag_metadata_health_and_filter() {
    let host = with_web().await;
    let count = async |query: &str| {
        let said = host.get(&format!("/v1/health/service/web?{query}")).await;
        assert_eq!(said.status, StatusCode::OK, "{query}: {}", said.text);
        said.json().as_array().unwrap().len()
    };
    assert_eq!(count("tag=v1&tag=blue").await, 1);
    assert_eq!(count("tag=v2").await, 0);
    assert_eq!(count("node-meta=rack:r1").await, 1);
    assert_eq!(count("node-meta=rack:r2").await, 0);
    assert_eq!(count("passing").await, 1);
    assert_eq!(count("near=_agent&filter=Service.Meta.version%20%3D%3D%201").await, 1);
    assert_eq!(count("filter=%22v2%22+in+Service.Tags").await, 0);
    let said = host.put("/v1/agent/check/fail/alive?note=bad", Value::Null).await;
    assert_eq!(said.status, StatusCode::OK, "{}", said.text);
    assert_eq!(count("passing").await, 0);
    assert_eq!(count("").await, 1);
    let bad = host.get("/v1/health/service/web?filter=Servce.ID+%3D%3D+x").await;
    assert_eq!(bad.status, StatusCode::BAD_REQUEST);
    assert!(bad.text.contains("Servce.ID"), "{}", bad.text);
    let state = host.get("/v1/health/state/critical").await.json();
    assert_eq!(state[0]["Output"], "bad");
    assert_eq!(host.get("/v1/health/state/odd").await.status, StatusCode::BAD_REQUEST);
    let services = host.get("/v1/catalog/services?node-meta=rack:r2").await.json();
    assert_eq!(services, json!({}));
    let services = host.get("/v1/catalog/services?node-meta=rack:r1").await.json();
    assert_eq!(services["web"], json!(["Blue", "v1"]));
}

#[tokio::test]
async fn a_blocking_query_wakes_for_its_own_service_only() {
    let host = with_web().await;
    let index = host.get("/v1/health/service/web").await.index();
    let path = format!("/v1/health/service/web?index={index}&wait=60s");
    let waiting = host.get(&path);
    tokio::pin!(waiting);
    let other = json!({"Name": "other", "Port": 1});
    tokio::select! {
        _ = &mut waiting => panic!("another service woke it"),
        said = host.put("/v1/agent/service/register", other) => assert_eq!(said.status, StatusCode::OK),
    }
    let (said, _) = tokio::join!(waiting, host.put("/v1/agent/check/warn/alive", Value::Null));
    assert!(said.index() > index);
    let found = said.json();
    assert!(found[0]["Checks"].as_array().unwrap().iter().any(|check| check["Status"] == "warning"));
    let index = host.get("/v1/catalog/nodes").await.index();
    let same = host.get(&format!("/v1/catalog/nodes?index={index}&wait=50ms")).await;
    assert_eq!(same.index(), index);
}

#[tokio::test]
async fn hash_blocking_waits_for_another_content() {
    let host = with_web().await;
    let first = host.get("/v1/agent/service/web-1").await;
    let hash = first.header("x-consul-contenthash").to_owned();
    assert_eq!(first.json()["ContentHash"], hash.as_str());
    let same = host.get(&format!("/v1/agent/service/web-1?hash={hash}&wait=50ms")).await;
    assert_eq!(same.header("x-consul-contenthash"), hash);
    let path = format!("/v1/agent/service/web-1?hash={hash}&wait=60s");
    let mut changed = web();
    changed["Port"] = json!(8081);
    let (said, _) = tokio::join!(host.get(&path), host.put("/v1/agent/service/register", changed));
    assert_eq!(said.json()["Port"], 8081);
    assert_eq!(host.get("/v1/agent/service/none").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_holds_for_every_endpoint() {
    let host = Host::start().await;
    let status = async |method: Method, path: &str| host.call(method, path, "").await.status.as_u16();
    assert_eq!(status(Method::GET, "/v1/nope").await, 404);
    assert_eq!(status(Method::GET, "/v1/kv/x").await, 404);
    assert_eq!(status(Method::GET, "/v1/acl/tokens").await, 401);
    assert_eq!(status(Method::GET, "/v1/catalog/nodes?dc=dc2").await, 500);
    assert_eq!(status(Method::GET, "/v1/catalog/nodes?dc=dc1&ns=default").await, 200);
    assert_eq!(status(Method::GET, "/v1/catalog/nodes?ns=other").await, 400);
    assert_eq!(status(Method::GET, "/v1/catalog/nodes?stale&consistent").await, 400);
    assert_eq!(status(Method::GET, "/v1/catalog/nodes?consistent").await, 200);
    assert_eq!(status(Method::GET, "/v1/catalog/nodes?index=x").await, 400);
    assert_eq!(status(Method::GET, "/v1/catalog/nodes?wait=x").await, 400);
    assert_eq!(status(Method::GET, "/v1/catalog/node/a%0Ab").await, 400);
    let wrong = host.call(Method::DELETE, "/v1/catalog/nodes", "").await;
    assert_eq!((wrong.status.as_u16(), wrong.header("allow")), (405, "OPTIONS,GET"));
    let options = host.call(Method::OPTIONS, "/v1/connect/intentions", "").await;
    assert_eq!((options.status.as_u16(), options.header("allow")), (200, "OPTIONS,GET,POST"));
    let pretty = host.get("/v1/catalog/datacenters?pretty").await;
    assert_eq!(pretty.text, "[\n    \"dc1\"\n]\n");
    let compact = host.get("/v1/catalog/datacenters").await;
    assert_eq!((compact.text.as_str(), compact.header("content-type")), ("[\"dc1\"]", "application/json"));
    let error = host.get("/v1/nope").await;
    assert!(error.header("content-type").starts_with("text/plain"));
}

#[tokio::test]
async fn bodies_end_at_their_limit() {
    let host = Host::start().await;
    let of = |size: usize| format!("\"{}\"", "a".repeat(size - 2));
    let fits = host.call(Method::PUT, "/v1/agent/service/register", &of(limit::API_BODY_BYTES)).await;
    assert_eq!(fits.status, StatusCode::BAD_REQUEST);
    let larger = host.call(Method::PUT, "/v1/agent/service/register", &of(limit::API_BODY_BYTES + 1)).await;
    assert_eq!(larger.status, StatusCode::PAYLOAD_TOO_LARGE);
    let broken = host.call(Method::PUT, "/v1/agent/service/register", "{").await;
    assert_eq!(broken.status, StatusCode::BAD_REQUEST);
    let nothing = host.call(Method::PUT, "/v1/agent/service/register", "").await;
    assert_eq!(nothing.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_page_of_another_origin_writes_nothing() {
    let host = Host::start().await;
    let send = async |at: &str, origin: &str| {
        let request = http::Request::builder()
            .method(Method::PUT)
            .uri("/v1/agent/maintenance?enable=false")
            .header("host", at)
            .header("origin", origin)
            .body(Full::new(Bytes::new()))
            .unwrap();
        host.send(request).await.status
    };
    let own = "127.0.0.1:8500";
    assert_eq!(send(own, "http://evil.example").await, StatusCode::FORBIDDEN);
    assert_eq!(send(own, "null").await, StatusCode::FORBIDDEN);
    assert_eq!(send(own, "http://127.0.0.1:8500").await, StatusCode::OK);
    assert_eq!(send("localhost:8500", "http://localhost:8500").await, StatusCode::OK);
    // Its own name was made to lead to this host.
    assert_eq!(send("evil.example:8500", "http://evil.example:8500").await, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn http2_is_spoken_to_those_who_know() {
    let host = Host::start().await;
    let io = hyper_util::rt::TokioIo::new(host.connect().await);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::get("http://agent/v1/status/leader").body(Full::new(Bytes::new())).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    connection.abort();
}

#[tokio::test]
async fn connections_of_one_address_are_counted() {
    let host = Host::start().await;
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(host.connect().await);
    }
    let mut over = host.connect().await;
    let mut text = String::new();
    over.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 429"), "{text}");
    held.pop();
    // The place is free once the server has seen the end; until then it says 429 again.
    loop {
        let mut next = host.connect().await;
        next.write_all(b"GET /v1/status/leader HTTP/1.0\r\n\r\n").await.unwrap();
        let mut text = String::new();
        let _ = next.read_to_string(&mut text).await;
        if text.starts_with("HTTP/1.0 200") || text.starts_with("HTTP/1.1 200") {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_unix_socket_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    // A file that an earlier run left behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let host = Host::start_with(Some(path.clone())).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let request =
        http::Request::get("/v1/agent/self").header("host", "purlin").body(Full::new(Bytes::new())).unwrap();
    let said = send_over(stream, request).await;
    assert_eq!(said.json()["Config"]["NodeName"], "host-1");
    assert!(super::listen::bind_unix(&path).is_err());
    host.agent.stop().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn ttl_checks_are_reported_and_answered_with_codes() {
    let host = with_web().await;
    let code = async |path: &str| host.get(path).await.status.as_u16();
    assert_eq!(code("/v1/agent/health/service/id/web-1").await, 200);
    let body = json!({"status": "warning", "output": "slow"});
    assert_eq!(host.put("/v1/agent/check/update/alive", body).await.status, StatusCode::OK);
    let said = host.get("/v1/agent/health/service/name/web?format=text").await;
    assert_eq!((said.status.as_u16(), said.text.as_str()), (429, "warning"));
    host.put("/v1/agent/check/fail/alive", Value::Null).await;
    assert_eq!(code("/v1/agent/health/service/id/web-1").await, 503);
    assert_eq!(code("/v1/agent/health/service/id/none").await, 404);
    let checks = host.get("/v1/agent/checks?filter=Status+%3D%3D+critical").await.json();
    assert_eq!(checks["alive"]["Definition"]["TTL"], "1m0s");
    assert_eq!(host.put("/v1/agent/check/pass/none", Value::Null).await.status, StatusCode::NOT_FOUND);
    let body = json!({"Status": "fine"});
    assert_eq!(host.put("/v1/agent/check/update/alive", body).await.status, StatusCode::BAD_REQUEST);
    let body = json!({"Name": "disk", "TTL": "30s", "Notes": "n"});
    assert_eq!(host.put("/v1/agent/check/register", body).await.status, StatusCode::OK);
    assert!(names(&host.get("/v1/health/node/host-1").await.json(), "CheckID").contains(&"disk".to_owned()));
    assert_eq!(host.put("/v1/agent/check/deregister/disk", Value::Null).await.status, StatusCode::OK);
    for (what, said) in [("service", "Missing service name"), ("check", "Missing check name")] {
        for body in [json!({}), json!({"Name": "", "TTL": "30s"})] {
            let answer = host.put(&format!("/v1/agent/{what}/register"), body).await;
            assert_eq!((answer.status, answer.text.as_str()), (StatusCode::BAD_REQUEST, said));
        }
    }
}

#[tokio::test]
async fn maintenance_shows_and_ends() {
    let host = with_web().await;
    let missing = host.put("/v1/agent/maintenance", Value::Null).await;
    assert_eq!((missing.status.as_u16(), missing.text.as_str()), (400, "Missing value for enable"));
    host.put("/v1/agent/service/maintenance/web-1?enable=true&reason=upgrade", Value::Null).await;
    let said = host.get("/v1/agent/health/service/id/web-1").await;
    assert_eq!(said.json()["AggregatedStatus"], "maintenance");
    assert_eq!(host.get("/v1/health/service/web?passing").await.json(), json!([]));
    host.put("/v1/agent/service/maintenance/web-1?enable=false", Value::Null).await;
    assert_eq!(host.get("/v1/agent/health/service/id/web-1").await.status, StatusCode::OK);
    host.put("/v1/agent/maintenance?enable=true", Value::Null).await;
    assert_eq!(host.get("/v1/agent/health/service/id/web-1").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn external_services_are_registered_in_the_catalog() {
    let host = Host::start().await;
    let body = json!({
        "Node": "db-host", "Address": "10.1.1.1", "Service": {"Service": "db", "Port": 5432},
        "Check": {"Name": "up", "Status": "passing", "ServiceID": "db"},
    });
    let said = host.put("/v1/catalog/register", body).await;
    assert_eq!((said.status, said.text.as_str()), (StatusCode::OK, "true"));
    let found = host.get("/v1/health/service/db?passing").await.json();
    assert_eq!(found[0]["Node"]["Address"], "10.1.1.1");
    let list = host.get("/v1/catalog/node-services/db-host").await.json();
    assert_eq!(list["Services"][0]["Service"], "db");
    let body = json!({"Node": "db-host", "ServiceID": "db"});
    assert_eq!(host.put("/v1/catalog/deregister", body).await.text, "true");
    assert!(matches!(
        host.server.commands().last(),
        Some(Command::Deregister(what)) if matches!(what.what, DeregisterWhat::Instance(_))
    ));
    assert_eq!(host.get("/v1/health/service/db").await.json(), json!([]));
    assert_eq!(host.get("/v1/catalog/node/absent").await.json(), Value::Null);
}

#[tokio::test]
async fn intentions_are_written_read_and_decide() {
    let host = Host::start().await;
    let exact = "/v1/connect/intentions/exact?source=web&destination=api";
    assert_eq!(host.get(exact).await.status, StatusCode::NOT_FOUND);
    let check = "/v1/connect/intentions/check?source=web&destination=api";
    assert_eq!(host.get(check).await.json(), json!({"Allowed": false}));
    let said = host.put(exact, json!({"Action": "allow", "SourceType": "consul"})).await;
    assert_eq!((said.status, said.text.as_str()), (StatusCode::OK, "true"));
    assert_eq!(host.get(check).await.json(), json!({"Allowed": true}));
    assert_eq!(host.get(exact).await.json()["Precedence"], 9);
    let any = "/v1/connect/intentions/exact?source=*&destination=*";
    host.put(any, json!({"Action": "deny"})).await;
    let list = host.get("/v1/connect/intentions").await.json();
    assert_eq!(names(&list, "SourceName"), ["web", "*"]);
    let of = host.get("/v1/connect/intentions/match?by=destination&name=api&name=db").await.json();
    assert_eq!((of["api"].as_array().unwrap().len(), of["db"].as_array().unwrap().len()), (2, 1));
    let of = host.get("/v1/connect/intentions/match?by=source&name=web").await.json();
    assert_eq!(names(&of["web"], "DestinationName"), ["api", "*"]);
    let entry = host.get("/v1/config/service-intentions/api").await.json();
    assert_eq!(entry["Sources"][0]["Name"], "web");
    let old = json!({"SourceName": "web", "DestinationName": "api", "Action": "deny"});
    let twice = host.call(Method::POST, "/v1/connect/intentions", &old.to_string()).await;
    assert_eq!(twice.status, StatusCode::CONFLICT);
    assert_eq!(host.call(Method::DELETE, exact, "").await.text, "true");
    let made = host.call(Method::POST, "/v1/connect/intentions", &old.to_string()).await;
    assert_eq!(made.json()["ID"].as_str().map(str::len), Some(36));
    assert_eq!(host.get("/v1/connect/intentions/some-id").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_native_application_asks_whether_a_caller_is_allowed() {
    let host = Host::start().await;
    let exact = "/v1/connect/intentions/exact?source=web&destination=api";
    let ask = async |uri: String| {
        let body = json!({"Target": "api", "ClientCertURI": uri, "ClientCertSerial": "1"}).to_string();
        host.call(Method::POST, "/v1/agent/connect/authorize", &body).await.json()
    };
    let web = host.server.ca.service("web").to_string();
    let denied = ask(web.clone()).await;
    assert_eq!(denied["Authorized"], false);
    assert!(denied["Reason"].as_str().unwrap().contains("Default behavior"), "{denied}");
    host.put(exact, json!({"Action": "allow"})).await;
    assert_eq!(ask(web).await["Authorized"], true);
    let foreign = "spiffe://other.mesh.internal/ns/default/dc/dc1/svc/web".to_owned();
    assert_eq!(ask(foreign).await["Authorized"], false);
    let permissions = json!({"Permissions": [{"Action": "allow", "HTTP": {"PathPrefix": "/"}}]});
    assert_eq!(host.put(exact, permissions).await.text, "true");
    assert_eq!(ask(host.server.ca.service("web").to_string()).await["Authorized"], false);
}

#[tokio::test]
async fn config_entries_are_written_with_and_without_an_index() {
    let host = Host::start().await;
    let body = json!({"Kind": "service-defaults", "Name": "api", "Protocol": "http"});
    assert_eq!(host.put("/v1/config", body.clone()).await.text, "true");
    let read = host.get("/v1/config/service-defaults/api").await.json();
    assert_eq!(read["Protocol"], "http");
    assert_eq!(host.put("/v1/config?cas=1", body.clone()).await.text, "false");
    let index = read["ModifyIndex"].as_u64().unwrap();
    assert_eq!(host.put(&format!("/v1/config?cas={index}"), body).await.text, "true");
    assert_eq!(host.get("/v1/config/service-defaults").await.json().as_array().unwrap().len(), 1);
    assert_eq!(host.call(Method::DELETE, "/v1/config/service-defaults/api", "").await.text, "{}");
    assert_eq!(host.get("/v1/config/service-defaults/api").await.status, StatusCode::NOT_FOUND);
    assert_eq!(host.get("/v1/config/king/api").await.status, StatusCode::BAD_REQUEST);
    let wrong =
        host.put("/v1/config", json!({"Kind": "service-defaults", "Name": "api", "Protocl": "x"})).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_leaf_is_the_one_of_the_service_and_for_this_host() {
    let host = with_web().await;
    let said = host.get("/v1/agent/connect/ca/leaf/web").await;
    assert_eq!(said.status, StatusCode::OK, "{}", said.text);
    let leaf = said.json();
    assert_eq!(leaf["ServiceURI"], host.server.ca.service("web").to_string());
    assert!(leaf["CertPEM"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    assert!(leaf["PrivateKeyPEM"].as_str().unwrap().contains("PRIVATE KEY"));
    let named = http::Request::get("/v1/agent/connect/ca/leaf/web")
        .header("host", "evil.example")
        .body(Full::new(Bytes::new()))
        .unwrap();
    assert_eq!(host.send(named).await.status, StatusCode::FORBIDDEN);
    assert_eq!(host.get("/v1/agent/connect/ca/leaf/absent").await.status, StatusCode::NOT_FOUND);
    let roots = host.get("/v1/agent/connect/ca/roots").await.json();
    assert_eq!(roots["ActiveRootID"], "aa:bb");
    let pem = host.get("/v1/connect/ca/roots?pem=true").await;
    assert!(pem.text.starts_with("-----BEGIN CERTIFICATE-----"));
}

#[tokio::test]
async fn join_tokens_are_made_listed_and_revoked() {
    let host = Host::start().await;
    let made = host.put("/v1/join-token", json!({"Role": "agent", "TTL": "1h", "Uses": 10})).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text);
    let made = made.json();
    let token =
        JoinTokenText::decode(made["Token"].as_str().unwrap()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(token.servers, ["10.0.0.1:8300"]);
    assert_eq!(token.ca_fingerprint, host.server.ca.fingerprint());
    let commands = host.server.commands();
    let Some(Command::CreateJoinToken(kept)) = commands.last() else { panic!("{commands:?}") };
    assert_eq!(kept.secret_sha256, token.secret.sha256());
    let listed = host.get("/v1/join-token").await;
    assert_eq!(listed.json()[0]["UsesLeft"], 10);
    assert!(!listed.text.contains(token.secret.expose()));
    let path = format!("/v1/join-token/{}", token.id);
    assert_eq!(host.call(Method::DELETE, &path, "").await.status, StatusCode::OK);
    assert_eq!(host.call(Method::DELETE, &path, "").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn only_hosts_that_are_gone_are_sent_away() {
    let host = Host::start().await;
    // The agent announces its host by itself; a registration waits for that.
    host.put("/v1/agent/service/register", json!({"Name": "x", "Port": 1})).await;
    let alive = host.call(Method::DELETE, "/v1/node/host-1", "").await;
    assert_eq!(alive.status, StatusCode::BAD_REQUEST);
    assert!(alive.text.contains("alive"), "{}", alive.text);
    assert_eq!(host.put("/v1/agent/force-leave/absent", Value::Null).await.status, StatusCode::NOT_FOUND);
    let body = json!({"Node": "db-host", "Address": "10.1.1.1"});
    host.put("/v1/catalog/register", body).await;
    assert_eq!(host.put("/v1/agent/force-leave/db-host?prune", Value::Null).await.status, StatusCode::OK);
    assert!(matches!(host.server.commands().last(), Some(Command::RemoveNode { .. })));
}

#[tokio::test]
async fn the_agent_tells_of_itself() {
    let mut host = with_web().await;
    let me = host.get("/v1/agent/self").await.json();
    assert_eq!(me["Config"]["Datacenter"], "dc1");
    assert_eq!(me["Member"]["Name"], "host-1");
    assert_eq!(host.get("/v1/status/leader").await.text, "\"10.0.0.1:8300\"");
    assert_eq!(host.get("/v1/status/peers").await.json(), json!(["10.0.0.1:8300"]));
    assert_eq!(host.get("/v1/agent/version").await.json()["HumanVersion"], "0.1.0");
    assert!(
        host.get("/v1/agent/metrics?format=prometheus")
            .await
            .text
            .contains("purlin_agent_session_connected 1")
    );
    let gauges = host.get("/v1/agent/metrics").await.json();
    assert!(names(&gauges["Gauges"], "Name").contains(&"purlin_agent_session_connected".to_owned()));
    assert_eq!(host.get("/v1/agent/proxy").await.json()["Connected"], false);
    assert_eq!(host.put("/v1/agent/join/10.0.0.1", Value::Null).await.status, StatusCode::BAD_REQUEST);
    let mut triggers = std::mem::replace(&mut host.triggers, tokio::sync::mpsc::channel(1).1);
    let answer = tokio::spawn(async move {
        match triggers.recv().await {
            Some(crate::core::Trigger::Reload(answer)) => answer.send(Err("line 3: bad".into())),
            _ => Ok(()),
        }
    });
    let reload = host.put("/v1/agent/reload", Value::Null).await;
    assert_eq!((reload.status.as_u16(), reload.text.as_str()), (400, "line 3: bad"));
    answer.await.unwrap().unwrap();
}

#[tokio::test]
async fn logs_are_followed_and_their_level_is_set() {
    let host = Host::start().await;
    let said = host.get("/v1/agent/monitor?loglevel=DEBUG&logjson").await;
    assert_eq!((said.status, said.text.as_str()), (StatusCode::OK, "debug true\nsecond\n"));
    assert_eq!(host.get("/v1/agent/monitor?loglevel=loud").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(host.put("/v1/agent/log-level", json!({"level": "debug"})).await.status, StatusCode::OK);
    assert_eq!(host.put("/v1/agent/log-level?level=debug", Value::Null).await.status, StatusCode::OK);
    let refused = host.put("/v1/agent/log-level", json!({"Level": "loud"})).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.text.contains("unknown level"), "{}", refused.text);
}

#[tokio::test]
async fn without_a_server_stale_reads_are_answered_from_here() {
    let host = with_web().await;
    // What was asked for once is followed.
    assert_eq!(host.get("/v1/health/service/web").await.status, StatusCode::OK);
    host.connector.refuse(true);
    host.connector.cut();
    let mut session = host.agent.core().watch_session();
    session.wait_for(|session| !session.is_connected()).await.unwrap();
    let found = host.get("/v1/health/service/web").await;
    assert_eq!(found.json()[0]["Service"]["ID"], "web-1");
    assert_eq!(found.header("x-consul-knownleader"), "false");
    let node = host.get("/v1/catalog/node/host-1?stale").await.json();
    assert!(node["Services"].get("web-1").is_some());
    assert_eq!(host.get("/v1/connect/ca/roots").await.json()["ActiveRootID"], "aa:bb");
    assert_eq!(host.get("/v1/status/leader").await.text, "\"10.0.0.1:8300\"");
}

#[tokio::test]
async fn closing_cuts_blocking_queries() {
    let host = with_web().await;
    let index = host.get("/v1/health/service/web").await.index();
    let mut waiting = host.connect().await;
    let query = format!("GET /v1/health/service/web?index={index}&wait=300s HTTP/1.1\r\nHost: x\r\n\r\n");
    waiting.write_all(query.as_bytes()).await.unwrap();
    let closed = async {
        let mut text = String::new();
        let _ = waiting.read_to_string(&mut text).await;
    };
    let (ended, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(30), closed), host.agent.stop());
    assert!(ended.is_ok(), "the connection outlived the API");
}
