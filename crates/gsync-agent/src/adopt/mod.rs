//! Adopting an older copy: what is below the root without a stamp, or with one of a former session, becomes the
//! primary's objects where it fits.
//!
//! While it lasts (`.gsync/adopt` is there) unstamped objects are *candidates*. A directory, link or special file is
//! taken over by the statement that binds its name. Of a file the worker asks for a checksum first. When everything was
//! stated, the worker has the tree listed and says what the primary does not have: that goes to quarantine. Nothing is
//! deleted meanwhile, whatever is gone on the primary.
//!
//! Layout:
//! - `mod`: taking objects over
//! - [`examine`]: checksums of candidates, beside the thread that applies
//! - [`sweep`]: listing the tree
//! - [`left_over`]: what the primary does not have

pub mod examine;
pub mod left_over;
pub mod sweep;

use std::os::fd::{AsFd, OwnedFd};

use posix::{Kind, Object, beneath};
use protocol::agent::{Outcome, Seen};
use protocol::{Gfid, Version};

use crate::apply::bind::Bind;
use crate::error::{Step, Tried, Trouble};
use crate::index::Row;
use crate::stamp::{self, At};
use crate::tree::{Spot, Tree, check_gfid, check_place};

/// Takes over what is at the name that is to be bound, when it is the same but for its attributes; whether it did.
/// Files are taken over by [`take`].
///
/// # Errors
/// [`Trouble`]; the object may have some of its new attributes then.
pub fn take_over(tree: &mut Tree, bind: &Bind<'_>, target: &Spot) -> Step<bool> {
    let (gfid, object) = (bind.gfid, bind.object);
    if object.kind == Kind::File || tree.find(gfid, |_| true)?.is_some() {
        return Ok(false);
    }
    let fd = match object.kind {
        // Not a mount point, and no link.
        Kind::Directory => beneath::open_dir(target.dir.as_fd(), &target.name),
        _ => beneath::open_path(target.dir.as_fd(), &target.name),
    };
    let Ok(fd) = fd else { return Ok(false) };
    let now = Object::read(fd.as_fd()).tried("look at a candidate")?;
    if (now.kind, now.rdev, &now.target) != (object.kind, object.rdev, &object.target) {
        return Ok(false);
    }
    if stamp::of(fd.as_fd()).tried("read a stamp")?.is_some() {
        return Ok(false);
    }
    object.apply(fd.as_fd()).tried("set attributes of a candidate")?;
    stamp::set(fd.as_fd(), gfid).tried("stamp a candidate")?;
    let mut row = Row::new(object.kind);
    row.mtime = (object.kind == Kind::Directory).then_some(object.mtime);
    tree.index.put(gfid, &row)?;
    tree.index.add_name(gfid, bind.place)?;
    Ok(true)
}

/// Takes over a file that was examined. `same`: its content is the primary's, and it gets the attributes too; else it
/// is only an older content of the object.
///
/// # Errors
/// [`Outcome::Unknown`] when it is not what was examined any more, else [`Trouble`].
pub fn take(tree: &mut Tree, gfid: Gfid, object: &Object, seen: &Seen, same: bool) -> Step<()> {
    check_gfid(gfid)?;
    if object.kind != Kind::File || !tree.adopting {
        return Err(Trouble::refused("nothing is adopted"));
    }
    let unknown = || Trouble::Answer(Outcome::Unknown);
    let found = tree.find(gfid, |_| true)?;
    let (spot, expected) = match (&seen.place, found) {
        (None, Some(spot)) => (spot, At::Known(gfid)),
        (Some(place), None) => {
            check_place(place)?;
            (tree.spot(place)?.ok_or_else(unknown)?, At::Unknown)
        }
        _ => return Err(unknown()),
    };
    let fd = beneath::open_path(spot.dir.as_fd(), &spot.name).map_err(|_| unknown())?;
    let at = stamp::of(fd.as_fd()).tried("read a stamp")?.map_or(At::Unknown, At::Known);
    if at != expected || &look(&fd, seen.place.clone())? != seen {
        return Err(unknown());
    }
    if same {
        object.apply(fd.as_fd()).tried("set attributes of a candidate")?;
    }
    stamp::set(fd.as_fd(), gfid).tried("stamp a candidate")?;
    let row = tree.index.get(gfid)?.unwrap_or(Row::new(Kind::File));
    tree.index.put(gfid, &Row { version: same.then(|| Version::of(object)), ..row })?;
    if let Some(place) = &spot.place {
        tree.index.add_name(gfid, place)?;
    }
    Ok(())
}

/// What tells whether an open file is still what it was.
fn look(fd: &OwnedFd, place: Option<protocol::Place>) -> Step<Seen> {
    let stat = rustix::fs::fstat(fd).tried("stat")?;
    let object = Object::from_stat(&stat).tried("stat")?;
    Ok(Seen { place, inode: stat.st_ino, version: Version::of(&object) })
}
