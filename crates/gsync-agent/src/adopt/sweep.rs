//! Listing the tree for the worker, a piece at a time: every name, with the stamp of what is there.

use std::os::fd::AsFd;
use std::sync::Arc;

use posix::beneath;
use protocol::{Gfid, Place};
use rustix::fs::{Dir, Mode, OFlags};

use crate::error::{Step, Tried};
use crate::private::PRIVATE;
use crate::stamp::At;
use crate::tree::{Spot, Tree};

/// Names in one piece.
const PIECE_NAMES: usize = 1024;

/// Where a listing is; it starts anew with each connection.
#[derive(Debug, Default)]
pub struct Sweep {
    /// The directory that was begun last.
    last: Option<Gfid>,
    open: Option<(Gfid, Arc<std::os::fd::OwnedFd>, Dir)>,
}

/// A name, and what is stamped on what is there.
pub type Listed = (Place, Option<Gfid>);

impl Sweep {
    /// The next names, and whether these were the last; then it begins again.
    ///
    /// # Errors
    /// [`crate::error::Trouble`].
    pub fn next(&mut self, tree: &mut Tree) -> Step<(Vec<Listed>, bool)> {
        let mut listed = Vec::new();
        while listed.len() < PIECE_NAMES {
            let Some((gfid, dir, entries)) = &mut self.open else {
                let Some(next) = tree.index.next_directory(self.last)? else {
                    self.last = None;
                    return Ok((listed, true));
                };
                self.last = Some(next);
                self.open = open(tree, next)?;
                continue;
            };
            let Some(entry) = entries.next() else {
                self.open = None;
                continue;
            };
            let entry = entry.tried("read a directory")?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") || (*gfid == Gfid::ROOT && matches!(name, PRIVATE | b"lost+found")) {
                continue;
            }
            match tree.at(&Spot::unindexed(dir, name))? {
                At::Absent => {}
                At::Unknown => listed.push((Place { parent: *gfid, name: name.to_vec() }, None)),
                At::Known(there) => listed.push((Place { parent: *gfid, name: name.to_vec() }, Some(there))),
            }
        }
        Ok((listed, false))
    }
}

fn open(tree: &mut Tree, gfid: Gfid) -> Step<Option<(Gfid, Arc<std::os::fd::OwnedFd>, Dir)>> {
    let Some(dir) = tree.directory(gfid)? else { return Ok(None) };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let readable = beneath::open_file(dir.as_fd(), b".", flags, Mode::empty()).tried("open a directory")?;
    Ok(Some((gfid, dir, Dir::new(readable).tried("read a directory")?)))
}
