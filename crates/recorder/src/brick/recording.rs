//! From what events mentioned to the changelog and the index.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use changelog::{Gfid, Record};

use super::{BATCH_MAX, Brick, OWED_AFTER};
use crate::batch::{Batch, Outcome, Owing};
use crate::dirty::Taken;
use crate::error::Result;
use crate::index::{Edit, Row};
use crate::slot::Slot;

/// More files than this are not waited for.
const OWED_MAX: usize = 100_000;

/// So long after a removal in part, directories that move are listed: they may come from there.
const HALF_REMOVED_FOR: Duration = Duration::from_secs(60);

impl Brick {
    /// Works on what events mentioned.
    ///
    /// # Errors
    /// What system, changelog or index say; the brick has to be opened again.
    pub fn events(&mut self, taken: &Taken) -> Result<()> {
        let view = self.index.view()?;
        let namer = self.disk.namer();
        let mut known: HashMap<&crate::handle::Handle, Option<Gfid>> = HashMap::new();
        let mut slots = Vec::new();
        for raw in &taken.slots {
            let parent = match known.get(&raw.dir) {
                Some(parent) => *parent,
                None => {
                    let gfid = namer.gfid(&raw.dir);
                    let parent = view.object(gfid)?.filter(Row::is_dir).map(|_| gfid);
                    known.insert(&raw.dir, parent);
                    parent
                }
            };
            // Outside of the brick, or in a directory that will be listed when it is found.
            slots.extend(parent.map(|parent| Slot { parent, name: raw.name.clone() }));
        }
        let mut objects: HashMap<_, _> =
            taken.objects.iter().map(|(handle, hints)| (namer.gfid(handle), (handle.clone(), *hints))).collect();
        drop(view);
        for share in slots.chunks(BATCH_MAX) {
            let parents = share.iter().map(|slot| slot.parent).collect();
            let batch = Batch { slots: share.to_vec(), parents, objects: objects.clone(), ..Batch::default() };
            // What was said about objects is used with the first share that could bring them; again would be harmless.
            self.carry_out(batch, |_, _| Ok(()))?;
            if slots.len() > BATCH_MAX {
                objects.retain(|_, (_, hints)| hints.modified || hints.closed);
            }
        }
        if slots.is_empty() && !objects.is_empty() {
            self.carry_out(Batch { objects, ..Batch::default() }, |_, _| Ok(()))?;
        }
        Ok(())
    }

    /// Writes the D records that wait: all of them, or those whose time has come.
    ///
    /// # Errors
    /// As [`Brick::events`].
    pub fn pay_owed(&mut self, all: bool) -> Result<()> {
        let due = self.owed.iter().filter(|(_, (since, _))| all || since.elapsed() >= OWED_AFTER);
        let due: Vec<(Gfid, Owing)> = due.map(|(gfid, (_, owing))| (*gfid, *owing)).take(BATCH_MAX).collect();
        if due.is_empty() {
            return Ok(());
        }
        let more = all && due.len() == BATCH_MAX;
        let view = self.index.view()?;
        let (mut records, mut rows) = (Vec::new(), Vec::new());
        for (gfid, owing) in due {
            self.owed.remove(&gfid);
            let Some(row) = view.object(gfid)? else { continue };
            if owing.certain || !owing.attributes {
                records.push(Record::Data(gfid));
            }
            rows.push((gfid, Row { owed: false, ..row }));
        }
        let outcome = Outcome { records, rows, ..Outcome::default() };
        self.commit(outcome, |_, _| Ok(()))?;
        if more { self.pay_owed(true) } else { Ok(()) }
    }

    pub(super) fn carry_out(
        &mut self,
        batch: Batch,
        more: impl FnOnce(&mut Edit<'_>, &Outcome) -> Result<()>,
    ) -> Result<()> {
        let is_crawl = batch.crawl;
        for (gfid, (_, hints)) in &batch.objects {
            if let Some((_, owing)) = self.owed.get_mut(gfid) {
                owing.attributes |= hints.attributes;
                owing.certain |= hints.modified;
            }
        }
        let view = self.index.view()?;
        let mut outcome = batch.work_out(&view, &self.disk, self.suspicion.as_ref())?;
        drop(view);
        let unsettled = std::mem::take(&mut outcome.unsettled);
        self.doomed.extend(outcome.doomed.drain(..));
        let moved = std::mem::take(&mut outcome.moved);
        // During a crawl a directory may come from where it has not been yet to where it has been.
        if self.crawling || !self.doomed.is_empty() || self.is_half_removed() {
            outcome.dirs.extend(moved);
        }
        let crawling = self.crawling;
        if !(is_crawl && crawling) {
            self.defer(unsettled.iter().cloned());
        }
        let new_dirs = !is_crawl && !outcome.dirs.is_empty();
        self.commit(outcome, |edit, outcome| {
            if is_crawl && crawling {
                unsettled.iter().try_for_each(|slot| edit.add_lost(slot))?;
            }
            if new_dirs {
                outcome.dirs.iter().try_for_each(|dir| edit.add_todo(*dir))?;
            }
            more(edit, outcome)
        })?;
        if new_dirs && self.listing.is_none() {
            self.next_listing()?;
        }
        Ok(())
    }

    /// The changelog first, then the index.
    pub(super) fn commit(
        &mut self,
        outcome: Outcome,
        more: impl FnOnce(&mut Edit<'_>, &Outcome) -> Result<()>,
    ) -> Result<()> {
        let index = self.index.clone();
        let publishing = index.publishing();
        let position = self.journal.append(&outcome.records)?;
        let now = Instant::now();
        for gfid in &outcome.paid {
            self.owed.remove(gfid);
        }
        for (gfid, owing) in &outcome.owed {
            let known = self.owed.entry(*gfid).or_insert((now, *owing));
            known.1.certain |= owing.certain;
            known.1.attributes |= owing.attributes;
        }
        let wrote = !outcome.records.is_empty() || !outcome.rows.is_empty() || !outcome.ops.is_empty();
        self.index.edit(false, |edit| {
            outcome.apply(edit)?;
            more(edit, &outcome)?;
            if wrote { edit.set_position(position) } else { Ok(()) }
        })?;
        drop(publishing);
        self.undurable |= wrote;
        if self.owed.len() > OWED_MAX { self.pay_owed(true) } else { Ok(()) }
    }

    pub(super) fn is_half_removed(&self) -> bool {
        self.half_removed.is_some_and(|since| since.elapsed() < HALF_REMOVED_FOR)
    }

    /// Makes everything durable that was looked at.
    ///
    /// # Errors
    /// What the index says.
    pub fn make_durable(&mut self) -> Result<()> {
        self.save(|_| Ok(()))
    }
}
