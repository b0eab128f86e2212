//! Whether somebody has a file open for writing right now.

use std::io;
use std::os::fd::BorrowedFd;

use crate::sys;

/// What the kernel says about writers of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writers {
    /// Nobody has the file open for writing or mapped writable.
    None,
    /// Somebody has.
    Some,
    /// This file system or our privileges do not let us know.
    Unknown,
}

/// Asks for a read lease and gives it back at once: the kernel grants one only while there is no writer.
///
/// `fd` must be open read-only. The lease lives for the time of two system calls; a writer that opens the file in
/// between waits for the second one.
///
/// # Errors
/// Only what giving the lease back says, which does not happen to a lease that was granted.
pub fn probe(fd: BorrowedFd<'_>) -> io::Result<Writers> {
    match sys::set_lease(fd, libc::F_RDLCK) {
        Ok(()) => {
            sys::set_lease(fd, libc::F_UNLCK)?;
            Ok(Writers::None)
        }
        Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => Ok(Writers::Some),
        Err(_) => Ok(Writers::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_writer_is_seen_and_gone_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let writer = std::fs::File::create(&path).unwrap();
        let reader = std::fs::File::open(&path).unwrap();
        assert_eq!(probe(reader.as_fd()).unwrap(), Writers::Some);
        drop(writer);
        assert_eq!(probe(reader.as_fd()).unwrap(), Writers::None);
    }
}
