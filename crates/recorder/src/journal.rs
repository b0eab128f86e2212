//! The brick's changelog as the pipeline uses it: appended, synced, rolled in time.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use changelog::{JournalOptions, JournalWriter, Position, Record};

use crate::error::Result;

/// A slice with records is ended after this time; consumers read the open one too, so this only bounds its size.
const ROLL_AFTER: Duration = Duration::from_secs(15);

/// A slice is ended at this size.
const ROLL_BYTES: u64 = 16 << 20;

/// An empty slice is ended after this time, so that the changelog shows that the recorder was alive.
const ROLL_EMPTY_AFTER: Duration = Duration::from_secs(3600);

/// Bytes of records are not encoded for more than this many at once.
const APPEND_MAX: usize = 8192;

/// Writer with its clock.
#[derive(Debug)]
pub struct Journal {
    writer: JournalWriter,
    dir: PathBuf,
    /// When the open slice got its first record, or began.
    since: Instant,
    batches: u64,
}

/// Seconds since 1970.
pub fn now_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Journal {
    /// Opens or makes the changelog in `dir`.
    ///
    /// # Errors
    /// What the changelog says.
    pub fn open(dir: &Path) -> Result<Journal> {
        let writer = JournalWriter::create_or_open(dir, JournalOptions { now_secs: now_secs() })?;
        Ok(Journal { writer, dir: dir.to_owned(), since: Instant::now(), batches: 0 })
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The writer, for what concerns older slices.
    pub fn writer(&mut self) -> &mut JournalWriter {
        &mut self.writer
    }

    /// Appends records and makes them durable. Returns the position behind them.
    ///
    /// # Errors
    /// What the changelog says; the brick has to be attached again.
    pub fn append(&mut self, records: &[Record]) -> Result<Position> {
        if records.is_empty() {
            return Ok(self.writer.position());
        }
        if self.writer.is_empty() {
            self.since = Instant::now();
        }
        for share in records.chunks(APPEND_MAX) {
            self.writer.append(share)?;
        }
        self.writer.sync()?;
        self.batches += 1;
        if self.writer.slice_bytes() > ROLL_BYTES {
            self.roll()?;
        }
        Ok(self.writer.position())
    }

    /// Ends the slice if its time has come.
    ///
    /// # Errors
    /// What the changelog says.
    pub fn roll_if_due(&mut self) -> Result<()> {
        let limit = if self.writer.is_empty() { ROLL_EMPTY_AFTER } else { ROLL_AFTER };
        if self.since.elapsed() < limit { Ok(()) } else { self.roll() }
    }

    /// Ends the slice.
    ///
    /// # Errors
    /// What the changelog says.
    pub fn roll(&mut self) -> Result<()> {
        self.since = Instant::now();
        Ok(self.writer.roll(now_secs())?)
    }

    /// Behind the last record.
    pub fn position(&self) -> Position {
        self.writer.position()
    }

    /// Whether the open slice has no records.
    pub fn is_empty(&self) -> bool {
        self.writer.is_empty()
    }

    /// How often something was appended.
    pub fn batches(&self) -> u64 {
        self.batches
    }
}
