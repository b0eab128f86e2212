//! Going on without a crawl, where the queue of events has outlived the process.
//!
//! Each durable commit of the index also holds the position in the ring up to which events were looked at, and what the
//! process had in memory because of them. The next process begins there: it brings the index up to the changelog, gives
//! the objects that only the changelog told of their handles, and looks again at everything that events since then and
//! the changelog mentioned. Looking once more is harmless.

use std::time::Instant;

use changelog::Gfid;

use super::{BATCH_MAX, Brick};
use crate::batch::{Batch, Owing};
use crate::dirty::{Dirty, Taken};
use crate::disk::DirCache;
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::index::{Edit, Index, Pending, Row, entry_key};
use crate::queue::Progress;
use crate::ring::RingId;
use crate::slot::Slot;

/// Key of the value in the table `meta`, and its length.
const META_KEY: &str = "queue";
const SAVED_BYTES: usize = 33;

/// Flag in its last byte.
const HALF_REMOVED: u8 = 0x80;

/// What a brick has to know of the queue when it is opened.
#[derive(Clone, Copy, Debug)]
pub struct QueueState {
    /// Up to here every event was read, or will be told of.
    pub progress: Progress,
    /// Events behind this position can be read again. `None`: the brick is to be crawled whatever the index says.
    pub acked: Option<u64>,
}

/// How the index stands to the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Saved {
    ring: RingId,
    position: u64,
    lost: u64,
    /// Crawls that are due: one, or one and another one behind it.
    crawls: u8,
    /// A subtree that left the brick was taken out of the index in part not long ago.
    half_removed: bool,
}

impl Saved {
    /// Reads what the last durable commit says.
    pub(super) fn read(index: &Index) -> Result<Option<Saved>> {
        Ok(index.view()?.meta(META_KEY)?.as_deref().and_then(Saved::decode))
    }

    /// Whether the queue has told of everything since.
    pub(super) fn continues(&self, queue: &QueueState) -> bool {
        let now = &queue.progress;
        // What is acknowledged was written down by all bricks: an older index than that is a restored one.
        let is_there = queue.acked.is_some_and(|acked| acked <= self.position && self.position <= now.position);
        is_there && self.ring == now.ring && self.lost == now.lost
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SAVED_BYTES);
        out.extend_from_slice(&self.ring);
        out.extend_from_slice(&self.position.to_le_bytes());
        out.extend_from_slice(&self.lost.to_le_bytes());
        out.push(self.crawls | if self.half_removed { HALF_REMOVED } else { 0 });
        out
    }

    fn decode(bytes: &[u8]) -> Option<Saved> {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let ring = bytes.get(..16)?.try_into().ok()?;
        let flags = *bytes.get(SAVED_BYTES - 1)?;
        let (crawls, half_removed) = (flags & !HALF_REMOVED, flags & HALF_REMOVED != 0);
        Some(Saved { ring, position: number(16)?, lost: number(24)?, crawls, half_removed })
    }
}

impl Brick {
    /// Takes over from the process that wrote the index; `is_redone`: the changelog was ahead of it.
    pub(super) fn go_on(&mut self, saved: &Saved, is_redone: bool) -> Result<()> {
        let now = Instant::now();
        self.progress = Progress { position: saved.position, ..self.progress };
        self.saved = saved.position;
        self.resume_from = Some(saved.position);
        (self.crawling, self.crawl_again) = (saved.crawls > 0, saved.crawls > 1);
        let view = self.index.view()?;
        self.doomed = view.pending_gfids(Pending::Doomed, None, usize::MAX)?.into();
        self.half_removed = (saved.half_removed || is_redone).then_some(now);
        for slot in view.pending_names(Pending::Deferred, None, usize::MAX)? {
            self.deferred.insert(slot, now);
        }
        // What was parked when the recorder stopped has to find its place again.
        for (slot, _) in view.children(Gfid::PARKING, None, usize::MAX)? {
            self.deferred.insert(slot, now);
        }
        for gfid in view.pending_gfids(Pending::Owed, None, usize::MAX)? {
            self.owed.insert(gfid, (now, Owing { certain: true, attributes: false }));
        }
        Ok(())
    }

    /// Where the events begin that are to be given to [`Brick::resume`]; `None`: there is nothing to be resumed.
    pub fn resume_from(&self) -> Option<u64> {
        self.resume_from
    }

    /// Looks at what was mentioned since the index was written.
    ///
    /// # Errors
    /// As [`Brick::events`].
    pub fn resume(&mut self, mut events: Dirty) -> Result<()> {
        self.resume_from = None;
        if events.take_overflow() {
            self.start_crawl()?;
        }
        let count = events.len();
        let taken = events.take(usize::MAX);
        drop(events);
        let adopted = self.adopt_mentioned(&taken)? + self.adopt_found()?;
        self.events(&taken)?;
        drop(taken);
        let mut redone = 0;
        loop {
            let slots = self.index.view()?.pending_names(Pending::Redone, None, BATCH_MAX)?;
            if slots.is_empty() {
                break;
            }
            redone += slots.len();
            let parents = slots.iter().map(|slot| slot.parent).filter(|parent| *parent != Gfid::PARKING).collect();
            let batch = Batch { slots: slots.clone(), parents, ..Batch::default() };
            let done = |edit: &mut Edit<'_>| {
                slots.iter().try_for_each(|s| edit.remove_pending(Pending::Redone, &entry_key(s)))
            };
            self.carry_out(batch, |edit, _| done(edit))?;
        }
        if self.listing.is_none() {
            self.next_listing()?;
        }
        let path = self.spec.path.display();
        tracing::info!(path = %path, keys = count, redone, adopted, crawling = self.crawling, "goes on without a new crawl");
        Ok(())
    }

    /// Gives objects that only the changelog told of the handles that events mention.
    fn adopt_mentioned(&mut self, taken: &Taken) -> Result<usize> {
        let view = self.index.view()?;
        let namer = self.disk.namer();
        let mut rows = Vec::new();
        let mut last: Option<&Handle> = None;
        let dirs = taken.slots.iter().map(|slot| &slot.dir);
        for handle in dirs.chain(taken.objects.iter().map(|(handle, _)| handle)) {
            if last == Some(handle) {
                continue;
            }
            last = Some(handle);
            let gfid = namer.gfid(handle);
            if let Some(row) = view.object(gfid)?.filter(|row| row.handle.is_none()) {
                rows.push((gfid, Row { handle: Some(handle.clone()), ..row }));
            }
        }
        self.put(&rows)
    }

    /// Gives the others the handles of what is at their names. What was moved away since is mentioned by events.
    fn adopt_found(&mut self) -> Result<usize> {
        let mut adopted = 0;
        loop {
            let mut rows = Vec::new();
            let mut after: Option<Slot> = None;
            loop {
                let view = self.index.view()?;
                let slots = view.pending_names(Pending::Redone, after.as_ref(), BATCH_MAX)?;
                let Some(last) = slots.last() else { break };
                after = Some(last.clone());
                let mut dirs = DirCache::default();
                for slot in &slots {
                    let Some(gfid) = view.entry(slot)? else { continue };
                    let Some(row) = view.object(gfid)?.filter(|row| row.handle.is_none()) else { continue };
                    let Some(dir) = view.object(slot.parent)?.and_then(|parent| parent.handle) else { continue };
                    let found = dirs.look(&self.disk, slot, &dir).map_err(Error::io("look into", self.disk.path()))?;
                    if let Some((_, seen)) = found
                        && seen.gfid == gfid
                    {
                        rows.push((gfid, Row { handle: Some(seen.handle), ..row }));
                    }
                }
            }
            // A directory that has its handle now gives those below it theirs.
            match self.put(&rows)? {
                0 => return Ok(adopted),
                count => adopted += count,
            }
        }
    }

    fn put(&self, rows: &[(Gfid, Row)]) -> Result<usize> {
        if !rows.is_empty() {
            self.index.edit(false, |edit| rows.iter().try_for_each(|(gfid, row)| edit.put_object(*gfid, row)))?;
        }
        Ok(rows.len())
    }

    /// Makes the index durable, together with how it stands to the queue and what is in memory only.
    pub(super) fn save(&mut self, more: impl FnOnce(&mut Edit<'_>) -> Result<()>) -> Result<()> {
        let crawls = u8::from(self.crawling) + u8::from(self.crawl_again);
        let Progress { ring, position, lost, .. } = self.progress;
        let half_removed = !self.doomed.is_empty() || self.is_half_removed();
        let saved = Saved { ring, position, lost, crawls, half_removed };
        let has_pending = !(self.deferred.is_empty() && self.doomed.is_empty() && self.owed.is_empty());
        self.index.edit(true, |edit| {
            if self.has_pending {
                for kind in [Pending::Deferred, Pending::Doomed, Pending::Owed] {
                    edit.clear_pending(kind)?;
                }
            }
            for slot in self.deferred.keys() {
                edit.add_pending(Pending::Deferred, &entry_key(slot))?;
            }
            for gfid in &self.doomed {
                edit.add_pending(Pending::Doomed, &gfid.0)?;
            }
            for gfid in self.owed.keys() {
                edit.add_pending(Pending::Owed, &gfid.0)?;
            }
            edit.set_meta(META_KEY, &saved.encode())?;
            more(edit)
        })?;
        self.has_pending = has_pending;
        self.saved = position;
        self.undurable = false;
        self.durable = Instant::now();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_goes_on_only_where_nothing_was_missed() {
        let saved = Saved { ring: [1; 16], position: 100, lost: 2, crawls: 1, half_removed: true };
        assert_eq!(Saved::decode(&saved.encode()), Some(saved));
        let other = Saved { crawls: 2, half_removed: false, ..saved };
        assert_eq!(Saved::decode(&other.encode()), Some(other));
        assert_eq!(Saved::decode(&saved.encode()[1..]), None);
        let progress = Progress { ring: [1; 16], position: 500, lost: 2, wanted: None };
        let queue = |progress, acked| QueueState { progress, acked };
        assert!(saved.continues(&queue(progress, Some(100))));
        assert!(saved.continues(&queue(progress, Some(0))));
        for (progress, acked, why) in [
            (progress, None, "the brick failed"),
            (progress, Some(101), "an older index was restored, or another recorder went on without the brick"),
            (Progress { ring: [2; 16], ..progress }, Some(0), "another queue"),
            (Progress { lost: 3, ..progress }, Some(0), "events were thrown away"),
            (Progress { position: 99, ..progress }, Some(0), "a ring that is older than the index"),
        ] {
            assert!(!saved.continues(&queue(progress, acked)), "{why}");
        }
    }
}
