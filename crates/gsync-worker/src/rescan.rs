//! Comparing both sides as a whole, when the changelog cannot tell what changed. Pure.
//!
//! First everything that the primary has recorded is made dirty: directories, then the rest. Then everything that the
//! secondary knows and that is not at the same name on the primary. Making dirty is all that happens here: looks and
//! statements are made by rounds, as for a record, so that it does not matter what changes meanwhile.
//!
//! The obligation is stored with the mark before anything behind it is, and taken away when everything was done. Its
//! cursor moves on when all that was made dirty so far is on the secondary or pending.

use std::time::Instant;

use changelog::Position;
use protocol::agent::Cursor;
use protocol::brick::{Listed, Names};
use protocol::{Gfid, Kind, Place};

use crate::dirty::{ContentHint, Dirty, NameHint, NoHint};

/// Keys in the dirty set beyond which no further page is asked for: bounds memory, and leaves room for records.
const FEED_BELOW: usize = 8192;

/// After so many names the cursor has to move on before there are more: what a crash costs.
pub const CHECKPOINT_NAMES: usize = 16_384;

/// A question of a rescan, and to which rescan the answer belongs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageRequest {
    /// Counts the rescans of a connection: an answer to an older one is worth nothing.
    pub generation: u64,
    /// Where the page begins.
    pub cursor: Cursor,
}

/// A part of what one side has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Page {
    /// Names of the primary, and behind which name the next page begins.
    Primary(Vec<Listed>, Option<(Gfid, Place)>),
    /// Names of the secondary, and under which names each object lives on the primary; none: that was all.
    Secondary(Vec<(Gfid, Place, Names)>),
}

/// A rescan that is not complete.
#[derive(Debug)]
pub struct Rescan {
    stored: protocol::agent::Rescan,
    generation: u64,
    /// Where the next page begins; `None`: there is none.
    next: Option<Cursor>,
    /// A page was asked for.
    is_asking: bool,
    /// Names since the cursor moved.
    fed: usize,
    checkpoint: usize,
    /// Everything that was asked for up to this position has to be done before the cursor moves.
    draining: Option<Position>,
    /// Everything was done.
    is_complete: bool,
}

impl Rescan {
    /// Goes on where a former worker was, or begins with a cursor at the start.
    pub fn new(stored: protocol::agent::Rescan, generation: u64, checkpoint: usize) -> Rescan {
        let next = Some(stored.cursor.clone());
        Rescan { stored, generation, next, is_asking: false, fed: 0, checkpoint, draining: None, is_complete: false }
    }

    /// What is stored with the mark.
    pub fn stored(&self) -> &protocol::agent::Rescan {
        &self.stored
    }

    /// Which rescan of this connection it is.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The next page to ask for, if it is time.
    pub fn next_request(&mut self, dirty: &Dirty) -> Option<PageRequest> {
        if self.is_asking || self.draining.is_some() || dirty.weight() >= FEED_BELOW {
            return None;
        }
        let cursor = self.next.clone()?;
        self.is_asking = true;
        Some(PageRequest { generation: self.generation, cursor })
    }

    /// Makes a page dirty.
    pub fn take(&mut self, page: Page, dirty: &mut Dirty, position: Position, now: Instant) {
        self.is_asking = false;
        let begins_anew = matches!(self.next, Some(Cursor::Directories(None)));
        self.next = match (self.next.take(), page) {
            (Some(Cursor::Secondary(_)), Page::Secondary(names)) => {
                self.fed += names.len();
                let last = names.last().map(|(gfid, place, _)| (*gfid, place.clone()));
                names.into_iter().for_each(|name| mark_stranger(name, dirty, position, now));
                last.map(|last| Cursor::Secondary(Some(last)))
            }
            (Some(cursor), Page::Primary(names, behind)) => {
                if begins_anew {
                    dirty.attributes.mark(Gfid::ROOT, position, NoHint, now);
                }
                self.fed += names.len();
                names.into_iter().for_each(|name| mark_listed(name, dirty, position, now));
                match (cursor, behind) {
                    (Cursor::Directories(_), None) => Some(Cursor::Others(None)),
                    (Cursor::Directories(_), behind) => Some(Cursor::Directories(behind)),
                    (_, None) => Some(Cursor::Secondary(None)),
                    (_, behind) => Some(Cursor::Others(behind)),
                }
            }
            // An answer that does not fit the question: ask again.
            (cursor, _) => cursor,
        };
        let is_new_part = matches!(self.next, None | Some(Cursor::Others(None)) | Some(Cursor::Secondary(None)));
        if self.fed >= self.checkpoint || is_new_part {
            self.draining = Some(position);
        }
    }

    /// Moves the cursor if everything before is done. Returns whether the rescan is complete.
    pub fn advance(&mut self, dirty: &Dirty) -> bool {
        let Some(position) = self.draining else { return self.is_complete };
        // What was asked for again by a later record is not ours any more.
        if dirty.oldest().is_some_and(|oldest| oldest <= position) {
            return false;
        }
        self.draining = None;
        self.fed = 0;
        match &self.next {
            Some(cursor) => {
                self.stored.cursor = cursor.clone();
                false
            }
            None => {
                self.is_complete = true;
                true
            }
        }
    }
}

/// A name that the primary has: whatever it is, it is looked at.
fn mark_listed(Listed { place, gfid, kind }: Listed, dirty: &mut Dirty, position: Position, now: Instant) {
    let mut hint = NameHint::of(gfid);
    if kind == Kind::File {
        // Its names are bound with its content, which may be there already.
        hint.fresh = Some(gfid);
        dirty.contents.mark(gfid, position, ContentHint::default(), now);
    } else {
        dirty.attributes.mark(gfid, position, NoHint, now);
    }
    dirty.mark_name(place, position, hint, now);
}

/// A name that the secondary has: looked at unless the primary has it too.
fn mark_stranger((gfid, place, lives): (Gfid, Place, Names), dirty: &mut Dirty, position: Position, now: Instant) {
    let is_there = matches!(&lives, Names::Alive(_, places) if places.contains(&place));
    if !is_there {
        dirty.mark_name(place, position, NameHint::of(gfid), now);
    }
}
