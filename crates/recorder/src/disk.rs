//! The brick on its disk: looking at names and at objects, never by path.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use changelog::Gfid;
use posix::{Object, fd_path};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::error::{Error, Result};
use crate::handle::{Handle, Namer};
use crate::identity::Identity;
use crate::presence::{self, Spot};
use crate::slot::Slot;
use crate::sys;

/// Entry of the brick's root that is never replicated: private state of a secondary, should the brick be one too.
pub const PRIVATE_NAME: &[u8] = b".gsync";

/// An object is gone when it cannot be opened so many times in a row.
const STALE_TRIES: u32 = 3;

/// How often, and after which pause, errors are tried again that pass.
const TRANSIENT_TRIES: u32 = 200;
const TRANSIENT_PAUSE: Duration = Duration::from_millis(1);

/// Directories kept open between looks.
const DIRS_MAX: usize = 256;

/// No path is deeper than this (Linux: 4096 bytes).
const DEPTH_MAX: usize = 2048;

/// An object as it was just seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its GFID, derived from the handle.
    pub gfid: Gfid,
    /// Its handle.
    pub handle: Handle,
    /// Its attributes, without xattrs and link target.
    pub object: Object,
}

/// Where an object is that is missing under its names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Whereabouts {
    /// It does not exist any more.
    Gone,
    /// It has a place outside of the brick.
    Outside,
    /// Perhaps there; a look will tell.
    Maybe(Handle, Box<[u8]>),
    /// Alive, but nothing more is known.
    Unknown,
}

/// A brick's root directory, open.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    spot: Spot,
    identity: Identity,
}

/// One brick's directory.
#[derive(Debug)]
pub struct Disk {
    root: Root,
    path: PathBuf,
    namer: Namer,
}

impl Root {
    /// Opens what is at the path now.
    ///
    /// # Errors
    /// [`Error::NotThere`]; [`Error::Unsuitable`] for a file system without file handles.
    pub fn open(path: &Path) -> Result<Root> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let failed = |errno: rustix::io::Errno| Error::not_there(path, &io::Error::from(errno).to_string());
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
        let root = sys::handle_of(fd.as_fd()).map_err(|error| {
            Error::Unsuitable(format!("{} is on a file system without file handles: {error}", path.display()))
        })?;
        let spot = presence::spot(fd.as_fd(), c"").map_err(|error| Error::not_there(path, &error.to_string()))?;
        let filesystem = sys::filesystem_name(fd.as_fd()).unwrap_or_else(|| "unknown".into());
        Ok(Root { fd, spot, identity: Identity { filesystem, root } })
    }

    /// The directory.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Device and inode.
    pub fn id(&self) -> (u64, u64) {
        self.spot.id
    }

    /// Which brick it is.
    pub fn identity(&self) -> Identity {
        self.identity.clone()
    }
}

impl Disk {
    /// A brick: its root, its path, and how its objects are named.
    pub fn new(root: Root, path: &Path, namer: Namer) -> Disk {
        Disk { root, path: path.to_owned(), namer }
    }

    /// Whether the brick's path still leads to this root, and the file system still works.
    ///
    /// # Errors
    /// [`Error::NotThere`].
    pub fn check_presence(&self) -> Result<()> {
        presence::check(&self.path, self.root.spot).map_err(|what| Error::not_there(&self.path, &what))
    }

    /// The brick's root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.fd()
    }

    /// Its path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives GFIDs.
    pub fn namer(&self) -> &Namer {
        &self.namer
    }

    /// Opens an object; `None` where it is gone.
    ///
    /// # Errors
    /// What the system says.
    pub fn open_handle(&self, handle: &Handle, flags: OFlags) -> io::Result<Option<OwnedFd>> {
        let mut tries = 0;
        loop {
            let error = match sys::open_by_handle(self.root(), handle, flags.bits() as i32) {
                Ok(fd) => return Ok(Some(fd)),
                Err(error) => error,
            };
            tries += 1;
            match error.raw_os_error() {
                // The kernel reports nearly every failure as ESTALE, also one to find the way up from a directory
                // that is being moved right now.
                Some(libc::ESTALE) if tries >= STALE_TRIES => return Ok(None),
                Some(libc::ESTALE) => {}
                // Seen on ext4 while directories are moved and removed, with plenty of memory.
                Some(libc::ENOMEM | libc::EINTR | libc::EAGAIN) if tries < TRANSIENT_TRIES => {
                    std::thread::sleep(TRANSIENT_PAUSE);
                }
                _ => return Err(error),
            }
        }
    }

    /// Looks at a name in an open directory; `None` where there is nothing, or another file system is mounted.
    ///
    /// # Errors
    /// What the system says.
    pub fn look_in(&self, dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<(OwnedFd, Seen)>> {
        let fd = match posix::beneath::open_path(dir, name) {
            Ok(fd) => fd,
            Err(error) => {
                return match error.raw_os_error() {
                    Some(libc::ENOENT | libc::ENOTDIR | libc::EXDEV | libc::ESTALE) => Ok(None),
                    _ => Err(error),
                };
            }
        };
        match self.see(fd.as_fd()) {
            Ok(seen) => Ok(Some((fd, seen))),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESTALE | libc::EOPNOTSUPP)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Looks at an object; `None` where it is gone or has no name any more.
    ///
    /// # Errors
    /// What the system says.
    pub fn look_at(&self, handle: &Handle) -> io::Result<Option<(OwnedFd, Seen)>> {
        let Some(fd) = self.open_handle(handle, OFlags::PATH)? else { return Ok(None) };
        let object = Object::read_stat(fd.as_fd())?;
        let gfid = self.namer.gfid(handle);
        Ok((object.nlink > 0).then(|| (fd, Seen { gfid, handle: handle.clone(), object })))
    }

    fn see(&self, fd: BorrowedFd<'_>) -> io::Result<Seen> {
        let handle = sys::handle_of(fd)?;
        Ok(Seen { gfid: self.namer.gfid(&handle), object: Object::read_stat(fd)?, handle })
    }

    /// Finds out where an object is.
    ///
    /// # Errors
    /// What the system says.
    pub fn locate(&self, handle: &Handle) -> io::Result<Whereabouts> {
        let Some((fd, seen)) = self.look_at(handle)? else { return Ok(Whereabouts::Gone) };
        let path = rustix::fs::readlinkat(CWD, fd_path(fd.as_fd()), Vec::new())?.into_bytes();
        let Some(slash) = path.iter().rposition(|&byte| byte == b'/') else { return Ok(Whereabouts::Unknown) };
        let (dir, name) = (&path[..slash.max(1)], &path[slash + 1..]);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = if seen.object.kind == posix::Kind::Directory {
            rustix::fs::openat(&fd, c"..", flags, Mode::empty())
        } else {
            rustix::fs::openat(CWD, OsString::from_vec(dir.to_vec()), flags, Mode::empty())
        };
        // A file whose path the kernel does not have in memory reads as "/".
        let (Ok(parent), false) = (parent, name.is_empty()) else { return Ok(Whereabouts::Unknown) };
        if self.is_inside(parent.as_fd())? {
            return Ok(Whereabouts::Maybe(sys::handle_of(parent.as_fd())?, name.into()));
        }
        // Believe that it is outside only if it is where the path says: the path may be stale.
        let there = rustix::fs::statat(&parent, std::ffi::OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW);
        let here = identity(fd.as_fd())?;
        Ok(match there {
            Ok(stat) if (stat.st_dev, stat.st_ino) == here => Whereabouts::Outside,
            _ => Whereabouts::Unknown,
        })
    }

    /// Whether a directory is the brick's root or below it.
    ///
    /// # Errors
    /// What the system says.
    pub fn is_inside(&self, dir: BorrowedFd<'_>) -> io::Result<bool> {
        let mut at = identity(dir)?;
        let mut held = None::<OwnedFd>;
        for _ in 0..DEPTH_MAX {
            if at == self.root.id() {
                return Ok(true);
            }
            let from = held.as_ref().map_or(dir, AsFd::as_fd);
            let up =
                rustix::fs::openat(from, c"..", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            let above = identity(up.as_fd())?;
            if above == at {
                return Ok(false);
            }
            at = above;
            held = Some(up);
        }
        Ok(false)
    }
}

/// Device and inode of what is open.
fn identity(fd: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::statat(fd, c"", AtFlags::EMPTY_PATH)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Directories kept open for the time of a few looks.
#[derive(Debug, Default)]
pub struct DirCache {
    dirs: HashMap<Gfid, Option<OwnedFd>>,
}

impl DirCache {
    /// Whether a directory could not be opened by its handle: it is gone, or cannot be read.
    pub fn is_stale(&self, dir: Gfid) -> bool {
        matches!(self.dirs.get(&dir), Some(None))
    }

    /// Looks at a name, given the handle of its directory. `None`: nothing there.
    ///
    /// # Errors
    /// What the system says.
    pub fn look(&mut self, disk: &Disk, slot: &Slot, dir: &Handle) -> io::Result<Option<(OwnedFd, Seen)>> {
        if slot.parent == Gfid::ROOT && *slot.name == *PRIVATE_NAME {
            return Ok(None);
        }
        if !self.dirs.contains_key(&slot.parent) {
            if self.dirs.len() >= DIRS_MAX {
                self.dirs.clear();
            }
            let fd = disk.open_handle(dir, OFlags::PATH | OFlags::DIRECTORY)?;
            self.dirs.insert(slot.parent, fd);
        }
        match self.dirs.get(&slot.parent) {
            Some(Some(fd)) => disk.look_in(fd.as_fd(), &slot.name),
            _ => Ok(None),
        }
    }
}
