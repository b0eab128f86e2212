//! Writing files so that what returned is on the disk.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::error::{Error, Result};

/// A file that only grows, by whole pieces.
#[derive(Debug)]
pub(crate) struct AppendFile {
    pub(crate) path: PathBuf,
    file: File,
    len: u64,
}

impl AppendFile {
    /// Opens the file for writes that are durable when they return, and cuts it to `len`.
    pub(crate) fn open(path: &Path, len: u64) -> Result<AppendFile> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(OFlags::SYNC.bits().cast_signed())
            .open(path)
            .map_err(Error::io("open", path))?;
        let found = file.metadata().map_err(Error::io("stat", path))?.len();
        if found > len {
            file.set_len(len).map_err(Error::io("truncate", path))?;
        }
        Ok(AppendFile { path: path.to_owned(), file, len })
    }

    /// Appends; what an error leaves behind is overwritten by the next attempt.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, self.len).map_err(Error::io("append to", &self.path))?;
        self.len += bytes.len() as u64;
        Ok(())
    }
}

/// Writes, if the kernel goes along with one call; returns how much was written in any case.
pub(crate) fn write_all_at(file: &File, bytes: &[u8], at: u64, fail_after: Option<usize>) -> (usize, io::Result<()>) {
    let limit = fail_after.unwrap_or(bytes.len()).min(bytes.len());
    let mut written = 0;
    while written < limit {
        match file.write_at(&bytes[written..limit], at + written as u64) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(len) => written += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    if limit < bytes.len() { (written, Err(io::ErrorKind::StorageFull.into())) } else { (written, Ok(())) }
}

pub(crate) fn only_zeros(file: &File, from: u64, path: &Path) -> Result<bool> {
    let mut buffer = vec![0; 64 * 1024];
    let mut at = from;
    loop {
        let read = file.read_at(&mut buffer, at).map_err(Error::io("read", path))?;
        if read == 0 {
            return Ok(true);
        }
        if buffer[..read].iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        at += read as u64;
    }
}

/// Makes a directory and its parents, each durable in its own parent.
pub(crate) fn make_dirs(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_dirs(parent)?;
    }
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(Error::io("create", path)(error)),
    }
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", path))
}

/// Where a process may be killed. Tests stop here after so many steps.
pub(crate) fn step(path: &Path) -> Result<()> {
    #[cfg(test)]
    if stop::is_now() {
        return Err(Error::io("go on with", path)(io::ErrorKind::Interrupted.into()));
    }
    let _ = path;
    Ok(())
}

/// Stops writing after a number of steps, as a kill would.
#[cfg(test)]
pub(crate) mod stop {
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// After so many steps of this thread every further one fails.
    pub(crate) fn after(steps: Option<u64>) {
        LEFT.set(steps);
    }

    pub(super) fn is_now() -> bool {
        match LEFT.get() {
            None => false,
            Some(0) => true,
            Some(left) => {
                LEFT.set(Some(left - 1));
                false
            }
        }
    }
}
