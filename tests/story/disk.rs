//! The disk of a server that is killed in the middle of writing to it, and disks that others fill.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::kit::cluster::{PATIENT, leader, servers};
use crate::kit::mesh::path_text;
use crate::kit::wait::LONG;
use crate::kit::{Agent, Host, Lab, until};

pub const STORIES: &[(&str, fn())] = &[
    ("disk::killed_while_writing", killed_while_writing),
    ("disk::full_ones_take_no_writes_until_there_is_space", full_ones_take_no_writes),
];

fn sources(agent: &Agent) -> Result<Vec<String>, String> {
    let list = agent.get("/v1/connect/intentions")?;
    Ok(list
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one["SourceName"].as_str().map(str::to_owned))
        .collect())
}

/// Writers go on while the server is killed again and again: nothing that they were told is missing.
fn killed_while_writing() {
    let lab = Lab::new(1);
    let mut server = Agent::server(lab.host(1), "");
    let mut told = Vec::new();
    for round in 0..6 {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (host, stop, count) = (server.host.clone(), stop.clone(), count.clone());
                std::thread::spawn(move || {
                    let mut told = Vec::new();
                    let mut n = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let source = format!("r{round}-w{writer}-{n}");
                        n += 1;
                        let url = format!(
                            "http://127.0.0.1:8500/v1/connect/intentions/exact?source={source}&destination=db"
                        );
                        let body = r#"{"Action": "allow"}"#;
                        if let Ok((200, _)) = host.curl(&["--max-time", "5", "-X", "PUT", "-d", body, &url]) {
                            told.push(source);
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    told
                })
            })
            .collect();
        // In the middle of it: at another moment each time.
        until("enough is written", LONG, || match count.load(Ordering::Relaxed) {
            enough if enough >= 5 + 3 * round => Ok(()),
            few => Err(few.to_string()),
        });
        server.process.kill();
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            told.extend(writer.join().expect("a writer"));
        }
        server.again();
        server.await_ready();
        let found = sources(&server).expect("intentions");
        let lost: Vec<_> = told.iter().filter(|source| !found.contains(source)).collect();
        assert!(lost.is_empty(), "acknowledged, but gone after kill {round}: {lost:?}");
    }
    assert!(told.len() > 20, "too little was written to tell: {}", told.len());
}

/// Gives a host a small disk of its own for `data_dir`.
fn small_disk(host: &Host) {
    let data = host.dir.join("data");
    std::fs::create_dir_all(&data).expect("a directory");
    host.run("mount", &["-t", "tmpfs", "-o", "size=96m,mode=700", "tmpfs", path_text(&data)]);
}

/// Somebody else takes all that is free.
fn fill(server: &Agent) {
    let ballast = server.host.dir.join("data/ballast");
    // It ends by finding no space.
    let _ = server.host.output("dd", &["if=/dev/zero", &format!("of={}", path_text(&ballast)), "bs=64k"]);
}

fn free(server: &Agent) {
    std::fs::remove_file(server.host.dir.join("data/ballast")).expect("the ballast");
}

#[track_caller]
fn await_full(server: &Agent, full: bool) {
    until(&format!("the disk of {} is full: {full}", server.host.name), LONG, || {
        let is = server.metric("purlin_server_raft_storage_full", &[]) == 1.0;
        if is == full { Ok(()) } else { Err(server.process.log()) }
    });
}

fn put(server: &Agent, key: &str) -> Result<(), String> {
    match server.put(&format!("/v1/kv/{key}"), key)? {
        (200, _) => Ok(()),
        (status, text) => Err(format!("{status} {text}")),
    }
}

fn full_ones_take_no_writes() {
    let lab = Lab::new(3);
    lab.hosts().iter().for_each(small_disk);
    let mut servers = servers(&lab, 3, "");
    put(&servers[0], "before").expect("a write");
    let first = leader(&servers).expect("a leader");
    fill(&servers[first]);
    await_full(&servers[first], true);
    assert!(servers[first].process.log().contains("storage is full"), "{}", servers[first].process.log());
    until("another leads", PATIENT, || match leader(&servers)? {
        led if led == first => Err("the full one leads".into()),
        _ => Ok(()),
    });
    for server in &servers {
        until("a server that is not full takes the write", LONG, || {
            put(server, &format!("via/{}", server.host.name))
        });
    }
    for server in &servers {
        fill(server);
        await_full(server, true);
    }
    for server in &servers {
        // The others are tried first, for as long as a write waits for a leader.
        let said = put(server, "refused").expect_err("no disk has space");
        assert!(said.starts_with("500 the storage of server h") && said.contains("is full"), "{said}");
        assert_eq!(server.get("/v1/kv/before").expect("reads go on")[0]["Key"], "before");
    }
    // One that ends meanwhile comes back, although there is still no space.
    servers[first].again();
    servers[first].await_ready();
    await_full(&servers[first], true);
    assert_eq!(servers[first].get("/v1/kv/before?stale").expect("a read")[0]["Key"], "before");
    for server in &servers {
        free(server);
        await_full(server, false);
    }
    for server in &servers {
        until("writes go on", LONG, || put(server, &format!("after/{}", server.host.name)));
    }
    for server in &servers {
        let keys = server.get("/v1/kv/?keys&consistent").expect("keys").to_string();
        let wanted = r#"["after/h1","after/h2","after/h3","before","via/h1","via/h2","via/h3"]"#;
        assert_eq!(keys, wanted, "of {}", server.host.name);
    }
}
