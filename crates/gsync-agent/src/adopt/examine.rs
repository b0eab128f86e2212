//! Checksums of candidates. Reading them takes long, so it is done beside the thread that applies.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use posix::{Kind, beneath};
use protocol::agent::{Candidate, Examined, Seen};
use rustix::fs::{Mode, OFlags};

use super::look;
use crate::error::{IndexError, Step, Tried, Trouble};
use crate::stamp::At;
use crate::tree::{Spot, Tree, check_gfid, check_place};

/// The most candidates in one request: each is held open.
pub const MAX_CANDIDATES: usize = protocol::agent::MAX_CANDIDATES;

/// Names that are tried for each object.
const MAX_PLACES: usize = 64;

/// A candidate that was found.
#[derive(Debug)]
pub enum Found {
    /// The answer is known without reading.
    Told(Examined),
    /// It has the size that the object has on the primary.
    ToRead(OwnedFd, Seen),
}

/// Finds what may be an older copy of each object.
///
/// # Errors
/// [`IndexError`]; what the system refuses is no candidate.
pub fn find(tree: &mut Tree, candidates: &[Candidate]) -> Result<Vec<Found>, IndexError> {
    let mut all = Vec::with_capacity(candidates.len().min(MAX_CANDIDATES));
    for candidate in candidates.iter().take(MAX_CANDIDATES) {
        all.push(match one(tree, candidate) {
            Ok(found) => found,
            Err(Trouble::Answer(_)) => Found::Told(Examined::Nothing),
            Err(Trouble::Index(error)) => return Err(error),
        });
    }
    Ok(all)
}

fn one(tree: &mut Tree, candidate: &Candidate) -> Step<Found> {
    check_gfid(candidate.gfid)?;
    if let Some(spot) = tree.find(candidate.gfid, |_| true)? {
        return open(&spot, None, candidate.size);
    }
    let mut is_parent_missing = false;
    for place in candidate.places.iter().take(MAX_PLACES) {
        check_place(place)?;
        match tree.spot(place)? {
            None => is_parent_missing = true,
            Some(spot) if tree.at(&spot)? == At::Unknown && tree.stat(&spot)?.0.kind == Kind::File => {
                return open(&spot, Some(place.clone()), candidate.size);
            }
            Some(_) => {}
        }
    }
    Ok(Found::Told(if is_parent_missing { Examined::ParentMissing } else { Examined::Nothing }))
}

fn open(spot: &Spot, place: Option<protocol::Place>, size: u64) -> Step<Found> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let fd = beneath::open_file(spot.dir.as_fd(), &spot.name, flags, Mode::empty()).tried("open a candidate")?;
    let seen = look(&fd, place)?;
    Ok(if seen.version.size == size { Found::ToRead(fd, seen) } else { Found::Told(Examined::Differs(seen)) })
}

/// Reads what was found; takes as long as that takes.
pub fn read(found: Vec<Found>) -> Vec<Examined> {
    let one = |found| match found {
        Found::Told(examined) => examined,
        Found::ToRead(fd, seen) => match checksum(fd, &seen) {
            Some(checksum) => Examined::Read(seen, checksum),
            None => Examined::Differs(seen),
        },
    };
    found.into_iter().map(one).collect()
}

/// The checksum of a file that stood still meanwhile.
fn checksum(fd: OwnedFd, seen: &Seen) -> Option<[u8; 32]> {
    let mut file = File::from(fd);
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut file).ok()?;
    let now = look(&OwnedFd::from(file), seen.place.clone()).ok()?;
    (now == *seen).then(|| *hasher.finalize().as_bytes())
}
