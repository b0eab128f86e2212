//! One file as tar entries: a piece for each extent of data, the last of which says how long the file is.

use std::io::{self, Write};
use std::os::fd::AsFd;

use protocol::Object;
use protocol::stage::{End, MAX_PIECE_BYTES, Piece};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::engine::{Sent, SentState};
use crate::source::{Snapshot, Source};

/// Unit of tar: headers and the padding of contents.
const BLOCK: usize = 512;

/// A file of this size or less is one block on most file systems: it has a hole only where all of it is one, which shows
/// when it is read. It is not asked for its extents.
const ONE_BLOCK: u64 = 4096;

/// Reads a file and writes its entries. What happens to the file becomes [`Sent::state`]; the flag says whether
/// entries were written, so that an answer will come.
///
/// # Errors
/// What the channel says: it is broken then.
pub fn write_file(channel: &mut impl Write, source: &Source, buffer: &mut Vec<u8>) -> io::Result<(Sent, bool)> {
    let gfid = source.gfid;
    let unread = |state| Ok((Sent { gfid, state, bytes: 0 }, false));
    let before = match source.begin() {
        Ok(Some(before)) => before,
        Ok(None) => return unread(SentState::Busy),
        Err(e) => return unread(failed("looking at the file", &e)),
    };
    let mut file = File { channel, source, object: &before.object, buffer, bytes: 0, is_ended: false };
    let read = file.write_extents()?;
    if !file.is_ended {
        file.write_piece(before.object.size, 0)?;
    }
    let bytes = file.bytes;
    Ok((Sent { gfid, state: judge(source, before, read), bytes }, true))
}

/// Whether what was read is one state of the file.
fn judge(source: &Source, before: Snapshot, read: Result<(), Errno>) -> SentState {
    if let Err(errno) = read {
        return failed("reading the file", &errno.into());
    }
    match source.stood_still(&before) {
        Ok(true) => SentState::Staged { object: before.object, whole: false },
        Ok(false) => SentState::Busy,
        Err(e) => failed("looking at the file", &e),
    }
}

fn failed(doing: &str, error: &io::Error) -> SentState {
    SentState::Failed { errno: error.raw_os_error().unwrap_or(0), reason: format!("{doing}: {error}") }
}

/// A file on its way into a channel.
struct File<'a, C> {
    channel: &'a mut C,
    source: &'a Source,
    object: &'a Object,
    /// Room for a header and the content behind it.
    buffer: &'a mut Vec<u8>,
    /// Bytes of content written so far.
    bytes: u64,
    /// Whether the last piece is written.
    is_ended: bool,
}

impl<C: Write> File<'_, C> {
    /// Writes the data between the holes. The outer error is the channel's, the inner one the file's.
    fn write_extents(&mut self) -> io::Result<Result<(), Errno>> {
        let size = self.object.size;
        let mut offset = 0;
        while offset < size {
            let (start, end) = match self.next_extent(offset) {
                Ok(Some(extent)) => extent,
                Ok(None) => return Ok(Ok(())),
                Err(e) => return Ok(Err(e)),
            };
            offset = start;
            while offset < end {
                let wanted = usize::try_from(end - offset).unwrap_or(usize::MAX).min(MAX_PIECE_BYTES);
                self.buffer.resize(BLOCK + wanted, 0);
                let got = match rustix::io::pread(&self.source.fd, &mut self.buffer[BLOCK..], offset) {
                    Ok(0) => return Ok(Ok(())), // it became shorter: the caller sees that it did not stand still
                    Ok(got) => got,
                    Err(Errno::INTR) => continue,
                    Err(e) => return Ok(Err(e)),
                };
                if size <= ONE_BLOCK && self.buffer[BLOCK..BLOCK + got].iter().all(|&byte| byte == 0) {
                    return Ok(Ok(()));
                }
                self.write_piece(offset, got)?;
                offset += got as u64;
                self.bytes += got as u64;
            }
        }
        Ok(Ok(()))
    }

    /// Where data begins at or behind `offset`, and where it ends; `None` when there is none.
    fn next_extent(&self, offset: u64) -> Result<Option<(u64, u64)>, Errno> {
        let (fd, size) = (self.source.fd.as_fd(), self.object.size);
        if size <= ONE_BLOCK {
            return Ok(Some((offset, size)));
        }
        // Most files begin with data, and have no hole before their end: one question.
        if offset == 0 {
            match rustix::fs::seek(fd, SeekFrom::Hole(0)) {
                Ok(0) => {}
                Ok(end) => return Ok(Some((0, end.min(size)))),
                Err(_) => return Ok(Some((0, size))),
            }
        }
        let start = match rustix::fs::seek(fd, SeekFrom::Data(offset)) {
            Ok(start) if start < size => start,
            Ok(_) | Err(Errno::NXIO) => return Ok(None),
            Err(e) => return Err(e),
        };
        let end = rustix::fs::seek(fd, SeekFrom::Hole(start)).unwrap_or(size).min(size);
        Ok(Some((start, end)))
    }

    /// Writes one entry whose content of so many bytes is in the buffer behind room for the header.
    fn write_piece(&mut self, offset: u64, length: usize) -> io::Result<()> {
        let Object { mode, uid, gid, size, mtime, .. } = *self.object;
        self.is_ended = offset + length as u64 >= size;
        let end = self.is_ended.then_some(End { size, mtime_nanos: mtime.nanos });
        let mut header = tar::Header::new_ustar();
        header.set_path(Piece { gfid: self.source.gfid, offset, end }.to_name())?;
        header.set_size(length as u64);
        header.set_mode(mode);
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        // A time before 1970 has no place here; the agent sets it when it hears of it otherwise.
        header.set_mtime(u64::try_from(mtime.secs).unwrap_or(0));
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        self.buffer.resize(BLOCK + length.next_multiple_of(BLOCK), 0);
        self.buffer[BLOCK + length..].fill(0);
        self.buffer[..BLOCK].copy_from_slice(header.as_bytes());
        self.channel.write_all(self.buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File as DiskFile;
    use std::io::Read;
    use std::os::unix::fs::FileExt;

    use protocol::Gfid;

    use super::*;

    #[test]
    fn a_sparse_file_costs_its_data() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = DiskFile::create(&path).unwrap();
        file.write_all_at(&[7; 5000], 1 << 30).unwrap();
        file.set_len(1 << 31).unwrap();
        drop(file);
        let gfid = Gfid([9; 16]);
        let source = Source { gfid, fd: DiskFile::open(&path).unwrap().into(), accept_unstable: false };
        let mut stream = Vec::new();
        let (sent, written) = write_file(&mut stream, &source, &mut Vec::new()).unwrap();
        assert!(written);
        assert!(matches!(sent.state, SentState::Staged { object: ref o, .. } if o.size == 1 << 31), "{sent:?}");
        assert!(stream.len() < 64 << 10, "{} bytes for 5,000 bytes of data", stream.len());

        let mut archive = tar::Archive::new(stream.as_slice());
        let mut names = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            names.push(entry.path().unwrap().to_str().unwrap().to_owned());
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            assert_eq!(content.len() as u64, entry.header().size().unwrap());
        }
        assert!(names.iter().all(|n| n.starts_with(&format!("{gfid}/"))));
        let last = Piece::parse(names.last().unwrap().as_bytes()).unwrap();
        assert_eq!(last.end.unwrap().size, 1 << 31);
    }

    fn sent(content: &[u8]) -> Vec<(Piece, Vec<u8>, u32, u64)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, content).unwrap();
        let source = Source { gfid: Gfid([9; 16]), fd: DiskFile::open(&path).unwrap().into(), accept_unstable: false };
        let mut stream = Vec::new();
        let (sent, written) = write_file(&mut stream, &source, &mut vec![1; 5000]).unwrap();
        assert!(written && matches!(sent.state, SentState::Staged { .. }), "{sent:?}");
        let mut archive = tar::Archive::new(stream.as_slice());
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let piece = Piece::parse(&entry.path_bytes()).unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (piece, content, entry.header().mode().unwrap(), entry.header().mtime().unwrap())
        });
        entries.collect()
    }

    #[test]
    fn a_small_file_is_one_entry_with_its_attributes() {
        for content in [&b"content"[..], &[7; 4096], &[7; 5000], &[0; 5000]] {
            let [(piece, found, mode, mtime)] = &sent(content)[..] else { panic!("not one entry") };
            assert_eq!((piece.offset, &found[..], mode & 0o600), (0, content, 0o600));
            assert_eq!(piece.end.unwrap().size, content.len() as u64);
            assert!(*mtime > 1_600_000_000, "{mtime}");
        }
    }

    #[test]
    fn nothing_and_a_block_of_zeros_are_their_end_only() {
        for content in [&b""[..], &[0; 4096]] {
            let [(piece, found, ..)] = &sent(content)[..] else { panic!("not one entry") };
            let size = content.len() as u64;
            assert_eq!((piece.offset, found.len(), piece.end.unwrap().size), (size, 0, size));
        }
    }

    #[test]
    fn a_file_with_a_writer_is_busy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let _writer = DiskFile::create(&path).unwrap();
        let fd = DiskFile::open(&path).unwrap().into();
        let source = Source { gfid: Gfid([9; 16]), fd, accept_unstable: false };
        let mut stream = Vec::new();
        let (sent, written) = write_file(&mut stream, &source, &mut Vec::new()).unwrap();
        assert!(!written && matches!(sent.state, SentState::Busy));
        assert!(stream.is_empty());
    }
}
