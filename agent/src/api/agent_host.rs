//! `GET agent/host`: the machine, as far as the kernel tells without privileges.

use purlin_model::Millis;
use serde_json::{Value, json};

use super::Api;
use super::answer::{Answer, Failure};
use super::request::Request;

/// `GET agent/host`
pub(super) async fn host(api: &Api, _request: &Request) -> Result<Answer, Failure> {
    let Millis(now) = api.core.config().clock.now();
    let read = tokio::task::spawn_blocking(|| {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        (
            text("/proc/sys/kernel/hostname"),
            text("/proc/meminfo"),
            text("/proc/uptime"),
            text("/proc/cpuinfo"),
        )
    });
    let (hostname, memory, uptime, cpus) = read
        .await
        .map_err(|error| purlin_model::Fault::internal(format!("cannot read the host: {error}")))?;
    let uptime = uptime.split('.').next().and_then(|seconds| seconds.parse::<u64>().ok()).unwrap_or_default();
    Ok(Answer::json(json!({
        "Memory": memory_of(&memory),
        "CPU": cpus_of(&cpus),
        "Host": {"hostname": hostname.trim(), "uptime": uptime, "os": std::env::consts::OS,
                 "kernelArch": std::env::consts::ARCH},
        "Disk": {},
        "CollectionTime": now.saturating_mul(1_000_000),
        "Errors": Value::Null,
    })))
}

/// From the kernel's kilobytes to bytes.
fn memory_of(meminfo: &str) -> Value {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default() * 1024
    };
    let (total, available) = (field("MemTotal"), field("MemAvailable"));
    json!({"total": total, "available": available, "free": field("MemFree"), "used": total.saturating_sub(available)})
}

fn cpus_of(cpuinfo: &str) -> Vec<Value> {
    cpuinfo
        .split("\n\n")
        .enumerate()
        .filter_map(|(number, block)| {
            let name = block.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
            (!block.trim().is_empty())
                .then(|| json!({"cpu": number, "modelName": name.map_or("", |(_, name)| name.trim())}))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let memory = memory_of("MemTotal:       2048 kB\nMemFree:  10 kB\nMemAvailable:  1024 kB\n");
        assert_eq!(memory["total"], 2048 * 1024);
        assert_eq!(memory["used"], 1024 * 1024);
        let cpus =
            cpus_of("processor: 0\nmodel name\t: Fast CPU\n\nprocessor: 1\nmodel name\t: Fast CPU\n\n");
        assert_eq!(cpus.len(), 2);
        assert_eq!(cpus[1]["modelName"], "Fast CPU");
    }
}
