//! From names and objects to records and index rows: the work on one batch.

use std::collections::{HashMap, HashSet};

use changelog::{Birth, EntryOp, Fop, Gfid, Record};
use posix::Kind;

use crate::brick::Suspicion;
use crate::dirty::Hints;
use crate::disk::{Disk, Seen};
use crate::error::Result;
use crate::handle::Handle;
use crate::index::{Edit, Row, Stamp, View};
use crate::judge::{Reason, Verdict, judge};
use crate::plan::{Facts, Op, plan};
use crate::slot::Slot;
use crate::survey::Survey;

/// What is to be looked at.
#[derive(Debug, Default)]
pub struct Batch {
    /// Names.
    pub slots: Vec<Slot>,
    /// Names whose objects are gone if they are not found now.
    pub last_chance: Vec<Slot>,
    /// Directories in which something changed.
    pub parents: HashSet<Gfid>,
    /// Objects about which events said something.
    pub objects: HashMap<Gfid, (Handle, Hints)>,
    /// The names come from a listing.
    pub crawl: bool,
}

/// What follows from it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Operations on names.
    pub ops: Vec<Op>,
    /// Everything to be recorded, in order.
    pub records: Vec<Record>,
    /// Rows of the index to be written.
    pub rows: Vec<(Gfid, Row)>,
    /// Files whose D record waits, with what speaks for it.
    pub owed: Vec<(Gfid, Owing)>,
    /// Files whose D record is among the records.
    pub paid: Vec<Gfid>,
    /// Directories whose subtree left the brick.
    pub doomed: Vec<Gfid>,
    /// Names to be looked at again.
    pub unsettled: Vec<Slot>,
    /// Directories that are to be listed: new ones, those that come out of the parking place, and those that were
    /// seen in a listing.
    pub dirs: Vec<Gfid>,
    /// Directories that have another place. What is in them is known, and events told of all changes, unless they
    /// were being removed from the index because they had left the brick.
    pub moved: Vec<Gfid>,
}

/// What speaks for a D record that was not written yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Owing {
    /// A write was reported, or the size is another one.
    pub certain: bool,
    /// Attributes were reported to change: that may be all.
    pub attributes: bool,
}

impl Batch {
    /// Whether there is nothing to look at.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.last_chance.is_empty() && self.objects.is_empty() && self.parents.is_empty()
    }

    /// Looks, compares, decides. Changes nothing.
    ///
    /// # Errors
    /// What system or index say.
    pub fn work_out(self, view: &View, disk: &Disk, suspicion: Option<&Suspicion>) -> Result<Outcome> {
        let mut survey = Survey::new(view, disk);
        for slot in &self.slots {
            survey.add(slot)?;
        }
        for slot in &self.last_chance {
            survey.add_last_chance(slot)?;
        }
        survey.settle()?;
        let changes = survey.changes();
        let facts = survey.facts(&changes)?;
        let plan = plan(&changes, &facts);

        let mut outcome =
            Outcome { ops: plan.ops, doomed: plan.doomed, unsettled: plan.unsettled, ..Outcome::default() };
        outcome.unsettled.extend(survey.doubtful());
        outcome.record_entries(&survey);
        self.judge_all(&mut survey, &facts, suspicion, &mut outcome)?;
        if self.crawl {
            let listed = self.slots.iter().filter_map(|slot| survey.at(slot));
            outcome.dirs.extend(listed.filter(|seen| seen.object.kind == Kind::Directory).map(|seen| seen.gfid));
        }
        Ok(outcome)
    }

    /// Compares each object that was seen, or should be, with its row.
    fn judge_all(
        &self,
        survey: &mut Survey<'_>,
        facts: &Facts,
        suspicion: Option<&Suspicion>,
        outcome: &mut Outcome,
    ) -> Result<()> {
        let mut names: HashMap<Gfid, isize> = HashMap::new();
        let mut parents = self.parents.clone();
        for op in &outcome.ops {
            let (gfid, slot, change) = match op {
                Op::Make(gfid, slot) | Op::Link(gfid, slot) => (gfid, slot, 1),
                Op::Unlink(gfid, slot) | Op::Rmdir(gfid, slot) => (gfid, slot, -1),
                Op::Rename(gfid, from, to) => {
                    parents.insert(from.parent);
                    (gfid, to, 0)
                }
            };
            parents.insert(slot.parent);
            *names.entry(*gfid).or_default() += change;
        }
        for parent in parents {
            if let Some(handle) = survey.row(parent)?.and_then(|row| row.handle) {
                survey.see(parent, &handle)?;
            }
        }
        for (gfid, (handle, _)) in &self.objects {
            if survey.row(*gfid)?.is_some() {
                survey.see(*gfid, handle)?;
            }
        }
        let listed: HashSet<Gfid> = match self.crawl {
            true => self.slots.iter().filter_map(|slot| Some(survey.at(slot)?.gfid)).collect(),
            false => HashSet::new(),
        };
        let mut all: Vec<Seen> = survey.seen().values().cloned().collect();
        all.sort_by_key(|seen| seen.gfid);
        for seen in all {
            let row = survey.row(seen.gfid)?;
            // The last name went, or the object was seen on its way out: nothing more is told about it.
            let before = facts.objects.get(&seen.gfid).map_or(0, |fact| fact.names as isize);
            let unnamed = names.get(&seen.gfid).is_some_and(|change| before + change <= 0);
            if unnamed || (row.is_none() && !names.contains_key(&seen.gfid)) {
                continue;
            }
            let hints = self.objects.get(&seen.gfid).map(|(_, hints)| *hints).unwrap_or_default();
            let reason = match self.crawl {
                true if listed.contains(&seen.gfid) || self.parents.contains(&seen.gfid) => {
                    let (before, now) = (row.as_ref().map(|row| &row.stamp), Stamp::of(&seen.object));
                    Reason::Crawl { suspect: suspicion.is_some_and(|s| s.covers(seen.gfid, before, &now)) }
                }
                _ => Reason::Event(hints),
            };
            outcome.judge_one(&seen, row, reason, hints);
        }
        Ok(())
    }
}

impl Outcome {
    /// Carries the operations out on the index, with all rows.
    ///
    /// # Errors
    /// What the index says.
    pub fn apply(&self, edit: &mut Edit<'_>) -> Result<()> {
        apply_ops(&self.ops, edit)?;
        for (gfid, row) in &self.rows {
            // A row without a name would never be removed; an unlink of this batch may have taken it.
            if *gfid == Gfid::ROOT || edit.has_name(*gfid)? {
                edit.put_object(*gfid, row)?;
            }
        }
        Ok(())
    }

    fn record_entries(&mut self, survey: &Survey<'_>) {
        for op in &self.ops {
            self.records.push(record_of(op, |gfid| survey.seen().get(&gfid)));
            let is_dir = |gfid| survey.seen().get(gfid).is_some_and(|seen| seen.object.kind == Kind::Directory);
            match op {
                Op::Make(gfid, _) if is_dir(gfid) => self.dirs.push(*gfid),
                Op::Rename(gfid, from, _) if from.is_parking() && is_dir(gfid) => self.dirs.push(*gfid),
                Op::Rename(gfid, ..) if is_dir(gfid) => self.moved.push(*gfid),
                _ => {}
            }
        }
    }

    fn judge_one(&mut self, seen: &Seen, row: Option<Row>, reason: Reason, hints: Hints) {
        let kind = seen.object.kind;
        let stamp = Stamp::of(&seen.object);
        let Verdict { data, meta, owed, doubted } = judge(row.as_ref(), kind, &stamp, reason);
        if meta {
            self.records.push(Record::Meta(seen.gfid, Fop::SETATTR));
        }
        if data {
            self.records.push(Record::Data(seen.gfid));
            self.paid.push(seen.gfid);
        }
        if owed {
            let resized = row.as_ref().is_some_and(|row| row.stamp.size != stamp.size);
            let certain = hints.modified || resized || row.is_none();
            self.owed.push((seen.gfid, Owing { certain, attributes: hints.attributes }));
        }
        // A content that was told for a better reason than doubt has other times.
        let doubted = if data { doubted } else { row.as_ref().is_some_and(|row| row.doubted) };
        let new = Row { kind, owed, doubted, stamp, handle: Some(seen.handle.clone()) };
        if row.as_ref() != Some(&new) {
            self.rows.push((seen.gfid, new));
        }
    }
}

/// Carries operations out on the index.
///
/// # Errors
/// What the index says.
pub fn apply_ops(ops: &[Op], edit: &mut Edit<'_>) -> Result<()> {
    for op in ops {
        match op {
            Op::Make(gfid, slot) | Op::Link(gfid, slot) => edit.add_name(slot, *gfid)?,
            Op::Rename(gfid, from, to) => edit.move_name(from, to, *gfid)?,
            Op::Unlink(_, slot) | Op::Rmdir(_, slot) => drop(edit.remove_name(slot)?),
        }
    }
    Ok(())
}

/// The record of an operation; `seen` knows the objects that were made.
pub fn record_of<'a>(op: &Op, seen: impl Fn(Gfid) -> Option<&'a Seen>) -> Record {
    match op {
        Op::Make(gfid, slot) => {
            let Some(seen) = seen(*gfid) else {
                // A made object was seen, or there would be no operation.
                return Record::Entry(*gfid, EntryOp::Link(slot.to_entry()));
            };
            let object = &seen.object;
            let mode = object.kind.file_type().as_raw_mode() | object.mode;
            let birth = Birth { mode, uid: object.uid, gid: object.gid };
            let entry = slot.to_entry();
            Record::Entry(
                *gfid,
                match object.kind {
                    Kind::File => EntryOp::Create(birth, entry),
                    Kind::Directory => EntryOp::Mkdir(birth, entry),
                    Kind::Symlink => EntryOp::Symlink(entry),
                    _ => EntryOp::Mknod(birth, entry),
                },
            )
        }
        Op::Link(gfid, slot) => Record::Entry(*gfid, EntryOp::Link(slot.to_entry())),
        Op::Rename(gfid, from, to) => Record::Entry(*gfid, EntryOp::Rename(from.to_entry(), to.to_entry())),
        Op::Unlink(gfid, slot) => Record::Entry(*gfid, EntryOp::Unlink(slot.to_entry(), None)),
        Op::Rmdir(gfid, slot) => Record::Entry(*gfid, EntryOp::Rmdir(slot.to_entry(), None)),
    }
}
