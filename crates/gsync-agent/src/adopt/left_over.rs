//! What an adopted copy has and the primary has not: moved to `.gsync/quarantine/left-over/`, under the path that it
//! had, so that moving it back is all that it takes.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use posix::{Kind, Object, beneath};
use protocol::agent::Outcome;
use protocol::{Gfid, Place};
use rustix::fs::{Dir, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::{Step, Tried, Trouble};
use crate::private::open_or_make;
use crate::stamp::{self, At};
use crate::tree::{Spot, Tree, check_place};

/// The directory in quarantine.
pub const LEFT_OVER: &[u8] = b"left-over";

/// Where parked objects go below it: they have no path.
const WITHOUT_NAME: &[u8] = b".without-a-name";

/// Levels of directories; deeper ones go to quarantine without their path.
const MAX_DEPTH: usize = 512;

/// Moves what is at a name to quarantine, if it still is what was listed (or nothing known).
///
/// # Errors
/// [`Outcome::NotEmpty`] for a known directory that still holds something, [`Outcome::Unknown`] when something else is
/// there now, else [`Trouble`].
pub fn quarantine(tree: &mut Tree, place: &Place, listed: Option<Gfid>) -> Step<()> {
    check_place(place)?;
    if !tree.adopting {
        return Err(Trouble::refused("nothing is adopted"));
    }
    let Some(spot) = tree.spot(place)? else { return Ok(()) };
    match tree.at(&spot)? {
        At::Absent => Ok(()),
        // The stamp goes with the first of several names.
        At::Unknown => move_away(tree, None, &spot),
        At::Known(there) if Some(there) == listed => move_away(tree, Some(there), &spot),
        At::Known(_) => Err(Trouble::Answer(Outcome::Unknown)),
    }
}

/// Moves an object to quarantine; its stamp is taken off.
///
/// # Errors
/// As [`quarantine`].
pub fn move_away(tree: &mut Tree, gfid: Option<Gfid>, spot: &Spot) -> Step<()> {
    let is_directory = tree.stat(spot)?.0.kind == Kind::Directory;
    if is_directory && gfid.is_some() && !is_empty(spot)? {
        return Err(Trouble::Answer(Outcome::NotEmpty));
    }
    let to = destination(tree, spot)?;
    match rustix::fs::renameat_with(&spot.dir, &*spot.name, &to.dir, &*to.name, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) if is_directory && gfid.is_some() => {
            // What was in it is there already, with the directory's attributes.
            rustix::fs::unlinkat(&spot.dir, &*spot.name, rustix::fs::AtFlags::REMOVEDIR).tried("rmdir")?;
        }
        Err(Errno::EXIST) => tree.quarantine(spot)?,
        other => {
            other.tried("move to quarantine")?;
            if gfid.is_some() {
                stamp::remove_at(to.dir.as_fd(), &to.name).tried("remove a stamp")?;
            }
        }
    }
    if let Some(place) = &spot.place {
        tree.touch(place);
    }
    match gfid {
        None => Ok(()),
        Some(gfid) => {
            tree.forget_directory(gfid);
            tree.left(gfid, spot)?;
            if tree.index.name(gfid)?.is_none() { Ok(tree.index.forget(gfid)?) } else { Ok(()) }
        }
    }
}

fn is_empty(spot: &Spot) -> Step<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let dir = beneath::open_file(spot.dir.as_fd(), &spot.name, flags, Mode::empty()).tried("open a directory")?;
    for entry in Dir::new(dir).tried("read a directory")? {
        let entry = entry.tried("read a directory")?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The name in quarantine that keeps the object's path; directories above it are made like the ones they stand for.
fn destination(tree: &mut Tree, spot: &Spot) -> Step<Spot> {
    let base = open_or_make(tree.private.quarantine.as_fd(), LEFT_OVER).tried("make a directory in quarantine")?;
    let mut above = Vec::new();
    let mut next = spot.place.as_ref().map_or(Gfid::PARKING, |place| place.parent);
    while next != Gfid::ROOT && above.len() < MAX_DEPTH {
        if next == Gfid::PARKING {
            above.push((None, WITHOUT_NAME.to_vec()));
            break;
        }
        let Some(place) = tree.index.name(next)? else { break };
        above.push((Some(next), place.name));
        next = place.parent;
    }
    let mut dir = Arc::new(base);
    for (gfid, name) in above.into_iter().rev() {
        dir = Arc::new(descend(tree, &dir, gfid, &name)?);
    }
    Ok(Spot::unindexed(&dir, spot.name.clone()))
}

fn descend(tree: &mut Tree, dir: &OwnedFd, like: Option<Gfid>, name: &[u8]) -> Step<OwnedFd> {
    let made = rustix::fs::mkdirat(dir, name, Mode::RWXU);
    let below = beneath::open_file(dir.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
    let below = below.tried("open a directory in quarantine")?;
    if made.is_ok()
        && let Some(gfid) = like
        && let Some(original) = tree.directory(gfid)?
    {
        // Worth having when it is moved back; the data is what counts.
        let _ = Object::read(original.as_fd()).and_then(|object| object.apply(below.as_fd()));
    }
    Ok(below)
}
