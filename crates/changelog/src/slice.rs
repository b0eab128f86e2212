//! One file of a changelog, read in chunks from the beginning, rolled or still growing.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::encoding::{RECORD_MAX, Step, Tail, decode_record};
use crate::error::{Error, Result};
use crate::header::{Format, HeaderStep, decode_header};
use crate::record::Record;
use crate::seal::Seal;

/// What is read at once; the memory that one reader needs. Must hold the longest record.
pub(crate) const CHUNK_BYTES: usize = 256 * 1024;
const _: () = assert!(CHUNK_BYTES > RECORD_MAX);

/// What comes next in a slice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SliceStep {
    /// A record, and the offset of its first byte in the file.
    Record(u64, Record),
    /// There is no further whole record now. Of a growing file, ask again later.
    End(Tail),
}

/// Reads the records of one file. Holds the file open, so that it goes on reading the same slice when that is renamed.
#[derive(Debug)]
pub struct SliceReader {
    path: PathBuf,
    file: File,
    format: Option<Format>,
    /// Of the next record.
    offset: u64,
    /// Bytes of the file from `offset - buffer_used` on.
    buffer: Vec<u8>,
    buffer_used: usize,
    /// Over everything before `offset`.
    crc: crc32fast::Hasher,
    /// Calls of read(2).
    reads: u64,
}

impl SliceReader {
    /// Opens a slice.
    ///
    /// # Errors
    /// [`Error::Io`]; also when the path is no regular file.
    pub fn open(path: &Path) -> Result<SliceReader> {
        // Not to follow a link nor to wait for the other end of a FIFO that lies where a slice belongs.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)
            .map_err(Error::io("open", path))?;
        if !file.metadata().map_err(Error::io("stat", path))?.is_file() {
            return Err(Error::io("open", path)(std::io::ErrorKind::InvalidInput.into()));
        }
        Ok(SliceReader::over(path, file))
    }

    /// Reads an open file from its beginning.
    pub(crate) fn over(path: &Path, file: File) -> SliceReader {
        SliceReader {
            path: path.to_owned(),
            file,
            format: None,
            offset: 0,
            buffer: Vec::new(),
            buffer_used: 0,
            crc: crc32fast::Hasher::new(),
            reads: 0,
        }
    }

    /// Returns the next record, or how the file ends now.
    ///
    /// # Errors
    /// [`Error::Io`]; the next call tries again at the same place.
    pub fn read(&mut self) -> Result<SliceStep> {
        if self.format.is_none()
            && let Some(tail) = self.read_header()?
        {
            return Ok(SliceStep::End(tail));
        }
        let Some(format) = self.format else { return Ok(SliceStep::End(Tail::Torn)) };
        let mut fresh = false;
        loop {
            let bytes = &self.buffer[self.buffer_used..];
            let tail = match decode_record(bytes, format) {
                Step::Record(record, len) => {
                    let offset = self.offset;
                    self.consume(len);
                    return Ok(SliceStep::Record(offset, record));
                }
                Step::Incomplete if bytes.is_empty() => Tail::Complete,
                Step::Incomplete => Tail::Torn,
                Step::Damaged(reason) => Tail::Damaged { offset: self.offset, reason },
            };
            // A tail is believed only of bytes that were read in this call: the writer may have completed it, or cut
            // it off and written something else.
            if fresh {
                self.forget();
                return Ok(SliceStep::End(tail));
            }
            self.fill()?;
            fresh = true;
        }
    }

    /// Reads on to `offset` without returning the records; false where no record begins there.
    ///
    /// # Errors
    /// As [`SliceReader::read`].
    pub fn skip_to(&mut self, offset: u64) -> Result<bool> {
        if offset > 0 && self.read_header()?.is_some() {
            return Ok(false);
        }
        while self.offset < offset {
            if let SliceStep::End(_) = self.read()? {
                break;
            }
        }
        Ok(self.offset == offset)
    }

    /// Returns where the next record begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns what the header said, once it was read.
    pub fn format(&self) -> Option<Format> {
        self.format
    }

    pub(crate) fn reads(&self) -> u64 {
        self.reads
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Length and checksum of what was read so far.
    pub(crate) fn seal(&self) -> Seal {
        Seal { bytes: self.offset, crc: self.crc.clone().finalize() }
    }

    /// Reads the header, where that was not done yet; returns how the file ends where it has none.
    fn read_header(&mut self) -> Result<Option<Tail>> {
        if self.format.is_some() {
            return Ok(None);
        }
        self.fill()?;
        let tail = match decode_header(&self.buffer) {
            HeaderStep::Header { format, len } => {
                self.format = Some(format);
                self.consume(len);
                return Ok(None);
            }
            HeaderStep::Incomplete if self.buffer.is_empty() => Tail::Complete,
            HeaderStep::Incomplete => Tail::Torn,
            HeaderStep::Damaged(reason) => Tail::Damaged { offset: self.offset, reason },
        };
        self.forget();
        Ok(Some(tail))
    }

    fn forget(&mut self) {
        self.buffer.clear();
        self.buffer_used = 0;
    }

    fn consume(&mut self, len: usize) {
        self.crc.update(&self.buffer[self.buffer_used..self.buffer_used + len]);
        self.buffer_used += len;
        self.offset += len as u64;
    }

    /// Reads a chunk from `offset` on, or up to the end of the file.
    fn fill(&mut self) -> Result<()> {
        self.buffer_used = 0;
        self.buffer.resize(CHUNK_BYTES, 0);
        let mut have = 0;
        while have < CHUNK_BYTES {
            self.reads += 1;
            match self.file.read_at(&mut self.buffer[have..], self.offset + have as u64) {
                Ok(0) => break,
                Ok(read) => have += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.buffer.clear();
                    return Err(Error::io("read", &self.path)(error));
                }
            }
        }
        self.buffer.truncate(have);
        Ok(())
    }
}
