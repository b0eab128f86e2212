//! The entry operations, each with its change of the index right behind it.
//!
//! After every single call the index tells the truth, so an error between two calls loses nothing.

use protocol::Gfid;
use protocol::agent::Outcome;
use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use super::{Spot, Tree};
use crate::error::{Step, Tried, Trouble};

impl Tree {
    /// Renames an object; what is at `to` must be of no further use unless `flags` protect it.
    ///
    /// # Errors
    /// [`Outcome::Loop`] when `to` is below the object, else [`Trouble`].
    pub fn rename(&mut self, gfid: Gfid, from: &Spot, to: &Spot, flags: RenameFlags) -> Step<()> {
        rename(from, to, flags)?;
        self.left(gfid, from)?;
        self.arrived(gfid, to)
    }

    /// Exchanges the object at `from` with what is at `to`. XFS sets the mtime of directories that get another parent by
    /// this: both are given it back with the batch.
    ///
    /// # Errors
    /// As [`Tree::rename`].
    pub fn exchange(&mut self, gfid: Gfid, from: &Spot, to: &Spot, other: Option<Gfid>) -> Step<()> {
        rename(from, to, RenameFlags::EXCHANGE)?;
        self.left(gfid, from)?;
        self.arrived(gfid, to)?;
        self.touched.extend([Some(gfid), other].into_iter().flatten());
        if let Some(other) = other {
            self.left(other, to)?;
            self.arrived(other, from)?;
        }
        Ok(())
    }

    /// Gives an object one more name where nothing is.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn link(&mut self, gfid: Gfid, from: &Spot, to: &Spot) -> Step<()> {
        rustix::fs::linkat(&from.dir, from.name.as_slice(), &to.dir, to.name.as_slice(), AtFlags::empty())
            .tried("link")?;
        self.arrived(gfid, to)
    }

    /// Removes a name of what is not a directory.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn unlink(&mut self, gfid: Option<Gfid>, spot: &Spot) -> Step<()> {
        rustix::fs::unlinkat(&spot.dir, spot.name.as_slice(), AtFlags::empty()).tried("unlink")?;
        gfid.map_or(Ok(()), |gfid| self.left(gfid, spot))
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`Outcome::NotEmpty`] or [`Trouble`].
    pub fn rmdir(&mut self, gfid: Gfid, spot: &Spot) -> Step<()> {
        match rustix::fs::unlinkat(&spot.dir, spot.name.as_slice(), AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY) => return Err(Trouble::Answer(Outcome::NotEmpty)),
            other => other.tried("rmdir")?,
        }
        self.directories.remove(gfid);
        self.left(gfid, spot)
    }

    /// The index after an object lost the name.
    ///
    /// # Errors
    /// [`Trouble::Index`].
    pub fn left(&mut self, gfid: Gfid, spot: &Spot) -> Step<()> {
        if let Some(place) = &spot.place {
            self.touch(place);
            if place.parent == Gfid::PARKING {
                self.parked_count = self.parked_count.saturating_sub(1);
            }
            self.index.remove_name(gfid, place)?;
        }
        Ok(())
    }

    /// The index after an object got the name.
    ///
    /// # Errors
    /// [`Trouble::Index`].
    pub fn arrived(&mut self, gfid: Gfid, spot: &Spot) -> Step<()> {
        if let Some(place) = &spot.place {
            self.touch(place);
            self.parked_count += u64::from(place.parent == Gfid::PARKING);
            self.index.add_name(gfid, place)?;
        }
        Ok(())
    }
}

fn rename(from: &Spot, to: &Spot, flags: RenameFlags) -> Step<()> {
    match rustix::fs::renameat_with(&from.dir, from.name.as_slice(), &to.dir, to.name.as_slice(), flags) {
        Err(Errno::INVAL) => Err(Trouble::Answer(Outcome::Loop)),
        other => other.tried("rename"),
    }
}
