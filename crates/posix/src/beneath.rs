//! Opening below a directory without ever leaving it.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// No component may be a symbolic link, a `..` above the start, or another file system.
const CONFINED: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Opens `name` (one component or a relative path) below `dir` as `O_PATH`, also when it is a symbolic link itself.
///
/// # Errors
/// What the system says; `ELOOP` or `EXDEV` when the path would leave `dir`.
pub fn open_path(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);
    // With O_PATH | O_NOFOLLOW a trailing link is opened itself; RESOLVE_NO_SYMLINKS would refuse it. A single
    // component has no other place for a link.
    let resolve = if name.contains(&b'/') { CONFINED } else { resolve };
    open_with(dir, name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty(), resolve)
}

/// Opens the directory `name` below `dir` as `O_PATH`.
///
/// # Errors
/// What the system says; `ENOTDIR` when it is something else.
pub fn open_dir(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    open_with(dir, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty(), CONFINED)
}

/// Opens a file below `dir` with the given flags (`O_NOFOLLOW` and `O_CLOEXEC` are added).
///
/// # Errors
/// What the system says.
pub fn open_file(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    open_with(dir, name, flags | OFlags::NOFOLLOW, mode, CONFINED)
}

fn open_with(
    dir: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> io::Result<OwnedFd> {
    loop {
        // EAGAIN: a rename somewhere raced with the resolution; the kernel asks to try again (openat2(2)).
        match rustix::fs::openat2(dir, name, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}
