//! The hash of a file's content.

use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::value::Digest;

/// How much is read at a time.
pub(crate) const BUFFER_BYTES: usize = 256 << 10;

/// Reads a regular file, given as `O_PATH`, to its end: hash and number of bytes.
pub(crate) fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(Digest, u64)> {
    let mut file = std::fs::File::from(open(fd)?);
    let mut hasher = blake3::Hasher::new();
    let mut bytes = 0;
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok((Digest(*hasher.finalize().as_bytes()), bytes)),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                bytes += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn open(fd: BorrowedFd<'_>) -> Result<rustix::fd::OwnedFd, Errno> {
    let path = posix::fd_path(fd);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    // Looking leaves no trace where that is allowed: only to the owner and to root.
    match rustix::fs::openat(CWD, path.as_str(), flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(CWD, path.as_str(), flags, Mode::empty()),
        other => other,
    }
}
