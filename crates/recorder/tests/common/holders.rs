//! A directory for holders, which end with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use super::Recorder;

/// Holders that outlive recorders, but not the test.
pub struct Holders {
    dir: TempDir,
    started: Vec<Child>,
}

impl Holders {
    /// None yet.
    pub fn new() -> Holders {
        Holders { dir: tempfile::tempdir().unwrap(), started: Vec::new() }
    }

    /// Starts a recorder that uses them.
    pub fn recorder(&self) -> Recorder {
        self.recorder_with(&[])
    }

    /// The same with more arguments.
    pub fn recorder_with(&self, arguments: &[&str]) -> Recorder {
        let dir = self.dir.path().to_str().unwrap();
        Recorder::start(&[&["--holders", dir], arguments].concat())
    }

    /// The socket for the file system of a directory.
    pub fn socket(&self, dir: &Path) -> PathBuf {
        let device = std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(dir).unwrap());
        self.dir.path().join(format!("hold-{device:x}.sock"))
    }

    /// Starts one before any recorder does.
    pub fn start(&mut self, dir: &Path, events_max: u64) {
        let socket = self.socket(dir);
        let child = Command::new(env!("CARGO_BIN_EXE_gsync-recorder"))
            .args(["hold", "--events-max", &events_max.to_string(), "--socket"])
            .arg(&socket)
            .spawn()
            .unwrap();
        self.started.push(child);
        super::wait_for("the holder's socket", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    }

    /// The processes that use this directory.
    pub fn pids(&self) -> Vec<Pid> {
        let dir = self.dir.path().to_str().unwrap().as_bytes();
        let numbers = std::fs::read_dir("/proc").unwrap().flatten();
        let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is_holder = |number: &i32| {
            let words = std::fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
            let words: Vec<_> = words.split(|byte| *byte == 0).collect();
            words.get(1) == Some(&b"hold".as_slice()) && words.iter().any(|word| word.starts_with(dir))
        };
        numbers.filter(is_holder).filter_map(Pid::from_raw).collect()
    }

    /// Kills them.
    pub fn kill(&self) {
        for pid in self.pids() {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        super::wait_for("the end of the holders", || self.pids().is_empty());
    }
}

impl Drop for Holders {
    fn drop(&mut self) {
        for pid in self.pids() {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        for child in &mut self.started {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
