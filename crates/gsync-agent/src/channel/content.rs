//! A stage channel: a tar stream of pieces of files, written into the stage.

use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use posix::{Time, beneath};
use protocol::hello::{MAGIC, Versions};
use protocol::stage::{MAX_PIECE_BYTES, Piece, StageHello, StageReady, Staged};
use protocol::{FrameError, Gfid, encode, read_frame, write_frame};
use rustix::fs::{Gid, Mode, OFlags, Timespec, Timestamps, Uid};

use super::{ChannelReader, ChannelWriter, Ends, Stopper, WRITE_BYTES, read_magic};
use crate::stage::{Attributes, Stage, Stages};
use crate::stamp;

/// A tar block.
const BLOCK_BYTES: usize = 512;

/// What is read from the channel at a time.
const READ_BYTES: usize = 256 << 10;

/// What a channel may hold: the most that a process may ask for by default.
const PIPE_BYTES: usize = 1 << 20;

/// From this length on the rest of a piece goes from the channel to its file without us.
const SPLICE_BYTES: u64 = 128 << 10;

/// Serves one stage channel until it ends.
///
/// # Errors
/// [`FrameError`] when the channel broke or the stream is not one of ours.
pub fn run(ends: &Arc<Ends>, stopper: Stopper, stages: &Stages) -> Result<(), FrameError> {
    let mut writer = ChannelWriter(ends.clone());
    let channel = ChannelReader(ends.clone());
    channel.widen(PIPE_BYTES);
    let mut reader = BufReader::with_capacity(READ_BYTES, channel);
    writer.write_all(&MAGIC)?;
    read_magic(&mut reader)?;
    let hello: StageHello = read_frame(&mut reader)?;
    let stage = stages.get(&hello.token).filter(|_| hello.versions.common(&Versions::ours()).is_some());
    let Some(stage) = stage.filter(|stage| stage.add_channel(stopper)) else {
        return write_frame(&mut writer, &StageReady::Refused);
    };
    write_frame(&mut writer, &StageReady::Ready)?;
    let answers = BufWriter::with_capacity(WRITE_BYTES, writer);
    receive(&mut Stream { reader, answers }, &stage)
}

/// Writes what a tar stream brings into a stage.
fn receive(stream: &mut Stream, stage: &Arc<Stage>) -> Result<(), FrameError> {
    let mut file: Option<Receiving> = None;
    while let Some(Entry { piece, length, attributes }) = stream.entry()? {
        let Piece { gfid, offset, end } = piece;
        let mut current = match file.take() {
            Some(current) if current.gfid == gfid => current,
            // A file that is not ended is given up: what was written of it goes with the value.
            _ => Receiving::start(stage, gfid, attributes.mode),
        };
        stream.content(length, offset, &mut current)?;
        match end {
            None => file = Some(current),
            Some(end) => {
                let mtime = Time { nanos: end.mtime_nanos, ..attributes.mtime };
                let errno = current.finish(end.size, Attributes { mtime, ..attributes });
                stream.answers.write_all(&encode(&Staged { gfid, errno })?)?;
            }
        }
    }
    Ok(stream.answers.flush()?)
}

/// A file on its way.
struct Receiving {
    stage: Arc<Stage>,
    gfid: Gfid,
    number: u64,
    /// The open file, or why the rest is thrown away.
    file: Result<OwnedFd, i32>,
    /// Behind what is written.
    written_end: u64,
    /// Whether the kernel may carry content into it, until it turns out that it cannot.
    can_splice: bool,
    is_complete: bool,
}

impl Receiving {
    fn start(stage: &Arc<Stage>, gfid: Gfid, mode: u32) -> Receiving {
        let number = stage.next_number();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        // The directory lets nobody in, so the file may have its own permissions from the beginning.
        let mode = Mode::from_raw_mode(mode & 0o777);
        let file = beneath::open_file(stage.dir.as_fd(), number.to_string().as_bytes(), flags, mode);
        let file = file.map_err(|e| errno_of(&e));
        Receiving { stage: stage.clone(), gfid, number, file, written_end: 0, can_splice: true, is_complete: false }
    }

    /// Begins a hole that ends at `offset`, in a file that will have this size at least. XFS allocates in advance behind
    /// a file that grows by writing: that is given back before it would become a part of the hole.
    fn leave_hole(&mut self, offset: u64, size: u64) {
        if let Ok(file) = &self.file
            && offset > self.written_end
        {
            let resized = match self.written_end {
                0 => Ok(()),
                end => rustix::fs::ftruncate(file, end),
            };
            if let Err(e) = resized.and_then(|()| rustix::fs::ftruncate(file, size)) {
                self.give_up(e.raw_os_error());
            }
        }
    }

    fn write(&mut self, mut bytes: &[u8], mut offset: u64) {
        self.leave_hole(offset, offset + bytes.len() as u64);
        self.written_end = self.written_end.max(offset + bytes.len() as u64);
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

    /// Has content carried past us into the file; 0 when that cannot be done: it is to be read then.
    fn splice(&mut self, channel: &ChannelReader, offset: u64, most: u64) -> io::Result<u64> {
        self.leave_hole(offset, offset + most);
        // Of a file that is given up the content is read and thrown away.
        let (Ok(file), true) = (&self.file, self.can_splice) else { return Ok(0) };
        match channel.splice(file, offset, usize::try_from(most).unwrap_or(usize::MAX)) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(spliced) => {
                self.written_end = self.written_end.max(offset + spliced as u64);
                Ok(spliced as u64)
            }
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => Err(e),
            // What it was the next write says.
            Err(_) => {
                self.can_splice = false;
                Ok(0)
            }
        }
    }

    /// Ends the file; 0 or the error that it ended with.
    fn finish(mut self, size: u64, attributes: Attributes) -> i32 {
        self.leave_hole(size, size);
        if let Ok(file) = &self.file {
            let dressed = dress(file, self.gfid, size, &attributes);
            match dressed.and_then(|()| self.stage.complete(self.gfid, self.number, attributes)) {
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
        self.stage.remove_numbered(self.number);
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if !self.is_complete {
            self.stage.remove_numbered(self.number);
        }
    }
}

/// Gives a new file its size, attributes and stamp, with no more calls than it takes: most files are root's, and got
/// their mode when they were made.
fn dress(file: &OwnedFd, gfid: Gfid, size: u64, attributes: &Attributes) -> io::Result<()> {
    let Attributes { mode, uid, gid, mtime } = *attributes;
    let stat = rustix::fs::fstat(file)?;
    if u64::try_from(stat.st_size) != Ok(size) {
        rustix::fs::ftruncate(file, size)?;
    }
    // Before the mode: chown takes setuid and setgid away.
    if (stat.st_uid, stat.st_gid) != (uid, gid) {
        rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    if stat.st_mode & 0o7777 != mode {
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
    }
    stamp::set(file.as_fd(), gfid)?;
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.secs, tv_nsec: i64::from(mtime.nanos) },
    };
    Ok(rustix::fs::futimens(file, &times)?)
}

/// Both directions of the stream. Answers are gathered, and written before anything is waited for.
struct Stream {
    reader: BufReader<ChannelReader>,
    answers: BufWriter<ChannelWriter>,
}

/// One entry of the stream; its content follows.
struct Entry {
    piece: Piece,
    length: u64,
    /// Of the file, without the nanoseconds of its mtime.
    attributes: Attributes,
}

impl Stream {
    /// What can be read now; empty at the end.
    fn fill(&mut self) -> io::Result<&[u8]> {
        if self.reader.buffer().is_empty() {
            self.answers.flush()?;
        }
        loop {
            // A second call, because a slice that is returned from a loop stays borrowed in it.
            match self.reader.fill_buf() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
                Ok(_) => return self.reader.fill_buf(),
            }
        }
    }

    /// Reads a header; `None` at the end of the stream.
    fn entry(&mut self) -> Result<Option<Entry>, FrameError> {
        let mut block = [0u8; BLOCK_BYTES];
        let mut have = 0;
        while have < BLOCK_BYTES {
            let some = self.fill()?;
            let taken = some.len().min(BLOCK_BYTES - have);
            block[have..have + taken].copy_from_slice(&some[..taken]);
            match (taken, have) {
                (0, 0) => return Ok(None),
                (0, _) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                _ => {}
            }
            self.reader.consume(taken);
            have += taken;
        }
        if block == [0; BLOCK_BYTES] {
            return Ok(None);
        }
        let not_ours = || io::Error::new(io::ErrorKind::InvalidData, "not an entry of a stage stream");
        Ok(Some(parse_entry(&block).ok_or_else(not_ours)?))
    }

    /// Writes the content of an entry to its place.
    fn content(&mut self, length: u64, offset: u64, file: &mut Receiving) -> io::Result<()> {
        let padded = length.next_multiple_of(BLOCK_BYTES as u64);
        let mut done = 0;
        while done < padded {
            let left = length.saturating_sub(done);
            if left >= SPLICE_BYTES && self.reader.buffer().is_empty() {
                self.answers.flush()?;
                let spliced = file.splice(self.reader.get_ref(), offset + done, left)?;
                done += spliced;
                if spliced > 0 {
                    continue;
                }
            }
            let some = self.fill()?;
            if some.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let taken = some.len().min(usize::try_from(padded - done).unwrap_or(usize::MAX));
            let content = usize::try_from(left).unwrap_or(usize::MAX).min(taken);
            if content > 0 {
                file.write(&some[..content], offset + done);
            }
            self.reader.consume(taken);
            done += taken as u64;
        }
        Ok(())
    }
}

/// Parses a header; `None` for anything that a worker does not send.
fn parse_entry(block: &[u8; BLOCK_BYTES]) -> Option<Entry> {
    let header = tar::Header::from_byte_slice(block);
    header.as_ustar()?;
    if !header.entry_type().is_file() || header.cksum().ok()? != checksum(block) {
        return None;
    }
    let length = header.entry_size().ok().filter(|&n| n <= MAX_PIECE_BYTES as u64)?;
    let piece = Piece::parse(&header.path_bytes())?;
    let content_end = piece.offset.checked_add(length).filter(|&end| end <= i64::MAX as u64)?;
    if piece.end.is_some_and(|end| end.size < content_end) {
        return None;
    }
    let attributes = Attributes {
        mode: header.mode().ok()? & 0o7777,
        uid: u32::try_from(header.uid().ok()?).ok()?,
        gid: u32::try_from(header.gid().ok()?).ok()?,
        mtime: Time { secs: i64::try_from(header.mtime().ok()?).ok()?, nanos: 0 },
    };
    Some(Entry { piece, length, attributes })
}

/// The checksum of a header: the sum of its bytes, with blanks for the field itself.
fn checksum(block: &[u8; BLOCK_BYTES]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|&b| u32::from(b)).sum::<u32>();
    sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..])
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
