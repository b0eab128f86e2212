//! Why the system does not permit something to root: the flags that chattr(1) sets.

use protocol::agent::{Item, Outcome};
use protocol::{Gfid, Place};
use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};

use crate::tree::{Spot, Tree};

/// Adds to an outcome which object is in the way and how that is mended.
pub fn explain(tree: &mut Tree, gfid: Gfid, places: &[&Place], outcome: Outcome) -> Outcome {
    let Outcome::Failed { errno: libc::EPERM, reason } = &outcome else { return outcome };
    match find(tree, gfid, places) {
        Some(blocked) => Outcome::Failed { errno: libc::EPERM, reason: format!("{reason}: {blocked}") },
        None => outcome,
    }
}

/// The object and the names that a statement is about.
pub fn subject(item: &Item) -> (Gfid, Vec<&Place>) {
    match item {
        Item::Bind { place, gfid, from, .. } => (*gfid, std::iter::once(place).chain(from).collect()),
        Item::Unbind { place, gfid } => (*gfid, vec![place]),
        Item::Attributes { gfid, .. } | Item::Content { gfid, .. } | Item::Have { gfid, .. } => (*gfid, Vec::new()),
        Item::Adopt { gfid, seen, .. } => (*gfid, seen.place.iter().collect()),
        Item::LeftOver { place, gfid } => (gfid.unwrap_or(Gfid([0; 16])), vec![place]),
    }
}

fn find(tree: &mut Tree, gfid: Gfid, places: &[&Place]) -> Option<String> {
    // What fails here, too, leaves the reason as it was.
    let mut spots = tree.find_all(gfid).unwrap_or_default();
    spots.extend(places.iter().filter_map(|place| tree.spot(place).ok().flatten()));
    spots.iter().find_map(blocked)
}

fn blocked(spot: &Spot) -> Option<String> {
    let name = spot.name.as_slice();
    let object = flag(&spot.dir, name, AtFlags::SYMLINK_NOFOLLOW);
    let directory = || flag(&spot.dir, b"", AtFlags::EMPTY_PATH);
    let told = |what: &str, (is, letter): (&str, char)| {
        format!("on the secondary {what} is {is}; chattr -{letter} takes that away")
    };
    let name = name.escape_ascii();
    object
        .map(|flag| told(&format!("{name}"), flag))
        .or_else(|| directory().map(|flag| told(&format!("the directory of {name}"), flag)))
}

/// What an object is, and the letter of the flag.
fn flag(dir: &impl std::os::fd::AsFd, name: &[u8], flags: AtFlags) -> Option<(&'static str, char)> {
    let found = statx(dir, name, flags, StatxFlags::BASIC_STATS).ok()?.stx_attributes;
    match (found.contains(StatxAttributes::IMMUTABLE), found.contains(StatxAttributes::APPEND)) {
        (true, _) => Some(("immutable", 'i')),
        (_, true) => Some(("append-only", 'a')),
        _ => None,
    }
}
