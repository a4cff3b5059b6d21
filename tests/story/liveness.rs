//! Hosts that die, freeze, are cut off, and hosts whose servers do: who is failed, and who is not.

use crate::kit::host::Lab;
use crate::kit::mesh::{Agent, Mesh};
use crate::kit::wait::{LONG, SOON, until};

pub const STORIES: &[(&str, fn())] = &[
    ("liveness: a host that dies or freezes is failed, and alive when it is back", dead_and_frozen),
    ("liveness: a host that only its peers reach stays alive and is marked", cut_off_from_the_server),
    ("liveness: a probe is answered by the agent, not by what outlives it", probes_reach_the_agent),
    ("liveness: a server that dies or freezes fails no host but its own", servers_fail),
    (
        "liveness: a host cut off from its server goes to another, and from all of them stays alive",
        cut_off_in_a_cluster,
    ),
];

/// 1 alive, 3 left, 4 failed.
fn status(from: &Agent, host: &str) -> Result<u64, String> {
    let members = from.get("/v1/agent/members")?;
    let found = members.as_array().into_iter().flatten().find(|member| member["Name"] == host);
    found.and_then(|member| member["Status"].as_u64()).ok_or_else(|| format!("no {host}: {members}"))
}

#[track_caller]
fn await_status(from: &Agent, host: &str, wanted: u64) {
    until(&format!("{host} has status {wanted}"), LONG, || match status(from, host)? {
        found if found == wanted => Ok(()),
        found => Err(format!("{found}\n{}", from.process.log())),
    });
}

/// What the leader's log says of a host, in order.
fn verdicts(leader: &Agent, host: &str) -> Vec<String> {
    let log = leader.process.log();
    let lines = log.lines().filter(|line| line.contains("host changed its status") && line.contains(host));
    lines.map(str::to_owned).collect()
}

fn dead_and_frozen() {
    let mut mesh = Mesh::start(4, "");
    let far = mesh.lab.host(2).clone();
    mesh.on_mut(2).process.kill();
    far.kill_all();
    await_status(mesh.on(1), "h2", 4);
    for alive in ["h1", "h3", "h4"] {
        assert_eq!(status(mesh.on(1), alive), Ok(1), "{alive}");
    }
    mesh.on_mut(2).again();
    await_status(mesh.on(1), "h2", 1);

    mesh.on(3).process.signal("STOP");
    await_status(mesh.on(1), "h3", 4);
    mesh.on(3).process.signal("CONT");
    await_status(mesh.on(1), "h3", 1);
    assert_eq!(mesh.on(1).metric("purlin_server_hosts_cut_off", &[]), 0.0);
}

fn cut_off_from_the_server() {
    let mesh = Mesh::start(4, "");
    let server = mesh.on(1);
    let before = verdicts(server, "h2").len();
    // Both ways, then each way alone.
    for ways in [&[(1, 2), (2, 1)][..], &[(1, 2)], &[(2, 1)]] {
        for (from, to) in ways {
            mesh.lab.cut(*from, *to);
        }
        until("h2 is marked as cut off", LONG, || match server.metric("purlin_server_hosts_cut_off", &[]) {
            1.0 => Ok(()),
            other => Err(format!("{other}: {}", server.process.log())),
        });
        // Each round takes a second and a half: twice the time in which it would be failed.
        let rounds = || server.metric("purlin_server_host_probes_total", &[("result", "reached")]);
        let enough = rounds() + 7.0;
        until("it was probed again and again", LONG, || match rounds() {
            many if many >= enough => Ok(()),
            few => Err(few.to_string()),
        });
        assert_eq!(status(server, "h2"), Ok(1), "{}", server.process.log());
        assert_eq!(verdicts(server, "h2").len(), before, "{:?}", verdicts(server, "h2"));
        assert!(server.process.log().contains("cut off from the servers, but others reach it"));
        mesh.lab.heal();
        until("h2 has a session again", LONG, || {
            match (
                server.metric("purlin_server_hosts_cut_off", &[]),
                server.metric("purlin_server_sessions", &[]),
            ) {
                (0.0, 4.0) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
    // When its peers lose it too, it is failed.
    mesh.lab.link(2, false);
    await_status(server, "h2", 4);
    mesh.lab.link(2, true);
    await_status(server, "h2", 1);
}

fn probes_reach_the_agent() {
    let mut mesh = Mesh::start(3, "");
    let listens =
        |mesh: &Mesh, host| mesh.on(host).process.log().contains("probes of other hosts are answered");
    for host in 1..=3 {
        assert!(listens(&mesh, host), "{}", mesh.on(host).process.log());
    }
    // The proxy lives on, the agent does not.
    mesh.on_mut(2).process.kill();
    await_status(mesh.on(1), "h2", 4);
    assert!(!mesh.lab.host(2).pids().is_empty(), "its proxy went, too");

    // A busy port costs the probes and nothing else.
    let lab = Lab::new(1);
    let _taken = lab.host(1).inside(|| std::net::UdpSocket::bind("0.0.0.0:8301").expect("a port"));
    let alone = Agent::server(lab.host(1), "");
    until("the log names the port", SOON, || match alone.process.log() {
        log if log.contains("cannot listen on udp 0.0.0.0:8301") && log.contains("ports.probe") => Ok(()),
        log => Err(log),
    });
    assert_eq!(status(&alone, "h1"), Ok(1));
}

/// Three servers on hosts 1 to 3, and agents on the others.
struct Cluster {
    lab: Lab,
    members: Vec<Agent>,
}

const SERVERS: [usize; 3] = [1, 2, 3];

impl Cluster {
    #[track_caller]
    fn start(hosts: usize) -> Self {
        let lab = Lab::new(hosts);
        let mut members = vec![Agent::server(lab.host(1), "")];
        for number in 2..=hosts {
            let role = if SERVERS.contains(&number) { "server" } else { "agent" };
            let token = members[0].purlin(&["join-token", "create", "-role", role]);
            let member = Agent::start(lab.host(number), role, "", &["--join", &token]);
            member.await_ready();
            members.push(member);
        }
        let cluster = Self { lab, members };
        for number in 1..=hosts {
            await_status(cluster.on(1), &format!("h{number}"), 1);
        }
        cluster.await_leader();
        cluster
    }

    fn on(&self, host: usize) -> &Agent {
        &self.members[host - 1]
    }

    fn on_mut(&mut self, host: usize) -> &mut Agent {
        &mut self.members[host - 1]
    }

    /// The host of whoever leads and hears all servers that live.
    #[track_caller]
    fn await_leader(&self) -> usize {
        until("a server leads and hears the others", LONG, || {
            let leads = |host: &usize| {
                let agent = self.on(*host);
                agent.get("/v1/status/leader").is_ok()
                    && agent.metric("purlin_server_raft_leading", &[]) == 1.0
                    && agent.metric("purlin_server_rosters", &[]) >= 2.0
            };
            SERVERS
                .into_iter()
                .filter(|host| self.is_up(*host))
                .find(leads)
                .ok_or_else(|| "nobody".to_owned())
        })
    }

    fn is_up(&self, host: usize) -> bool {
        self.on(host).get("/v1/agent/self").is_ok()
    }

    /// The host of the server with which that host has its session.
    fn server_of(&self, host: usize) -> usize {
        let log = self.on(host).process.log();
        let line = log.lines().rev().find(|line| line.contains("session with a server is open"));
        let found = SERVERS
            .into_iter()
            .find(|server| line.is_some_and(|line| line.contains(&format!("10.77.0.{server}:"))));
        found.unwrap_or_else(|| panic!("no session in\n{log}"))
    }

    /// Whether any server ever failed that host.
    fn was_failed(&self, host: &str) -> bool {
        SERVERS
            .into_iter()
            .any(|server| verdicts(self.on(server), host).iter().any(|line| line.contains("failed")))
    }

    #[track_caller]
    fn await_connected(&self, hosts: &[usize]) {
        for host in hosts {
            until(&format!("h{host} has a session"), LONG, || {
                match self.on(*host).metric("purlin_agent_session_connected", &[]) {
                    1.0 => Ok(()),
                    other => Err(format!("{other}\n{}", self.on(*host).process.log())),
                }
            });
        }
    }
}

fn servers_fail() {
    let mut cluster = Cluster::start(6);
    let agents = [4, 5, 6];
    cluster.await_connected(&agents);
    // One that follows dies, with the sessions that it had.
    let leader = cluster.await_leader();
    let follower = SERVERS
        .into_iter()
        .filter(|host| *host != leader)
        .max_by_key(|host| agents.iter().filter(|agent| cluster.server_of(**agent) == *host).count());
    let follower = follower.expect("a follower");
    let own = format!("h{follower}");
    let gone = cluster.lab.host(follower).clone();
    cluster.on_mut(follower).process.kill();
    gone.kill_all();
    await_status(cluster.on(leader), &own, 4);
    cluster.await_connected(&agents);
    cluster.on_mut(follower).again();
    await_status(cluster.on(leader), &own, 1);

    // A server stands still and goes on.
    cluster.on(follower).process.signal("STOP");
    await_status(cluster.on(leader), &own, 4);
    cluster.on(follower).process.signal("CONT");
    await_status(cluster.on(leader), &own, 1);
    cluster.await_connected(&agents);
    for host in ["h4", "h5", "h6"] {
        assert!(!cluster.was_failed(host), "{host} was failed");
    }
}

fn cut_off_in_a_cluster() {
    let cluster = Cluster::start(6);
    cluster.await_connected(&[4, 5, 6]);
    let server = cluster.server_of(4);
    cluster.lab.cut(4, server);
    cluster.lab.cut(server, 4);
    until("h4 has gone to another server", LONG, || match cluster.server_of(4) {
        other if other != server => Ok(()),
        _ => Err(cluster.on(4).process.log()),
    });
    cluster.await_connected(&[4]);
    cluster.lab.heal();

    for server in SERVERS {
        cluster.lab.cut(4, server);
        cluster.lab.cut(server, 4);
    }
    let leader = cluster.await_leader();
    until("h4 is marked as cut off", LONG, || {
        match cluster.on(leader).metric("purlin_server_hosts_cut_off", &[]) {
            1.0 => Ok(()),
            other => Err(format!("{other}: {}", cluster.on(leader).process.log())),
        }
    });
    assert_eq!(status(cluster.on(leader), "h4"), Ok(1));
    cluster.lab.heal();
    cluster.await_connected(&[4]);
    assert!(!cluster.was_failed("h4"), "h4 was failed");
}
