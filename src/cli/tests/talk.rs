//! Commands against an agent that answers from a script: what they send, what they print, how they end.

use std::io;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use clap::Parser;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::output::Screen;
use super::super::{Cli, Session, answer};
use crate::client::{Address, Client};

/// `PUT /v1/x` with the status and body that it is answered with.
type Script = Vec<(&'static str, u16, Value)>;

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What came of a command.
struct Came {
    printed: String,
    sent: Vec<(String, Value)>,
    result: Result<ExitCode, String>,
}

impl Came {
    #[track_caller]
    fn printed(&self, text: &str) {
        assert_eq!(self.result, Ok(ExitCode::SUCCESS), "{}", self.printed);
        assert_eq!(self.printed, text);
    }
}

async fn serve(listener: TcpListener, script: Script, sent: Arc<Mutex<Vec<(String, Value)>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        exchange(stream, &script, &sent).await;
    }
}

async fn exchange(mut stream: TcpStream, script: &Script, sent: &Mutex<Vec<(String, Value)>>) {
    let mut bytes = Vec::new();
    let (head, body) = loop {
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "the request is cut");
        let text = String::from_utf8(bytes.clone()).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            break (head.to_owned(), body.to_owned());
        }
    };
    let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
    let (status, answer) = script
        .iter()
        .find(|(known, ..)| *known == line)
        .map_or((404, json!(format!("no {line}"))), |(_, status, answer)| (*status, answer.clone()));
    let answer = match answer {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    };
    sent.lock().unwrap().push((line, serde_json::from_str(&body).unwrap_or(Value::Null)));
    let length = answer.len();
    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{answer}");
    stream.write_all(answer.as_bytes()).await.unwrap();
}

async fn run(line: &str, script: Script) -> Came {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::parse(&listener.local_addr().unwrap().to_string()).unwrap();
    let sent = Arc::new(Mutex::new(Vec::new()));
    let server = tokio::spawn(serve(listener, script, sent.clone()));
    let out = Shared::default();
    let cli = Cli::try_parse_from(super::words(line)).unwrap();
    let screen = Screen::into(out.clone());
    let mut session = Session { client: Client::new(address, None), format: cli.global.format, screen };
    let result = answer(&mut session, cli.verb).await.map_err(|error| format!("{error:#}"));
    server.abort();
    let printed = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
    let sent = sent.lock().unwrap().clone();
    Came { printed, sent, result }
}

#[tokio::test]
async fn members_are_a_table() {
    let member = |name: &str, status: u8| {
        json!({"Name": name, "Addr": "10.0.0.1", "Port": 8300, "Status": status,
            "Tags": {"role": "node", "dc": "dc1", "build": "0.1.0:abc"}})
    };
    let script = || vec![("GET /v1/agent/members", 200, json!([member("h2", 4), member("h1", 1)]))];
    run("purlin members", script()).await.printed(
        "Node  Address        Status  Type   Build  DC\n\
         h1    10.0.0.1:8300  alive   agent  0.1.0  dc1\n\
         h2    10.0.0.1:8300  failed  agent  0.1.0  dc1\n",
    );
    let failed = run("purlin members --status failed --format json", script()).await;
    let list: Value = serde_json::from_str(&failed.printed).unwrap();
    assert_eq!(list.as_array().map(Vec::len), Some(1));
    assert_eq!(list[0]["Name"], "h2");
}

#[tokio::test]
async fn services_are_listed_with_their_tags() {
    let all = json!({"web": ["v1", "v2"], "consul": []});
    let script = vec![("GET /v1/catalog/services", 200, all)];
    run("purlin catalog services --tags", script).await.printed("consul  -\nweb     v1,v2\n");
    let node = json!({"Node": {}, "Services": {"w1": {"Service": "web", "Tags": ["b"]}, "w2": {"Service": "web", "Tags": ["a"]}}});
    let script = vec![("GET /v1/catalog/node/h1", 200, node)];
    run("purlin catalog services --node h1 --tags", script).await.printed("web  a,b\n");
    let script = vec![("GET /v1/catalog/node/h9", 200, Value::Null)];
    let came = run("purlin catalog services --node h9", script).await;
    assert_eq!(came.result, Err("there is no node \"h9\"; see `purlin catalog nodes`".into()));
}

const EXACT: &str = "GET /v1/connect/intentions/exact?source=web&destination=api";
const PUT_EXACT: &str = "PUT /v1/connect/intentions/exact?source=web&destination=api";

#[tokio::test]
async fn an_intention_is_created_once() {
    let script = || vec![(PUT_EXACT, 200, json!(true))];
    let came = run("purlin intention create web api", script()).await;
    came.printed("Created: web => api (allow)\n");
    assert_eq!(came.sent[1].1, json!({"SourceName": "web", "DestinationName": "api", "Action": "allow"}));
    let there = json!({"SourceName": "web", "DestinationName": "api", "Action": "deny"});
    let script = || vec![(EXACT, 200, there.clone()), (PUT_EXACT, 200, json!(true))];
    let came = run("purlin intention create web api", script()).await;
    assert_eq!(
        came.result,
        Err("there is already an intention web => api (deny); add --replace to change it".into())
    );
    assert_eq!(came.sent.len(), 1);
    let came = run("purlin intention create --deny --replace --meta a=b web api", script()).await;
    came.printed("Created: web => api (deny)\n");
    assert_eq!(came.sent[0].1["Meta"], json!({"a": "b"}));
}

#[tokio::test]
async fn a_check_of_an_intention_ends_as_it_decides() {
    let path = "GET /v1/connect/intentions/check?source=web&destination=api";
    let came = run("purlin intention check web api", vec![(path, 200, json!({"Allowed": true}))]).await;
    came.printed("Allowed\n");
    let came = run("purlin intention check web api", vec![(path, 200, json!({"Allowed": false}))]).await;
    assert_eq!((came.printed.as_str(), came.result), ("Denied\n", Ok(ExitCode::from(1))));
    let came = run("purlin intention check web api", vec![(path, 500, json!("No cluster leader"))]).await;
    assert_eq!(came.result, Err("No cluster leader".into()));
}

#[tokio::test]
async fn a_join_token_is_all_that_is_printed() {
    let script = vec![("PUT /v1/join-token", 200, json!({"Token": "purlin-join-v1.abc", "ID": "1"}))];
    let came = run("purlin join-token create --ttl 10m --uses 3 --role server", script).await;
    came.printed("purlin-join-v1.abc\n");
    assert_eq!(came.sent[0].1, json!({"Role": "server", "TTL": "10m", "Uses": 3}));
}

#[tokio::test]
async fn a_config_entry_that_changed_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("api.hcl");
    std::fs::write(&file, "Kind = \"service-defaults\"\nName = \"api\"\nProtocol = \"http\"").unwrap();
    let line = format!("purlin config write --cas --modify-index 7 {}", file.display());
    let came = run(&line, vec![("PUT /v1/config?cas=7", 200, json!(true))]).await;
    came.printed("Config entry written: service-defaults/api\n");
    assert_eq!(came.sent[0].1["Protocol"], "http");
    let came = run(&line, vec![("PUT /v1/config?cas=7", 200, json!(false))]).await;
    assert!(came.result.is_err_and(|why| why.contains("was not written: it has changed")));
    // What is wrong is said before anything is sent.
    std::fs::write(&file, "Kind = \"service-defaults\"\nName = \"api\"\nProtcol = \"http\"").unwrap();
    let came = run(&line, vec![]).await;
    assert!(came.result.is_err_and(|why| why.contains("did you mean \"Protocol\"")) && came.sent.is_empty());
}

#[tokio::test]
async fn services_are_registered_all_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("s.hcl");
    let line = format!("purlin services register {}", file.display());
    let script = || {
        let taken = ("PUT /v1/agent/service/deregister/w%2F1", 200, Value::Null);
        vec![("PUT /v1/agent/service/register", 200, Value::Null), taken]
    };
    std::fs::write(
        &file,
        "service {\n name = \"web\"\n id = \"w/1\"\n port = 80\n}\nservice { name = \"api\" }",
    )
    .unwrap();
    let came = run(&line, script()).await;
    came.printed("Registered service: web\nRegistered service: api\n");
    assert_eq!(came.sent[0].1, json!({"name": "web", "id": "w/1", "port": 80}));
    let came = run(&line.replace(" register", " deregister"), script()).await;
    assert_eq!(came.sent[0].0, "PUT /v1/agent/service/deregister/w%2F1");
    std::fs::write(&file, "service { name = \"web\" }\nservice { name = \"api\" prot = 1 }").unwrap();
    let came = run(&line, script()).await;
    assert!(came.result.is_err() && came.sent.is_empty());
    let came = run("purlin services register --name web --port 80 --tag a --meta k=v", script()).await;
    assert_eq!(came.sent[0].1["Tags"], json!(["a"]));
}

#[tokio::test]
async fn logs_are_followed_and_levels_changed() {
    let script = vec![("GET /v1/agent/monitor?loglevel=debug&logjson=true", 200, json!("one line\n"))];
    let came = run("purlin monitor --log-level debug --log-json", script).await;
    assert_eq!(came.printed, "one line\n");
    assert!(came.result.is_err_and(|why| why.contains("ended the stream of logs")));
    let came = run("purlin log-level DEBUG", vec![("PUT /v1/agent/log-level", 200, Value::Null)]).await;
    came.printed("Log level set: debug\n");
    assert_eq!(came.sent[0].1, json!({"Level": "debug"}));
}

#[tokio::test]
async fn hosts_are_put_into_maintenance_and_removed() {
    let path = "PUT /v1/agent/service/maintenance/web-1?enable=true&reason=new%20disk";
    let came =
        run("purlin maint --enable --service web-1 --reason 'new disk'", vec![(path, 200, Value::Null)])
            .await;
    came.printed("Maintenance mode is now enabled for service web-1\n");
    let came = run("purlin node remove h2", vec![("DELETE /v1/node/h2", 200, json!(true))]).await;
    came.printed("Node removed: h2\n");
    let came = run(
        "purlin force-leave --prune h2",
        vec![("PUT /v1/agent/force-leave/h2?prune=true", 200, Value::Null)],
    )
    .await;
    came.printed("");
    let came =
        run("purlin node remove h1", vec![("DELETE /v1/node/h1", 400, json!("node \"h1\" is alive"))]).await;
    assert_eq!(came.result, Err("node \"h1\" is alive".into()));
}
