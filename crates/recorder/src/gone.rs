//! Whether an object that cannot be opened by its handle is gone.
//!
//! The kernel answers an inode that cannot be read, and one that was removed, with the same ESTALE. A look at the name
//! tells them apart.

use changelog::Gfid;

use crate::disk::{DirCache, Disk};
use crate::error::{Error, Result};
use crate::index::View;

/// Names of one object that are looked at.
const NAMES_MAX: usize = 256;

/// Whether nothing is left of an object at its names.
///
/// # Errors
/// What system or index say.
pub fn is_gone(view: &View, disk: &Disk, dirs: &mut DirCache, gfid: Gfid) -> Result<bool> {
    if gfid == Gfid::ROOT {
        return Ok(false);
    }
    for slot in view.names(gfid, NAMES_MAX)? {
        let Some(dir) = view.object(slot.parent)?.and_then(|row| row.handle) else { continue };
        match dirs.look(disk, &slot, &dir).map_err(Error::io("look into", disk.path()))? {
            Some((_, seen)) if seen.gfid == gfid => return Ok(false),
            Some(_) => {}
            None if dirs.is_stale(slot.parent) && !is_gone(view, disk, dirs, slot.parent)? => return Ok(false),
            None => {}
        }
    }
    Ok(true)
}
