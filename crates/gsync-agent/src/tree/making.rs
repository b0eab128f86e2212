//! New objects that are not files: made aside, complete with attributes and stamp, then moved to their names.

use std::os::fd::AsFd;
use std::sync::Arc;

use posix::{Kind, Object, beneath};
use protocol::Gfid;
use rustix::fs::{AtFlags, Mode};

use super::{Spot, Tree};
use crate::error::{Step, Tried, Trouble};
use crate::index::Row;
use crate::stamp;

impl Tree {
    /// A name in `made/` that nothing has.
    pub fn spare(&mut self) -> Spot {
        let number = self.next_number();
        Spot::unindexed(&self.private.made, number.to_string())
    }

    /// Makes an object from its attributes; nobody sees it yet.
    ///
    /// # Errors
    /// [`Trouble`]; nothing is left then.
    pub fn make(&mut self, gfid: Gfid, object: &Object) -> Step<Spot> {
        let spot = self.spare();
        create(&spot, object)?;
        if let Err(trouble) = self.finish(gfid, object, &spot) {
            self.discard(&spot, object.kind);
            return Err(trouble);
        }
        Ok(spot)
    }

    /// Removes what [`Tree::make`] made when it cannot be used.
    pub fn discard(&self, spot: &Spot, kind: Kind) {
        let flags = if kind == Kind::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        // What stays in `made/` is removed at the next start.
        let _ = rustix::fs::unlinkat(&spot.dir, spot.name.as_slice(), flags);
    }

    fn finish(&mut self, gfid: Gfid, object: &Object, spot: &Spot) -> Step<()> {
        let fd = beneath::open_path(spot.dir.as_fd(), &spot.name).tried("open a new object")?;
        object.apply(fd.as_fd()).tried("set attributes of a new object")?;
        stamp::set(fd.as_fd(), gfid).tried("stamp a new object")?;
        let mut row = Row::new(object.kind);
        if object.kind == Kind::Directory {
            row.mtime = Some(object.mtime);
            self.directories.insert(gfid, Arc::new(fd));
        }
        Ok(self.index.put(gfid, &row)?)
    }
}

fn create(spot: &Spot, object: &Object) -> Step<()> {
    let name = spot.name.as_slice();
    match object.kind {
        Kind::File => Err(Trouble::refused("a file is made from its content only")),
        Kind::Directory => rustix::fs::mkdirat(&spot.dir, name, Mode::RWXU).tried("mkdir"),
        Kind::Symlink => rustix::fs::symlinkat(object.target.as_slice(), &spot.dir, name).tried("symlink"),
        kind => {
            let mode = Mode::RUSR | Mode::WUSR;
            rustix::fs::mknodat(&spot.dir, name, kind.file_type(), mode, object.rdev).tried("mknod")
        }
    }
}
