//! Hosts: network namespaces on a bridge, each with an IPv4 and an IPv6 address and a directory of its own.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::privacy::run;
use super::process::Process;

static LABS: AtomicU32 = AtomicU32::new(0);

/// A few hosts that see each other and nothing else. All of it goes when this is dropped.
pub struct Lab {
    number: u32,
    dir: tempfile::TempDir,
    hosts: Vec<Host>,
}

/// One machine. Address `10.77.0.<n>` and `fd77::<n>`, n from 1.
#[derive(Clone)]
pub struct Host {
    lab: u32,
    pub number: usize,
    pub name: String,
    pub ip: String,
    pub ip6: String,
    /// Its disk.
    pub dir: PathBuf,
}

fn must(result: Result<(), String>) {
    if let Err(error) = result {
        panic!("lab: {error}");
    }
}

impl Lab {
    pub fn new(count: usize) -> Self {
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::Builder::new().prefix("purlin-lab").tempdir().expect("a directory for the lab");
        let bridge = format!("lab{number}-br");
        must(run("ip", &["netns", "add", &bridge]));
        must(run("ip", &["-n", &bridge, "link", "add", "br0", "type", "bridge"]));
        must(run("ip", &["-n", &bridge, "link", "set", "br0", "up"]));
        let hosts = (1..=count).map(|n| Host::new(number, n, &bridge, dir.path())).collect();
        Self { number, dir, hosts }
    }

    /// Counted from 1, as in its address.
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number - 1]
    }

    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    fn bridge(&self) -> String {
        format!("lab{}-br", self.number)
    }

    /// What one host sends to another is lost from now on; the other way stays open.
    pub fn cut(&self, from: usize, to: usize) {
        let rules = format!(
            "table bridge faults {{\n chain relay {{\n type filter hook forward priority 0;\n \
             iifname \"h{from}\" oifname \"h{to}\" drop\n }}\n}}\n"
        );
        let file = self.dir.path().join(format!("cut-{from}-{to}.nft"));
        std::fs::write(&file, rules).expect("a file of rules");
        let netns = format!("--net=/run/netns/{}", self.bridge());
        must(run("nsenter", &[&netns, "--", "nft", "-f", &file.to_string_lossy()]));
    }

    /// Nothing of one host reaches the other, nor back.
    pub fn part(&self, one: usize, other: usize) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Whatever was cut is whole again.
    pub fn heal(&self) {
        let netns = format!("--net=/run/netns/{}", self.bridge());
        must(run("nsenter", &[&netns, "--", "nft", "flush", "ruleset"]));
    }

    /// Pulls the plug of a host's network, or puts it back.
    pub fn link(&self, host: usize, up: bool) {
        let port = format!("h{host}");
        must(run("ip", &["-n", &self.bridge(), "link", "set", &port, if up { "up" } else { "down" }]));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in &self.hosts {
            host.kill_all();
            let _ = run("ip", &["netns", "del", &host.netns()]);
        }
        let _ = run("ip", &["netns", "del", &self.bridge()]);
        if std::thread::panicking()
            && let Some(kept) = std::env::var_os("PURLIN_LAB_KEEP")
        {
            let _ = run("cp", &["-a", &self.dir.path().to_string_lossy(), &kept.to_string_lossy()]);
        }
    }
}

impl Host {
    fn new(lab: u32, number: usize, bridge: &str, dir: &std::path::Path) -> Self {
        let host = Self {
            lab,
            number,
            name: format!("h{number}"),
            ip: format!("10.77.0.{number}"),
            ip6: format!("fd77::{number}"),
            dir: dir.join(format!("h{number}")),
        };
        std::fs::create_dir_all(&host.dir).expect("a host's directory");
        let (netns, port) = (host.netns(), format!("h{number}"));
        must(run("ip", &["netns", "add", &netns]));
        let veth =
            ["link", "add", "eth0", "netns", &netns, "type", "veth", "peer", "name", &port, "netns", bridge];
        must(run("ip", &veth));
        must(run("ip", &["-n", bridge, "link", "set", &port, "master", "br0", "up"]));
        let v4 = format!("{}/24", host.ip);
        let v6 = format!("{}/64", host.ip6);
        must(run("ip", &["-n", &netns, "addr", "add", &v4, "dev", "eth0"]));
        must(run("ip", &["-n", &netns, "addr", "add", &v6, "dev", "eth0", "nodad"]));
        must(run("ip", &["-n", &netns, "link", "set", "lo", "up"]));
        must(run("ip", &["-n", &netns, "link", "set", "eth0", "up"]));
        host
    }

    fn netns(&self) -> String {
        format!("lab{}-h{}", self.lab, self.number)
    }

    pub fn netns_path(&self) -> String {
        format!("/run/netns/{}", self.netns())
    }

    /// A command that will run on this host, its disk as working directory.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.netns_path()))
            .arg("--")
            .arg(program)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
        command
    }

    /// Runs a program to its end.
    pub fn output(&self, program: &str, args: &[&str]) -> Output {
        self.command(program)
            .args(args)
            .output()
            .unwrap_or_else(|error| panic!("{program} on {}: {error}", self.name))
    }

    /// Runs a program to its end; its standard output, or what it complained of.
    pub fn try_run(&self, program: &str, args: &[&str]) -> Result<String, String> {
        let output = self.output(program, args);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        let said = format!("{}\n{}", text(&output.stdout), text(&output.stderr));
        Err(format!("{program} {} on {}: {}: {}", args.join(" "), self.name, output.status, said.trim()))
    }

    #[track_caller]
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        match self.try_run(program, args) {
            Ok(text) => text,
            Err(error) => panic!("{error}"),
        }
    }

    /// Starts a program that goes on; its output is in `<label>.log` on the host's disk.
    pub fn spawn(&self, label: &str, program: &str, args: &[&str]) -> Process {
        let mut command = self.command(program);
        command.args(args);
        Process::start(self, label, command)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).expect("a directory");
        }
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    pub fn pids(&self) -> Vec<String> {
        let output = Command::new("ip").args(["netns", "pids", &self.netns()]).output();
        let listed =
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        listed.split_whitespace().map(str::to_owned).collect()
    }

    /// The host is gone at once, as in a power cut.
    pub fn kill_all(&self) {
        let pids = self.pids();
        if !pids.is_empty() {
            let mut args = vec!["-KILL"];
            args.extend(pids.iter().map(String::as_str));
            let _ = Command::new("kill").args(&args).stderr(Stdio::null()).status();
        }
    }

    /// Body and status of a request made on this host by curl.
    pub fn curl(&self, args: &[&str]) -> Result<(u16, String), String> {
        let mut all = vec!["-sS", "--max-time", "10", "-w", "\n%{http_code}"];
        all.extend_from_slice(args);
        let text = self.try_run("curl", &all)?;
        let (body, code) = text.rsplit_once('\n').unwrap_or(("", &text));
        let code = code.parse().map_err(|_| format!("no status in {text:?}"))?;
        Ok((code, body.to_owned()))
    }
}
