//! Where objects go that have to give way: the parking place (known ones) and the quarantine (unknown ones).

use std::time::{SystemTime, UNIX_EPOCH};

use protocol::{Gfid, Place};
use rustix::fs::RenameFlags;
use rustix::io::Errno;

use super::{Spot, Tree};
use crate::error::{Step, Tried};
use crate::stamp::At;

/// Bytes of the old name that the name in quarantine keeps: time and number fit besides.
const KEPT_NAME_BYTES: usize = 200;

/// Tries for a name in quarantine that nothing has; the counter moves each time.
const MAX_TRIES: u32 = 1000;

impl Tree {
    /// Where an object is parked.
    pub fn parking_of(&self, gfid: Gfid) -> Spot {
        let name = gfid.to_string().into_bytes();
        let place = Place { parent: Gfid::PARKING, name: name.clone() };
        Spot { dir: self.private.parked.clone(), name, place: Some(place) }
    }

    /// Where an object that has another name can be parked: whatever else is there goes to quarantine first.
    ///
    /// # Errors
    /// [`crate::error::Trouble`].
    pub fn free_parking(&mut self, gfid: Gfid) -> Step<Spot> {
        let spot = self.parking_of(gfid);
        self.parked.push(gfid);
        match self.at(&spot)? {
            At::Absent => {}
            At::Known(there) if there == gfid => self.unlink(Some(gfid), &spot)?,
            At::Known(there) => {
                self.quarantine(&spot)?;
                self.left(there, &spot)?;
                self.directories.remove(there);
            }
            At::Unknown => self.quarantine(&spot)?,
        }
        Ok(spot)
    }

    /// What was parked since the last call and still is.
    pub fn take_parked(&mut self) -> Vec<Gfid> {
        let mut parked = std::mem::take(&mut self.parked);
        parked.sort_unstable();
        parked.dedup();
        parked.retain(|gfid| matches!(self.at(&self.parking_of(*gfid)), Ok(At::Known(there)) if there == *gfid));
        parked
    }

    /// Everything that is parked, at most `max`.
    ///
    /// # Errors
    /// What the system says.
    pub fn list_parked(&self, max: usize) -> std::io::Result<Vec<Gfid>> {
        let entries = rustix::fs::Dir::read_from(&self.private.parked)?;
        let names = entries.filter_map(|entry| Gfid::parse(entry.ok()?.file_name().to_bytes()).ok());
        Ok(names.take(max).collect())
    }

    /// Parks an object that loses its last name.
    ///
    /// # Errors
    /// [`crate::error::Trouble`].
    pub fn park(&mut self, gfid: Gfid, from: &Spot) -> Step<Spot> {
        let to = self.free_parking(gfid)?;
        self.rename(gfid, from, &to, RenameFlags::NOREPLACE)?;
        Ok(to)
    }

    /// Moves what is at a spot to quarantine.
    ///
    /// # Errors
    /// [`crate::error::Trouble`].
    pub fn quarantine(&mut self, spot: &Spot) -> Step<()> {
        self.quarantine_as(spot, spot)
    }

    /// Moves what is at a spot to quarantine, under the name that it was found at.
    ///
    /// # Errors
    /// [`crate::error::Trouble`].
    pub fn quarantine_as(&mut self, spot: &Spot, found_at: &Spot) -> Step<()> {
        self.isolate(spot, found_at, |from, to| {
            rustix::fs::renameat_with(
                &from.dir,
                from.name.as_slice(),
                &to.dir,
                to.name.as_slice(),
                RenameFlags::NOREPLACE,
            )
        })
    }

    /// Gives what is at a spot, which is not a directory, a name in quarantine as well.
    ///
    /// # Errors
    /// [`crate::error::Trouble`].
    pub fn link_into_quarantine(&mut self, spot: &Spot) -> Step<()> {
        self.isolate(spot, spot, |from, to| {
            let flags = rustix::fs::AtFlags::empty();
            rustix::fs::linkat(&from.dir, from.name.as_slice(), &to.dir, to.name.as_slice(), flags)
        })
    }

    fn isolate(
        &mut self,
        spot: &Spot,
        found_at: &Spot,
        how: impl Fn(&Spot, &Spot) -> rustix::io::Result<()>,
    ) -> Step<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        for _ in 0..MAX_TRIES {
            let mut name = format!("{now}-{}-", self.next_number()).into_bytes();
            name.extend_from_slice(&found_at.name[..found_at.name.len().min(KEPT_NAME_BYTES)]);
            let to = Spot::unindexed(&self.private.quarantine, name);
            match how(spot, &to) {
                Err(Errno::EXIST) => continue,
                other => other.tried("move to quarantine")?,
            }
            let from = found_at.place.as_ref().map_or(Gfid::PARKING, |place| place.parent);
            let line =
                format!("{from}/{} -> .gsync/quarantine/{}", found_at.name.escape_ascii(), to.name.escape_ascii());
            tracing::warn!(line, "something unknown went to quarantine");
            self.quarantined.push(line);
            if let Some(place) = &spot.place {
                self.touch(place);
            }
            return Ok(());
        }
        Err(Errno::EXIST).tried("find a name in quarantine")
    }
}
