//! Objects that have no name left on the primary.

use std::os::fd::AsFd;

use posix::{Kind, beneath};
use protocol::Gfid;
use protocol::agent::Outcome;
use rustix::fs::{Dir, Mode, OFlags};

use super::Staging;
use crate::adopt::left_over;
use crate::error::{Step, Tried, Trouble};
use crate::stamp::At;
use crate::tree::{Spot, Tree, check_gfid};

/// Removes what is parked of an object. One that has a name is left alone: another brick may know of it.
///
/// # Errors
/// [`Outcome::NotEmpty`] for a directory that still holds known objects, else [`Trouble`].
pub fn gone(tree: &mut Tree, staging: &mut Staging, gfid: Gfid) -> Step<()> {
    check_gfid(gfid)?;
    staging.drop_ready(gfid);
    let spots = tree.find_all(gfid)?;
    let was_there = !spots.is_empty();
    if spots.iter().any(|spot| !spot.is_parked()) {
        return Ok(());
    }
    for spot in spots {
        if tree.adopting {
            left_over::move_away(tree, Some(gfid), &spot)?;
            continue;
        }
        if tree.row_of(gfid, &spot)?.kind == Kind::Directory {
            remove_directory(tree, gfid, &spot)?;
        } else {
            tree.unlink(Some(gfid), &spot)?;
        }
    }
    tree.removed += u64::from(was_there);
    Ok(tree.index.forget(gfid)?)
}

fn remove_directory(tree: &mut Tree, gfid: Gfid, spot: &Spot) -> Step<()> {
    match tree.rmdir(gfid, spot) {
        Err(Trouble::Answer(Outcome::NotEmpty)) => {}
        other => return other,
    }
    quarantine_unknown(tree, spot)?;
    tree.rmdir(gfid, spot)
}

/// Moves what has no stamp out of a directory, up to the first object that has one.
fn quarantine_unknown(tree: &mut Tree, spot: &Spot) -> Step<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let dir = beneath::open_file(spot.dir.as_fd(), &spot.name, flags, Mode::empty()).tried("open a gone directory")?;
    let entries = Dir::read_from(&dir).tried("read a gone directory")?;
    let dir = std::sync::Arc::new(dir);
    for entry in entries {
        let entry = entry.tried("read a gone directory")?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let child = Spot::unindexed(&dir, name);
        match tree.at(&child)? {
            At::Known(_) => return Err(Trouble::Answer(Outcome::NotEmpty)),
            At::Unknown => tree.quarantine(&child)?,
            At::Absent => {}
        }
    }
    Ok(())
}
