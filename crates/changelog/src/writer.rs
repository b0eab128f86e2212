//! The recorder's side: appends records to the open slice, and rolls it.
//!
//! The files are those of GlusterFS (v1.2, ASCII, dated directories, HTIME), so that one reader serves both, plus
//! `seal.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::begins;
use crate::disk::{AppendFile, make_dirs, only_zeros, sync_dir, write_all_at};
use crate::encoding::{Tail, encode};
use crate::error::{Damage, Error, Result};
use crate::header::{Format, HEADER_BYTES};
use crate::htime::HTIME_XATTR;
use crate::index::{Index, SliceRef};
use crate::layout::{HTIME_DIR, OPEN_SLICE, absent, dated_name};
use crate::position::Position;
use crate::record::Record;
use crate::retention::sweep;
use crate::seal::{SEALS, Seal};
use crate::slice::{SliceReader, SliceStep};

/// Xattr of the index directory: name of the current HTIME file.
const CURRENT_XATTR: &str = "trusted.glusterfs.current_htime";

/// How a journal is opened for writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalOptions {
    /// The time, in seconds since 1970.
    pub now_secs: u64,
}

/// Writes one journal. There is one writer a journal, which a lock on the index directory enforces.
///
/// After any error what was written before is whole, and the same call can be tried again (except
/// [`Error::Poisoned`]).
#[derive(Debug)]
pub struct JournalWriter {
    pub(crate) dir: PathBuf,
    /// Holds the lock.
    _lock: File,
    pub(crate) htime: AppendFile,
    pub(crate) htime_records: u64,
    pub(crate) seals: AppendFile,
    /// Ends and sizes of the rolled slices that are there.
    pub(crate) slices: BTreeMap<u64, u64>,
    /// Ends of slices that should be there and are not.
    pub(crate) holes: BTreeSet<u64>,
    /// Everything up to this time may have been removed.
    pub(crate) begins: u64,
    /// Index records of slices that were removed.
    pub(crate) stale: u64,
    /// The open slice; `None` after a roll that could not make the next one.
    open: Option<OpenSlice>,
    /// A slice that has its name but not its index record.
    unindexed: Option<(u64, bool)>,
    /// The latest ts that anything in the journal has; the next one is greater.
    pub(crate) last_ts: u64,
    /// End of the last slice with records.
    pub(crate) after: u64,
    poisoned: bool,
    /// Lets the next write stop after so many bytes.
    #[cfg(test)]
    pub(crate) fail_write_after: Option<usize>,
}

#[derive(Debug)]
struct OpenSlice {
    file: File,
    /// Up to here the file has whole records.
    len: u64,
    crc: crc32fast::Hasher,
    opened_secs: u64,
    /// The file is longer than `len`.
    ragged: bool,
    /// What it was when the writer found it is no slice; it is rolled as it is, for the reader to report.
    damaged: bool,
}

impl JournalWriter {
    /// Opens the journal in `dir`, making what is missing.
    ///
    /// What the last writer left open is rolled. A record that it had not finished is cut off: it was never
    /// acknowledged, and the crawl after the restart writes again what was missed. Index records that it did not get
    /// round to are added.
    ///
    /// # Errors
    /// [`Error::Locked`] when there is another writer, [`Error::Io`].
    pub fn create_or_open(dir: &Path, options: JournalOptions) -> Result<JournalWriter> {
        let htime_dir = dir.join(HTIME_DIR);
        make_dirs(&htime_dir)?;
        let dir = &fs::canonicalize(dir).map_err(Error::io("resolve", dir))?;
        let lock = File::open(&htime_dir).map_err(Error::io("open", &htime_dir))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
            rustix::io::Errno::WOULDBLOCK => Error::Locked { dir: dir.clone() },
            errno => Error::io("lock", &htime_dir)(errno.into()),
        })?;

        let mut index = Index::new(dir);
        let mut slices = index.refresh(0)?;
        let begins = match begins::read(dir)? {
            Some(begins) => begins,
            None => {
                begins::write(dir, index.newest)?;
                index.newest
            }
        };
        sweep(dir, begins, slices.iter().map(|slice| slice.ts))?;
        slices.retain(|slice| slice.ts > begins);
        let after = slices.last().map_or(begins, |slice| slice.ts);
        let size =
            |slice: &SliceRef| Some((slice.ts, fs::metadata(slice.place.as_ref()?.path(dir, slice.ts)).ok()?.len()));
        let last_ts = index.newest.max(index.seals.newest);
        let indexed_until = index.htimes.iter().map(|htime| htime.newest).max();

        let (created, consumed, records) = match index.htimes.last() {
            Some(htime) => (htime.created, htime.consumed, htime.records),
            None => (options.now_secs.max(last_ts), 0, 0),
        };
        let path = htime_dir.join(format!("HTIME.{created}"));
        let is_new = index.htimes.is_empty();
        let htime = AppendFile::open(&path, consumed)?;
        let seals = AppendFile::open(&dir.join(SEALS), index.seals.whole_bytes())?;
        sync_dir(&htime_dir)?;
        sync_dir(dir)?;
        if is_new {
            set_xattr(&path, HTIME_XATTR, b"0:0");
            set_xattr(&htime_dir, CURRENT_XATTR, format!("HTIME.{created}").as_bytes());
        }
        let mut writer = JournalWriter {
            dir: dir.clone(),
            _lock: lock,
            htime,
            htime_records: records,
            seals,
            slices: slices.iter().filter_map(size).collect(),
            holes: slices.iter().filter(|slice| slice.place.is_none()).map(|slice| slice.ts).collect(),
            begins,
            stale: 0,
            open: None,
            unindexed: None,
            last_ts: last_ts.max(created),
            after,
            poisoned: false,
            #[cfg(test)]
            fail_write_after: None,
        };
        for slice in slices.iter().filter(|slice| {
            // Without an older index there is nothing to complete, and a new one must not vouch for them.
            !slice.indexed && indexed_until.is_some_and(|until| slice.ts > until)
        }) {
            writer.add_index_record(slice.ts, true)?;
        }
        writer.adopt_left_over(options.now_secs)?;
        Ok(writer)
    }

    /// Returns where the next record will be.
    pub fn position(&self) -> Position {
        Position { after: self.after, offset: self.open.as_ref().map_or(HEADER_BYTES, |open| open.len) }
    }

    /// Appends records with one write(2). They are not durable before [`JournalWriter::sync`].
    ///
    /// # Errors
    /// [`Error::Unencodable`], and nothing was written; [`Error::Io`], and as many whole records are in the journal
    /// as fit before the error; write the batch again, duplicates do no harm. [`Error::Poisoned`].
    pub fn append(&mut self, records: &[Record]) -> Result<()> {
        self.refuse_if_poisoned()?;
        let mut bytes = Vec::with_capacity(records.len() * 128);
        let mut ends = Vec::with_capacity(records.len());
        for record in records {
            encode(record, Format::OWN, &mut bytes).map_err(|reason: Damage| Error::Unencodable { reason })?;
            ends.push(bytes.len());
        }
        if bytes.is_empty() {
            return Ok(());
        }
        self.ensure_open()?;
        #[cfg(test)]
        let fail_after = self.fail_write_after.take();
        #[cfg(not(test))]
        let fail_after = None;
        let path = self.dir.join(OPEN_SLICE);
        let Some(open) = &mut self.open else { return Ok(()) };
        open.repair(&path)?;
        let (written, result) = write_all_at(&open.file, &bytes, open.len, fail_after);
        let whole = ends.iter().copied().take_while(|&end| end <= written).last().unwrap_or(0);
        open.crc.update(&bytes[..whole]);
        open.len += whole as u64;
        if let Err(error) = result {
            open.ragged = true;
            // Best effort now; the next append insists.
            open.repair(&path).ok();
            return Err(Error::io("append to", &path)(error));
        }
        Ok(())
    }

    /// Makes everything appended so far durable (fdatasync).
    ///
    /// # Errors
    /// [`Error::Poisoned`], after this error too: Linux forgets what it could not write, so a second sync that
    /// succeeds would prove nothing.
    pub fn sync(&mut self) -> Result<()> {
        self.refuse_if_poisoned()?;
        let path = self.dir.join(OPEN_SLICE);
        let result = self.open.as_ref().map_or(Ok(()), |open| open.file.sync_data());
        self.poisoned |= result.is_err();
        result.map_err(Error::io("sync", &path))
    }

    /// Ends the open slice, and begins the next one. A slice without records leaves an index record only.
    ///
    /// The slice's end is `now_secs`, or one more than the last one's where the clock did not move on.
    ///
    /// # Errors
    /// [`Error::Io`]; call it again, or go on appending. [`Error::Poisoned`].
    pub fn roll(&mut self, now_secs: u64) -> Result<()> {
        self.refuse_if_poisoned()?;
        self.flush_index()?;
        self.close_open(now_secs)?;
        self.flush_index()?;
        self.create_open(now_secs)
    }

    /// Returns how many seconds ago the open slice was begun.
    pub fn slice_age(&self, now_secs: u64) -> u64 {
        self.open.as_ref().map_or(0, |open| now_secs.saturating_sub(open.opened_secs))
    }

    /// Returns how many bytes of records the open slice has.
    pub fn slice_bytes(&self) -> u64 {
        self.open.as_ref().map_or(0, OpenSlice::record_bytes)
    }

    /// Says whether the open slice has no records.
    pub fn is_empty(&self) -> bool {
        self.slice_bytes() == 0
    }

    fn refuse_if_poisoned(&self) -> Result<()> {
        if self.poisoned { Err(Error::Poisoned { dir: self.dir.clone() }) } else { Ok(()) }
    }

    /// Finishes a roll that was interrupted by an error.
    fn ensure_open(&mut self) -> Result<()> {
        self.flush_index()?;
        if self.open.is_none() { self.create_open(self.last_ts) } else { Ok(()) }
    }

    fn create_open(&mut self, now_secs: u64) -> Result<()> {
        let path = self.dir.join(OPEN_SLICE);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io("create", &path))?;
        // Of an earlier attempt that failed; anything else in the way was rolled when the journal was opened.
        file.set_len(0).map_err(Error::io("truncate", &path))?;
        let header = Format::OWN.header();
        file.write_all_at(&header, 0).map_err(Error::io("write", &path))?;
        sync_dir(&self.dir)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header);
        let len = HEADER_BYTES;
        self.open = Some(OpenSlice { file, len, crc, opened_secs: now_secs, ragged: false, damaged: false });
        Ok(())
    }

    /// Gives the open slice its name, or removes it when it is empty. Leaves the index record to be written.
    fn close_open(&mut self, now_secs: u64) -> Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let path = self.dir.join(OPEN_SLICE);
        let ts = now_secs.max(self.last_ts + 1);
        if !open.damaged {
            open.repair(&path)?;
            if open.record_bytes() == 0 {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
                self.retire(ts, false);
                return Ok(());
            }
        }
        if let Err(error) = open.file.sync_all() {
            self.poisoned = true;
            return Err(Error::io("sync", &path)(error));
        }
        if !open.damaged {
            let seal = Seal { bytes: open.len, crc: open.crc.clone().finalize() };
            self.seals.append(seal.line(ts).as_bytes())?;
        }
        let name = self.dir.join(dated_name(ts));
        let day = name.parent().unwrap_or(&self.dir);
        make_dirs(day)?;
        fs::rename(&path, &name).map_err(Error::io("rename", &path))?;
        self.slices.insert(ts, open.len);
        self.after = ts;
        self.retire(ts, true);
        sync_dir(name.parent().unwrap_or(&self.dir))?;
        sync_dir(&self.dir)
    }

    fn retire(&mut self, ts: u64, has_file: bool) {
        self.open = None;
        self.last_ts = ts;
        self.unindexed = Some((ts, has_file));
    }

    fn flush_index(&mut self) -> Result<()> {
        if let Some((ts, has_file)) = self.unindexed {
            self.add_index_record(ts, has_file)?;
            self.unindexed = None;
        }
        Ok(())
    }

    fn add_index_record(&mut self, ts: u64, has_file: bool) -> Result<()> {
        let name = dated_name(ts);
        let base = if has_file { format!("CHANGELOG.{ts}") } else { format!("changelog.{ts}") };
        let mut record = self.dir.join(name.with_file_name(base)).as_os_str().as_bytes().to_vec();
        record.push(0);
        self.htime.append(&record)?;
        self.htime_records += 1;
        set_xattr(&self.htime.path, HTIME_XATTR, format!("{ts}:{}", self.htime_records).as_bytes());
        Ok(())
    }

    /// Rolls the slice that the last writer left open.
    fn adopt_left_over(&mut self, now_secs: u64) -> Result<()> {
        let path = self.dir.join(OPEN_SLICE);
        let mut slice = match SliceReader::open(&path) {
            Ok(slice) => slice,
            Err(Error::Io { source, .. }) if absent(&source) => return self.create_open(now_secs),
            Err(error) => return Err(error),
        };
        let tail = loop {
            if let SliceStep::End(tail) = slice.read()? {
                break tail;
            }
        };
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(Error::io("open", &path))?;
        let seal = slice.seal();
        // After a power loss the length can be there without the bytes.
        let damaged = match tail {
            Tail::Damaged { offset, .. } => !only_zeros(&file, offset, &path)?,
            Tail::Complete | Tail::Torn => false,
        };
        if seal.bytes == 0 && !damaged {
            drop(file);
            return self.create_open(now_secs);
        }
        let crc = crc32fast::Hasher::new_with_initial_len(seal.crc, seal.bytes);
        let ragged = tail != Tail::Complete;
        self.open = Some(OpenSlice { file, len: seal.bytes, crc, opened_secs: now_secs, ragged, damaged });
        self.roll(now_secs)
    }
}

impl OpenSlice {
    fn record_bytes(&self) -> u64 {
        self.len.saturating_sub(HEADER_BYTES)
    }

    /// Cuts off what is not a whole record.
    fn repair(&mut self, path: &Path) -> Result<()> {
        if self.ragged {
            self.file.set_len(self.len).map_err(Error::io("truncate", path))?;
            self.ragged = false;
        }
        Ok(())
    }
}

/// Sets an xattr where that is allowed. Nobody depends on these: without privilege, or on a file system without them,
/// the journal is as good.
pub(crate) fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    if let Err(error) = xattr::set(path, name, value) {
        tracing::debug!(path = %path.display(), name, %error, "xattr not set");
    }
}

#[cfg(test)]
mod tests;
