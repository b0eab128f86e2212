//! Fewer records that say the same: of each name and each object only the last mention is kept.
//!
//! A record is a hint what to look at, so a reader that begins anywhere needs every key that is mentioned behind its
//! position once, no matter where. The last mention of a key is behind every position that any mention is behind. So
//! slices keep their places in time; they only lose records, and neighbours are joined into one with the end of the
//! last. A reader whose position is inside one begins at its beginning.
//!
//! What is written first makes what goes needless at every step: a record goes only while a later slice mentions its
//! keys, and a slice goes only when the one that has its records is in place, sealed with the time from which on it
//! tells everything (see `seal.rs`).

use std::fs;
use std::path::Path;

use crate::begins::replace;
use crate::encoding::{RECORD_MAX, Step, decode_record};
use crate::error::{Error, Result};
use crate::gfid::Gfid;
use crate::header::{Format, HEADER_BYTES, HeaderStep, decode_header};
use crate::layout::{absent, dated_name};
use crate::record::{EntryName, EntryOp, Record};
use crate::seal::Seal;

/// Records are joined into one slice up to about this size: what a reader repeats after a restart, and, with one slice
/// as the recorder ends it, what a step needs in memory.
const GROUP_BYTES: usize = 8 << 20;

/// Keys that were seen. Lives on disk where there are many.
pub trait KeySet {
    /// Adds a key; whether it was not there.
    ///
    /// # Errors
    /// What the store says; the compaction is given up, and nothing is lost.
    fn insert(&mut self, key: &[u8]) -> std::io::Result<bool>;
}

impl KeySet for std::collections::HashSet<Vec<u8>> {
    fn insert(&mut self, key: &[u8]) -> std::io::Result<bool> {
        Ok(std::collections::HashSet::insert(self, key.to_vec()))
    }
}

/// What a reader of a record looks at: names with the object that got or lost them, contents, attributes.
pub fn keys(record: &Record) -> Vec<Vec<u8>> {
    let gfid = record.gfid();
    let object = |kind: u8| [&[kind], gfid.0.as_slice()].concat();
    let name = |entry: &EntryName| name_key(gfid, entry);
    match record {
        Record::Data(_) => vec![object(b'D')],
        Record::Meta(..) => vec![object(b'M')],
        Record::Entry(_, op) => match op {
            EntryOp::Create(_, entry) => vec![name(entry), object(b'D')],
            EntryOp::Mknod(_, entry) | EntryOp::Mkdir(_, entry) | EntryOp::Symlink(entry) => {
                vec![name(entry), object(b'M')]
            }
            EntryOp::Rename(from, to) => vec![name(from), name(to)],
            EntryOp::Link(entry) | EntryOp::Unlink(entry, _) | EntryOp::Rmdir(entry, _) => vec![name(entry)],
        },
    }
}

fn name_key(gfid: Gfid, entry: &EntryName) -> Vec<u8> {
    [b"N", gfid.0.as_slice(), entry.parent.0.as_slice(), entry.name.as_slice()].concat()
}

/// Slices that are joined: from the newest back.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// The ends of those read so far, newest first.
    pub(crate) ends: Vec<u64>,
    /// What is kept of each, newest first.
    kept: Vec<Vec<u8>>,
    bytes: usize,
    /// Whether anything was left out.
    dropped: bool,
}

impl Group {
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= GROUP_BYTES
    }

    /// Reads a slice. False: it is not as it should be, and has to stay for readers to report.
    pub(crate) fn take(&mut self, dir: &Path, ts: u64, keys_seen: &mut dyn KeySet) -> Result<bool> {
        let path = dir.join(dated_name(ts));
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if absent(&error) => return Ok(false),
            Err(error) => return Err(Error::io("read", &path)(error)),
        };
        let Some(records) = record_bounds(&bytes) else { return Ok(false) };
        let mut kept = Vec::new();
        for &(begin, end) in records.iter().rev() {
            let Step::Record(record, _) = decode_record(&bytes[begin..end], Format::OWN) else { return Ok(false) };
            let mut is_needed = false;
            for key in keys(&record) {
                is_needed |= keys_seen.insert(&key).map_err(Error::io("compact", &path))?;
            }
            if is_needed {
                kept.push((begin, end));
            }
        }
        self.dropped |= kept.len() < records.len();
        let kept: Vec<u8> = kept.iter().rev().flat_map(|&(begin, end)| &bytes[begin..end]).copied().collect();
        self.bytes += kept.len();
        self.ends.push(ts);
        self.kept.push(kept);
        Ok(true)
    }

    /// Whether writing it changes anything.
    pub(crate) fn is_worth_it(&self) -> bool {
        self.dropped || self.ends.len() > 1
    }

    /// The bytes of the slice that takes their place.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Format::OWN.header().to_vec();
        self.kept.iter().rev().for_each(|kept| bytes.extend_from_slice(kept));
        bytes
    }
}

/// Puts a joined slice in the place of the newest one, durably.
pub(crate) fn put(dir: &Path, ts: u64, bytes: &[u8]) -> Result<()> {
    let name = dir.join(dated_name(ts));
    let day = name.parent().unwrap_or(dir);
    replace(day, &format!("CHANGELOG.{ts}"), bytes, |_| ())
}

/// Length and checksum of these bytes.
pub(crate) fn seal_of(bytes: &[u8]) -> Seal {
    let mut crc = crc32fast::Hasher::new();
    crc.update(bytes);
    Seal { bytes: bytes.len() as u64, crc: crc.finalize() }
}

/// Where each record begins and ends; `None` when the file is not whole, or not of our own format.
fn record_bounds(bytes: &[u8]) -> Option<Vec<(usize, usize)>> {
    match decode_header(bytes) {
        HeaderStep::Header { format: Format::OWN, len } if len as u64 == HEADER_BYTES => {}
        _ => return None,
    }
    let mut bounds = Vec::new();
    let mut at = HEADER_BYTES as usize;
    while at < bytes.len() {
        let window = &bytes[at..bytes.len().min(at + RECORD_MAX)];
        let Step::Record(_, len) = decode_record(window, Format::OWN) else { return None };
        bounds.push((at, at + len));
        at += len;
    }
    Some(bounds)
}
