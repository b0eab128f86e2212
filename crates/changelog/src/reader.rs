//! A brick's journal as one ordered stream: the rolled slices, then the open one as it grows.
//!
//! How nothing is lost or read twice while the brick appends, rolls and goes on: the reader holds the open slice's
//! file open. As long as `CHANGELOG` is that file, nothing was rolled, and the end of the file is the end of the
//! journal. When it is another file, no more is appended to the first, so what is left of it is read through the same
//! descriptor; then its new name (found by inode) says which slice it became, and the next one is the next in order.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::encoding::Tail;
use crate::error::{Error, Result};
use crate::header::HEADER_BYTES;
use crate::index::{Index, SliceRef};
use crate::layout::{HTIME_DIR, OPEN_SLICE, absent};
use crate::position::Position;
use crate::race;
use crate::record::Record;
use crate::slice::{SliceReader, SliceStep};
use crate::unproven::{Gap, Reason, Unproven};

/// Slices without records and unproven spans that one call of `read` goes through at most, so that it returns.
const STEPS_MAX: usize = 1024;

/// What one call of [`JournalReader::read`] found.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ReadBatch {
    /// Records with the position of their first byte, in order.
    pub records: Vec<(Position, Record)>,
    /// Behind the last of them: where a later reader goes on.
    pub next: Position,
    /// Nothing more is there now.
    pub at_tail: bool,
    /// Spans between the previous batch's `next` and this one's that need a scan. Keep them before `next` is kept:
    /// a reader that begins behind a span does not report it again.
    pub unproven: Vec<Unproven>,
}

/// What a reader did, for tests and for the operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReaderStats {
    /// Directories listed. A reader waiting at the tail lists none.
    pub directories: u64,
    /// Calls of read(2) on slices.
    pub reads: u64,
    /// Slices read to their end.
    pub slices: u64,
}

/// Reads a journal from a position on. Needs no permission to write.
///
/// Memory: one chunk of 256 KiB, the batch, and some 100 bytes a slice that lies between position and tail.
#[derive(Debug)]
pub struct JournalReader {
    dir: PathBuf,
    index: Index,
    /// Rolled slices still to be read, in order.
    pending: VecDeque<SliceRef>,
    /// Gaps still to be passed, in the order of their keys.
    gaps: VecDeque<Gap>,
    current: Option<Current>,
    position: Position,
    /// Whether the first position still has to be compared with what the journal has.
    unchecked: bool,
    /// The slice that was listed and not there, for which the directory was listed once more.
    listed_again: u64,
    /// Spans reported whose end the position has not passed yet.
    reported: Vec<Unproven>,
    /// What the directory looked like when there was nothing to read and no open slice.
    idle: Option<Idle>,
    stats: ReaderStats,
}

#[derive(Debug)]
struct Current {
    slice: SliceReader,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Ended at this time.
    Rolled(u64),
    /// The open one.
    Open,
    /// It was the open one, and is to be read to its end.
    Leaving,
}

/// Enough to notice a roll in a journal without open slice: times of the index directory, size of the last index.
type Idle = (i64, i64, u64);

impl JournalReader {
    /// Opens the journal in `dir` (for a GlusterFS brick see [`crate::layout::locate`]).
    ///
    /// [`Position::START`] is the first slice that there is; what was before the journal is not reported.
    ///
    /// # Errors
    /// [`Error::Io`] when there is no such directory.
    pub fn open(dir: &Path, from: Position) -> Result<JournalReader> {
        fs::read_dir(dir).map_err(Error::io("open", dir))?;
        Ok(JournalReader {
            dir: dir.to_owned(),
            index: Index::new(dir),
            pending: VecDeque::new(),
            gaps: VecDeque::new(),
            current: None,
            position: from,
            unchecked: true,
            listed_again: 0,
            reported: Vec::new(),
            idle: None,
            stats: ReaderStats::default(),
        })
    }

    /// Returns where the next record will be read.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Returns what was done so far.
    pub fn stats(&self) -> ReaderStats {
        let current = self.current.as_ref().map_or(0, |current| current.slice.reads());
        ReaderStats { directories: self.index.directories, reads: self.stats.reads + current, ..self.stats }
    }

    /// Reads up to `max_records` records. Does not wait.
    ///
    /// A record that is being written, and damage in the open slice, are the tail until that slice is rolled; what is
    /// not whole by then is reported.
    ///
    /// # Errors
    /// [`Error::Io`]. What was read in this call before the error is read again by the next one; unproven spans
    /// included.
    pub fn read(&mut self, max_records: usize) -> Result<ReadBatch> {
        let mut batch = ReadBatch { next: self.position, ..ReadBatch::default() };
        let reported = self.reported.clone();
        let (begin, unchecked) = (self.position, self.unchecked);
        match self.fill(max_records, &mut batch) {
            Ok(()) => {
                batch.next = self.position;
                Ok(batch)
            }
            Err(error) => {
                self.leave();
                self.pending.clear();
                self.position = begin;
                self.unchecked = unchecked;
                self.reported = reported;
                self.idle = None;
                Err(error)
            }
        }
    }

    fn fill(&mut self, max_records: usize, batch: &mut ReadBatch) -> Result<()> {
        let mut steps = 0;
        while batch.records.len() < max_records && steps + batch.unproven.len() < STEPS_MAX {
            let Some(current) = &mut self.current else {
                steps += 1;
                if !self.locate(batch)? {
                    batch.at_tail = true;
                    return Ok(());
                }
                continue;
            };
            let step = current.slice.read()?;
            race::point();
            match step {
                SliceStep::Record(offset, record) => {
                    batch.records.push((Position { after: self.position.after, offset }, record));
                    self.position.offset = current.slice.offset();
                }
                SliceStep::End(tail) => match current.kind {
                    Kind::Rolled(ts) => self.finish(ts, tail, batch)?,
                    Kind::Leaving => self.finish_open(tail, batch)?,
                    Kind::Open if is_open(&self.dir, &current.slice)? => {
                        self.position.offset = self.position.offset.max(current.slice.offset());
                        batch.at_tail = true;
                        return Ok(());
                    }
                    Kind::Open => self.change_kind(Kind::Leaving),
                },
            }
        }
        Ok(())
    }

    /// Opens the slice at the position. False where there is none yet.
    fn locate(&mut self, batch: &mut ReadBatch) -> Result<bool> {
        if let Some(next) = self.pending.pop_front() {
            return self.enter_rolled(next, batch).map(|()| true);
        }
        // Before the listing: every slice before this one was named before this one was made, so that a listing which
        // begins now shows it. If none is shown, this one is next, whatever its name is by then.
        let open = self.open_slice()?;
        race::point();
        let idle = self.idle_signature();
        if open.is_none() && self.idle.is_some() && self.idle == idle {
            return Ok(false);
        }
        self.idle = None;
        self.refresh()?;
        race::point();
        if self.unchecked && self.check_start(batch) {
            self.refresh()?;
        }
        if self.position.after < self.index.removed_until {
            self.skip_removed(batch);
            self.refresh()?;
        }
        if let Some(next) = self.pending.pop_front() {
            return self.enter_rolled(next, batch).map(|()| true);
        }
        self.report_gaps(None, batch);
        let Some(slice) = open else {
            self.idle = idle;
            return Ok(false);
        };
        if self.index.htimes.is_empty() {
            let from = self.position.after;
            self.report(Unproven { from, to: None, reason: Reason::NoIndex }, batch);
        }
        self.enter(slice, Kind::Open, batch)?;
        Ok(true)
    }

    /// Compares the first position with what the journal has; says whether it had to be moved.
    fn check_start(&mut self, batch: &mut ReadBatch) -> bool {
        self.unchecked = false;
        let Position { after, .. } = self.position;
        if let Some(begins) = self.index.begins().filter(|&begins| 0 < after && after < begins) {
            self.report(Unproven { from: after, to: Some(begins), reason: Reason::BeforeIndex }, batch);
        }
        let unknown = after > self.index.newest;
        if unknown {
            let from = self.index.newest;
            self.report(Unproven { from, to: None, reason: Reason::PositionUnknown }, batch);
            self.position = Position { after: from, offset: 0 };
        }
        unknown
    }

    /// Goes on where the journal begins.
    fn skip_removed(&mut self, batch: &mut ReadBatch) {
        let (from, to) = (self.position.after, self.index.removed_until);
        self.report(Unproven { from, to: Some(to), reason: Reason::Removed }, batch);
        self.position = Position { after: to, offset: 0 };
    }

    fn enter_rolled(&mut self, next: SliceRef, batch: &mut ReadBatch) -> Result<()> {
        self.report_gaps(Some(next.ts), batch);
        let was_listed = next.place.is_some();
        let slice = match next.place.map(|place| SliceReader::open(&place.path(&self.dir, next.ts))) {
            None => None,
            Some(Ok(slice)) => Some(slice),
            // Deleted since it was listed, or something that is no file.
            Some(Err(Error::Io { source, .. })) if absent(&source) || is_no_file(&source) => None,
            Some(Err(error)) => return Err(error),
        };
        match slice {
            Some(slice) => self.enter(slice, Kind::Rolled(next.ts), batch),
            // Gone since it was listed: a new listing shows whether its records are elsewhere.
            None if was_listed && self.listed_again != next.ts => {
                self.listed_again = next.ts;
                self.pending.clear();
                Ok(())
            }
            None => {
                let from = self.position.after;
                self.report(Unproven { from, to: Some(next.ts), reason: Reason::SliceMissing }, batch);
                self.pass(next.ts);
                Ok(())
            }
        }
    }

    /// Makes a slice the current one, at the position's offset.
    fn enter(&mut self, mut slice: SliceReader, kind: Kind, batch: &mut ReadBatch) -> Result<()> {
        if self.position.offset > HEADER_BYTES && self.is_joined(&slice, kind)? {
            // The offset is one of before, or of another file with the same end.
            self.position.offset = 0;
        }
        if self.position.offset > HEADER_BYTES && !slice.skip_to(self.position.offset)? {
            let to = if let Kind::Rolled(ts) = kind { Some(ts) } else { None };
            let from = self.position.after;
            self.report(Unproven { from, to, reason: Reason::PositionInvalid }, batch);
            slice = self.reopen(&slice)?;
            self.position.offset = 0;
        }
        self.current = Some(Current { slice, kind });
        Ok(())
    }

    /// Ends a rolled slice and goes behind it.
    fn finish(&mut self, ts: u64, tail: Tail, batch: &mut ReadBatch) -> Result<()> {
        let Some(current) = &self.current else { return Ok(()) };
        let slice = &current.slice;
        let len = slice.file().metadata().map_err(Error::io("stat", slice.path()))?.len();
        let offset = slice.offset();
        let reason = match tail {
            Tail::Damaged { offset, reason } => Some(Reason::SliceDamaged { offset, damage: reason }),
            Tail::Torn => Some(Reason::SliceTorn { offset }),
            // A rolled slice has at least its header.
            Tail::Complete if slice.format().is_none() => Some(Reason::SliceTorn { offset }),
            Tail::Complete if len != offset => Some(Reason::SliceAltered),
            Tail::Complete => {
                let seal = slice.seal();
                // It may have been replaced since the seals were read.
                let fits = self.index.seals.fits(ts, seal) || {
                    self.index.seals.read(&self.dir, self.position.after)?;
                    self.index.seals.fits(ts, seal)
                };
                (!fits).then_some(Reason::SliceAltered)
            }
        };
        if let Some(reason) = reason {
            let from = self.position.after;
            self.report(Unproven { from, to: Some(ts), reason }, batch);
        }
        self.pass(ts);
        Ok(())
    }

    /// Ends the slice that was the open one: finds out what became of it.
    fn finish_open(&mut self, tail: Tail, batch: &mut ReadBatch) -> Result<()> {
        let Some(current) = &self.current else { return Ok(()) };
        let ours = current.slice.file().metadata().map_err(Error::io("stat", current.slice.path()))?;
        let was_empty = ours.len() <= HEADER_BYTES && tail == Tail::Complete && current.slice.offset() == ours.len();
        let after = self.position.after;

        race::point();
        self.refresh()?;
        let mut ts = None;
        for slice in &self.pending {
            let Some(place) = &slice.place else { continue };
            let path = place.path(&self.dir, slice.ts);
            if identity(&path)? == Some((ours.dev(), ours.ino())) {
                ts = Some(slice.ts);
                break;
            }
        }
        let Some(ts) = ts else {
            if self.is_next_joined()? {
                // Its records are there too, and are read again from the beginning.
                self.leave();
                self.position.offset = 0;
                return Ok(());
            }
            // Unlinked because it was empty; otherwise replaced by another one of the same second, or pruned, or
            // named with a time that the journal already had.
            if !was_empty || ours.nlink() > 0 {
                let reason = if ours.nlink() > 0 { Reason::ClockBackwards } else { Reason::SliceVanished };
                let to = self.pending.front().map(|slice| slice.ts);
                self.report(Unproven { from: after, to, reason }, batch);
                self.position.offset = 0;
            }
            self.leave();
            return Ok(());
        };
        // What lies before it in the order of times was rolled after it: not possible with a clock that only grows.
        if self.pending.front().is_some_and(|first| first.ts < ts) {
            self.report(Unproven { from: after, to: Some(ts), reason: Reason::ClockBackwards }, batch);
        }
        self.pending.retain(|slice| slice.ts > ts);
        self.report_gaps(Some(ts), batch);
        self.finish(ts, tail, batch)
    }

    /// Looks at the directory again; what was known before is forgotten.
    fn refresh(&mut self) -> Result<()> {
        self.pending = self.index.refresh(self.position.after)?.into();
        let mut gaps = self.index.gaps();
        gaps.sort_by_key(|gap| gap.key);
        self.gaps = gaps.into();
        Ok(())
    }

    /// Reports the gaps that lie between the position and the slice that ends at `until`, or all.
    fn report_gaps(&mut self, until: Option<u64>, batch: &mut ReadBatch) {
        while let Some(gap) = self.gaps.front()
            && until.is_none_or(|until| gap.key < until)
        {
            let ahead = gap.key >= self.position.after;
            let unproven = gap.unproven.clone();
            self.gaps.pop_front();
            if ahead {
                self.report(unproven, batch);
            }
        }
    }

    fn report(&mut self, unproven: Unproven, batch: &mut ReadBatch) {
        if self.reported.contains(&unproven) {
            return;
        }
        self.reported.push(unproven.clone());
        // A thousand missing slices in a row are one span.
        if let Some(last) = batch.unproven.last_mut()
            && last.reason == unproven.reason
            && last.to == Some(unproven.from)
        {
            last.to = unproven.to;
            return;
        }
        batch.unproven.push(unproven);
    }

    /// Moves the position behind the slice that ends at `ts`.
    fn pass(&mut self, ts: u64) {
        self.leave();
        self.stats.slices += 1;
        self.position = Position { after: self.position.after.max(ts), offset: 0 };
        let after = self.position.after;
        self.reported.retain(|unproven| unproven.to.is_none_or(|to| to >= after));
    }

    fn leave(&mut self) {
        if let Some(current) = self.current.take() {
            self.stats.reads += current.slice.reads();
        }
    }

    fn change_kind(&mut self, kind: Kind) {
        if let Some(current) = &mut self.current {
            current.kind = kind;
        }
    }

    /// Whether a rolled slice was joined out of several.
    fn is_joined(&mut self, slice: &SliceReader, kind: Kind) -> Result<bool> {
        let Kind::Rolled(ts) = kind else { return Ok(false) };
        // Now that it is open: its seal was written before it got its name.
        self.index.seals.read(&self.dir, self.position.after)?;
        let len = slice.file().metadata().map_err(Error::io("stat", slice.path()))?.len();
        Ok(self.index.seals.joined_from(ts, len).is_some())
    }

    /// Whether the next slice was joined out of all that are later than the position.
    fn is_next_joined(&self) -> Result<bool> {
        let Some((next, place)) = self.pending.front().and_then(|next| Some((next, next.place.as_ref()?))) else {
            return Ok(false);
        };
        let path = place.path(&self.dir, next.ts);
        let len = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if absent(&error) => return Ok(false),
            Err(error) => return Err(Error::io("stat", &path)(error)),
        };
        Ok(self.index.seals.joined_from(next.ts, len).is_some_and(|from| from <= self.position.after))
    }

    fn reopen(&self, slice: &SliceReader) -> Result<SliceReader> {
        let path = slice.path();
        let file = slice.file().try_clone().map_err(Error::io("open", path))?;
        Ok(SliceReader::over(path, file))
    }

    fn open_slice(&self) -> Result<Option<SliceReader>> {
        match SliceReader::open(&self.dir.join(OPEN_SLICE)) {
            Ok(slice) => Ok(Some(slice)),
            Err(Error::Io { source, .. }) if absent(&source) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn idle_signature(&self) -> Option<Idle> {
        let htime_dir = fs::metadata(self.dir.join(HTIME_DIR)).ok()?;
        let last = self.index.htimes.last();
        let size = last.and_then(|htime| fs::metadata(&htime.path).ok()).map_or(0, |metadata| metadata.len());
        Some((htime_dir.mtime(), htime_dir.mtime_nsec(), size))
    }
}

/// Says whether `CHANGELOG` is this file. Its inode cannot be used again while we hold it.
fn is_open(dir: &Path, slice: &SliceReader) -> Result<bool> {
    let ours = slice.file().metadata().map_err(Error::io("stat", slice.path()))?;
    Ok(identity(&dir.join(OPEN_SLICE))? == Some((ours.dev(), ours.ino())))
}

/// Device and inode of a file; `None` where there is none.
fn identity(path: &Path) -> Result<Option<(u64, u64)>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        Err(error) if absent(&error) => Ok(None),
        Err(error) => Err(Error::io("stat", path)(error)),
    }
}

fn is_no_file(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

#[cfg(test)]
mod tests;
