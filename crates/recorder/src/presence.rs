//! Whether a brick is still where it was: its path leads to its root, and its file system works.

use std::ffi::CStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags};

/// Where a directory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spot {
    /// Device and inode.
    pub id: (u64, u64),
    /// Number of the mount through which it is seen; 0 where the kernel does not tell (before 5.8).
    pub mount: u64,
}

/// Looks at `name` in `dir`; an empty name is the directory itself.
///
/// # Errors
/// What the system says.
pub fn spot(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Spot> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?;
    let device = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
    let tells = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::MNT_ID);
    Ok(Spot { id: (device, stat.stx_ino), mount: if tells { stat.stx_mnt_id } else { 0 } })
}

/// Compares what is at the path now with what was there. The error says what is wrong.
///
/// While the root is held open its file system lives on in the kernel and keeps its numbers; so equal numbers mean that
/// it was never gone, and that its mark for events is still there.
pub fn check(path: &Path, known: Spot) -> Result<(), String> {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    let now = spot(CWD, &name).map_err(|error| error.to_string())?;
    if now.id != known.id {
        return Err("another directory or file system is at its path".into());
    }
    if now.mount != known.mount {
        return Err("it was mounted anew".into());
    }
    let mounts = std::fs::read("/proc/self/mountinfo").map_err(|error| error.to_string())?;
    if is_shut_down(&mounts, now.mount) { Err("its file system was shut down".into()) } else { Ok(()) }
}

/// Whether ext4 says so of itself; a shut down XFS answers every look with an error. Everything that is in memory can
/// still be seen then, but what cannot be read looks as if it was removed when it is opened by its handle.
fn is_shut_down(mounts: &[u8], mount: u64) -> bool {
    let number = mount.to_string();
    let mut lines = mounts.split(|&byte| byte == b'\n');
    let Some(line) = lines.find(|line| line.split(|&byte| byte == b' ').next() == Some(number.as_bytes())) else {
        return false;
    };
    let options = line.rsplit(|&byte| byte == b' ').next().unwrap_or_default();
    options.split(|&byte| byte == b',').any(|option| option == b"shutdown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shut_down_file_system_is_told_by_its_options() {
        let mounts = b"42 27 7:0 / /a rw,relatime - ext4 /dev/loop0 rw\n\
            43 27 7:1 / /shutdown rw,relatime - ext4 /dev/loop1 rw,shutdown\n";
        assert!(!is_shut_down(mounts, 42));
        assert!(is_shut_down(mounts, 43));
        assert!(!is_shut_down(mounts, 4));
        assert!(!is_shut_down(b"", 43));
    }

    #[test]
    fn another_directory_at_the_path_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let brick = dir.path().join("brick");
        std::fs::create_dir(&brick).unwrap();
        let open = std::fs::File::open(&brick).unwrap();
        let known = spot(std::os::fd::AsFd::as_fd(&open), c"").unwrap();
        assert_eq!(check(&brick, known), Ok(()));
        std::fs::rename(&brick, dir.path().join("away")).unwrap();
        assert!(check(&brick, known).unwrap_err().contains("No such file"));
        std::fs::create_dir(&brick).unwrap();
        assert!(check(&brick, known).unwrap_err().contains("another directory"));
    }
}
