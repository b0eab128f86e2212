//! What takes a brick long: crawls, removals of whole subtrees, and names whose objects were not found yet.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use changelog::Gfid;

use super::{BATCH_MAX, Brick, opening};
use crate::batch::{Batch, Outcome, record_of};
use crate::error::Result;
use crate::listing::Listing;
use crate::removal::removal_step;
use crate::slot::Slot;

/// An object that was not found for this long left the brick, if no events are waiting: the event of its move would have
/// been read. (If it was not so, a later look finds it as a new name; only its content travels once more.)
const SETTLE_WITHIN: Duration = Duration::from_secs(1);

/// Events are read at least this early.
const COLLECTED_WITHIN: Duration = Duration::from_millis(100);

impl Brick {
    /// Begins to compare the whole brick with the index, after events were lost.
    ///
    /// # Errors
    /// What the index says; [`Error::NeedsConsent`](crate::Error::NeedsConsent) when the brick is empty and was not
    /// before.
    pub fn start_crawl(&mut self) -> Result<()> {
        if self.crawling {
            self.crawl_again = true;
            return Ok(());
        }
        opening::check_not_emptied(&self.index, &self.disk)?;
        self.begin_crawl()
    }

    pub(super) fn begin_crawl(&mut self) -> Result<()> {
        self.listing = None;
        self.crawling = true;
        self.crawls += 1;
        let view = self.index.view()?;
        self.index.edit(false, |edit| {
            edit.clear_crawl()?;
            edit.add_todo(Gfid::ROOT)?;
            // What was parked when the recorder stopped has to find its place again.
            let mut after = None;
            loop {
                let parked = view.children(Gfid::PARKING, after.as_deref(), BATCH_MAX)?;
                let Some((last, _)) = parked.last() else { return Ok(()) };
                after = Some(last.name.clone());
                for (slot, _) in &parked {
                    edit.add_lost(slot)?;
                }
            }
        })?;
        tracing::info!(path = %self.spec.path.display(), "crawl begins");
        Ok(())
    }

    pub(super) fn retry_deferred(&mut self) -> Result<()> {
        self.retried = Instant::now();
        let mut batch = Batch::default();
        let mut lost = Vec::new();
        let mut since = HashMap::new();
        for (slot, first) in self.deferred.drain() {
            let all_read = self.caught_up >= first + COLLECTED_WITHIN;
            match (all_read && first.elapsed() > SETTLE_WITHIN, self.crawling) {
                (false, _) => {
                    since.insert(slot.clone(), first);
                    batch.slots.push(slot);
                }
                // It may be where the crawl has not been yet.
                (true, true) => lost.push(slot),
                (true, false) => batch.last_chance.push(slot),
            }
        }
        batch.slots.sort();
        self.carry_out(batch, |edit, _| lost.iter().try_for_each(|slot| edit.add_lost(slot)))?;
        for (slot, first) in &mut self.deferred {
            *first = since.get(slot).copied().unwrap_or(*first);
        }
        Ok(())
    }

    pub(super) fn remove_below(&mut self, dir: Gfid) -> Result<()> {
        let view = self.index.view()?;
        let step = removal_step(&view, &self.disk, dir, BATCH_MAX)?;
        drop(view);
        if step.done {
            self.doomed.pop_front();
        }
        let relist = !step.back.is_empty();
        if relist || !step.done {
            self.half_removed = Some(Instant::now());
        }
        self.defer(step.parked);
        self.defer(step.back);
        let records = step.ops.iter().map(|op| record_of(op, |_| None)).collect();
        let outcome = Outcome { ops: step.ops, records, ..Outcome::default() };
        self.commit(outcome, |edit, _| if relist { edit.add_todo(dir) } else { Ok(()) })?;
        if relist && self.listing.is_none() {
            self.next_listing()?;
        }
        Ok(())
    }

    /// Lists a part of one directory and compares it with the index.
    pub(super) fn crawl_step(&mut self) -> Result<()> {
        if self.listing.is_none() && !self.next_listing()? {
            return self.finish_crawl();
        }
        let Some(mut listing) = self.listing.take() else { return Ok(()) };
        // Small directories share a batch.
        let mut batch = Batch { crawl: true, ..Batch::default() };
        let mut finished = Vec::new();
        loop {
            let view = self.index.view()?;
            let room = BATCH_MAX.saturating_sub(batch.slots.len());
            batch.slots.extend(listing.next(&view, &self.disk, room)?);
            batch.parents.insert(listing.dir);
            if !listing.done {
                self.listing = Some(listing);
                break;
            }
            finished.push(listing.number);
            if batch.slots.len() >= BATCH_MAX / 2 {
                break;
            }
            let next = finished.last().copied();
            let Some((number, dir)) = view.todo_before(next)? else { break };
            listing = Listing::begin(&view, &self.disk, number, dir)?;
        }
        self.carry_out(batch, |edit, outcome| {
            finished.iter().try_for_each(|number| edit.remove_todo(*number))?;
            outcome.dirs.iter().try_for_each(|dir| edit.add_todo(*dir))
        })?;
        if self.listing.is_none() {
            self.next_listing()?;
        }
        Ok(())
    }

    pub(super) fn next_listing(&mut self) -> Result<bool> {
        let view = self.index.view()?;
        self.listing = match view.next_todo()? {
            Some((number, dir)) => Some(Listing::begin(&view, &self.disk, number, dir)?),
            None => None,
        };
        Ok(self.listing.is_some())
    }

    /// Everything was listed: what was not found by now is gone.
    pub(super) fn finish_crawl(&mut self) -> Result<()> {
        let lost = self.index.view()?.lost(None, BATCH_MAX)?;
        if !lost.is_empty() {
            let batch = Batch { last_chance: lost.clone(), ..Batch::default() };
            return self.carry_out(batch, |edit, _| lost.iter().try_for_each(|slot| edit.remove_lost(slot)));
        }
        if !self.crawling {
            return Ok(());
        }
        self.crawling = false;
        self.make_durable()?;
        self.end_suspicion()?;
        tracing::info!(path = %self.spec.path.display(), "crawl ended");
        if std::mem::take(&mut self.crawl_again) { self.start_crawl() } else { Ok(()) }
    }

    pub(super) fn defer(&mut self, slots: impl IntoIterator<Item = Slot>) {
        let now = Instant::now();
        for slot in slots {
            self.deferred.entry(slot).or_insert(now);
        }
    }
}
