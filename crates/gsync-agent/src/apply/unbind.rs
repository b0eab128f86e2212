//! `Unbind`: this name is no longer this object.

use std::collections::HashSet;

use posix::Kind;
use protocol::{Gfid, Place};

use crate::adopt::left_over;
use crate::error::Step;
use crate::stamp::At;
use crate::tree::{Tree, check_gfid, check_place};

/// Carries one statement out; nothing happens when the name is something else.
///
/// # Errors
/// [`crate::error::Trouble`]; the tree is as it was.
pub fn unbind(tree: &mut Tree, gone: &HashSet<Gfid>, place: &Place, gfid: Gfid) -> Step<()> {
    check_place(place)?;
    check_gfid(gfid)?;
    let Some(spot) = tree.spot(place)? else { return Ok(tree.index.remove_name(gfid, place)?) };
    if tree.at(&spot)? != At::Known(gfid) {
        return Ok(tree.index.remove_name(gfid, place)?);
    }
    let row = tree.row_of(gfid, &spot)?;
    if row.kind == Kind::Directory {
        return tree.park(gfid, &spot).map(drop);
    }
    if tree.find(gfid, |other| other.place.as_ref() != Some(place))?.is_some() {
        return tree.unlink(Some(gfid), &spot);
    }
    if gone.contains(&gfid) && tree.adopting {
        return left_over::move_away(tree, Some(gfid), &spot);
    }
    if gone.contains(&gfid) {
        tree.unlink(Some(gfid), &spot)?;
        tree.removed += 1;
        return Ok(tree.index.forget(gfid)?);
    }
    tree.park(gfid, &spot).map(drop)
}
