//! One file as tar entries: a piece for each extent of data, then its end.

use std::io::{self, Write};
use std::os::fd::AsFd;

use protocol::stage::MAX_PIECE_BYTES;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::engine::{Sent, SentState};
use crate::source::{Snapshot, Source};

/// Unit of tar: headers and the padding of contents.
const BLOCK: usize = 512;

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
    let mut bytes = 0;
    let read = write_extents(channel, source, before.object.size, buffer, &mut bytes)?;
    write_entry(channel, &format!("{gfid}/end/{}", before.object.size), 0, buffer)?;
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

/// Writes the data between the holes. The outer error is the channel's, the inner one the file's.
fn write_extents(
    channel: &mut impl Write,
    source: &Source,
    size: u64,
    buffer: &mut Vec<u8>,
    bytes: &mut u64,
) -> io::Result<Result<(), Errno>> {
    let mut offset = 0;
    while offset < size {
        let start = match rustix::fs::seek(source.fd.as_fd(), SeekFrom::Data(offset)) {
            Ok(start) if start < size => start,
            Ok(_) | Err(Errno::NXIO) => return Ok(Ok(())),
            Err(Errno::INVAL) => offset,
            Err(e) => return Ok(Err(e)),
        };
        let end = rustix::fs::seek(source.fd.as_fd(), SeekFrom::Hole(start)).unwrap_or(size).min(size);
        offset = start;
        while offset < end {
            let wanted = usize::try_from(end - offset).unwrap_or(usize::MAX).min(MAX_PIECE_BYTES);
            buffer.resize(BLOCK + wanted, 0);
            let got = match rustix::io::pread(source.fd.as_fd(), &mut buffer[BLOCK..], offset) {
                Ok(0) => return Ok(Ok(())), // it became shorter: the caller sees that it did not stand still
                Ok(got) => got,
                Err(Errno::INTR) => continue,
                Err(e) => return Ok(Err(e)),
            };
            buffer.truncate(BLOCK + got);
            write_entry(channel, &format!("{}/{offset}", source.gfid), got, buffer)?;
            offset += got as u64;
            *bytes += got as u64;
        }
    }
    Ok(Ok(()))
}

/// Writes one entry whose content is in `buffer` behind room for the header.
fn write_entry(channel: &mut impl Write, name: &str, size: usize, buffer: &mut Vec<u8>) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(size as u64);
    header.set_mode(0o600);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    buffer.resize(BLOCK + size.next_multiple_of(BLOCK), 0);
    buffer[BLOCK + size..].fill(0);
    buffer[..BLOCK].copy_from_slice(header.as_bytes());
    channel.write_all(buffer)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::unix::fs::FileExt;

    use protocol::Gfid;

    use super::*;

    #[test]
    fn a_sparse_file_costs_its_data() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = File::create(&path).unwrap();
        file.write_all_at(&[7; 5000], 1 << 30).unwrap();
        file.set_len(1 << 31).unwrap();
        drop(file);
        let gfid = Gfid([9; 16]);
        let source = Source { gfid, fd: File::open(&path).unwrap().into(), accept_unstable: false };
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
        assert_eq!(names.last().unwrap(), &format!("{gfid}/end/{}", 1u64 << 31));
    }

    #[test]
    fn a_file_with_a_writer_is_busy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let _writer = File::create(&path).unwrap();
        let fd = File::open(&path).unwrap().into();
        let source = Source { gfid: Gfid([9; 16]), fd, accept_unstable: false };
        let mut stream = Vec::new();
        let (sent, written) = write_file(&mut stream, &source, &mut Vec::new()).unwrap();
        assert!(!written && matches!(sent.state, SentState::Busy));
        assert!(stream.is_empty());
    }
}
