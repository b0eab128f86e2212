//! Opening the index, and what is checked before it is believed.

use std::path::Path;
use std::time::{Duration, Instant};

use changelog::Gfid;

use super::RETRY_EVERY;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::index::{Index, Row, Stamp};
use crate::journal::now_secs;

/// How long an index that was just let go may still be in use.
const REOPEN_PATIENCE: Duration = Duration::from_secs(3);

/// Opens the index; one that cannot be opened is set aside, and the changelog and the crawl make a new one.
pub(super) fn open_index(path: &Path) -> Result<Index> {
    let patience_until = Instant::now() + REOPEN_PATIENCE;
    let opened = loop {
        match Index::open(path) {
            // Somebody is still being answered from it.
            Err(Error::Index(error))
                if matches!(*error, redb::Error::DatabaseAlreadyOpen) && Instant::now() < patience_until =>
            {
                std::thread::sleep(RETRY_EVERY);
            }
            other => break other,
        }
    };
    match opened {
        Ok(index) => Ok(index),
        Err(Error::Index(error)) if is_in_use_or_unreadable(&error) => Err(Error::Index(error)),
        Err(error) => {
            set_aside(path, &error.to_string())?;
            Index::open(path)
        }
    }
}

/// Moves an index out of the way; changelog and crawl make a new one.
pub(super) fn set_aside(path: &Path, reason: &str) -> Result<()> {
    let aside = path.with_extension(format!("damaged-{}", now_secs()));
    tracing::warn!(path = %path.display(), aside = %aside.display(), reason, "index set aside");
    std::fs::rename(path, &aside).map_err(Error::io("set aside", path))
}

/// Whether the file itself may be in order.
fn is_in_use_or_unreadable(error: &redb::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, UnexpectedEof};
    match error {
        redb::Error::DatabaseAlreadyOpen => true,
        // A file that is no database, or too short for one, is told in this way.
        redb::Error::Io(error) => !matches!(error.kind(), InvalidData | UnexpectedEof),
        _ => false,
    }
}

/// Refuses another directory than the one recorded before: an unmounted brick looks like an empty one.
pub(super) fn check_root(index: &Index, disk: &Disk) -> Result<()> {
    let root = disk.namer().root();
    let known = index.view()?.object(Gfid::ROOT)?.and_then(|row| row.handle);
    if known.as_ref().is_some_and(|known| known != root) {
        return Err(Error::Unsuitable(format!(
            "{} is not the directory that was recorded before: is its file system mounted? If it was replaced on \
             purpose, remove the state directory of the brick",
            disk.path().display()
        )));
    }
    if known.is_none() {
        let row =
            Row { kind: posix::Kind::Directory, owed: false, stamp: Stamp::default(), handle: Some(root.clone()) };
        index.edit(true, |edit| edit.put_object(Gfid::ROOT, &row))?;
    }
    Ok(())
}
