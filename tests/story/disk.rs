//! The disk of a server that is killed in the middle of writing to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::kit::wait::LONG;
use crate::kit::{Agent, Lab, until};

pub const STORIES: &[(&str, fn())] = &[("disk::killed_while_writing", killed_while_writing)];

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
