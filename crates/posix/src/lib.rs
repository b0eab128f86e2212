//! File system calls that more than one piece needs, made safe to use.
//!
//! Layout:
//! - [`object`]: one object's type, mode, owner, times, xattrs and link target: read from and applied to a descriptor
//! - [`beneath`]: opening below a directory without ever leaving it
//! - [`location`]: where a directory is on its file system, whatever it is mounted as
//! - [`passing`]: descriptors sent through Unix sockets
//! - [`writers`]: whether somebody has a file open for writing right now
//! - [`xattrs`]: extended attributes without a path

pub mod beneath;
pub mod location;
pub mod object;
pub mod passing;
mod sys;
pub mod writers;
pub mod xattrs;

pub use object::{Kind, Object, Time, Xattr};

use std::os::fd::{AsRawFd, BorrowedFd};

/// The path under which an open descriptor, also an `O_PATH` one, can be named in calls that take no descriptor.
///
/// The kernel jumps to the object itself: nothing is resolved by name and a symbolic link is not followed.
pub fn fd_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
