//! What has to be looked at: names, contents, attributes, and objects that may be gone.

use std::time::Instant;

use changelog::{EntryOp, Gfid, Position, Record};
use protocol::Place;
use protocol::agent::{MAX_PENDING_ITEMS, Pending, Subject};

use crate::work::{Hint, Table};

/// What records said about a name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NameHint {
    /// Objects that got or lost the name.
    pub mentions: Vec<Gfid>,
    /// The regular file that was made under the name: its content is on its way, the name can wait for it.
    pub fresh: Option<Gfid>,
    /// The object that came by a rename, and the name that it lost.
    pub from: Option<(Gfid, Place)>,
}

/// What records said about a content.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ContentHint {
    /// Send it even if the secondary has a file of this version: it was changed while we were watching.
    pub hard: bool,
    /// Since when every attempt found somebody writing to it.
    pub busy_since: Option<Instant>,
}

/// Nothing more than the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NoHint;

/// The dirty set of one brick.
#[derive(Debug, Default)]
pub struct Dirty {
    /// Names to look at.
    pub names: Table<Place, NameHint>,
    /// Files whose content may have changed.
    pub contents: Table<Gfid, ContentHint>,
    /// Objects whose attributes may have changed.
    pub attributes: Table<Gfid, NoHint>,
    /// Objects of which the secondary still has to be told that they are gone.
    pub gone: Table<Gfid, NoHint>,
    /// Records of names taken in since there was no dirty name: what the names' hints may hold.
    named: usize,
}

impl Hint for NameHint {
    fn merge(&mut self, later: NameHint) {
        for gfid in later.mentions {
            self.mention(gfid);
        }
        // Two births under one name: none of them may be the one that is there.
        self.fresh = if self.fresh.is_some() { None } else { later.fresh };
        if later.from.is_some() {
            self.from = later.from;
        }
    }
}

impl NameHint {
    /// A name that got or lost this object.
    pub fn of(gfid: Gfid) -> NameHint {
        NameHint { mentions: vec![gfid], ..NameHint::default() }
    }

    fn mention(&mut self, gfid: Gfid) {
        if !self.mentions.contains(&gfid) {
            self.mentions.push(gfid);
        }
    }
}

impl ContentHint {
    /// To be sent in any case.
    pub fn hard() -> ContentHint {
        ContentHint { hard: true, busy_since: None }
    }
}

impl Hint for ContentHint {
    fn merge(&mut self, later: ContentHint) {
        self.hard |= later.hard;
        self.busy_since = self.busy_since.or(later.busy_since);
    }
}

impl Hint for NoHint {
    fn merge(&mut self, _later: NoHint) {}
}

impl Dirty {
    /// Takes in one record. `hard`: it was written while we were watching.
    pub fn absorb(&mut self, position: Position, record: Record, hard: bool, now: Instant) {
        let gfid = record.gfid();
        match record {
            Record::Data(_) => self.contents.mark(gfid, position, ContentHint { hard, busy_since: None }, now),
            Record::Meta(..) => self.attributes.mark(gfid, position, NoHint, now),
            Record::Entry(_, op) => self.absorb_entry(position, gfid, op, hard, now),
        }
    }

    fn absorb_entry(&mut self, position: Position, gfid: Gfid, op: EntryOp, hard: bool, now: Instant) {
        self.named = if self.names.is_empty() { 1 } else { self.named + 1 };
        match op {
            // An object that comes back from outside the brick may still be on the secondary, as it was when it left:
            // a birth says as much as D and M do.
            EntryOp::Create(_, entry) => {
                let hint = NameHint { fresh: Some(gfid), ..NameHint::of(gfid) };
                self.mark_name(entry.into(), position, hint, now);
                self.contents.mark(gfid, position, ContentHint { hard, busy_since: None }, now);
            }
            EntryOp::Mknod(_, entry) | EntryOp::Mkdir(_, entry) => {
                self.mark_name(entry.into(), position, NameHint::of(gfid), now);
                self.attributes.mark(gfid, position, NoHint, now);
            }
            EntryOp::Symlink(entry) => {
                self.mark_name(entry.into(), position, NameHint::of(gfid), now);
                self.attributes.mark(gfid, position, NoHint, now);
            }
            EntryOp::Link(entry) | EntryOp::Unlink(entry, _) | EntryOp::Rmdir(entry, _) => {
                self.mark_name(entry.into(), position, NameHint::of(gfid), now);
            }
            EntryOp::Rename(old, new) => {
                let (old, new) = (Place::from(old), Place::from(new));
                let from = Some((gfid, old.clone()));
                self.mark_name(new, position, NameHint { from, ..NameHint::of(gfid) }, now);
                self.mark_name(old, position, NameHint::of(gfid), now);
            }
        }
    }

    /// Marks a name, unless it is in the changelog's own parking directory, which exists nowhere.
    pub fn mark_name(&mut self, place: Place, position: Position, hint: NameHint, now: Instant) {
        if place.parent != Gfid::PARKING && place.is_valid() {
            self.names.mark(place, position, hint, now);
        }
    }

    /// Takes in what a former worker left pending.
    pub fn restore(&mut self, pending: Vec<Pending>, position: Position, now: Instant) {
        for Pending { subject, reason, since } in pending {
            match subject {
                Subject::Name(place, mentions) => {
                    self.mark_name(place.clone(), position, NameHint { mentions, ..NameHint::default() }, now);
                    self.names.give_up(&place, reason, since);
                }
                Subject::Content(gfid) => {
                    self.contents.mark(gfid, position, ContentHint::hard(), now);
                    self.contents.give_up(&gfid, reason, since);
                }
                Subject::Attributes(gfid) => {
                    self.attributes.mark(gfid, position, NoHint, now);
                    self.attributes.give_up(&gfid, reason, since);
                }
                Subject::Gone(gfid) => {
                    self.gone.mark(gfid, position, NoHint, now);
                    self.gone.give_up(&gfid, reason, since);
                }
            }
        }
    }

    /// The pending list as it is stored.
    pub fn pending(&self) -> Vec<Pending> {
        let item = |subject, reason: &str, since| Pending { subject, reason: reason.to_owned(), since };
        let names = self.names.pending().map(|(k, h, r, s)| item(Subject::Name(k.clone(), h.mentions.clone()), r, s));
        let contents = self.contents.pending().map(|(k, _, r, s)| item(Subject::Content(*k), r, s));
        let attributes = self.attributes.pending().map(|(k, _, r, s)| item(Subject::Attributes(*k), r, s));
        let gone = self.gone.pending().map(|(k, _, r, s)| item(Subject::Gone(*k), r, s));
        let mut all: Vec<Pending> = names.chain(contents).chain(attributes).chain(gone).collect();
        all.sort_by(|a, b| (a.since, &a.subject).cmp(&(b.since, &b.subject)));
        all
    }

    /// The oldest pending items with their reasons, for the operator.
    pub fn failure_reasons(&self) -> Vec<String> {
        const SHOWN: usize = 10;
        let line = |item: Pending| match item.subject {
            Subject::Name(place, _) => {
                format!("name {} in {}: {}", place.name.escape_ascii(), place.parent, item.reason)
            }
            Subject::Content(gfid) => format!("content of {gfid}: {}", item.reason),
            Subject::Attributes(gfid) => format!("attributes of {gfid}: {}", item.reason),
            Subject::Gone(gfid) => format!("removal of {gfid}: {}", item.reason),
        };
        self.pending().into_iter().take(SHOWN).map(line).collect()
    }

    /// Number of pending items.
    pub fn pending_len(&self) -> usize {
        self.names.pending_len() + self.contents.pending_len() + self.attributes.pending_len() + self.gone.pending_len()
    }

    /// Whether one more item may become pending.
    pub fn may_give_up(&self) -> bool {
        self.pending_len() < MAX_PENDING_ITEMS
    }

    /// The oldest position that is not on the secondary yet (and not pending).
    pub fn oldest(&self) -> Option<Position> {
        [self.names.oldest(), self.contents.oldest(), self.attributes.oldest(), self.gone.oldest()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Keys with work.
    pub fn size(&self) -> usize {
        self.names.len() + self.contents.len() + self.attributes.len() + self.gone.len()
    }

    /// A measure of the memory that it takes: keys and what they may hold.
    pub fn weight(&self) -> usize {
        self.size() + if self.names.is_empty() { 0 } else { self.named }
    }

    /// Whether there is nothing to do but to retry what is pending.
    pub fn is_settled(&self) -> bool {
        self.size() == self.pending_len()
    }

    /// Nothing was asked for later than this: see [`Table::rebase`].
    pub fn rebase(&mut self, position: Position) {
        self.names.rebase(position);
        self.contents.rebase(position);
        self.attributes.rebase(position);
        self.gone.rebase(position);
    }

    /// Makes delayed work ready whose time has come.
    pub fn wake(&mut self, now: Instant) {
        self.names.wake(now);
        self.contents.wake(now);
        self.attributes.wake(now);
        self.gone.wake(now);
    }

    /// When [`wake`](Dirty::wake) has something to do next.
    pub fn next_wake(&self) -> Option<Instant> {
        [self.names.next_wake(), self.contents.next_wake(), self.attributes.next_wake(), self.gone.next_wake()]
            .into_iter()
            .flatten()
            .min()
    }
}
