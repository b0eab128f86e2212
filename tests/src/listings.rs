//! Counts who lists directories: the kernel itself tells (fanotify), so nothing is slowed down or missed.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::{proc, sys};

/// Length of `struct fanotify_event_metadata`.
const EVENT_BYTES: usize = 24;

/// How often the watch looks whether it is to end.
const INTERVAL: Duration = Duration::from_millis(50);

/// Who listed directories of a file system so far; the test's own process does not count. A process that goes on
/// listing one directory while its last event still waits counts once: the number says whether, not how many.
#[derive(Debug)]
pub struct Listings {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<BTreeMap<String, u64>>>,
    thread: Option<JoinHandle<()>>,
}

impl Listings {
    /// Watches the file system of `path`.
    ///
    /// # Errors
    /// What the system says.
    pub fn watch(path: &Path) -> io::Result<Listings> {
        let group = sys::watch_reads(path)?;
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeMap::new())));
        let (stopped, counts) = (stop.clone(), seen.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                take(&group, &counts);
            }
        });
        Ok(Listings { stop, seen, thread: Some(thread) })
    }

    /// How often each program listed a directory since the last call.
    pub fn take(&self) -> BTreeMap<String, u64> {
        // What happened before this call is in the queue already; two rounds take it out.
        std::thread::sleep(2 * INTERVAL);
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// Fails the test when one of our programs, or one that is gone already, listed a directory since the last call.
    ///
    /// # Panics
    /// With who it was.
    #[track_caller]
    pub fn assert_none(&self, what: &str) {
        let seen = self.take();
        assert!(seen.is_empty(), "{what}: directories were listed by {seen:?}");
    }
}

impl Drop for Listings {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Takes waiting events; waits a moment for the first.
fn take(group: &OwnedFd, counts: &Mutex<BTreeMap<String, u64>>) {
    let patience = Timespec { tv_sec: 0, tv_nsec: i64::from(INTERVAL.subsec_nanos()) };
    let _ = rustix::event::poll(&mut [PollFd::new(group, PollFlags::IN)], Some(&patience));
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length) = rustix::io::read(group, &mut buffer) {
        let mut rest = &buffer[..length];
        while rest.len() >= EVENT_BYTES {
            let number = |at: usize| i32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
            // event_len, vers, reserved, metadata_len, mask, fd, pid
            let (length, mask, pid) = (number(0) as usize, number(8) as u32 as u64, number(20));
            if mask & libc::FAN_ONDIR != 0 && pid != std::process::id() as i32 {
                let name = proc::Process::read(pid).map_or_else(|| "?".into(), |p| p.name().to_owned());
                *counts.lock().unwrap_or_else(|e| e.into_inner()).entry(name).or_default() += 1;
            }
            rest = &rest[length.clamp(EVENT_BYTES, rest.len())..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{FileSystem, Mounted};

    #[test]
    fn a_listing_is_seen_and_a_reading_is_not() {
        crate::require!(crate::need::root(), FileSystem::Ext4.available());
        let mounted = Mounted::new(FileSystem::Ext4, 16).unwrap();
        let dir = mounted.directory("d").unwrap();
        std::fs::write(dir.join("f"), "x").unwrap();
        let listings = Listings::watch(mounted.root()).unwrap();
        let run = |script: &str| {
            let status = std::process::Command::new("bash").args(["-c", script]).current_dir(&dir).status().unwrap();
            assert!(status.success());
        };
        run("read x < f; mv f g; rm g; cd ..; mv d e; mv e d");
        listings.assert_none("no listing");
        // The last command is a builtin: bash would become what it is otherwise, before its name is looked up.
        run("echo *; sleep 0.3; true");
        assert_eq!(listings.take().keys().collect::<Vec<_>>(), ["bash"]);
    }
}
