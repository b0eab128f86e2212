//! What an object is besides its content: type, mode, owner, times, xattrs, link target, device number.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::fd_path;
use crate::xattrs::{self, as_os_str};

/// Xattrs that belong to the machine they are on, or to us, and are never replicated.
const PRIVATE_XATTRS: [&[u8]; 6] =
    [b"trusted.gfid", b"trusted.gsync.", b"trusted.glusterfs.", b"trusted.afr.", b"trusted.SGI_", b"trusted.overlay."];

/// Name spaces that are replicated.
const REPLICATED_XATTRS: [&[u8]; 5] =
    [b"user.", b"trusted.", b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"];

/// A point in time as file systems store it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Time {
    /// Seconds since 1970 (negative before).
    pub secs: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nanos: u32,
}

/// The type of an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// FIFO.
    Fifo,
    /// Unix socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

/// One extended attribute: full name and value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Xattr {
    /// Full name, e.g. `user.comment`.
    pub name: Vec<u8>,
    /// Value, may be empty.
    pub value: Vec<u8>,
}

/// All of an object that is replicated besides its names and its content.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Object {
    /// Type.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names as the file system counts them.
    pub nlink: u32,
    /// Device number of a device, else 0.
    pub rdev: u64,
    /// Content size in bytes (0 for what is not a regular file).
    pub size: u64,
    /// Time of the last change of content.
    pub mtime: Time,
    /// Time of the last change of the inode on the machine where it was read; never applied.
    pub ctime: Time,
    /// Target of a symbolic link, else empty.
    pub target: Vec<u8>,
    /// Replicated xattrs, sorted by name. POSIX ACLs are among them.
    pub xattrs: Vec<Xattr>,
}

impl Kind {
    /// The type in `st_mode`.
    pub fn from_st_mode(st_mode: u32) -> Option<Kind> {
        Some(match FileType::from_raw_mode(st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            _ => return None,
        })
    }

    /// The type as mknod(2) takes it.
    pub fn file_type(self) -> FileType {
        match self {
            Kind::File => FileType::RegularFile,
            Kind::Directory => FileType::Directory,
            Kind::Symlink => FileType::Symlink,
            Kind::Fifo => FileType::Fifo,
            Kind::Socket => FileType::Socket,
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
        }
    }
}

/// Whether an xattr of this name is replicated.
pub fn is_replicated_xattr(name: &[u8]) -> bool {
    REPLICATED_XATTRS.iter().any(|p| name.starts_with(p)) && !PRIVATE_XATTRS.iter().any(|p| name.starts_with(p))
}

impl Object {
    /// Reads everything from a descriptor, which may be `O_PATH` (also of a symbolic link).
    ///
    /// # Errors
    /// What the system says; an xattr that vanishes in between is left out.
    pub fn read(fd: BorrowedFd<'_>) -> io::Result<Object> {
        Object::read_stat(fd)?.complete(fd)
    }

    /// Adds what stat(2) does not tell, target and xattrs, to what it told of the same object.
    ///
    /// # Errors
    /// As [`Object::read`].
    pub fn complete(mut self, fd: BorrowedFd<'_>) -> io::Result<Object> {
        if self.kind == Kind::Symlink {
            self.target = rustix::fs::readlinkat(fd, c"", Vec::new())?.into_bytes();
        }
        self.xattrs = read_xattrs(fd)?;
        Ok(self)
    }

    /// Reads what stat(2) tells; xattrs and target stay empty.
    ///
    /// # Errors
    /// What the system says.
    pub fn read_stat(fd: BorrowedFd<'_>) -> io::Result<Object> {
        let stat = rustix::fs::statat(fd, c"", AtFlags::EMPTY_PATH)?;
        Object::from_stat(&stat)
    }

    /// Converts what stat(2) returned; xattrs and target stay empty.
    ///
    /// # Errors
    /// `InvalidData` for a type that Linux does not have.
    pub fn from_stat(stat: &rustix::fs::Stat) -> io::Result<Object> {
        let kind = Kind::from_st_mode(stat.st_mode).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Object {
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            rdev: if matches!(kind, Kind::CharDevice | Kind::BlockDevice) { stat.st_rdev } else { 0 },
            size: if kind == Kind::File { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 },
            mtime: Time { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 },
            ctime: Time { secs: stat.st_ctime, nanos: stat.st_ctime_nsec as u32 },
            target: Vec::new(),
            xattrs: Vec::new(),
        })
    }

    /// About how many bytes it takes in a message.
    pub fn weight_bytes(&self) -> usize {
        let xattrs = self.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len() + 8);
        64 + self.target.len() + xattrs.sum::<usize>()
    }

    /// Gives an existing object owner, xattrs, mode and mtime of `self`, in the order in which none undoes another
    /// (chown clears setuid and capabilities, an ACL changes the mode bits). Xattrs that `self` does not have are
    /// removed. What is as it should be is not set again: each call writes to the file system's journal. `fd` may be
    /// `O_PATH`.
    ///
    /// # Errors
    /// The first call that fails; applying again is harmless.
    pub fn apply(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let now = Object::read_stat(fd)?;
        let other_owner = now.uid != self.uid || now.gid != self.gid;
        if other_owner {
            let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
            rustix::fs::chownat(fd, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
        }
        let other_xattrs = self.apply_xattrs(fd)?;
        if self.kind != Kind::Symlink && (other_owner || other_xattrs || now.mode != self.mode) {
            // chmod, not fchmod: the descriptor may be O_PATH.
            rustix::fs::chmodat(CWD, fd_path(fd), Mode::from_raw_mode(self.mode), AtFlags::empty())?;
        }
        if now.mtime != self.mtime { set_mtime(fd, self.mtime) } else { Ok(()) }
    }

    /// Returns whether anything had to be done.
    fn apply_xattrs(&self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        let present = read_xattrs(fd)?;
        let path = fd_path(fd);
        let mut changed = false;
        for old in &present {
            if self.xattrs.binary_search_by(|x| x.name.cmp(&old.name)).is_err() {
                xattr::remove_deref(&path, as_os_str(&old.name))?;
                changed = true;
            }
        }
        for new in &self.xattrs {
            if is_replicated_xattr(&new.name) && present.binary_search(new).is_err() {
                xattr::set_deref(&path, as_os_str(&new.name), &new.value)?;
                changed = true;
            }
        }
        Ok(changed)
    }
}

/// Sets the time of the last content change; the access time stays. `fd` may be `O_PATH`.
///
/// # Errors
/// What the system says.
pub fn set_mtime(fd: BorrowedFd<'_>, mtime: Time) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.secs, tv_nsec: i64::from(mtime.nanos) },
    };
    Ok(rustix::fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH)?)
}

/// Reads the replicated xattrs, sorted by name. A file system without xattrs has none.
///
/// # Errors
/// What the system says.
pub fn read_xattrs(fd: BorrowedFd<'_>) -> io::Result<Vec<Xattr>> {
    let names = match xattrs::short_list(fd) {
        Ok(Some(names)) => names,
        Ok(None) => xattr::list_deref(fd_path(fd))?.map(OsStringExt::into_vec).collect(),
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    let mut found = Vec::new();
    for name in names.into_iter().filter(|name| is_replicated_xattr(name)) {
        if let Some(value) = xattr::get_deref(fd_path(fd), as_os_str(&name))? {
            found.push(Xattr { name, value });
        }
    }
    found.sort();
    Ok(found)
}
