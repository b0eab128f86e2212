//! How much a primary holds, to compare it with the room on a secondary.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

/// How long counting may take; beyond, what the whole file system holds is taken instead.
const COUNT_LIMIT: Duration = Duration::from_secs(60);

/// What a directory holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Objects.
    pub inodes: u64,
}

/// What the file system of a directory holds: at least as much as the directory.
///
/// # Errors
/// What the system says.
pub fn of_file_system(path: &Path) -> std::io::Result<Usage> {
    let found = rustix::fs::statvfs(path)?;
    Ok(Usage {
        bytes: found.f_blocks.saturating_sub(found.f_bfree).saturating_mul(found.f_frsize),
        inodes: found.f_files.saturating_sub(found.f_ffree),
    })
}

/// Counts what a directory holds; `None` when that takes too long.
///
/// # Errors
/// What the system says of the directory itself; what vanishes meanwhile is not counted.
pub fn of_directory(path: &Path) -> std::io::Result<Option<Usage>> {
    let root: OwnedFd = File::open(path)?.into();
    let device = rustix::fs::fstat(&root)?.st_dev;
    let mut count = Count { usage: Usage::default(), device, deadline: Instant::now() + COUNT_LIMIT };
    Ok(count.add(&root).then_some(count.usage))
}

struct Count {
    usage: Usage,
    device: u64,
    deadline: Instant,
}

impl Count {
    /// Adds what is in a directory; `false` when the time is over.
    fn add(&mut self, dir: &OwnedFd) -> bool {
        let Ok(entries) = Dir::read_from(dir) else { return true };
        let mut below = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            // A file with several names is met under each of them.
            let names = posix::Object::from_stat(&stat).map_or(1, |object| u64::from(object.nlink.max(1)));
            let bytes = (stat.st_blocks as u64).saturating_mul(512) / names;
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            self.usage.bytes += if is_dir { (stat.st_blocks as u64).saturating_mul(512) } else { bytes };
            self.usage.inodes += 1;
            if is_dir && stat.st_dev == self.device {
                below.push(name.to_owned());
            }
        }
        below.iter().all(|name| {
            if Instant::now() > self.deadline {
                return false;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(dir, name, flags, Mode::empty()).map_or(true, |child| self.add(&child))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_links_count_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("a"), vec![1; 1 << 20]).unwrap();
        File::open(dir.path().join("a")).unwrap().sync_all().unwrap();
        std::fs::hard_link(dir.path().join("a"), dir.path().join("sub/b")).unwrap();
        let usage = of_directory(dir.path()).unwrap().unwrap();
        assert_eq!(usage.inodes, 3);
        assert!((1 << 20..(1 << 20) + 65_536).contains(&usage.bytes), "{usage:?}");
        assert!(of_file_system(dir.path()).unwrap().bytes > 0);
    }
}
