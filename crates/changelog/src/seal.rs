//! Length and checksum of each slice of our own, so that a slice which lost whole records does not pass for complete.
//!
//! GlusterFS's format has neither, so for its own slices only a cut inside a record can be noticed. The file `SEALS`
//! beside the open slice has one line a slice, `<ts> <bytes> <crc32 in hexadecimal>\n`, written and synced before the
//! slice gets its name. GlusterFS's tools do not look at it. A line that nobody can read is as good as none.
//!
//! A slice that was joined out of several has a line more, `<ts> <bytes> <crc32> <from>\n`: it tells everything later than
//! `from`, so that the slices between need not be there. Each of a slice's lines may be the one that fits: it is written
//! before the slice is replaced.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::error::{Error, Result};
use crate::layout::absent;

/// Name of the file.
pub(crate) const SEALS: &str = "SEALS";

const CHUNK_BYTES: usize = 64 * 1024;
/// Longest line: 20 + 1 + 20 + 1 + 8 + 1 + 20 + 1.
const LINE_MAX: usize = 72;

/// What the writer of a slice says about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seal {
    pub(crate) bytes: u64,
    pub(crate) crc: u32,
}

impl Seal {
    pub(crate) fn line(self, ts: u64) -> String {
        format!("{ts} {} {:08x}\n", self.bytes, self.crc)
    }

    /// The line of a slice that was joined out of all that are later than `from`.
    pub(crate) fn joined_line(self, ts: u64, from: u64) -> String {
        format!("{ts} {} {:08x} {from}\n", self.bytes, self.crc)
    }

    pub(crate) fn parse(line: &[u8]) -> Option<(u64, Seal, Option<u64>)> {
        let mut words = std::str::from_utf8(line).ok()?.split(' ');
        let ts = words.next()?.parse().ok()?;
        let bytes = words.next()?.parse().ok()?;
        let crc = words.next().filter(|word| word.len() == 8)?;
        let crc = u32::from_str_radix(crc, 16).ok()?;
        let from = words.next().map(|word| word.parse()).transpose().ok()?;
        words.next().is_none().then_some((ts, Seal { bytes, crc }, from))
    }
}

/// The seals of the slices still to be read.
#[derive(Default, Debug)]
pub(crate) struct Seals {
    /// The file that was read: while it is open, no other one gets its inode number.
    seen: Option<File>,
    consumed: u64,
    pub(crate) newest: u64,
    /// All lines of a slice, and from when on it tells everything where it was joined.
    seals: BTreeMap<u64, Vec<(Seal, Option<u64>)>>,
}

impl Seals {
    /// Reads what was appended since the last call; keeps what is later than `after`.
    pub(crate) fn read(&mut self, dir: &Path, after: u64) -> Result<()> {
        self.seals = self.seals.split_off(&after.saturating_add(1));
        let path = dir.join(SEALS);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if absent(&error) => return Ok(()),
            Err(error) => return Err(Error::io("open", &path)(error)),
        };
        let metadata = file.metadata().map_err(Error::io("stat", &path))?;
        let seen = self.seen.as_ref().and_then(|seen| seen.metadata().ok());
        let is_same = seen.is_some_and(|seen| (seen.dev(), seen.ino()) == (metadata.dev(), metadata.ino()));
        if !is_same || metadata.len() < self.consumed {
            self.seen = file.try_clone().ok();
            self.consumed = 0;
            self.seals.clear();
        }
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let read = file.read_at(&mut buffer, self.consumed).map_err(Error::io("read", &path))?;
            let mut begin = 0;
            while let Some(len) = buffer[begin..read].iter().position(|&byte| byte == b'\n') {
                if let Some((ts, seal, from)) = Seal::parse(&buffer[begin..begin + len]) {
                    self.newest = self.newest.max(ts);
                    if ts > after {
                        self.seals.entry(ts).or_default().push((seal, from));
                    }
                }
                begin += len + 1;
            }
            if read - begin > LINE_MAX && begin == 0 {
                begin = read;
            }
            self.consumed += begin as u64;
            if begin == 0 {
                return Ok(());
            }
        }
    }

    /// Whether a slice may have this length and checksum: one of its lines says so, or it has none.
    pub(crate) fn fits(&self, ts: u64, seal: Seal) -> bool {
        self.seals.get(&ts).is_none_or(|lines| lines.iter().any(|(line, _)| *line == seal))
    }

    /// Whether a slice of this length was joined out of several, and from when on it tells everything.
    pub(crate) fn joined_from(&self, ts: u64, bytes: u64) -> Option<u64> {
        let joined = |(seal, from): &(Seal, Option<u64>)| from.filter(|_| seal.bytes == bytes);
        self.seals.get(&ts)?.iter().rev().find_map(joined)
    }

    /// Slices that may have been joined out of several, one of them `ts`.
    pub(crate) fn joined_over(&self, ts: u64) -> impl Iterator<Item = u64> {
        let covers = move |lines: &[(Seal, Option<u64>)]| lines.iter().any(|(_, from)| from.is_some_and(|f| f < ts));
        self.seals.range(ts + 1..).filter(move |(_, lines)| covers(lines)).map(|(&ts, _)| ts)
    }

    /// Up to here the file has whole lines.
    pub(crate) fn whole_bytes(&self) -> u64 {
        self.consumed
    }
}
