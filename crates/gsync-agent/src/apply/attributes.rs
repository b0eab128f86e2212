//! `Attributes` and `Have`: how an object looks, and which content it has.

use std::os::fd::AsFd;

use posix::{Kind, Object, beneath};
use protocol::agent::Outcome;
use protocol::{Gfid, Version};

use super::Staging;
use crate::error::{Step, Tried, Trouble};
use crate::tree::Tree;

/// Gives an object its attributes; content is left alone.
///
/// # Errors
/// [`Outcome::Unknown`] or [`Trouble`].
pub fn attributes(tree: &mut Tree, staging: &Staging, gfid: Gfid, object: &Object) -> Step<()> {
    let fd = match tree.open(gfid)? {
        Some(fd) => fd,
        None => {
            let Some(spot) = staging.ready_spot(gfid) else { return Err(Trouble::Answer(Outcome::Unknown)) };
            beneath::open_path(spot.dir.as_fd(), &spot.name).tried("open a staged file")?
        }
    };
    let now = Object::read_stat(fd.as_fd()).tried("stat")?;
    if now.kind != object.kind {
        let reason = format!("{gfid} is a {:?} here and a {:?} on the primary", now.kind, object.kind);
        return Err(Trouble::refused(reason));
    }
    if tree.in_place.contains_key(&gfid) {
        // The mtime says when rsync is done with the file, so it is not set before.
        let object = Object { mtime: now.mtime, ..object.clone() };
        return object.apply(fd.as_fd()).tried("set attributes");
    }
    object.apply(fd.as_fd()).tried("set attributes")?;
    if object.kind == Kind::Directory {
        let mut row = tree.index.get(gfid)?.unwrap_or(crate::index::Row::new(Kind::Directory));
        if row.mtime != Some(object.mtime) {
            row.mtime = Some(object.mtime);
            tree.index.put(gfid, &row)?;
        }
    }
    Ok(())
}

/// Whether an object's content is this version, by the index and by what is on the disk.
///
/// # Errors
/// [`Outcome::NeedContent`] or [`Trouble`].
pub fn have(tree: &mut Tree, staging: &Staging, gfid: Gfid, version: &Version) -> Step<()> {
    if has(tree, staging, gfid, version)? { Ok(()) } else { Err(Trouble::Answer(Outcome::NeedContent)) }
}

/// As [`have`], as an answer.
///
/// # Errors
/// [`Trouble`].
pub fn has(tree: &mut Tree, staging: &Staging, gfid: Gfid, version: &Version) -> Step<bool> {
    if staging.ready.get(&gfid).is_some_and(|ready| ready.version == *version) {
        return Ok(true);
    }
    if tree.index.get(gfid)?.and_then(|row| row.version) != Some(*version) {
        return Ok(false);
    }
    let Some(spot) = tree.find(gfid, |_| true)? else { return Ok(false) };
    let (now, _) = tree.stat(&spot)?;
    Ok((now.kind, now.size, now.mtime) == (Kind::File, version.size, version.mtime))
}
