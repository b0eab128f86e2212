//! `Bind`: this name is now this object.

use std::collections::HashSet;

use posix::{Kind, Object};
use protocol::agent::Outcome;
use protocol::{Gfid, Place};
use rustix::fs::RenameFlags;

use super::Staging;
use super::plan::{Keep, Occupant, Taking, taking};
use crate::adopt;
use crate::error::{Step, Trouble};
use crate::index::Row;
use crate::stamp::At;
use crate::tree::{Spot, Tree, check_gfid, check_place};

/// One statement.
#[derive(Clone, Copy, Debug)]
pub struct Bind<'a> {
    /// The name.
    pub place: &'a Place,
    /// The object.
    pub gfid: Gfid,
    /// The name that the object lost by the same rename.
    pub from: Option<&'a Place>,
    /// The object as it is on the primary.
    pub object: &'a Object,
}

/// Where the object comes from.
enum Source {
    /// It is moved from here.
    Move(Spot),
    /// It keeps this name and gets one more.
    Link(Spot),
    /// It was made here a moment ago.
    Made(Spot),
}

/// Carries one statement out.
///
/// # Errors
/// [`Trouble`]; the tree is as it was.
pub fn bind(tree: &mut Tree, staging: &mut Staging, gone: &HashSet<Gfid>, bind: &Bind<'_>) -> Step<()> {
    check_place(bind.place)?;
    check_gfid(bind.gfid)?;
    bind.from.map_or(Ok(()), check_place)?;
    let Some(target) = tree.spot(bind.place)? else { return Err(Trouble::Answer(Outcome::ParentMissing)) };
    let known = tree.index.get(bind.gfid)?;
    if known.is_none() && name_new_file(tree, staging, bind, &target)? {
        return Ok(());
    }
    let at = tree.at(&target)?;
    if at == At::Known(bind.gfid) {
        return already_there(tree, bind, &target);
    }
    if tree.adopting && at == At::Unknown && adopt::take_over(tree, bind, &target)? {
        return Ok(());
    }
    check_kind(bind, known.as_ref())?;
    let is_directory = bind.object.kind == Kind::Directory;
    if is_directory && tree.is_inside(bind.place.parent, bind.gfid)? {
        return Err(Trouble::Answer(Outcome::Loop));
    }
    let (source, made) = match find_source(tree, staging, bind)? {
        Source::Move(spot) => (spot, false),
        Source::Made(spot) => (spot, true),
        Source::Link(spot) => return add_link(tree, gone, bind, at, &spot, &target),
    };
    let row = tree.row_of(bind.gfid, &source)?;
    if let Some(ready) = staging.ready.get(&bind.gfid) {
        tree.index.put(bind.gfid, &Row { version: Some(ready.version), ..row })?;
    }
    let put = check_kind(bind, Some(&row)).and_then(|()| put(tree, gone, bind, at, &source, &target));
    if put.is_ok() {
        staging.ready.remove(&bind.gfid);
    } else if source.place.is_none() && known.is_none() {
        if made {
            tree.discard(&source, bind.object.kind);
        }
        // It may have come as far as the parking place.
        if tree.find(bind.gfid, |_| true)?.is_none() {
            tree.index.forget(bind.gfid)?;
        }
    }
    put
}

/// The way of most files: a new one whose content is ready takes a name where nothing is. Whether something is there the
/// rename itself tells, so that nobody has to look before. `false`: nothing was done.
fn name_new_file(tree: &mut Tree, staging: &mut Staging, bind: &Bind<'_>, target: &Spot) -> Step<bool> {
    let (Kind::File, Some(ready)) = (bind.object.kind, staging.ready.get(&bind.gfid).copied()) else {
        return Ok(false);
    };
    let staged = staging.stage.numbered(ready.number);
    match tree.rename(bind.gfid, &staged, target, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(Trouble::Answer(Outcome::Failed { errno, .. })) if errno == libc::EEXIST => return Ok(false),
        Err(trouble) => return Err(trouble),
    }
    tree.index.put(bind.gfid, &Row { version: Some(ready.version), ..Row::new(Kind::File) })?;
    staging.ready.remove(&bind.gfid);
    Ok(true)
}

/// The name is right; the index and the name before are made so.
fn already_there(tree: &mut Tree, bind: &Bind<'_>, target: &Spot) -> Step<()> {
    let row = tree.row_of(bind.gfid, target)?;
    check_kind(bind, Some(&row))?;
    if !tree.index.has_name(bind.gfid, bind.place)? {
        if row.kind == Kind::Directory {
            for stale in tree.index.names(bind.gfid)? {
                tree.index.remove_name(bind.gfid, &stale)?;
            }
        }
        tree.index.add_name(bind.gfid, bind.place)?;
    }
    // rename(2) of one name of a file to another one of it does nothing; that the old name is lost is true
    // nevertheless.
    if row.kind != Kind::Directory
        && let Some(from) = bind.from
        && from != bind.place
        && let Some(spot) = tree.spot(from)?
        && tree.at(&spot)? == At::Known(bind.gfid)
    {
        tree.unlink(Some(bind.gfid), &spot)?;
    }
    Ok(())
}

fn check_kind(bind: &Bind<'_>, row: Option<&Row>) -> Step<()> {
    match row {
        Some(row) if row.kind != bind.object.kind => Err(Trouble::refused(format!(
            "{} is a {:?} here and a {:?} on the primary",
            bind.gfid, row.kind, bind.object.kind
        ))),
        _ => Ok(()),
    }
}

fn find_source(tree: &mut Tree, staging: &Staging, bind: &Bind<'_>) -> Step<Source> {
    if let Some(from) = bind.from
        && let Some(spot) = tree.spot(from)?
        && tree.at(&spot)? == At::Known(bind.gfid)
    {
        return Ok(Source::Move(spot));
    }
    let is_directory = bind.object.kind == Kind::Directory;
    let mut another_name = None;
    let moved = tree.find(bind.gfid, |spot| {
        if !is_directory && !spot.is_parked() {
            another_name.get_or_insert_with(|| spot.clone());
        }
        // A name that can be linked to is enough; only a parked object has no other.
        is_directory || spot.is_parked() || another_name.is_some()
    })?;
    if let Some(spot) = another_name {
        return Ok(Source::Link(spot));
    }
    if let Some(spot) = moved {
        return Ok(Source::Move(spot));
    }
    if let Some(spot) = staging.ready_spot(bind.gfid) {
        return Ok(Source::Move(spot));
    }
    if bind.object.kind == Kind::File {
        return Err(Trouble::Answer(Outcome::NeedContent));
    }
    Ok(Source::Made(tree.make(bind.gfid, bind.object)?))
}

/// Moves the object to its name; what is there gives way.
fn put(tree: &mut Tree, gone: &HashSet<Gfid>, bind: &Bind<'_>, at: At, source: &Spot, target: &Spot) -> Step<()> {
    match taking(bind.object.kind == Kind::Directory, occupant(tree, gone, at, target)?) {
        Taking::Free => tree.rename(bind.gfid, source, target, RenameFlags::NOREPLACE),
        Taking::Over(keep) => {
            keep_a_name(tree, keep, at, target)?;
            tree.rename(bind.gfid, source, target, RenameFlags::empty())?;
            displaced(tree, keep, at, target)
        }
        Taking::Exchange(keep) => {
            // From a name of its own in the parking place, so that the occupant never appears under a name that
            // the object had, also not after a crash.
            let aside = if source.is_parked() { source.clone() } else { tree.park(bind.gfid, source)? };
            let other = known(at);
            if let Err(trouble) = tree.exchange(bind.gfid, &aside, target, other) {
                if !source.is_parked() {
                    tree.rename(bind.gfid, &aside, source, RenameFlags::NOREPLACE)?;
                }
                return Err(trouble);
            }
            dispose(tree, keep, other, &aside, target)
        }
    }
}

/// Gives the object one more name; what is there gives way.
fn add_link(tree: &mut Tree, gone: &HashSet<Gfid>, bind: &Bind<'_>, at: At, source: &Spot, target: &Spot) -> Step<()> {
    match taking(false, occupant(tree, gone, at, target)?) {
        Taking::Free => tree.link(bind.gfid, source, target),
        Taking::Over(keep) => {
            let spare = tree.spare();
            tree.link(bind.gfid, source, &spare)?;
            let replaced = keep_a_name(tree, keep, at, target)
                .and_then(|()| tree.rename(bind.gfid, &spare, target, RenameFlags::empty()));
            if replaced.is_err() {
                tree.discard(&spare, Kind::File);
            }
            replaced?;
            displaced(tree, keep, at, target)
        }
        Taking::Exchange(keep) => {
            let aside = tree.free_parking(bind.gfid)?;
            tree.link(bind.gfid, source, &aside)?;
            let other = known(at);
            if let Err(trouble) = tree.exchange(bind.gfid, &aside, target, other) {
                tree.unlink(Some(bind.gfid), &aside)?;
                return Err(trouble);
            }
            dispose(tree, keep, other, &aside, target)
        }
    }
}

fn occupant(tree: &mut Tree, gone: &HashSet<Gfid>, at: At, target: &Spot) -> Step<Occupant> {
    if at == At::Absent {
        return Ok(Occupant::Nobody);
    }
    let is_directory = tree.stat(target)?.0.kind == Kind::Directory;
    let At::Known(gfid) = at else { return Ok(Occupant::Unknown { is_directory }) };
    tree.row_of(gfid, target)?;
    let is_gone = gone.contains(&gfid) && !tree.adopting;
    let is_dispensable = !is_directory && (is_gone || tree.find(gfid, |other| other.place != target.place)?.is_some());
    Ok(Occupant::Known { is_directory, is_dispensable })
}

/// Before a replacing rename: the name that the occupant keeps.
fn keep_a_name(tree: &mut Tree, keep: Keep, at: At, target: &Spot) -> Step<()> {
    match (keep, at) {
        (Keep::Park, At::Known(gfid)) => {
            let parking = tree.free_parking(gfid)?;
            tree.link(gfid, target, &parking)
        }
        (Keep::Quarantine, _) => tree.link_into_quarantine(target),
        _ => Ok(()),
    }
}

/// After a replacing rename: the index without the occupant's name.
fn displaced(tree: &mut Tree, keep: Keep, at: At, target: &Spot) -> Step<()> {
    let Some(gfid) = known(at) else { return Ok(()) };
    tree.left(gfid, target)?;
    forget_nameless(tree, keep, gfid)
}

/// After an exchange: the occupant goes from the place aside to where it belongs.
fn dispose(tree: &mut Tree, keep: Keep, other: Option<Gfid>, aside: &Spot, target: &Spot) -> Step<()> {
    match (keep, other) {
        (Keep::Park, Some(gfid)) => tree.park(gfid, aside).map(drop),
        (Keep::Drop, Some(gfid)) => {
            tree.unlink(Some(gfid), aside)?;
            forget_nameless(tree, keep, gfid)
        }
        _ => tree.quarantine_as(aside, target),
    }
}

fn forget_nameless(tree: &mut Tree, keep: Keep, gfid: Gfid) -> Step<()> {
    if keep == Keep::Drop && tree.index.name(gfid)?.is_none() {
        tree.index.forget(gfid)?;
    }
    Ok(())
}

fn known(at: At) -> Option<Gfid> {
    match at {
        At::Known(gfid) => Some(gfid),
        At::Absent | At::Unknown => None,
    }
}
