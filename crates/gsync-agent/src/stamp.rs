//! The GFID on an object: xattr `trusted.gfid`, 16 raw bytes, also on links, FIFOs and devices.

use std::os::fd::{AsRawFd, BorrowedFd};

use posix::xattrs;
use protocol::Gfid;
use rustix::io::Errno;

/// Name of the xattr, the same as GlusterFS uses. `trusted.*` is for root only.
const XATTR: &str = "trusted.gfid";

/// What is at a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    /// Nothing.
    Absent,
    /// Something without a stamp, or with one that is none.
    Unknown,
    /// This object.
    Known(Gfid),
}

/// Reads what is at `name` of the directory `dir`, with one system call.
///
/// # Errors
/// What the system says; nothing there and no stamp are answers, not errors.
pub fn at(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<At> {
    let mut value = [0u8; 16];
    match xattrs::get_at(dir, name, XATTR, &mut value) {
        Ok(16) => Ok(At::Known(Gfid(value))),
        Ok(_) | Err(Errno::NODATA | Errno::RANGE) => Ok(At::Unknown),
        Err(Errno::NOENT) => Ok(At::Absent),
        Err(e) => Err(e),
    }
}

/// Reads the stamp of an open object; `fd` may be `O_PATH`.
///
/// # Errors
/// What the system says.
pub fn of(fd: BorrowedFd<'_>) -> rustix::io::Result<Option<Gfid>> {
    let mut value = [0u8; 16];
    match xattrs::get(fd, XATTR, &mut value) {
        Ok(16) => Ok(Some(Gfid(value))),
        Ok(_) | Err(Errno::NODATA | Errno::RANGE) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Stamps an open object; `fd` may be `O_PATH`.
///
/// # Errors
/// What the system says.
pub fn set(fd: BorrowedFd<'_>, gfid: Gfid) -> rustix::io::Result<()> {
    xattrs::set(fd, XATTR, &gfid.0)
}

/// Takes the stamp off the object at `name` of the directory `dir`.
///
/// # Errors
/// What the system says.
pub fn remove_at(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::lremovexattr(entry_path(dir, name), XATTR)
}

fn entry_path(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}
