//! Extended attributes of what is open, also as `O_PATH`, or at a name in an open directory, links not followed.
//!
//! For `O_PATH` the only way leads through `/proc/self/fd`, whose look-up costs several times what the attribute does; so
//! other descriptors are tried as they are first. For a name in a directory Linux 6.13 has a call.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

use rustix::fs::XattrFlags;
use rustix::io::{Errno, Result};

use crate::{fd_path, sys};

/// The longest name that a directory can hold.
const NAME_MAX: usize = 255;

/// Reads one attribute of what is at `name` of the directory `dir`; `value` is too small for a longer one: `ERANGE`.
///
/// # Errors
/// What the system says.
pub fn get_at(dir: BorrowedFd<'_>, name: &[u8], attribute: &str, value: &mut [u8]) -> Result<usize> {
    if has_call() {
        let (name, attribute) = (Terminated::new(name)?, Terminated::new(attribute.as_bytes())?);
        return sys::getxattrat(dir, &name.0, libc::AT_SYMLINK_NOFOLLOW, &attribute.0, value).map_err(errno);
    }
    let mut path = fd_path(dir).into_bytes();
    path.push(b'/');
    path.extend_from_slice(name);
    rustix::fs::lgetxattr(path, attribute, value)
}

/// Reads one attribute of an open object; `fd` may be `O_PATH`.
///
/// # Errors
/// As [`get_at`].
pub fn get(fd: BorrowedFd<'_>, attribute: &str, value: &mut [u8]) -> Result<usize> {
    match rustix::fs::fgetxattr(fd, attribute, &mut *value) {
        Err(Errno::BADF) => rustix::fs::getxattr(fd_path(fd), attribute, value),
        other => other,
    }
}

/// Writes one attribute of an open object; `fd` may be `O_PATH`.
///
/// # Errors
/// What the system says.
pub fn set(fd: BorrowedFd<'_>, attribute: &str, value: &[u8]) -> Result<()> {
    match rustix::fs::fsetxattr(fd, attribute, value, XattrFlags::empty()) {
        Err(Errno::BADF) => rustix::fs::setxattr(fd_path(fd), attribute, value, XattrFlags::empty()),
        other => other,
    }
}

/// The names of all attributes of an open object; `fd` may be `O_PATH`. Most objects have few: a list that is longer than
/// a page is `None`.
///
/// # Errors
/// What the system says.
pub fn short_list(fd: BorrowedFd<'_>) -> Result<Option<Vec<Vec<u8>>>> {
    let mut list = [0u8; 4096];
    let listed = match rustix::fs::flistxattr(fd, &mut list) {
        Err(Errno::BADF) => rustix::fs::listxattr(fd_path(fd), &mut list),
        other => other,
    };
    match listed {
        Ok(length) => {
            let names = list[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
            Ok(Some(names.map(<[u8]>::to_vec).collect()))
        }
        Err(Errno::RANGE) => Ok(None),
        Err(e) => Err(e),
    }
}

/// A name with the zero that ends it in C.
struct Terminated([u8; NAME_MAX + 1]);

impl Terminated {
    fn new(name: &[u8]) -> Result<Terminated> {
        let mut bytes = [0; NAME_MAX + 1];
        if name.len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        if name.contains(&0) {
            return Err(Errno::INVAL);
        }
        bytes[..name.len()].copy_from_slice(name);
        Ok(Terminated(bytes))
    }
}

/// Whether the kernel has the call, and no filter keeps it from us (those answer `EPERM`, or as an older kernel does).
fn has_call() -> bool {
    static HAS_CALL: OnceLock<bool> = OnceLock::new();
    *HAS_CALL.get_or_init(|| {
        let (Ok(root), Ok(attribute)) = (Terminated::new(b"/"), Terminated::new(b"user.none")) else { return false };
        let probed = sys::getxattrat(rustix::fs::CWD, &root.0, 0, &attribute.0, &mut [0; 1]);
        let refused = |e: &io::Error| matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM));
        !probed.is_err_and(|e| refused(&e))
    })
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// The name of an attribute as the crate `xattr` takes it.
pub(crate) fn as_os_str(name: &[u8]) -> &std::ffi::OsStr {
    std::ffi::OsStr::from_bytes(name)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{CWD, Mode, OFlags};

    use super::*;

    #[test]
    fn attributes_of_an_o_path_descriptor_and_of_a_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), b"").unwrap();
        std::os::unix::fs::symlink("f", dir.path().join("l")).unwrap();
        let open = |path: &std::path::Path| {
            rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).unwrap()
        };
        let (root, file) = (open(dir.path()), open(&dir.path().join("f")));
        let mut value = [0; 8];
        match set(file.as_fd(), "user.x", b"value") {
            Err(Errno::OPNOTSUPP) => return,
            other => other.unwrap(),
        }
        assert_eq!(get(file.as_fd(), "user.x", &mut value), Ok(5));
        assert_eq!(get_at(root.as_fd(), b"f", "user.x", &mut value), Ok(5));
        assert_eq!(&value[..5], b"value");
        assert_eq!(get_at(root.as_fd(), b"f", "user.x", &mut value[..4]), Err(Errno::RANGE));
        assert_eq!(get_at(root.as_fd(), b"f", "user.y", &mut value), Err(Errno::NODATA));
        assert_eq!(get_at(root.as_fd(), b"g", "user.x", &mut value), Err(Errno::NOENT));
        // The link itself has none, and is not followed.
        assert!(get_at(root.as_fd(), b"l", "user.x", &mut value).is_err());
        assert!(short_list(file.as_fd()).unwrap().unwrap().contains(&b"user.x".to_vec()));
        assert_eq!(get_at(root.as_fd(), &[b'x'; 256], "user.x", &mut value), Err(Errno::NAMETOOLONG));
    }
}
