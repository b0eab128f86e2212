//! A stage channel: a tar stream of pieces of files, written into the stage.

use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use posix::beneath;
use protocol::hello::{MAGIC, Versions};
use protocol::stage::{MAX_PIECE_BYTES, StageHello, StageReady, Staged};
use protocol::{FrameError, Gfid, read_frame, write_frame};
use rustix::fs::{AtFlags, Mode, OFlags};

use super::{ChannelReader, ChannelWriter, Ends, Stopper, read_magic};
use crate::stage::{Stage, Stages};

/// A tar block.
const BLOCK_BYTES: usize = 512;

/// What is read from the channel at a time.
const READ_BYTES: usize = 256 << 10;

/// Serves one stage channel until it ends.
///
/// # Errors
/// [`FrameError`] when the channel broke or the stream is not one of ours.
pub fn run(ends: &Arc<Ends>, stopper: Stopper, stages: &Stages) -> Result<(), FrameError> {
    let mut writer = ChannelWriter(ends.clone());
    let mut reader = BufReader::with_capacity(READ_BYTES, ChannelReader(ends.clone()));
    writer.write_all(&MAGIC)?;
    read_magic(&mut reader)?;
    let hello: StageHello = read_frame(&mut reader)?;
    let stage = stages.get(&hello.token).filter(|_| hello.versions.common(&Versions::ours()).is_some());
    let Some(stage) = stage.filter(|stage| stage.add_channel(stopper)) else {
        return write_frame(&mut writer, &StageReady::Refused);
    };
    write_frame(&mut writer, &StageReady::Ready)?;
    receive(&mut reader, &mut writer, &stage)
}

/// Writes what a tar stream brings into a stage.
///
/// # Errors
/// [`FrameError`] when the channel broke or the stream is not one of ours.
pub fn receive(reader: &mut impl Read, writer: &mut impl Write, stage: &Arc<Stage>) -> Result<(), FrameError> {
    let mut piece = Vec::new();
    let mut file: Option<Receiving> = None;
    while let Some(entry) = read_entry(reader, &mut piece)? {
        let mut current = match file.take() {
            Some(current) if current.gfid == entry.gfid => current,
            // A file that is not ended is given up: what was written of it goes with the value.
            _ => Receiving::start(stage, entry.gfid),
        };
        match entry.what {
            What::Piece { offset } => {
                current.write(&piece, offset);
                file = Some(current);
            }
            What::End { size } => {
                let errno = current.finish(size);
                write_frame(writer, &Staged { gfid: entry.gfid, errno })?;
            }
        }
    }
    Ok(())
}

/// A file on its way.
struct Receiving {
    stage: Arc<Stage>,
    gfid: Gfid,
    part: String,
    /// The open file, or why the rest is thrown away.
    file: Result<OwnedFd, i32>,
    is_complete: bool,
}

impl Receiving {
    fn start(stage: &Arc<Stage>, gfid: Gfid) -> Receiving {
        // The thread's number in it: two channels may send the same file at a time, the later end counts.
        let part = format!("{gfid}.{:?}.part", std::thread::current().id()).replace(['(', ')'], "");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = beneath::open_file(stage.dir.as_fd(), part.as_bytes(), flags, mode).map_err(|e| errno_of(&e));
        Receiving { stage: stage.clone(), gfid, part, file, is_complete: false }
    }

    fn write(&mut self, mut bytes: &[u8], mut offset: u64) {
        while let Ok(file) = &self.file
            && !bytes.is_empty()
        {
            match rustix::io::pwrite(file, bytes, offset) {
                Ok(written) => {
                    bytes = &bytes[written..];
                    offset += written as u64;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => self.give_up(e.raw_os_error()),
            }
        }
    }

    /// Ends the file; 0 or the error that it ended with.
    fn finish(mut self, size: u64) -> i32 {
        if let Ok(file) = &self.file {
            let whole = rustix::fs::ftruncate(file, size).map_err(io::Error::from);
            match whole.and_then(|()| self.stage.complete(self.gfid, &self.part)) {
                Ok(()) => self.is_complete = true,
                Err(e) => self.give_up(errno_of(&e)),
            }
        }
        match self.file {
            Ok(_) => 0,
            Err(errno) => errno,
        }
    }

    fn give_up(&mut self, errno: i32) {
        self.file = Err(errno);
        let _ = rustix::fs::unlinkat(&self.stage.dir, self.part.as_str(), AtFlags::empty());
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if !self.is_complete {
            let _ = rustix::fs::unlinkat(&self.stage.dir, self.part.as_str(), AtFlags::empty());
        }
    }
}

/// One entry of the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    gfid: Gfid,
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Piece { offset: u64 },
    End { size: u64 },
}

/// Reads one entry and its content; `None` at the end of the stream.
fn read_entry(reader: &mut impl Read, piece: &mut Vec<u8>) -> Result<Option<Entry>, FrameError> {
    let mut block = [0u8; BLOCK_BYTES];
    let first = loop {
        match reader.read(&mut block) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if first == 0 {
        return Ok(None);
    }
    reader.read_exact(&mut block[first..])?;
    if block == [0; BLOCK_BYTES] {
        return Ok(None);
    }
    let (entry, length) = parse_entry(&block)
        .ok_or_else(|| FrameError::Io(io::Error::new(io::ErrorKind::InvalidData, "not an entry of a stage stream")))?;
    piece.resize(length.next_multiple_of(BLOCK_BYTES), 0);
    reader.read_exact(piece)?;
    piece.truncate(length);
    Ok(Some(entry))
}

/// Parses a header; `None` for anything that a worker does not send.
fn parse_entry(block: &[u8; BLOCK_BYTES]) -> Option<(Entry, usize)> {
    let header = tar::Header::from_byte_slice(block);
    header.as_ustar()?;
    if !header.entry_type().is_file() || header.cksum().ok()? != checksum(block) {
        return None;
    }
    let length = usize::try_from(header.entry_size().ok()?).ok().filter(|&n| n <= MAX_PIECE_BYTES)?;
    let name = header.path_bytes();
    let mut parts = std::str::from_utf8(&name).ok()?.split('/');
    let gfid = Gfid::parse(parts.next()?.as_bytes()).ok()?;
    let what = match (parts.next()?, parts.next(), parts.next()) {
        ("end", Some(size), None) if length == 0 => What::End { size: parse_offset(size)? },
        (offset, None, None) => {
            let offset = parse_offset(offset)?;
            offset.checked_add(length as u64).filter(|&end| end <= i64::MAX as u64)?;
            What::Piece { offset }
        }
        _ => return None,
    };
    Some((Entry { gfid, what }, length))
}

/// Digits only, within what a file can have.
fn parse_offset(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    text.parse().ok().filter(|&n: &u64| digits && n <= i64::MAX as u64)
}

/// The checksum of a header: the sum of its bytes, with blanks for the field itself.
fn checksum(block: &[u8; BLOCK_BYTES]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|&b| u32::from(b)).sum::<u32>();
    sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..])
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
