//! The system calls that no crate of ours wraps.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Opens a group that is told of every reading on the file system of `path`, without opening what was read.
pub fn watch_reads(path: &Path) -> io::Result<OwnedFd> {
    let flags = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
    let flags = flags | libc::FAN_UNLIMITED_QUEUE | libc::FAN_REPORT_FID;
    // SAFETY: the call takes two integers.
    let fd = unsafe { libc::fanotify_init(flags, (libc::O_RDONLY | libc::O_CLOEXEC) as u32) };
    if fd == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let group = unsafe { OwnedFd::from_raw_fd(fd) };
    let path = CString::new(path.as_os_str().as_bytes())?;
    let (mark, mask) = (libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM, libc::FAN_ACCESS | libc::FAN_ONDIR);
    // SAFETY: the group is open, and the path is terminated and outlives the call.
    match unsafe { libc::fanotify_mark(group.as_raw_fd(), mark, mask, libc::AT_FDCWD, path.as_ptr()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(group),
    }
}
