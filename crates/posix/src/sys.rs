//! The one place of this crate that calls the C library directly.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Number of a system call that the C library does not know yet; it is the same on all architectures.
const GETXATTRAT: libc::c_long = 464;

/// `struct xattr_args`: where the value is.
#[repr(C, align(8))]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

/// getxattrat(2); `name` and `attribute` end with a zero.
pub fn getxattrat(
    dir: BorrowedFd<'_>,
    name: &[u8; 256],
    flags: i32,
    attribute: &[u8; 256],
    value: &mut [u8],
) -> io::Result<usize> {
    let args = XattrArgs { value: value.as_mut_ptr() as u64, size: length(value.len())?, flags: 0 };
    // SAFETY: both names are followed by a zero within their arrays (the callers fill at most 255 bytes); the value's
    // address and size are those of a slice that is borrowed for writing during the call.
    let result = unsafe {
        libc::syscall(
            GETXATTRAT,
            dir.as_raw_fd(),
            name.as_ptr(),
            flags,
            attribute.as_ptr(),
            &raw const args,
            size_of::<XattrArgs>(),
        )
    };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn length(bytes: usize) -> io::Result<u32> {
    u32::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Takes (`F_RDLCK`) or gives back (`F_UNLCK`) a lease, see fcntl(2).
pub fn set_lease(fd: BorrowedFd<'_>, kind: i32) -> io::Result<()> {
    // SAFETY: F_SETLEASE takes an int and touches no memory of ours; the descriptor is open while it is borrowed.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, kind) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
