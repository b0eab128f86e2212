//! One HTIME file: the list of slices that the brick rolled, in order. The proof of continuity.
//!
//! Only the number and the case of each record's last path component are believed. The directory part is where the
//! brick was once; the count in the file's xattr is wrong on every brick that was ever restarted (issue #2133).

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::layout::absent;
use crate::unproven::{Gap, Reason};

/// Xattr of an HTIME file: `<ts of the last record>:<count>`.
pub(crate) const HTIME_XATTR: &str = "trusted.glusterfs.htime";

/// Longest accepted record: PATH_MAX and its NUL.
const RECORD_MAX: usize = 4097;

const CHUNK_BYTES: usize = 64 * 1024;

/// One record of an HTIME file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexRecord {
    /// End of the slice.
    pub ts: u64,
    /// False for a slice without records, which has no file.
    pub has_file: bool,
}

/// Parses a record without its NUL; `None` where it is none.
///
/// Two records whose NUL was lost are none: believing the second would hide the first.
pub fn parse_index_record(record: &[u8]) -> Option<IndexRecord> {
    let mut components = record.rsplit(|&byte| byte == b'/');
    let (digits, has_file) = slice_name(components.next()?)?;
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) || components.any(is_timed_slice) {
        return None;
    }
    Some(IndexRecord { ts: std::str::from_utf8(digits).ok()?.parse().ok()?, has_file })
}

/// Splits `CHANGELOG.` or `changelog.` off.
fn slice_name(component: &[u8]) -> Option<(&[u8], bool)> {
    let upper = component.strip_prefix(b"CHANGELOG.").map(|rest| (rest, true));
    upper.or_else(|| component.strip_prefix(b"changelog.").map(|rest| (rest, false)))
}

/// Says whether a directory's name begins as only a slice's does.
fn is_timed_slice(component: &[u8]) -> bool {
    slice_name(component).is_some_and(|(rest, _)| rest.len() > 8 && rest[..9].iter().all(u8::is_ascii_digit))
}

/// One HTIME file, read as it grows.
#[derive(Debug)]
pub(crate) struct Htime {
    /// The number in its name.
    pub(crate) created: u64,
    pub(crate) path: PathBuf,
    /// Up to here records were read; a record without its NUL is after it.
    pub(crate) consumed: u64,
    /// The file that was read, to notice a replacement: while it is open, no other one gets its inode number.
    seen: Option<File>,
    /// The last record's ts (`created` before the first).
    pub(crate) last: u64,
    /// The greatest ts so far, which is not the last where the clock went backwards.
    pub(crate) newest: u64,
    /// The greatest ts of a record with a file.
    pub(crate) newest_with_file: u64,
    pub(crate) records: u64,
    pub(crate) empty: u64,
    pub(crate) unreadable: u64,
    /// The ts before a run of unreadable records that no readable one follows yet.
    unreadable_since: Option<u64>,
    /// What the xattr promised, where the file has less.
    promised: Option<u64>,
    /// Bytes behind `consumed` at the last look.
    pub(crate) torn_bytes: u64,
    /// What these records do not prove.
    pub(crate) gaps: Vec<Gap>,
}

impl Htime {
    pub(crate) fn new(created: u64, path: PathBuf) -> Htime {
        Htime {
            created,
            path,
            consumed: 0,
            seen: None,
            last: created,
            newest: created,
            newest_with_file: 0,
            records: 0,
            empty: 0,
            unreadable: 0,
            unreadable_since: None,
            promised: None,
            torn_bytes: 0,
            gaps: Vec::new(),
        }
    }

    /// Reads what was appended since the last call and hands each record to `each`. Returns whether it was another file
    /// before, so that records which were handed out are not there any more.
    pub(crate) fn read(&mut self, each: &mut impl FnMut(IndexRecord)) -> Result<bool> {
        // Before the content: GlusterFS appends first and sets the xattr afterwards.
        let promised = read_xattr(&self.path);
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if absent(&error) => return Ok(false),
            Err(error) => return Err(Error::io("open", &self.path)(error)),
        };
        let metadata = file.metadata().map_err(Error::io("stat", &self.path))?;
        let seen = self.seen.as_ref().and_then(|seen| seen.metadata().ok());
        let is_same = seen.as_ref().is_some_and(|seen| (seen.dev(), seen.ino()) == (metadata.dev(), metadata.ino()));
        let is_replaced = seen.is_some() && (!is_same || metadata.len() < self.consumed);
        if is_replaced || seen.is_none() {
            // The first look, or another file: what was noted of the old one is noted again from the new one.
            *self = Htime::new(self.created, std::mem::take(&mut self.path));
            self.seen = file.try_clone().ok();
        }
        let mut buffer = Vec::new();
        loop {
            let at = self.consumed + buffer.len() as u64;
            let have = buffer.len();
            buffer.resize(have + CHUNK_BYTES, 0);
            let read = file.read_at(&mut buffer[have..], at).map_err(Error::io("read", &self.path))?;
            buffer.truncate(have + read);
            let mut begin = 0;
            while let Some(len) = buffer[begin..].iter().position(|&byte| byte == 0) {
                self.take(parse_index_record(&buffer[begin..begin + len]), each);
                begin += len + 1;
            }
            if buffer.len() - begin > RECORD_MAX {
                self.take(None, each);
                begin = buffer.len();
            }
            buffer.drain(..begin);
            self.consumed += begin as u64;
            if read == 0 {
                self.torn_bytes = buffer.len() as u64;
                break;
            }
        }
        self.promised = promised.filter(|&ts| ts > self.newest);
        Ok(is_replaced)
    }

    fn take(&mut self, record: Option<IndexRecord>, each: &mut impl FnMut(IndexRecord)) {
        let Some(record) = record else {
            self.unreadable += 1;
            self.unreadable_since.get_or_insert(self.last);
            return;
        };
        if let Some(since) = self.unreadable_since.take() {
            let key = record.ts.saturating_sub(1).max(since);
            self.gaps.push(Gap::new(key, since, Some(record.ts), Reason::IndexDamaged));
        }
        if record.ts < self.newest && self.records > 0 {
            self.backwards(record.ts);
        }
        self.records += 1;
        self.empty += u64::from(!record.has_file);
        self.last = record.ts;
        self.newest = self.newest.max(record.ts);
        if record.has_file {
            self.newest_with_file = self.newest_with_file.max(record.ts);
        }
        each(record);
    }

    /// Notes that the clock went from `newest` back to `ts`; a run of such records is one gap.
    fn backwards(&mut self, ts: u64) {
        let newest = self.newest;
        if let Some(gap) = self.gaps.last_mut()
            && gap.unproven.reason == Reason::ClockBackwards
            && gap.unproven.to == Some(newest)
        {
            gap.unproven.from = gap.unproven.from.min(ts);
            return;
        }
        self.gaps.push(Gap::new(newest, ts, Some(newest), Reason::ClockBackwards));
    }

    /// Returns what the end of the file leaves open at the moment.
    pub(crate) fn open_gaps(&self) -> impl Iterator<Item = Gap> {
        let damaged = self.unreadable_since.map(|since| Gap::new(u64::MAX, since, None, Reason::IndexDamaged));
        let truncated =
            self.promised.map(|ts| Gap::new(ts.saturating_sub(1), self.newest, Some(ts), Reason::IndexTruncated));
        damaged.into_iter().chain(truncated)
    }
}

/// Reads the ts of the last record from the xattr, where it is there and the process may see it.
fn read_xattr(path: &Path) -> Option<u64> {
    let value = xattr::get(path, HTIME_XATTR).ok()??;
    let text = std::str::from_utf8(&value).ok()?;
    text.split_once(':')?.0.parse().ok()
}
