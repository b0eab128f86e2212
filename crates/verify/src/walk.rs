//! One tree as an ordered stream of entries.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use posix::{Kind, Object, beneath};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::content::{self, BUFFER_BYTES};
use crate::descent::{self, Descent, Identity};
use crate::entry::{Entry, Facts, Link, Outcome};
use crate::request::{Look, Request};
use crate::value::{Digest, XattrValue};
use crate::{PRIVATE_DIR, TreePath, VerifyError};

/// Walks a tree in the order of [`TreePath`], by descriptors and single names only.
///
/// Never leaves the file system of the root. What vanishes before it is looked at is not there; what changes
/// meanwhile is marked unstable. Memory is bounded by the names of the directories from the root to the current one,
/// plus some bytes for each inode with several names.
#[derive(Debug)]
pub struct Walk {
    looks: std::vec::IntoIter<Look>,
    deep: bool,
    descent: Descent,
    links: HashMap<Identity, KnownLink>,
    buffer: Vec<u8>,
}

/// What is remembered of an inode with several names, so that its content is read once.
#[derive(Clone, Copy, Debug)]
struct KnownLink {
    group: u64,
    content: Option<(posix::Time, Digest)>,
}

/// A directory that was read and is to be entered.
struct Directory {
    fd: OwnedFd,
    identity: Identity,
    names: Vec<Vec<u8>>,
}

impl Walk {
    /// Opens the root; a symbolic link to it is followed.
    ///
    /// # Errors
    /// [`VerifyError::Root`].
    pub fn open(root: &Path, request: Request) -> Result<Walk, VerifyError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, root, flags, Mode::empty())
            .map_err(|e| VerifyError::Root { path: root.to_owned(), source: e.into() })?;
        Ok(Walk {
            looks: request.into_looks().into_iter(),
            deep: false,
            descent: Descent::new(fd),
            links: HashMap::new(),
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    /// Begins the next look. Yields the entry only for the root, which is in no directory.
    fn start(&mut self, look: Look) -> Option<Entry> {
        self.deep = look.deep;
        let Some((directory, name)) = look.path.split_last() else {
            let root = self.descent.root().try_clone_to_owned().ok()?;
            return Some(self.visit(root, TreePath::root()));
        };
        if !look.path.is_private() {
            self.descent.start_at(directory, name);
        }
        None
    }

    fn visit(&mut self, fd: OwnedFd, path: TreePath) -> Entry {
        let outcome = match self.examine(fd.as_fd(), &path) {
            Ok((facts, directory)) => {
                if let Some(Directory { fd, identity, names }) = directory {
                    self.descent.enter(path.clone(), fd, identity, names);
                }
                Outcome::Seen(Box::new(facts))
            }
            Err(e) => Outcome::Unreadable { errno: e.raw_os_error().unwrap_or(0) },
        };
        Entry { path, outcome }
    }

    fn examine(&mut self, fd: BorrowedFd<'_>, path: &TreePath) -> io::Result<(Facts, Option<Directory>)> {
        let stat = rustix::fs::statat(fd, c"", AtFlags::EMPTY_PATH)?;
        let object = Object::from_stat(&stat)?;
        let target = match object.kind {
            Kind::Symlink => rustix::fs::readlinkat(fd, c"", Vec::new())?.into_bytes(),
            _ => Vec::new(),
        };
        let xattrs = posix::object::read_xattrs(fd)?;
        let directory = if object.kind == Kind::Directory && self.deep {
            let (fd, mut names) = descent::list(fd)?;
            names.retain(|name| !(path.is_root() && name == PRIVATE_DIR));
            Some(Directory { fd, identity: (stat.st_dev, stat.st_ino), names })
        } else {
            None
        };
        let mut unstable = false;
        let content = if object.kind == Kind::File {
            let (digest, read_bytes) = self.content(fd, &stat, &object)?;
            unstable |= read_bytes != object.size;
            Some(digest)
        } else {
            None
        };
        let after = Object::read_stat(fd)?;
        unstable |= (after.ctime, after.mtime, after.size) != (object.ctime, object.mtime, object.size);
        let link = self.link(&stat, object.ctime, content.filter(|_| !unstable));
        let facts = Facts {
            kind: object.kind,
            mode: object.mode,
            uid: object.uid,
            gid: object.gid,
            size: object.size,
            rdev: object.rdev,
            mtime: object.mtime,
            ctime: object.ctime,
            target,
            xattrs: xattrs.into_iter().map(|x| (x.name, XattrValue::of(&x.value))).collect(),
            content,
            link,
            unstable,
        };
        Ok((facts, directory))
    }

    fn content(&mut self, fd: BorrowedFd<'_>, stat: &Stat, object: &Object) -> io::Result<(Digest, u64)> {
        let known = self.links.get(&(stat.st_dev, stat.st_ino)).and_then(|link| link.content);
        match known {
            Some((ctime, digest)) if ctime == object.ctime => Ok((digest, object.size)),
            _ => content::read(fd, &mut self.buffer),
        }
    }

    fn link(&mut self, stat: &Stat, ctime: posix::Time, content: Option<Digest>) -> Option<Link> {
        let is_directory = Kind::from_st_mode(stat.st_mode) == Some(Kind::Directory);
        if is_directory || stat.st_nlink < 2 {
            return None;
        }
        let next = self.links.len() as u64;
        let known = self.links.entry((stat.st_dev, stat.st_ino)).or_insert(KnownLink { group: next, content: None });
        known.content = content.map(|digest| (ctime, digest));
        Some(Link { group: known.group, nlink: stat.st_nlink })
    }
}

impl Iterator for Walk {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        loop {
            let Some((directory, path, name)) = self.descent.next_name() else {
                let look = self.looks.next()?;
                match self.start(look) {
                    Some(entry) => return Some(entry),
                    None => continue,
                }
            };
            match beneath::open_path(directory, &name) {
                Ok(fd) => return Some(self.visit(fd, path)),
                Err(e) => match Errno::from_io_error(&e) {
                    Some(Errno::NOENT) => {}
                    Some(Errno::XDEV) => return Some(Entry { path, outcome: Outcome::Mount }),
                    _ => {
                        let errno = e.raw_os_error().unwrap_or(0);
                        return Some(Entry { path, outcome: Outcome::Unreadable { errno } });
                    }
                },
            }
        }
    }
}
