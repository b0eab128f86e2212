//! Starting points for rsync: the present content of a file, in the stage.

use std::os::fd::{AsFd, OwnedFd};
use std::time::SystemTime;

use posix::{Kind, Object, Time, beneath};
use protocol::Gfid;
use rustix::fs::{AtFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::Staging;
use crate::error::{IndexError, Step, Tried, Trouble};
use crate::index::Row;
use crate::stamp;
use crate::tree::Tree;

/// The largest file that is copied where the file system does not clone; a larger one is patched in place: a copy of
/// it would cost more than the readers' view of it is worth, and twice its space.
pub const MAX_COPY_BYTES: u64 = 64 << 20;

/// The most objects in one request; more than that are not looked at.
pub const MAX_PREPARE: usize = protocol::agent::MAX_BATCH_ITEMS;

/// Whether there is a basis for each of the objects now.
///
/// # Errors
/// [`IndexError`]; what the system refuses is an object without basis.
pub fn prepare(tree: &mut Tree, staging: &Staging, gfids: &[Gfid]) -> Result<Vec<bool>, IndexError> {
    let mut prepared = Vec::with_capacity(gfids.len().min(MAX_PREPARE));
    let in_place_before = tree.in_place.len();
    for &gfid in gfids.iter().take(MAX_PREPARE) {
        prepared.push(match one(tree, staging, gfid) {
            Ok(found) => found,
            Err(Trouble::Index(error)) => return Err(error),
            Err(Trouble::Answer(outcome)) => {
                tracing::debug!(%gfid, ?outcome, "no basis for rsync");
                staging.stage.discard(gfid);
                false
            }
        });
    }
    if tree.in_place.len() != in_place_before
        && let Err(Trouble::Index(error)) = tree.sync()
    {
        return Err(error);
    }
    Ok(prepared)
}

fn one(tree: &mut Tree, staging: &Staging, gfid: Gfid) -> Step<bool> {
    staging.stage.discard(gfid);
    let Some(spot) = tree.find(gfid, |_| true)? else { return Ok(false) };
    if tree.stat(&spot)?.0.kind != Kind::File {
        return Ok(false);
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let live = beneath::open_file(spot.dir.as_fd(), &spot.name, flags, Mode::empty()).tried("open a file")?;
    if stamp::of(live.as_fd()).tried("read a stamp")? != Some(gfid) {
        return Ok(false);
    }
    let size = Object::read_stat(live.as_fd()).tried("stat")?.size;
    let basis = staging.stage.spot(gfid);
    let create = || {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        beneath::open_file(basis.dir.as_fd(), &basis.name, flags, Mode::RUSR | Mode::WUSR).tried("make a basis")
    };
    if tree.can_clone {
        let copy = create()?;
        if rustix::fs::ioctl_ficlone(&copy, &live).is_ok() {
            return Ok(true);
        }
        staging.stage.discard(gfid);
    }
    if size <= MAX_COPY_BYTES {
        copy_sparse(&live, &create()?, size).tried("copy a basis")?;
        return Ok(true);
    }
    patch_in_place(tree, staging, gfid, &live)
}

/// Lets rsync work on the file itself. From now on nobody knows what is in it, also after a crash: its version is
/// forgotten (made durable by [`prepare`]), and its mtime is one that no complete file has.
fn patch_in_place(tree: &mut Tree, staging: &Staging, gfid: Gfid, live: &OwnedFd) -> Step<bool> {
    let row = tree.index.get(gfid)?.unwrap_or(Row::new(Kind::File));
    tree.index.put(gfid, &Row { version: None, ..row })?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = Time { secs: now.as_secs() as i64, nanos: now.subsec_nanos() };
    posix::object::set_mtime(live.as_fd(), now).tried("set the mtime")?;
    let basis = staging.stage.spot(gfid);
    rustix::fs::linkat(rustix::fs::CWD, posix::fd_path(live.as_fd()), &basis.dir, basis.name, AtFlags::SYMLINK_FOLLOW)
        .tried("link a basis")?;
    tree.in_place.insert(gfid, staging.stage.token.clone());
    Ok(true)
}

/// Copies content, leaving holes out.
fn copy_sparse(from: &OwnedFd, to: &OwnedFd, size: u64) -> rustix::io::Result<()> {
    rustix::fs::ftruncate(to, size)?;
    let mut end = 0;
    while end < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(end)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e),
        };
        end = rustix::fs::seek(from, SeekFrom::Hole(start))?;
        let (mut read_at, mut write_at) = (start, start);
        while read_at < end {
            let length = usize::try_from(end - read_at).unwrap_or(usize::MAX);
            if rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), length)? == 0 {
                break;
            }
        }
    }
    Ok(())
}
