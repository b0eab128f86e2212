//! Where our own journal begins after older slices were removed.
//!
//! The file `BEGINS` beside the open slice has one line, `<ts>\n`: everything up to `ts` may be missing. It is replaced
//! by rename, and durable before the first slice goes. A position before it is told that it needs a look at the brick
//! itself. Without the file the journal begins where its index does.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::disk::{step, sync_dir};
use crate::error::{Error, Result};
use crate::layout::absent;

/// Name of the file.
pub(crate) const BEGINS: &str = "BEGINS";

/// Ending of what is written before it takes its name.
pub(crate) const NEW: &str = "new";

/// Reads it; `Some(0)` where nothing was removed, `None` where nobody can read it.
pub(crate) fn read(dir: &Path) -> Result<Option<u64>> {
    let path = dir.join(BEGINS);
    match fs::read(&path) {
        Ok(bytes) => {
            let text = std::str::from_utf8(&bytes).ok().and_then(|text| text.strip_suffix('\n'));
            Ok(text.and_then(|text| text.parse().ok()))
        }
        Err(error) if absent(&error) => Ok(Some(0)),
        Err(error) => Err(Error::io("read", &path)(error)),
    }
}

/// Writes it, durably.
pub(crate) fn write(dir: &Path, ts: u64) -> Result<()> {
    replace(dir, BEGINS, format!("{ts}\n").as_bytes(), |_| ())
}

/// Replaces a file in `dir` as a whole, durably. `prepare` may do something to it before it takes its name.
pub(crate) fn replace(dir: &Path, name: &str, bytes: &[u8], prepare: impl FnOnce(&Path)) -> Result<()> {
    let (path, new) = (dir.join(name), dir.join(format!("{name}.{NEW}")));
    step(&new)?;
    let mut file = File::create(&new).map_err(Error::io("create", &new))?;
    step(&new)?;
    file.write_all(bytes).map_err(Error::io("write", &new))?;
    prepare(&new);
    file.sync_all().map_err(Error::io("sync", &new))?;
    step(&new)?;
    fs::rename(&new, &path).map_err(Error::io("rename", &new))?;
    step(&path)?;
    sync_dir(dir)
}
