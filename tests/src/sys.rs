//! The system calls that no crate of ours wraps.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

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

/// A file mapped for reading and writing, shared with everybody else; unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    start: *mut libc::c_void,
    length: usize,
}

impl Mapping {
    /// Maps the beginning of a file.
    pub fn shared(file: &std::fs::File, length: usize) -> io::Result<Mapping> {
        let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
        // SAFETY: a new mapping at an address of the kernel's choice; the descriptor is open.
        let start = unsafe { libc::mmap(ptr::null_mut(), length, protection, libc::MAP_SHARED, fd, 0) };
        if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Mapping { start, length }) }
    }

    /// Writes through it.
    ///
    /// # Panics
    /// When that is beyond its end.
    pub fn store(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.length);
        // SAFETY: within the mapping, as was just checked; nobody has a reference into it.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.cast::<u8>().add(offset), bytes.len()) };
    }

    /// As msync(2), waiting.
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: start and length are those of a mapping that lives.
        match unsafe { libc::msync(self.start, self.length, libc::MS_SYNC) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: start and length are those of a mapping that nobody uses any more.
        unsafe { libc::munmap(self.start, self.length) };
    }
}
