//! Length and checksum of each slice of our own, so that a slice which lost whole records does not pass for complete.
//!
//! GlusterFS's format has neither, so for its own slices only a cut inside a record can be noticed. The file `SEALS`
//! beside the open slice has one line a slice, `<ts> <bytes> <crc32 in hexadecimal>\n`, written and synced before the
//! slice gets its name. GlusterFS's tools do not look at it. A line that nobody can read is as good as none.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::error::{Error, Result};
use crate::layout::absent;

/// Name of the file.
pub(crate) const SEALS: &str = "SEALS";

const CHUNK_BYTES: usize = 64 * 1024;
/// Longest line: 20 + 1 + 20 + 1 + 8 + 1.
const LINE_MAX: usize = 51;

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

    fn parse(line: &[u8]) -> Option<(u64, Seal)> {
        let mut words = std::str::from_utf8(line).ok()?.split(' ');
        let ts = words.next()?.parse().ok()?;
        let bytes = words.next()?.parse().ok()?;
        let crc = words.next().filter(|word| word.len() == 8)?;
        let crc = u32::from_str_radix(crc, 16).ok()?;
        words.next().is_none().then_some((ts, Seal { bytes, crc }))
    }
}

/// The seals of the slices still to be read.
#[derive(Default, Debug)]
pub(crate) struct Seals {
    inode: u64,
    consumed: u64,
    pub(crate) newest: u64,
    seals: BTreeMap<u64, Seal>,
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
        if metadata.ino() != self.inode || metadata.len() < self.consumed {
            self.inode = metadata.ino();
            self.consumed = 0;
        }
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let read = file.read_at(&mut buffer, self.consumed).map_err(Error::io("read", &path))?;
            let mut begin = 0;
            while let Some(len) = buffer[begin..read].iter().position(|&byte| byte == b'\n') {
                if let Some((ts, seal)) = Seal::parse(&buffer[begin..begin + len]) {
                    self.newest = self.newest.max(ts);
                    if ts > after {
                        self.seals.insert(ts, seal);
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

    pub(crate) fn get(&self, ts: u64) -> Option<Seal> {
        self.seals.get(&ts).copied()
    }

    /// Up to here the file has whole lines.
    pub(crate) fn whole_bytes(&self) -> u64 {
        self.consumed
    }
}
