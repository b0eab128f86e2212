//! Processor time, memory and bytes on the wire.

use std::collections::BTreeMap;
use std::fs;

use gsync_tests::deployment::Deployment;
use gsync_tests::proc::Process;
use gsync_tests::sshd::Sshd;

use crate::results::Results;

/// Programs that are told of, ours first.
pub const PROGRAMS: [&str; 6] = ["gsync-recorder", "gsync-worker", "gsync-agent", "gsync-monitor", "ssh", "sshd"];

/// What each program used so far.
#[derive(Clone, Debug, Default)]
pub struct Usage(BTreeMap<&'static str, Used>);

#[derive(Clone, Copy, Debug, Default)]
struct Used {
    cpu_seconds: f64,
    peak_bytes: u64,
}

impl Usage {
    /// What the processes of a deployment used since they were started.
    pub fn of(deployment: &Deployment, sshd: &Sshd) -> Usage {
        let mut usage = Usage::default();
        let sessions = sshd.sessions();
        for name in PROGRAMS {
            let processes = match name {
                "sshd" => sessions.iter().filter(|process| process.name() == name).cloned().collect(),
                _ => deployment.processes(&[name]),
            };
            usage.0.insert(name, Used::of(&processes));
        }
        usage
    }

    /// Tells of what was used between two times.
    pub fn tell(&self, before: &Usage, what: &str, results: &mut Results) {
        for (name, used) in &self.0 {
            let earlier = before.0.get(name).copied().unwrap_or_default();
            results.add(what, &format!("{name} CPU"), (used.cpu_seconds - earlier.cpu_seconds).max(0.0));
            results.add(what, &format!("{name} memory"), used.peak_bytes as f64);
        }
    }
}

impl Used {
    fn of(processes: &[Process]) -> Used {
        let cpu_seconds = processes.iter().map(|process| process.cpu_time().as_secs_f64()).sum();
        // Of several processes of a program, the largest.
        let peak_bytes = processes.iter().map(Process::peak_memory_bytes).max().unwrap_or_default();
        Used { cpu_seconds, peak_bytes }
    }
}

/// Bytes that went through the loopback interface so far, headers of TCP and IP included: what all programs that use the
/// sshd sent both ways.
pub fn wire_bytes() -> u64 {
    let table = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let line = table.lines().find_map(|line| line.trim().strip_prefix("lo:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}
