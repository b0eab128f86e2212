//! One directory being listed, in steps: the names on the disk, then those that only the index has.

use std::collections::HashSet;

use changelog::Gfid;
use rustix::fs::OFlags;

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::index::View;
use crate::slot::Slot;

/// Names that are remembered between the two halves; of a larger directory every indexed name is looked at.
const REMEMBERED_MAX: usize = 100_000;

/// How far it is.
pub struct Listing {
    /// Number in the table `todo`.
    pub number: u64,
    /// The directory.
    pub dir: Gfid,
    entries: Option<rustix::fs::Dir>,
    /// `None` when there were too many.
    remembered: Option<HashSet<Box<[u8]>>>,
    after: Option<Box<[u8]>>,
    /// Everything was returned.
    pub done: bool,
}

impl Listing {
    /// Begins.
    ///
    /// # Errors
    /// What system or index say.
    pub fn begin(view: &View, disk: &Disk, number: u64, dir: Gfid) -> Result<Listing> {
        let row = view.object(dir)?;
        let mut listing =
            Listing { number, dir, entries: None, remembered: Some(HashSet::new()), after: None, done: row.is_none() };
        if let Some(handle) = row.filter(crate::index::Row::is_dir).and_then(|row| row.handle) {
            let failed = || Error::io("list a directory of", disk.path());
            if let Some(fd) = disk.open_handle(&handle, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed())? {
                listing.entries = match rustix::fs::Dir::new(fd) {
                    Ok(entries) => Some(entries),
                    Err(rustix::io::Errno::NOENT | rustix::io::Errno::STALE) => None,
                    Err(errno) => return Err(failed()(errno.into())),
                };
            }
        }
        Ok(listing)
    }

    /// The next names, at most about `max`.
    ///
    /// # Errors
    /// What system or index say.
    pub fn next(&mut self, view: &View, disk: &Disk, max: usize) -> Result<Vec<Slot>> {
        let mut slots = Vec::new();
        while let Some(entries) = &mut self.entries
            && slots.len() < max
        {
            let name = match entries.read() {
                Some(Ok(entry)) => entry.file_name().to_bytes().to_vec().into_boxed_slice(),
                None | Some(Err(rustix::io::Errno::NOENT)) => {
                    self.entries = None;
                    break;
                }
                Some(Err(errno)) => return Err(Error::io("list a directory of", disk.path())(errno.into())),
            };
            if matches!(&*name, b"." | b"..") {
                continue;
            }
            if let Some(remembered) = &mut self.remembered {
                remembered.insert(name.clone());
            }
            if self.remembered.as_ref().is_some_and(|remembered| remembered.len() > REMEMBERED_MAX) {
                self.remembered = None;
            }
            slots.push(Slot { parent: self.dir, name });
        }
        if self.entries.is_none() && !self.done && slots.len() < max {
            self.add_indexed(view, max, &mut slots)?;
        }
        Ok(slots)
    }

    fn add_indexed(&mut self, view: &View, max: usize, slots: &mut Vec<Slot>) -> Result<()> {
        let children = view.children(self.dir, self.after.as_deref(), max)?;
        self.done = children.len() < max;
        self.after = children.last().map(|(slot, _)| slot.name.clone());
        let is_new = |slot: &Slot| !self.remembered.as_ref().is_some_and(|names| names.contains(&slot.name));
        slots.extend(children.into_iter().map(|(slot, _)| slot).filter(is_new));
        Ok(())
    }
}
