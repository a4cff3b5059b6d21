//! Listening in on a host's network.

use super::host::Host;
use super::process::Process;
use super::wait::{SOON, until};

/// A tcpdump that goes on.
pub struct Capture(Process);

/// Until it is under way.
pub fn capture(host: &Host, filter: &str) -> Capture {
    let args = ["-i", "eth0", "-U", "-l", "-n", "-A", "-s0"];
    let words: Vec<&str> = filter.split(' ').collect();
    let process = host.spawn("capture", "tcpdump", &[&args[..], &words].concat());
    until("the capture runs", SOON, || match process.log().contains("listening on") {
        true => Ok(()),
        false => Err(process.log()),
    });
    Capture(process)
}

impl Capture {
    /// What was seen so far, as text where it is text.
    pub fn packets(&self) -> String {
        let log = self.0.log();
        log.split_once("listening on")
            .and_then(|(_, rest)| rest.split_once('\n'))
            .map_or("", |(_, rest)| rest)
            .into()
    }
}
