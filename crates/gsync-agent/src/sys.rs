//! Signals: the one place of this crate that calls the C library directly.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

/// Keeps SIGTERM and SIGINT for [`wait_for_stop_signal`]. To be called before any other thread is started.
pub fn block_stop_signals() {
    let set = stop_signals();
    // SAFETY: the set is initialized; the old mask is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
}

/// Waits until the process is asked to stop.
pub fn wait_for_stop_signal() {
    let set = stop_signals();
    let mut signal = 0;
    // SAFETY: both point to initialized values that live through the call.
    unsafe { libc::sigwait(&raw const set, &raw mut signal) };
}

fn stop_signals() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initializes the set; the signal numbers are valid.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
        set.assume_init()
    }
}
