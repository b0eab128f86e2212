//! The hash of a file's content.
//!
//! A hole reads as zeros, so it is not read: the hash is made of the blocks that are not all zeros, each with its
//! offset, and of the size. It depends on the content alone, not on where a file has holes and where it has zeros.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::value::Digest;

/// How much is read at a time.
pub(crate) const BUFFER_BYTES: usize = 256 << 10;

/// Unit of comparison with zeros: no larger than a block of a file system, so that a hole is found in zeros, too.
const BLOCK_BYTES: usize = 4096;

/// Reads a regular file, given as `O_PATH`, to its end: hash and number of bytes.
pub(crate) fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(Digest, u64)> {
    let file = open(fd)?;
    let mut content = Content::default();
    let mut offset = 0;
    while let Some(start) = data_from(&file, offset)? {
        // What is before the data in its block is zeros.
        offset = start - start % BLOCK_BYTES as u64;
        let length = fill(&file, buffer, offset)?;
        content.add(offset, &buffer[..length]);
        offset += length as u64;
        if length < buffer.len() {
            break;
        }
    }
    let end = rustix::fs::fstat(&file)?.st_size;
    Ok(content.finish(offset.max(u64::try_from(end).unwrap_or(0))))
}

/// The hash in the making.
#[derive(Default)]
struct Content(blake3::Hasher);

impl Content {
    /// Adds what is at an offset that begins a block.
    fn add(&mut self, offset: u64, bytes: &[u8]) {
        for (number, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
            if block.iter().any(|&byte| byte != 0) {
                self.0.update(&(offset + (number * BLOCK_BYTES) as u64).to_le_bytes());
                self.0.update(block);
            }
        }
    }

    fn finish(mut self, size: u64) -> (Digest, u64) {
        self.0.update(&size.to_le_bytes());
        (Digest(*self.0.finalize().as_bytes()), size)
    }
}

/// Where the next data begins at or behind an offset; `None` when there is none. Where nobody knows, everything is.
fn data_from(file: &OwnedFd, offset: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(start) => Ok(Some(start)),
        Err(Errno::NXIO) => Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(offset)),
        Err(e) => Err(e.into()),
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &OwnedFd, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match rustix::io::pread(file.as_fd(), &mut buffer[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(length)
}

fn open(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let path = posix::fd_path(fd);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    // Looking leaves no trace where that is allowed: only to the owner and to root.
    match rustix::fs::openat(CWD, path.as_str(), flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(CWD, path.as_str(), flags, Mode::empty()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    fn hash(fill: impl FnOnce(&File)) -> (Digest, u64) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fill(file.as_file());
        read(File::open(file.path()).unwrap().as_fd(), &mut vec![0; BUFFER_BYTES]).unwrap()
    }

    #[test]
    fn holes_and_zeros_are_the_same_and_everything_else_is_not() {
        let size = 3 * BUFFER_BYTES as u64 + 5;
        let write = |file: &File, offset: u64| file.write_all_at(b"data", offset).unwrap();
        for offset in [0, 4094, BUFFER_BYTES as u64 - 2, size - 4] {
            let sparse = hash(|file| {
                file.set_len(size).unwrap();
                write(file, offset);
            });
            let zeros = hash(|file| {
                file.write_all_at(&vec![0; size as usize], 0).unwrap();
                write(file, offset);
            });
            assert_eq!(sparse, zeros, "at {offset}");
            assert_eq!(sparse.1, size);
            let others = [
                hash(|file| file.set_len(size).unwrap()),
                hash(|file| {
                    file.set_len(size + 1).unwrap();
                    write(file, offset);
                }),
                hash(|file| {
                    file.set_len(size).unwrap();
                    write(file, (offset + 4096) % (size - 4));
                }),
            ];
            assert!(others.iter().all(|other| other.0 != sparse.0), "at {offset}");
        }
    }

    #[test]
    fn a_terabyte_of_holes_is_not_read() {
        let (_, size) = hash(|file| {
            file.set_len(1 << 40).unwrap();
            file.write_all_at(b"data", 1 << 39).unwrap();
        });
        assert_eq!(size, 1 << 40);
    }
}
