//! The tree below the root: objects by GFID, names by directory and name.
//!
//! Layout:
//! - `mod`: where a directory or an object is now, checked against the stamps
//! - [`directories`]: open directories, cached
//! - [`moves`]: rename, exchange, link, unlink, each with its change of the index
//! - [`making`]: new objects that are not files
//! - [`keeping`]: parking place and quarantine
//!
//! What is at a name is always read from the disk; the index only says where to look.

pub mod directories;
pub mod keeping;
pub mod making;
pub mod moves;

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use posix::{Kind, Object, beneath};
use protocol::{Gfid, Place};
use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::error::{Step, Tried, Trouble};
use crate::index::{Index, Row};
use crate::private::{PRIVATE, Private};
use crate::stamp::{self, At};
use directories::Directories;

/// Open directories kept; half of what the process may have open, at most this.
pub const MAX_OPEN_DIRECTORIES: usize = 1024;

/// Levels of directories followed upwards; more is a loop in a damaged index.
const MAX_DEPTH: usize = 1 << 20;

/// Names in a path that is shown.
const MAX_SHOWN_DEPTH: usize = 32;

/// The tree below one root.
pub struct Tree {
    /// The root and `.gsync/`.
    pub private: Arc<Private>,
    /// Where to look.
    pub index: Index,
    /// Whether the file system clones files.
    pub can_clone: bool,
    /// Whether an older copy is being adopted: nothing is deleted then.
    pub adopting: bool,
    /// Directories whose entries were changed by this batch, and objects that were exchanged: the mtime of directories
    /// has to be given back.
    pub touched: BTreeSet<Gfid>,
    /// What went to quarantine in this batch, for the operator.
    pub quarantined: Vec<String>,
    /// Objects that were parked since the last answer.
    parked: Vec<Gfid>,
    /// How many objects are parked.
    pub parked_count: u64,
    /// Objects that were removed since this was looked at last; those that gave way to another are not counted.
    pub removed: u64,
    /// Files that are being patched in place, with the stage they are linked into.
    pub in_place: HashMap<Gfid, String>,
    directories: Directories,
    /// Makes names in `made/` and `quarantine/` unique.
    counter: u64,
}

/// A name in an open directory.
#[derive(Clone, Debug)]
pub struct Spot {
    /// The directory.
    pub dir: Arc<OwnedFd>,
    /// The name.
    pub name: Vec<u8>,
    /// The name as the index knows it; `None` in the stage and other places of our own.
    pub place: Option<Place>,
}

impl Spot {
    /// A name that the index does not know.
    pub fn unindexed(dir: &Arc<OwnedFd>, name: impl Into<Vec<u8>>) -> Spot {
        Spot { dir: dir.clone(), name: name.into(), place: None }
    }

    /// Whether an object here has no name of the primary.
    pub fn is_parked(&self) -> bool {
        self.place.as_ref().is_some_and(|p| p.parent == Gfid::PARKING)
    }
}

impl Tree {
    /// Puts the pieces together.
    pub fn new(private: Arc<Private>, index: Index, can_clone: bool, open_directories: usize) -> Tree {
        Tree {
            private,
            index,
            can_clone,
            adopting: false,
            touched: BTreeSet::new(),
            quarantined: Vec::new(),
            parked: Vec::new(),
            parked_count: 0,
            removed: 0,
            in_place: HashMap::new(),
            directories: Directories::new(open_directories.clamp(16, MAX_OPEN_DIRECTORIES)),
            counter: 0,
        }
    }

    /// The open directory, found through the index and checked by its stamp; `None` when it is not there.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn directory(&mut self, gfid: Gfid) -> Step<Option<Arc<OwnedFd>>> {
        let mut missing = Vec::new();
        let mut next = gfid;
        let mut dir = loop {
            if let Some(dir) = self.open_already(next) {
                break dir;
            }
            match self.index.get(next)? {
                Some(Row { kind: Kind::Directory, .. }) => {}
                Some(_) => return Err(Trouble::system(&format!("use {next} as a directory"), Errno::NOTDIR)),
                None => return Ok(None),
            }
            let Some(place) = self.index.name(next)? else { return Ok(None) };
            if missing.len() >= MAX_DEPTH {
                return Ok(None);
            }
            let parent = place.parent;
            missing.push((next, place));
            next = parent;
        };
        for (gfid, place) in missing.into_iter().rev() {
            let opened = match beneath::open_dir(dir.as_fd(), &place.name) {
                Ok(fd) => Some(fd),
                Err(e) if is_other_object(&e) => None,
                Err(e) => return Err(e).tried(&format!("open directory {gfid}")),
            };
            let fd = match opened {
                Some(fd) if stamp::of(fd.as_fd()).tried("read a stamp")? == Some(gfid) => Arc::new(fd),
                _ => {
                    self.index.remove_name(gfid, &place)?;
                    return Ok(None);
                }
            };
            self.directories.insert(gfid, fd.clone());
            dir = fd;
        }
        Ok(Some(dir))
    }

    fn open_already(&mut self, gfid: Gfid) -> Option<Arc<OwnedFd>> {
        match gfid {
            Gfid::ROOT => Some(self.private.root.clone()),
            Gfid::PARKING => Some(self.private.parked.clone()),
            _ => self.directories.get(gfid),
        }
    }

    /// The name as a spot; `None` when its directory is not there.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn spot(&mut self, place: &Place) -> Step<Option<Spot>> {
        let dir = self.directory(place.parent)?;
        Ok(dir.map(|dir| Spot { dir, name: place.name.clone(), place: Some(place.clone()) }))
    }

    /// Whether the directory `gfid` is `above` or below it.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn is_inside(&self, gfid: Gfid, above: Gfid) -> Step<bool> {
        let mut next = gfid;
        for _ in 0..MAX_DEPTH {
            if next == above {
                return Ok(true);
            }
            match self.index.name(next)? {
                Some(place) => next = place.parent,
                None => return Ok(false),
            }
        }
        Ok(false)
    }

    /// What is at a spot now.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn at(&self, spot: &Spot) -> Step<At> {
        stamp::at(spot.dir.as_fd(), &spot.name).tried("read a stamp")
    }

    /// Attributes without xattrs of what is at a spot.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn stat(&self, spot: &Spot) -> Step<(Object, u64)> {
        let stat = rustix::fs::statat(&spot.dir, spot.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).tried("stat")?;
        Ok((Object::from_stat(&stat).tried("stat")?, stat.st_ino))
    }

    /// The index's row of an object that is at a spot, made from what is there when it is new.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn row_of(&mut self, gfid: Gfid, spot: &Spot) -> Step<Row> {
        if let Some(row) = self.index.get(gfid)? {
            return Ok(row);
        }
        let row = Row::new(self.stat(spot)?.0.kind);
        self.index.put(gfid, &row)?;
        Ok(row)
    }

    /// The first spot where the object is now for which `wanted` holds. Names that are not true any more are
    /// taken out of the index on the way.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn find(&mut self, gfid: Gfid, mut wanted: impl FnMut(&Spot) -> bool) -> Step<Option<Spot>> {
        for place in self.index.names(gfid)? {
            if let Some(spot) = self.verified(gfid, &place)?
                && wanted(&spot)
            {
                return Ok(Some(spot));
            }
        }
        Ok(None)
    }

    /// All spots where the object is now.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn find_all(&mut self, gfid: Gfid) -> Step<Vec<Spot>> {
        let mut found = Vec::new();
        for place in self.index.names(gfid)? {
            found.extend(self.verified(gfid, &place)?);
        }
        Ok(found)
    }

    fn verified(&mut self, gfid: Gfid, place: &Place) -> Step<Option<Spot>> {
        if let Some(spot) = self.spot(place)?
            && self.at(&spot)? == At::Known(gfid)
        {
            return Ok(Some(spot));
        }
        self.index.remove_name(gfid, place)?;
        Ok(None)
    }

    /// Opens an object as `O_PATH`, wherever it is; `None` when it is not there.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn open(&mut self, gfid: Gfid) -> Step<Option<OwnedFd>> {
        if gfid == Gfid::ROOT {
            return Ok(Some(self.private.root.try_clone().tried("open the root")?));
        }
        let Some(spot) = self.find(gfid, |_| true)? else { return Ok(None) };
        let fd = beneath::open_path(spot.dir.as_fd(), &spot.name).tried("open an object")?;
        let same = stamp::of(fd.as_fd()).tried("read a stamp")? == Some(gfid);
        Ok(same.then_some(fd))
    }

    /// Forgets an open directory that is out of the tree now.
    pub fn forget_directory(&mut self, gfid: Gfid) {
        self.directories.remove(gfid);
    }

    /// Where the index has an object, below the root; parked ones under the name of the parking place. For people only:
    /// it may be cut, and is not checked.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn path_of(&self, gfid: Gfid) -> Step<Vec<u8>> {
        let mut names = Vec::new();
        let mut next = gfid;
        while next != Gfid::ROOT && names.len() < MAX_SHOWN_DEPTH {
            let Some(place) = self.index.name(next)? else { break };
            names.push(place.name);
            next = place.parent;
        }
        names.reverse();
        Ok(names.join(&b'/'))
    }

    /// Remembers that an entry of the directory of `place` was changed.
    pub fn touch(&mut self, place: &Place) {
        if place.parent != Gfid::PARKING {
            self.touched.insert(place.parent);
        }
    }

    /// Gives the directories whose entries were changed the mtime that they have on the primary.
    ///
    /// # Errors
    /// [`Trouble::Index`]; what the system refuses is logged: the next change of the directory tries again.
    pub fn restore_mtimes(&mut self) -> Step<()> {
        for gfid in std::mem::take(&mut self.touched) {
            let Some(mtime) = self.index.get(gfid)?.and_then(|row| row.mtime) else { continue };
            let restored = match self.directory(gfid) {
                Ok(Some(dir)) => posix::object::set_mtime(dir.as_fd(), mtime),
                Ok(None) | Err(Trouble::Answer(_)) => continue,
                Err(e @ Trouble::Index(_)) => return Err(e),
            };
            if let Err(error) = restored {
                tracing::warn!(%gfid, %error, "the mtime of a directory could not be given back");
            }
        }
        Ok(())
    }

    /// Makes everything that was done durable: first the file system, then the index that speaks of it.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn sync(&mut self) -> Step<()> {
        rustix::fs::syncfs(&self.private.root).tried("syncfs")?;
        self.sync_index()
    }

    /// The second half of [`sync`](Tree::sync). The index may speak of what was done after the first half: it is not
    /// believed after a power cut.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn sync_index(&mut self) -> Step<()> {
        Ok(self.index.sync()?)
    }

    fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }
}

/// Refuses names and objects that no statement may be about.
///
/// # Errors
/// [`Trouble::Answer`] with the reason.
pub fn check_place(place: &Place) -> Step<()> {
    if !place.is_valid() {
        return Err(Trouble::refused("not a name that a file system can have"));
    }
    if place.parent == Gfid::PARKING || place.parent == Gfid([0; 16]) {
        return Err(Trouble::refused("not a directory of a volume"));
    }
    if place.parent == Gfid::ROOT && place.name == PRIVATE {
        return Err(Trouble::refused(".gsync at the root belongs to the agent"));
    }
    Ok(())
}

/// Refuses identities that no object below the root has.
///
/// # Errors
/// [`Trouble::Answer`] with the reason.
pub fn check_gfid(gfid: Gfid) -> Step<()> {
    if matches!(gfid, Gfid::ROOT | Gfid::PARKING) || gfid.0 == [0; 16] {
        return Err(Trouble::refused(format!("{gfid} is no object below the root")));
    }
    Ok(())
}

/// Whether an error of opening a directory says that something else (or nothing) is there.
fn is_other_object(error: &std::io::Error) -> bool {
    let others = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP];
    Errno::from_io_error(error).is_some_and(|e| others.contains(&e))
}
