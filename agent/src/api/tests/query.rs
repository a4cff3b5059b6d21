//! Events and prepared queries, as the API tells them.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Host, names, with_web};

async fn create(host: &Host, query: Value) -> String {
    let said = host.call(Method::POST, "/v1/query", &query.to_string()).await;
    assert_eq!(said.status, StatusCode::OK, "{}", said.text);
    said.json()["ID"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_event_is_listed_when_its_firing_is_answered() {
    let host = with_web().await;
    let none = host.get("/v1/event/list").await;
    assert_eq!((none.json(), none.index()), (json!([]), 1));
    let fired = host.call(Method::PUT, "/v1/event/fire/deploy?service=^web$&tag=^v1$", "go").await.json();
    assert_eq!(
        (&fired["Payload"], &fired["Version"], &fired["LTime"]),
        (&json!("Z28="), &json!(1), &json!(0))
    );
    host.put("/v1/event/fire/elsewhere?node=^other$", Value::Null).await;
    let listed = host.get("/v1/event/list").await;
    assert_eq!(names(&listed.json(), "ID"), [fired["ID"].as_str().unwrap()]);
    assert_eq!((&listed.json()[0]["LTime"], &listed.json()[0]["TagFilter"]), (&json!(1), &json!("^v1$")));
    assert_eq!(host.get("/v1/event/list?name=other").await.json(), json!([]));
    assert_eq!(host.get("/v1/event/list?node=^other$").await.json(), json!([]));
    assert_eq!(host.get("/v1/event/list?filter=Name==deploy").await.json(), listed.json());
    // An event for others does not end a wait; one for this host does, though the index may fall.
    let path = format!("/v1/event/list?index={}&wait=60s", listed.index());
    let (heard, _) = tokio::join!(host.get(&path), async {
        host.put("/v1/event/fire/elsewhere?node=^other$", Value::Null).await;
        host.put("/v1/event/fire/restart", Value::Null).await;
    });
    assert_eq!(names(&heard.json(), "Name"), ["deploy", "restart"]);
    assert_ne!(heard.index(), listed.index());
    assert_eq!(heard.json()[1]["Payload"], Value::Null);
    // Another index than that of now is answered at once.
    assert_eq!(host.get(&path).await.json(), heard.json());
    assert_eq!(host.get("/v1/event/list?tag=v1").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_query_says_back_what_it_was_told() {
    let host = with_web().await;
    let body = json!({
        "Name": "geo-", "Token": "t", "Session": "8f246b77-f3e1-4f88-9b48-8ec93abf3e05",
        "Template": {"Type": "name_prefix_match", "Regexp": "^geo-(.*)$", "RemoveEmptyTags": true},
        "Service": {
            "Service": "${match(1)}", "SamenessGroup": "", "Failover": {"NearestN": 3, "Datacenters": ["dc2"], "Targets": []},
            "OnlyPassing": true, "IgnoreCheckIDs": ["c"], "Near": "_agent", "Tags": ["v1", "!v2"],
            "NodeMeta": {"rack": "7"}, "ServiceMeta": {"version": "1"}, "Connect": true, "Peer": "",
        },
        "DNS": {"TTL": "10s"},
    });
    let id = create(&host, body.clone()).await;
    let mut told = host.get(&format!("/v1/query/{id}")).await.json()[0].clone();
    let fields = told.as_object_mut().unwrap();
    assert_eq!(fields.remove("ID"), Some(json!(id)));
    fields.remove("CreateIndex").unwrap();
    fields.remove("ModifyIndex").unwrap();
    assert_eq!(told, body);
    // A client that sends back what it was told changes nothing.
    let whole = host.get("/v1/query").await.json()[0].clone();
    assert_eq!(host.put(&format!("/v1/query/{id}"), whole.clone()).await.status, StatusCode::OK);
    assert_eq!(host.get("/v1/query?filter=Name==%22geo-%22").await.json(), json!([whole]));
    let targets =
        json!({"Name": "t", "Service": {"Service": "x", "Failover": {"Targets": [{"Datacenter": "dc2"}]}}});
    let id = create(&host, targets).await;
    let told = host.get(&format!("/v1/query/{id}")).await.json();
    assert_eq!(told[0]["Service"]["Failover"]["Targets"], json!([{"Peer": "", "Datacenter": "dc2"}]));
}

#[tokio::test]
async fn a_query_is_carried_out_by_the_agent() {
    let host = with_web().await;
    create(&host, json!({"Name": "front", "Service": {"Service": "web", "Tags": ["BLUE"]}})).await;
    create(&host, json!({"Name": "mesh", "Service": {"Service": "web", "Connect": true}})).await;
    create(&host, json!({"Name": "proxy", "Service": {"Service": "web-sidecar-proxy"}})).await;
    create(&host, json!({"Name": "odd", "Service": {"Service": "no name"}})).await;
    let found = host.get("/v1/query/Front/execute").await;
    let expected = json!({
        "Service": "web", "DNS": {"TTL": ""}, "Datacenter": "dc1", "PeerName": "", "Failovers": 0,
        "Nodes": host.get("/v1/health/service/web").await.json(),
    });
    assert_eq!(found.json(), expected);
    assert_eq!(found.header("x-consul-knownleader"), "true");
    let id_of = |said: Value| said["Nodes"][0]["Service"]["ID"].clone();
    for path in ["mesh/execute", "proxy/execute", "front/execute?connect=true", "mesh/execute?consistent"] {
        let found = host.get(&format!("/v1/query/{path}")).await.json();
        assert_eq!(id_of(found), "web-1-sidecar-proxy", "{path}");
    }
    assert_eq!(host.get("/v1/query/odd/execute").await.json()["Nodes"], json!([]));
    // An index means nothing here: the answer comes at once.
    assert_eq!(host.get("/v1/query/front/execute?index=999999&wait=60s").await.status, StatusCode::OK);
    for path in ["none", "none/execute", "none/explain"] {
        let said = host.get(&format!("/v1/query/{path}")).await;
        assert_eq!((said.status, said.text.as_str()), (StatusCode::NOT_FOUND, "Query not found"));
    }
    let said = host.put("/v1/query/none", json!({"Name": "x", "Service": {"Service": "x"}})).await;
    assert_eq!(said.text, "Cannot modify non-existent prepared query: 'none'");
    // Without the server it goes on.
    host.connector.refuse(true);
    host.connector.cut();
    assert_eq!(id_of(host.get("/v1/query/front/execute").await.json()), "web-1");
}
