//! The one place of this crate where a child process does something between fork and exec.
#![allow(unsafe_code)]

use std::io;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use tokio::process::Command;

/// Lets the kernel kill the child when the thread that starts it ends; that must be a thread that lives as long as
/// this process.
pub fn die_with_parent(command: &mut Command) {
    let parent: Option<Pid> = Some(rustix::process::getpid());
    let before_exec = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the call above; then nobody would send the signal.
        if getppid() == parent { Ok(()) } else { Err(io::Error::from(io::ErrorKind::BrokenPipe)) }
    };
    // SAFETY: between fork and exec only async-signal-safe things may happen: the closure makes two system calls
    // (prctl, getppid) and allocates nothing.
    unsafe {
        command.pre_exec(before_exec);
    }
}
