//! What the file system of a secondary can do, found out by doing it in a directory of its own.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use posix::{Time, beneath, fd_path};
use protocol::check::Lack;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Uid, XattrFlags};
use rustix::io::Errno;

/// A time that needs nanoseconds and 64-bit seconds: 2100-01-01 and some.
const FAR_TIME: Time = Time { secs: 4_102_444_800, nanos: 123_456_789 };

/// The longest name that a primary may have.
const LONG_NAME: [u8; 255] = [b'n'; 255];

/// A file that is larger than what 32 bits address.
const LARGE_BYTES: u64 = 5 << 30;

/// An access ACL with an entry for one further user: version 2, then tag, permissions and id of each entry.
const ACL: [u8; 44] = [
    2, 0, 0, 0, // version
    1, 0, 6, 0, 255, 255, 255, 255, // owner
    2, 0, 4, 0, 1, 0, 0, 0, // user 1
    4, 0, 4, 0, 255, 255, 255, 255, // group
    16, 0, 4, 0, 255, 255, 255, 255, // mask
    32, 0, 0, 0, 255, 255, 255, 255, // others
];

/// An empty directory for trials; removed with everything in it when dropped.
struct Scratch {
    dir: OwnedFd,
    parent: OwnedFd,
    name: String,
    mtime: Option<Time>,
}

/// What was found out.
#[derive(Debug, Default)]
pub struct Features {
    /// What does not work.
    pub lacks: Vec<Lack>,
    /// Whether files can share extents.
    pub can_clone: bool,
}

/// Tries everything in a new directory below `parent`, which is removed again.
///
/// # Errors
/// When not even the directory can be made.
pub fn try_all(parent: OwnedFd) -> io::Result<Features> {
    let scratch = Scratch::make(parent)?;
    let dir = &scratch.dir;
    let mut features = Features::default();
    let mut lack = |feature: &str, is_vital: bool, result: io::Result<()>| {
        if let Err(error) = result {
            features.lacks.push(Lack { feature: feature.into(), reason: error.to_string(), is_vital });
        }
    };
    lack("xattrs trusted.*", true, with_file(dir, "t", |file| set_xattr(file, "trusted.gsync.check", b"1")));
    lack("xattrs user.*", false, with_file(dir, "u", |file| set_xattr(file, "user.gsync.check", b"1")));
    lack("POSIX ACLs", false, with_file(dir, "a", |file| set_xattr(file, "system.posix_acl_access", &ACL)));
    lack("owners", true, with_file(dir, "o", chown));
    lack("times in nanoseconds and beyond 2038", false, with_file(dir, "m", far_time));
    lack("files over 4 GiB", false, with_file(dir, "l", |file| Ok(rustix::fs::ftruncate(file, LARGE_BYTES)?)));
    lack("hard links", true, hard_link(dir));
    lack("symbolic links with xattrs", true, symlink(dir));
    lack("FIFOs", false, make_node(dir, "f", FileType::Fifo, 0));
    lack("devices", false, make_node(dir, "d", FileType::CharacterDevice, rustix::fs::makedev(1, 3)));
    lack("renameat2 with NOREPLACE and EXCHANGE", true, renames(dir));
    lack("names of 255 bytes", false, make(dir, &LONG_NAME).map(drop));
    lack("names of any bytes", false, make(dir, b"\xff\xfe\n").map(drop));
    lack("names that differ in case only", false, case(dir));
    features.can_clone = can_clone(dir);
    Ok(features)
}

fn make(dir: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    beneath::open_file(dir.as_fd(), name, flags, Mode::RUSR | Mode::WUSR)
}

fn with_file(dir: &OwnedFd, name: &str, test: impl FnOnce(&OwnedFd) -> io::Result<()>) -> io::Result<()> {
    test(&make(dir, name.as_bytes())?)
}

fn set_xattr(file: &OwnedFd, name: &str, value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(file, name, value, XattrFlags::empty())?)
}

fn chown(file: &OwnedFd) -> io::Result<()> {
    rustix::fs::fchown(file, Some(Uid::from_raw(70_001)), Some(Gid::from_raw(70_002)))?;
    let stat = rustix::fs::fstat(file)?;
    if (stat.st_uid, stat.st_gid) == (70_001, 70_002) { Ok(()) } else { Err(not_kept("owners are not kept")) }
}

fn far_time(file: &OwnedFd) -> io::Result<()> {
    posix::object::set_mtime(file.as_fd(), FAR_TIME)?;
    let kept = posix::Object::read_stat(file.as_fd())?.mtime;
    if kept == FAR_TIME {
        return Ok(());
    }
    Err(not_kept(&format!("a time became {}.{:09}", kept.secs, kept.nanos)))
}

fn hard_link(dir: &OwnedFd) -> io::Result<()> {
    make(dir, b"h1")?;
    Ok(rustix::fs::linkat(dir, "h1", dir, "h2", AtFlags::empty())?)
}

fn symlink(dir: &OwnedFd) -> io::Result<()> {
    rustix::fs::symlinkat("nowhere", dir, "s")?;
    let link = beneath::open_path(dir.as_fd(), b"s")?;
    rustix::fs::setxattr(fd_path(link.as_fd()), "trusted.gsync.check", b"1", XattrFlags::empty())?;
    posix::object::set_mtime(link.as_fd(), Time { secs: 1_000_000_000, nanos: 0 })
}

fn make_node(dir: &OwnedFd, name: &str, kind: FileType, device: u64) -> io::Result<()> {
    Ok(rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, device)?)
}

fn renames(dir: &OwnedFd) -> io::Result<()> {
    make(dir, b"r1")?;
    make(dir, b"r2")?;
    match rustix::fs::renameat_with(dir, "r1", dir, "r2", RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
        Ok(()) => return Err(not_kept("NOREPLACE is not heeded")),
    }
    Ok(rustix::fs::renameat_with(dir, "r1", dir, "r2", RenameFlags::EXCHANGE)?)
}

fn case(dir: &OwnedFd) -> io::Result<()> {
    make(dir, b"Case")?;
    match rustix::fs::statat(dir, "cASE", AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
        Ok(_) => Err(not_kept("they are the same name there")),
    }
}

/// Tries whether one file can share the extents of another.
fn can_clone(dir: &OwnedFd) -> bool {
    let (Ok(from), Ok(to)) = (make(dir, b"c1"), make(dir, b"c2")) else { return false };
    rustix::io::pwrite(&from, &[1; 4096], 0).is_ok() && rustix::fs::ioctl_ficlone(&to, &from).is_ok()
}

fn not_kept(what: &str) -> io::Error {
    io::Error::other(what.to_owned())
}

impl Scratch {
    fn make(parent: OwnedFd) -> io::Result<Scratch> {
        let mtime = posix::Object::read_stat(parent.as_fd()).ok().map(|object| object.mtime);
        let name = format!(".gsync-check-{}", std::process::id());
        rustix::fs::mkdirat(&parent, name.as_str(), Mode::RWXU)?;
        let dir =
            beneath::open_file(parent.as_fd(), name.as_bytes(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
        match dir {
            Ok(dir) => Ok(Scratch { dir, parent, name, mtime }),
            Err(error) => {
                let _ = rustix::fs::unlinkat(&parent, name.as_str(), AtFlags::REMOVEDIR);
                Err(error)
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let emptied = crate::private::empty(self.dir.as_fd());
        let removed = rustix::fs::unlinkat(&self.parent, self.name.as_str(), AtFlags::REMOVEDIR);
        if let (Ok(()), Ok(()), Some(mtime)) = (emptied, removed, self.mtime) {
            let _ = posix::object::set_mtime(self.parent.as_fd(), mtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_leave_nothing_behind() {
        let root = tempfile::tempdir().unwrap();
        let before = std::fs::metadata(root.path()).unwrap().modified().unwrap();
        let parent = rustix::fs::open(root.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let features = try_all(parent).unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
        assert_eq!(std::fs::metadata(root.path()).unwrap().modified().unwrap(), before);
        if rustix::process::geteuid().is_root() {
            let vital: Vec<_> = features.lacks.iter().filter(|lack| lack.is_vital).collect();
            assert!(vital.is_empty(), "{vital:?}");
        }
    }
}
