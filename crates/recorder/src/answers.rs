//! What a worker asks about one brick, answered from index and disk.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use changelog::Gfid;
use posix::{Kind, Object};
use protocol::Place;
use protocol::brick::{BrickResponse, Listed, Look, MAX_LISTED, Names};
use rustix::fs::OFlags;

use crate::disk::{DirCache, Disk, Seen};
use crate::error::{Error, Result};
use crate::gone::is_gone;
use crate::index::{Row, View};
use crate::slot::Slot;

/// Names of one object that are verified and returned.
const NAMES_MAX: usize = 4096;

/// Answers one request; the index is seen as of its begin.
pub struct Answers<'a> {
    view: View,
    disk: &'a Disk,
    dirs: DirCache,
}

impl<'a> Answers<'a> {
    /// With this view.
    pub fn new(view: View, disk: &'a Disk) -> Answers<'a> {
        Answers { view, disk, dirs: DirCache::default() }
    }

    /// Which object is at a name?
    ///
    /// # Errors
    /// As all methods here: what the index says. What the disk says is part of the answer where it has a place there.
    pub fn look(&mut self, place: &Place) -> Result<Look> {
        if !place.is_valid() {
            return Ok(Look::Failed(libc::EINVAL));
        }
        let slot = Slot::new(place.parent, &place.name);
        let (fd, Seen { gfid, object, .. }) = match self.look_at_name(&slot)? {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Look::Absent),
            Err(error) => return Ok(Look::Failed(errno(&error))),
        };
        // What is stated has to be recorded: only then does a record follow when it changes again.
        if self.view.entry(&slot)? != Some(gfid) {
            return Ok(Look::Unrecorded);
        }
        Ok(match object.complete(fd.as_fd()) {
            Ok(object) => Look::Present(gfid, object),
            Err(error) => Look::Failed(errno(&error)),
        })
    }

    fn look_at_name(&mut self, slot: &Slot) -> Result<io::Result<Option<(OwnedFd, Seen)>>> {
        let parent = self.view.object(slot.parent)?.filter(Row::is_dir);
        let Some(dir) = parent.and_then(|row| row.handle) else { return Ok(Ok(None)) };
        let found = self.dirs.look(self.disk, slot, &dir);
        if matches!(found, Ok(None))
            && self.dirs.is_stale(slot.parent)
            && !is_gone(&self.view, self.disk, &mut self.dirs, slot.parent)?
        {
            return Ok(Err(io::Error::from_raw_os_error(libc::EIO)));
        }
        Ok(found)
    }

    /// What does an object look like? `None`: gone, or it alone cannot be read.
    pub fn stat(&mut self, gfid: Gfid) -> Result<Option<Object>> {
        match self.look_at(gfid)? {
            Some((fd, seen)) => self.complete(&fd, seen).map(Some),
            None => self.disk.check_presence().map(|()| None),
        }
    }

    fn look_at(&self, gfid: Gfid) -> Result<Option<(OwnedFd, Seen)>> {
        let Some(handle) = self.view.object(gfid)?.and_then(|row| row.handle) else { return Ok(None) };
        self.disk.look_at(&handle).map_err(Error::io("look into", self.disk.path()))
    }

    /// All attributes of an object that was just looked at.
    fn complete(&self, fd: &OwnedFd, seen: Seen) -> Result<Object> {
        seen.object.complete(fd.as_fd()).map_err(Error::io("read attributes in", self.disk.path()))
    }

    /// Under which names does an object live?
    pub fn names(&mut self, gfid: Gfid) -> Result<Names> {
        let Some(row) = self.view.object(gfid)? else { return Ok(Names::Gone) };
        let mut verified = Vec::new();
        let mut object = None;
        for slot in self.view.names(gfid, NAMES_MAX)? {
            let looked = self.look_at_name(&slot)?.map_err(Error::io("look into", self.disk.path()))?;
            if let Some((fd, seen)) = looked
                && seen.gfid == gfid
            {
                object = Some((fd, seen));
                verified.push(Place { parent: slot.parent, name: slot.name.into_vec() });
            }
        }
        let (fd, seen) = match object {
            Some(found) => found,
            None => {
                if row.handle.is_none() {
                    // Told by the changelog only, and not where that says: the crawl will find out.
                    return Ok(Names::Unrecorded);
                }
                match self.look_at(gfid)? {
                    Some(found) => found,
                    None if is_gone(&self.view, self.disk, &mut self.dirs, gfid)? => {
                        return self.disk.check_presence().map(|()| Names::Gone);
                    }
                    None => return Ok(Names::Unrecorded),
                }
            }
        };
        Ok(Names::Alive(self.complete(&fd, seen)?, verified))
    }

    /// A part of the recorded objects with their names: directories, or all others.
    pub fn list(&self, after: Option<(Gfid, Place)>, directories: bool) -> Result<BrickResponse> {
        let after = after.map(|(gfid, place)| (gfid, Slot::new(place.parent, &place.name)));
        let found = self.view.all_names(after.as_ref().map(|(gfid, slot)| (*gfid, slot)), MAX_LISTED)?;
        let place = |slot: &Slot| Place { parent: slot.parent, name: slot.name.to_vec() };
        let next = found.last().filter(|_| found.len() == MAX_LISTED).map(|(gfid, slot)| (*gfid, place(slot)));
        let mut names = Vec::new();
        // One in the parking directory has no name at the moment, but everything else about it counts.
        for (gfid, slot) in &found {
            let Some(row) = self.view.object(*gfid)? else { continue };
            if row.is_dir() == directories {
                names.push(Listed { gfid: *gfid, place: place(slot), kind: row.kind });
            }
        }
        Ok(BrickResponse::Listed { names, next })
    }

    /// Opens a regular file for reading, and says whether its content is in [doubt](Row::doubted); the error is an
    /// `errno`, `ENOENT` where it is gone.
    pub fn open(&mut self, gfid: Gfid) -> Result<std::result::Result<(OwnedFd, bool), i32>> {
        let row = self.view.object(gfid)?;
        let Some((kind, doubted, handle)) = row.and_then(|row| Some((row.kind, row.doubted, row.handle?))) else {
            return Ok(Err(libc::ENOENT));
        };
        if kind != Kind::File {
            return Ok(Err(libc::EINVAL));
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        // The access times of the primary are not for us to change.
        let opened = match self.disk.open_handle(&handle, flags | OFlags::NOATIME) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => self.disk.open_handle(&handle, flags),
            other => other,
        };
        let fd = match opened {
            Ok(Some(fd)) => fd,
            Ok(None) if is_gone(&self.view, self.disk, &mut self.dirs, gfid)? => return Ok(Err(libc::ENOENT)),
            Ok(None) => return Ok(Err(libc::EIO)),
            Err(error) => return Ok(Err(errno(&error))),
        };
        Ok(match Object::read_stat(fd.as_fd()) {
            Ok(object) if object.nlink == 0 => Err(libc::ENOENT),
            Ok(object) if object.kind != Kind::File => Err(libc::EINVAL),
            Ok(_) => Ok((fd, doubted)),
            Err(error) => Err(errno(&error)),
        })
    }
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
