//! Where a walk is: the directories from the first to the current one, with a bounded number of descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use posix::beneath;
use rustix::fs::{AtFlags, Dir, Mode, OFlags};

use crate::TreePath;

/// How many of the deepest directories stay open. The others are opened again on the way up.
const OPEN_MAX: usize = 32;

/// Device and inode: what tells whether a directory is still the same one.
pub(crate) type Identity = (u64, u64);

/// A stack of directories, each with the names in it that are still to be visited.
#[derive(Debug)]
pub(crate) struct Descent {
    root: OwnedFd,
    levels: Vec<Level>,
    /// The current directory.
    path: TreePath,
}

#[derive(Debug)]
struct Level {
    identity: Identity,
    /// Open while the level is one of the deepest.
    fd: Option<OwnedFd>,
    /// In descending order, so that the next one is the last.
    names: Vec<Vec<u8>>,
}

impl Descent {
    pub(crate) fn new(root: OwnedFd) -> Descent {
        Descent { root, levels: Vec::new(), path: TreePath::root() }
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The next name to visit, with the directory it is in; climbs up from directories that are done. `None` at the
    /// end.
    pub(crate) fn next_name(&mut self) -> Option<(BorrowedFd<'_>, TreePath, Vec<u8>)> {
        loop {
            if let Some(name) = self.levels.last_mut()?.names.pop() {
                let path = self.path.join(&name);
                // A level that could not be opened again has no names.
                let fd = self.levels.last()?.fd.as_ref()?;
                return Some((fd.as_fd(), path, name));
            }
            self.climb();
        }
    }

    /// Begins anew at one path: its directory is opened name by name. `false` when it is not there.
    pub(crate) fn start_at(&mut self, directory: TreePath, name: &[u8]) -> bool {
        self.levels.clear();
        let Ok(fd) = self.open_from_root(&directory) else { return false };
        let Ok(identity) = identify(fd.as_fd()) else { return false };
        self.levels.push(Level { identity, fd: Some(fd), names: vec![name.to_vec()] });
        self.path = directory;
        true
    }

    /// Goes into a directory, which is at `path`, with its names in ascending order.
    pub(crate) fn enter(&mut self, path: TreePath, fd: OwnedFd, identity: Identity, mut names: Vec<Vec<u8>>) {
        names.reverse();
        self.levels.push(Level { identity, fd: Some(fd), names });
        self.path = path;
        if let Some(over) = self.levels.len().checked_sub(OPEN_MAX + 1) {
            self.levels[over].fd = None;
        }
    }

    fn climb(&mut self) {
        let Some(left) = self.levels.pop() else { return };
        self.path.pop();
        let Some(top) = self.levels.last() else { return };
        if top.fd.is_some() {
            return;
        }
        let identity = top.identity;
        let same = |fd: &OwnedFd| identify(fd.as_fd()).is_ok_and(|now| now == identity);
        // The way up through `..` is short; it leads elsewhere when the directory that we leave was moved meanwhile.
        let through_child = left.fd.and_then(|child| open_dir(child.as_fd(), b"..").ok()).filter(same);
        let reopened = through_child.or_else(|| self.open_from_root(&self.path).ok().filter(same));
        if let Some(top) = self.levels.last_mut() {
            if reopened.is_none() {
                // The directory is not where it was: nothing is left to visit at this path.
                top.names.clear();
            }
            top.fd = reopened;
        }
    }

    fn open_from_root(&self, path: &TreePath) -> io::Result<OwnedFd> {
        let mut fd = open_dir(self.root.as_fd(), b".")?;
        for name in path.names() {
            fd = beneath::open_dir(fd.as_fd(), name)?;
        }
        Ok(fd)
    }
}

/// Opens and lists a directory that is given as `O_PATH`: names in ascending byte order.
pub(crate) fn list(directory: BorrowedFd<'_>) -> io::Result<(OwnedFd, Vec<Vec<u8>>)> {
    let fd = open_dir(directory, b".")?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    // A directory that changes while it is read may show a name twice.
    names.dedup();
    Ok((fd, names))
}

fn identify(fd: BorrowedFd<'_>) -> io::Result<Identity> {
    let stat = rustix::fs::statat(fd, c"", AtFlags::EMPTY_PATH)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn open_dir(base: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(base, name, flags, Mode::empty())?)
}
