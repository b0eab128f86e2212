//! Processes, found by what they are and killed one by one.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal};

/// A running process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its parent's number.
    pub parent: i32,
    /// Its program; without the mark of one that was replaced meanwhile.
    pub exe: PathBuf,
    /// Its arguments, the program's name first.
    pub arguments: Vec<String>,
}

impl Process {
    /// Reads what `/proc` says; `None` for a process that is gone, a zombie, or none of ours.
    pub fn read(pid: i32) -> Option<Process> {
        let base = PathBuf::from(format!("/proc/{pid}"));
        let exe = fs::read_link(base.join("exe")).ok()?.to_string_lossy().trim_end_matches(" (deleted)").into();
        let text = fs::read(base.join("cmdline")).ok()?;
        // Each argument ends with NUL.
        let words = text.strip_suffix(b"\0").unwrap_or(&text).split(|b| *b == 0);
        let arguments = words.map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let stat = fs::read_to_string(base.join("stat")).ok()?;
        // The name in brackets may hold anything; after it come the state and the parent.
        let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
        Some(Process { pid, parent, exe, arguments })
    }

    /// The name of its program.
    pub fn name(&self) -> &str {
        self.exe.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// Whether this text is in one of its arguments.
    pub fn mentions(&self, text: &str) -> bool {
        self.arguments.iter().any(|argument| argument.contains(text))
    }

    /// Sends a signal, unless the process is gone and its number belongs to another one. Says whether it was sent.
    pub fn signal(&self, signal: Signal) -> bool {
        let Some(pid) = Pid::from_raw(self.pid) else { return false };
        let Ok(fd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return false };
        // From here on the descriptor stands for one process; is it the one that was found?
        Process::read(self.pid).is_some_and(|now| now == *self || now.exe == self.exe)
            && rustix::process::pidfd_send_signal(fd, signal).is_ok()
    }

    /// CPU time it used so far, all its threads together; zero when it is gone.
    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
        // utime and stime are the 14th and 15th field, and the state, the 3rd, is the first here.
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
        Duration::from_millis((ticks(11) + ticks(12)) * 1000 / rustix::param::clock_ticks_per_second())
    }

    /// The most memory it had at a time, bytes; zero when it is gone.
    pub fn peak_memory_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default() << 10
    }

    /// Kills it at once, as a crash would. Says whether it was there.
    pub fn kill(&self) -> bool {
        self.signal(Signal::KILL)
    }
}

/// All running processes.
pub fn all() -> Vec<Process> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(Process::read).collect()
}

/// The processes of these programs that name `text`, e.g. a deployment's run directory, in their arguments.
pub fn find(programs: &[&str], text: &str) -> Vec<Process> {
    let mut found = all();
    found.retain(|process| programs.contains(&process.name()) && process.mentions(text));
    found
}

/// A process and all that it started, directly or not, as long as each parent lives.
pub fn tree(pid: i32) -> Vec<Process> {
    let all = all();
    let mut inside = HashSet::from([pid]);
    loop {
        let before = inside.len();
        inside.extend(all.iter().filter(|p| inside.contains(&p.parent)).map(|p| p.pid).collect::<Vec<_>>());
        if inside.len() == before {
            return all.into_iter().filter(|p| inside.contains(&p.pid)).collect();
        }
    }
}

/// Whether a process runs: it is there, and no zombie.
pub fn is_running(pid: i32) -> bool {
    Process::read(pid).is_some()
}

/// Reads a number that a process left in a file.
pub fn read_pid_file(path: &Path) -> Option<i32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::wait::wait_until;

    #[test]
    fn a_process_is_found_by_its_arguments_and_killed() {
        let mark = format!("gsync-mark-{}", std::process::id());
        let script = format!(": {mark}; sleep 1000 & wait");
        let mut child = Command::new("bash").args(["-c", &script]).spawn().unwrap();
        let found = crate::wait::wait_for("the child", Duration::from_secs(10), || {
            let found = find(&["bash", "dash", "sh"], &mark);
            if tree(child.id() as i32).len() == 2 { Ok(found) } else { Err(format!("{found:?}")) }
        });
        assert_eq!(found.iter().map(|p| p.pid).collect::<Vec<_>>(), [child.id() as i32]);
        assert_eq!(found[0].arguments, ["bash", "-c", &script]);
        assert!(find(&["sleep"], &mark).is_empty());
        let sleep = tree(child.id() as i32).into_iter().find(|p| p.name() == "sleep").unwrap();
        assert_eq!(sleep.parent, child.id() as i32);
        for process in tree(child.id() as i32) {
            assert!(process.kill());
        }
        child.wait().unwrap();
        wait_until("the grandchild's end", Duration::from_secs(10), || !is_running(sleep.pid));
        assert!(!found[0].kill());
    }
}
