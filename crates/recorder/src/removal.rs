//! A directory left the brick, or was removed while it had entries in the index: what was below it goes, step by step.

use std::os::fd::{AsFd, OwnedFd};

use changelog::Gfid;
use rustix::fs::OFlags;

use crate::disk::{Disk, Whereabouts};
use crate::error::{Error, Result};
use crate::index::{Row, View};
use crate::plan::Op;
use crate::slot::Slot;

/// Entries read at once.
const CHILDREN_MAX: usize = 512;

/// What one step found.
#[derive(Debug, Default)]
pub struct RemovalStep {
    /// What goes, children first.
    pub ops: Vec<Op>,
    /// Places of objects that are alive somewhere else.
    pub parked: Vec<Slot>,
    /// The directory is in the brick after all: where it is, and where the index has it. Both are to be looked at, as
    /// it may be moved once more before that.
    pub back: Vec<Slot>,
    /// The directory itself is among the operations, or was gone.
    pub done: bool,
}

struct Frame {
    dir: Gfid,
    slot: Slot,
    /// Open where the directory still exists, outside of the brick.
    fd: Option<OwnedFd>,
    after: Option<Box<[u8]>>,
}

/// Works out the next at most `max` operations.
///
/// # Errors
/// What system or index say.
pub fn removal_step(view: &View, disk: &Disk, dir: Gfid, max: usize) -> Result<RemovalStep> {
    let mut step = RemovalStep::default();
    let (Some(row), Some(slot)) = (view.object(dir)?, view.names(dir, 1)?.pop()) else {
        step.done = true;
        return Ok(step);
    };
    if let Some(back) = place_in_brick(view, disk, &row)? {
        step.back = vec![back, slot];
        step.done = true;
        return Ok(step);
    }
    let mut stack = vec![Frame { dir, slot, fd: open(disk, &row)?, after: None }];
    while let Some(frame) = stack.last_mut() {
        let children = view.children(frame.dir, frame.after.as_deref(), CHILDREN_MAX)?;
        let mut below = None;
        for (slot, child) in &children {
            if step.ops.len() >= max {
                return Ok(step);
            }
            frame.after = Some(slot.name.clone());
            let row = view.object(*child)?;
            let is_dir = row.as_ref().is_some_and(Row::is_dir);
            let leaves = (!is_dir && view.names(*child, 2)?.len() > 1) || leaves_with(disk, frame, slot, row.as_ref())?;
            match (leaves, is_dir) {
                (true, true) => {
                    let fd = row.as_ref().map(|row| open(disk, row)).transpose()?.flatten();
                    below = Some(Frame { dir: *child, slot: slot.clone(), fd, after: None });
                    break;
                }
                (true, false) => step.ops.push(Op::Unlink(*child, slot.clone())),
                (false, _) => {
                    step.parked.push(Slot::parking(*child));
                    step.ops.push(Op::Rename(*child, slot.clone(), Slot::parking(*child)));
                }
            }
        }
        match below {
            Some(frame) => stack.push(frame),
            None if children.is_empty() => {
                step.ops.extend(stack.pop().map(|frame| Op::Rmdir(frame.dir, frame.slot)));
            }
            None => {}
        }
    }
    step.done = true;
    Ok(step)
}

fn open(disk: &Disk, row: &Row) -> Result<Option<OwnedFd>> {
    let Some(handle) = &row.handle else { return Ok(None) };
    disk.open_handle(handle, OFlags::PATH | OFlags::DIRECTORY).map_err(Error::io("look into", disk.path()))
}

/// Whether a child goes with its directory: it does not exist any more, or it is still in there.
fn leaves_with(disk: &Disk, frame: &Frame, slot: &Slot, row: Option<&Row>) -> Result<bool> {
    let Some(handle) = row.and_then(|row| row.handle.as_ref()) else { return Ok(true) };
    if let Some(fd) = &frame.fd {
        let found = disk.look_in(fd.as_fd(), &slot.name).map_err(Error::io("look into", disk.path()))?;
        if found.is_some_and(|(_, seen)| seen.handle == *handle) {
            return Ok(true);
        }
    }
    Ok(disk.look_at(handle).map_err(Error::io("look into", disk.path()))?.is_none())
}

fn place_in_brick(view: &View, disk: &Disk, row: &Row) -> Result<Option<Slot>> {
    let Some(handle) = &row.handle else { return Ok(None) };
    match disk.locate(handle).map_err(Error::io("look into", disk.path()))? {
        Whereabouts::Maybe(dir, name) => {
            let parent = disk.namer().gfid(&dir);
            Ok(view.object(parent)?.filter(Row::is_dir).map(|_| Slot { parent, name }))
        }
        _ => Ok(None),
    }
}
