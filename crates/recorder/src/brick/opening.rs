//! Opening the index, and what is checked before it is believed.

use std::path::Path;
use std::time::{Duration, Instant};

use changelog::Gfid;

use super::{BATCH_MAX, RETRY_EVERY};
use crate::disk::{Disk, PRIVATE_NAME};
use crate::error::{Error, Result};
use crate::identity::Admitted;
use crate::index::{Index, Row, Stamp};
use crate::journal::now_secs;

/// How long an index that was just let go may still be in use.
const REOPEN_PATIENCE: Duration = Duration::from_secs(3);

/// Entries of an empty root.
const NOT_COUNTED: [&[u8]; 4] = [b".", b"..", PRIVATE_NAME, b"lost+found"];

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

/// Puts the root into a new index. Of a brick that took the place of another one, the index keeps which names there
/// were, so that they are found to be gone, but no handles: what has them now is something else.
pub(super) fn settle_root(index: &Index, disk: &Disk, admitted: &Admitted) -> Result<()> {
    let root = disk.namer().root();
    if admitted.replaced {
        forget_handles(index)?;
    }
    if index.view()?.object(Gfid::ROOT)?.and_then(|row| row.handle).as_ref() != Some(root) {
        let (kind, handle) = (posix::Kind::Directory, Some(root.clone()));
        let row = Row { kind, owed: false, doubted: false, stamp: Stamp::default(), handle };
        index.edit(true, |edit| edit.put_object(Gfid::ROOT, &row))?;
    }
    admitted.settle()
}

fn forget_handles(index: &Index) -> Result<()> {
    let view = index.view()?;
    let mut after = None;
    loop {
        let rows = view.objects_behind(after, BATCH_MAX)?;
        after = rows.last().map(|(gfid, _)| *gfid);
        let done = rows.len() < BATCH_MAX;
        index.edit(done, |edit| {
            rows.into_iter().try_for_each(|(gfid, row)| {
                let owed = row.kind == posix::Kind::File;
                edit.put_object(gfid, &Row { owed, stamp: Stamp::default(), handle: None, ..row })
            })
        })?;
        if done {
            return Ok(());
        }
    }
}

/// Refuses a brick in whose root nothing is although something was. That everything was removed while nobody watched is
/// less likely than a mistake.
pub(super) fn check_not_emptied(index: &Index, disk: &Disk) -> Result<()> {
    if !was_emptied(index, disk)? {
        return Ok(());
    }
    let objects = index.view()?.objects()?.saturating_sub(1);
    Err(Error::needs_consent(disk.path(), &format!("empty, but {objects} objects were recorded in it.")))
}

fn was_emptied(index: &Index, disk: &Disk) -> Result<bool> {
    let view = index.view()?;
    // More than can be left out.
    let known = view.children(Gfid::ROOT, None, NOT_COUNTED.len() + 1)?;
    if known.iter().all(|(slot, _)| NOT_COUNTED.contains(&&*slot.name)) {
        return Ok(false);
    }
    let failed = || Error::io("list", disk.path());
    for entry in rustix::fs::Dir::read_from(disk.root()).map_err(|errno| failed()(errno.into()))? {
        let entry = entry.map_err(|errno| failed()(errno.into()))?;
        if !NOT_COUNTED.contains(&entry.file_name().to_bytes()) {
            return Ok(false);
        }
    }
    Ok(true)
}
