//! One brick: its changelog, its index, and what is still to be looked at.
//!
//! The order of every step: look, append to the changelog, make that durable, commit the index. The index is never
//! ahead of the changelog; where it is behind, the changelog is its redo log.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use changelog::{Gfid, Position, Record};

use crate::batch::{Batch, Outcome, Owing, record_of};
use crate::dirty::Taken;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::index::redo::redo;
use crate::index::{Edit, Index, Row, Stamp};
use crate::journal::{Journal, now_secs};
use crate::listing::Listing;
use crate::removal::removal_step;
use crate::slot::Slot;

/// Names in one batch: bounds memory and the time for which other work waits.
pub const BATCH_MAX: usize = 4096;

/// A file that is written and not closed gets its D record after this time.
const OWED_AFTER: Duration = Duration::from_secs(10);

/// More files than this are not waited for.
const OWED_MAX: usize = 100_000;

/// How often names whose objects were not found are looked at again.
const RETRY_EVERY: Duration = Duration::from_millis(20);

/// How long an index that was just let go may still be in use.
const REOPEN_PATIENCE: Duration = Duration::from_secs(3);

/// An object that was not found for this long left the brick, if no events are waiting: the event of its move would have
/// been read. (If it was not so, a later look finds it as a new name; only its content travels once more.)
const SETTLE_WITHIN: Duration = Duration::from_secs(1);

/// Events are read at least this early.
const COLLECTED_WITHIN: Duration = Duration::from_millis(100);

/// How often the index is made durable while there are changes.
const DURABLE_EVERY: Duration = Duration::from_secs(2);

/// How often it is noted that the recorder is alive.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);

/// After a power cut the file system may have lost what was written in this time before the last heartbeat (30 s until
/// a page is old, 5 s until it is written, 5 s until the file system commits, and as much again).
const SUSPECT_SECS: u64 = 90;

/// So long after a removal in part, directories that move are listed: they may come from there.
const HALF_REMOVED_FOR: Duration = Duration::from_secs(60);

/// What a brick is, for the one who attaches it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BrickSpec {
    /// Identity.
    pub id: [u8; 16],
    /// The directory.
    pub path: PathBuf,
    /// Where changelog and index are.
    pub state: PathBuf,
}

impl BrickSpec {
    /// Directory of the changelog.
    pub fn journal_dir(&self) -> PathBuf {
        self.state.join("changelogs")
    }
}

/// A brick that is being recorded.
pub struct Brick {
    spec: BrickSpec,
    disk: Arc<Disk>,
    index: Arc<Index>,
    journal: Journal,
    crawling: bool,
    crawl_again: bool,
    /// Objects that changed since then (seconds since 1970) may have lost content.
    suspect_since: Option<i64>,
    listing: Option<Listing>,
    doomed: VecDeque<Gfid>,
    /// When a subtree that had left was last taken out of the index in part only.
    half_removed: Option<Instant>,
    deferred: HashMap<Slot, Instant>,
    retried: Instant,
    /// When no events were waiting.
    caught_up: Instant,
    owed: HashMap<Gfid, (Instant, Owing)>,
    undurable: bool,
    durable: Instant,
    heartbeat: Instant,
}

impl Brick {
    /// Opens changelog and index, brings the index up to the changelog, and begins a crawl. Events must be collected
    /// already.
    ///
    /// # Errors
    /// What system, changelog or index say; [`Error::Unsuitable`] when the directory is not the one recorded before.
    pub fn open(spec: BrickSpec, disk: Arc<Disk>) -> Result<Brick> {
        std::fs::create_dir_all(&spec.state).map_err(Error::io("create", &spec.state))?;
        let has_journal = spec.journal_dir().join(changelog::layout::HTIME_DIR).is_dir();
        let journal = Journal::open(&spec.journal_dir())?;
        let path = spec.state.join("index.redb");
        let mut index = open_index(&path)?;
        if !has_journal && index.view()?.position()?.is_some() {
            // The changelog was removed: one that holds later differences only would be taken for the whole.
            drop(index);
            set_aside(&path, "its changelog is gone")?;
            index = open_index(&path)?;
        }
        check_root(&index, &disk)?;
        let redone = redo(&index, journal.dir())?;
        let suspect_since = suspect_since(&index)?;
        if redone > 0 || suspect_since.is_some() {
            tracing::info!(path = %spec.path.display(), redone, ?suspect_since, "index brought up to the changelog");
        }
        let now = Instant::now();
        let mut brick = Brick {
            spec,
            disk,
            index: Arc::new(index),
            journal,
            crawling: false,
            crawl_again: false,
            suspect_since,
            listing: None,
            doomed: VecDeque::new(),
            half_removed: None,
            deferred: HashMap::new(),
            retried: now,
            caught_up: now,
            owed: HashMap::new(),
            undurable: false,
            durable: now,
            heartbeat: now,
        };
        brick.start_crawl()?;
        brick.beat(false)?;
        Ok(brick)
    }

    /// What it was attached as.
    pub fn spec(&self) -> &BrickSpec {
        &self.spec
    }

    /// The index, for readers.
    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Whether a crawl is running.
    pub fn crawling(&self) -> bool {
        self.crawling
    }

    /// Where the changelog ends.
    pub fn position(&self) -> Position {
        self.journal.position()
    }

    /// Whether everything that is known to be looked at was looked at.
    pub fn settled(&self) -> bool {
        !self.crawling && !self.busy() && self.deferred.is_empty()
    }

    /// Whether [`Brick::background`] has something to do at once.
    pub fn busy(&self) -> bool {
        self.crawling || self.listing.is_some() || !self.doomed.is_empty()
    }

    /// When [`Brick::background`] is to be called next.
    pub fn next_call(&self) -> Option<Instant> {
        let retry = (!self.deferred.is_empty()).then(|| self.retried + RETRY_EVERY);
        let owed = self.owed.values().map(|(since, _)| *since + OWED_AFTER).min();
        let durable = self.undurable.then(|| self.durable + DURABLE_EVERY);
        [retry, owed, durable].into_iter().flatten().min()
    }

    /// Begins to compare the whole brick with the index.
    ///
    /// # Errors
    /// What the index says.
    pub fn start_crawl(&mut self) -> Result<()> {
        if self.crawling {
            self.crawl_again = true;
            return Ok(());
        }
        self.listing = None;
        self.crawling = true;
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

    /// Does one step of what is not urgent. To be called while [`Brick::busy`] or at [`Brick::next_call`].
    ///
    /// # Errors
    /// As [`Brick::events`].
    pub fn background(&mut self) -> Result<()> {
        if !self.deferred.is_empty() && self.retried.elapsed() >= RETRY_EVERY {
            self.retry_deferred()?;
        }
        if let Some(dir) = self.doomed.front().copied() {
            self.remove_below(dir)?;
        } else if self.crawling || self.listing.is_some() {
            self.crawl_step()?;
        }
        self.pay_owed(false)?;
        self.journal.roll_if_due()?;
        if self.undurable && self.durable.elapsed() >= DURABLE_EVERY {
            self.make_durable()?;
        }
        if self.heartbeat.elapsed() >= HEARTBEAT_EVERY {
            self.beat(false)?;
        }
        Ok(())
    }

    /// Notes that no events were waiting at this time.
    pub fn note_caught_up(&mut self, at: Instant) {
        self.caught_up = at;
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

    /// Writes everything down and ends the slice.
    ///
    /// # Errors
    /// As [`Brick::events`].
    pub fn finish(&mut self) -> Result<()> {
        self.pay_owed(true)?;
        if !self.journal.is_empty() {
            self.journal.roll()?;
        }
        self.beat(true)
    }

    fn retry_deferred(&mut self) -> Result<()> {
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

    fn remove_below(&mut self, dir: Gfid) -> Result<()> {
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
    fn crawl_step(&mut self) -> Result<()> {
        if self.listing.is_none() && !self.next_listing()? {
            return self.finish_crawl();
        }
        let Some(mut listing) = self.listing.take() else { return Ok(()) };
        // Small directories share a batch.
        let mut batch = Batch { crawl: Some(false), ..Batch::default() };
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

    fn next_listing(&mut self) -> Result<bool> {
        let view = self.index.view()?;
        self.listing = match view.next_todo()? {
            Some((number, dir)) => Some(Listing::begin(&view, &self.disk, number, dir)?),
            None => None,
        };
        Ok(self.listing.is_some())
    }

    /// Everything was listed: what was not found by now is gone.
    fn finish_crawl(&mut self) -> Result<()> {
        let lost = self.index.view()?.lost(None, BATCH_MAX)?;
        if !lost.is_empty() {
            let batch = Batch { last_chance: lost.clone(), ..Batch::default() };
            return self.carry_out(batch, |edit, _| lost.iter().try_for_each(|slot| edit.remove_lost(slot)));
        }
        if !self.crawling {
            return Ok(());
        }
        self.crawling = false;
        self.suspect_since = None;
        self.make_durable()?;
        tracing::info!(path = %self.spec.path.display(), "crawl ended");
        if std::mem::take(&mut self.crawl_again) { self.start_crawl() } else { Ok(()) }
    }

    fn defer(&mut self, slots: impl IntoIterator<Item = Slot>) {
        let now = Instant::now();
        for slot in slots {
            self.deferred.entry(slot).or_insert(now);
        }
    }

    fn carry_out(&mut self, mut batch: Batch, more: impl FnOnce(&mut Edit<'_>, &Outcome) -> Result<()>) -> Result<()> {
        let is_crawl = batch.crawl.is_some();
        if let Some(suspect) = &mut batch.crawl {
            *suspect = self.suspect_since.is_some();
        }
        for (gfid, (_, hints)) in &batch.objects {
            if let Some((_, owing)) = self.owed.get_mut(gfid) {
                owing.attributes |= hints.attributes;
                owing.certain |= hints.modified;
            }
        }
        let view = self.index.view()?;
        let suspect_since = self.suspect_since.unwrap_or(i64::MIN);
        let mut outcome = batch.work_out(&view, &self.disk, suspect_since)?;
        drop(view);
        let unsettled = std::mem::take(&mut outcome.unsettled);
        self.doomed.extend(outcome.doomed.drain(..));
        let moved = std::mem::take(&mut outcome.moved);
        // During a crawl a directory may come from where it has not been yet to where it has been.
        let half_removed = self.half_removed.is_some_and(|since| since.elapsed() < HALF_REMOVED_FOR);
        if self.crawling || !self.doomed.is_empty() || half_removed {
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
    fn commit(&mut self, outcome: Outcome, more: impl FnOnce(&mut Edit<'_>, &Outcome) -> Result<()>) -> Result<()> {
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

    fn make_durable(&mut self) -> Result<()> {
        self.index.edit(true, |_| Ok(()))?;
        self.undurable = false;
        self.durable = Instant::now();
        Ok(())
    }

    /// Notes when and on which boot the recorder was alive.
    fn beat(&mut self, clean: bool) -> Result<()> {
        let boot = boot_id();
        self.heartbeat = Instant::now();
        self.index.edit(true, |edit| {
            edit.set_meta("boot", &boot)?;
            edit.set_meta("clean", &[u8::from(clean)])?;
            edit.set_meta("heartbeat", &now_secs().to_le_bytes())
        })?;
        self.undurable = false;
        self.durable = Instant::now();
        Ok(())
    }
}

/// Opens the index; one that cannot be opened is set aside, and the changelog and the crawl make a new one.
fn open_index(path: &Path) -> Result<Index> {
    let patience_until = Instant::now() + REOPEN_PATIENCE;
    let opened = loop {
        match Index::open(path) {
            // Somebody is still being answered from it.
            Err(Error::Index(error))
                if matches!(*error, redb::Error::DatabaseAlreadyOpen) && Instant::now() < patience_until =>
            {
                std::thread::sleep(RETRY_EVERY);
            }
            other => break other,
        }
    };
    match opened {
        Ok(index) => Ok(index),
        Err(Error::Index(error)) if is_in_use_or_unreadable(&error) => Err(Error::Index(error)),
        Err(error) => {
            set_aside(path, &error.to_string())?;
            Index::open(path)
        }
    }
}

/// Moves an index out of the way; changelog and crawl make a new one.
fn set_aside(path: &Path, reason: &str) -> Result<()> {
    let aside = path.with_extension(format!("damaged-{}", now_secs()));
    tracing::warn!(path = %path.display(), aside = %aside.display(), reason, "index set aside");
    std::fs::rename(path, &aside).map_err(Error::io("set aside", path))
}

/// Whether the file itself may be in order.
fn is_in_use_or_unreadable(error: &redb::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, UnexpectedEof};
    match error {
        redb::Error::DatabaseAlreadyOpen => true,
        // A file that is no database, or too short for one, is told in this way.
        redb::Error::Io(error) => !matches!(error.kind(), InvalidData | UnexpectedEof),
        _ => false,
    }
}

/// Refuses another directory than the one recorded before: an unmounted brick looks like an empty one.
fn check_root(index: &Index, disk: &Disk) -> Result<()> {
    let root = disk.namer().root();
    let known = index.view()?.object(Gfid::ROOT)?.and_then(|row| row.handle);
    if known.as_ref().is_some_and(|known| known != root) {
        return Err(Error::Unsuitable(format!(
            "{} is not the directory that was recorded before: is its file system mounted? If it was replaced on \
             purpose, remove the state directory of the brick",
            disk.path().display()
        )));
    }
    if known.is_none() {
        let row =
            Row { kind: posix::Kind::Directory, owed: false, stamp: Stamp::default(), handle: Some(root.clone()) };
        index.edit(true, |edit| edit.put_object(Gfid::ROOT, &row))?;
    }
    Ok(())
}

/// After a crash of the whole machine: since when content may have been lost.
fn suspect_since(index: &Index) -> Result<Option<i64>> {
    let view = index.view()?;
    let clean = view.meta("clean")?.is_none_or(|clean| clean == [1]);
    let same_boot = view.meta("boot")?.is_none_or(|boot| boot == boot_id());
    if clean || same_boot {
        return Ok(None);
    }
    let heartbeat = view.meta("heartbeat")?.and_then(|value| value.try_into().ok()).map_or(0, u64::from_le_bytes);
    Ok(Some(heartbeat.saturating_sub(SUSPECT_SECS) as i64))
}

fn boot_id() -> Vec<u8> {
    std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}
