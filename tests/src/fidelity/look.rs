//! Two objects side by side, by system calls of its own: it must not believe what is tested.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, ensure};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::Ground;

/// Stamps of the secondary.
const PRIVATE: [&str; 2] = ["trusted.gfid", "trusted.gsync."];

/// All of an object that has to be equal, besides its content and its number of names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Looks {
    /// Type and permissions.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Size of what is not a directory.
    pub size: u64,
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Device number.
    pub rdev: u64,
    /// Target of a symbolic link.
    pub target: Option<OsString>,
    /// Xattrs by name, ACLs among them.
    pub xattrs: Vec<(OsString, Vec<u8>)>,
}

/// Looks at an object without following a link.
///
/// # Errors
/// What the system says.
pub fn looks(path: &Path) -> anyhow::Result<Looks> {
    let stat = fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
    let target = stat.is_symlink().then(|| fs::read_link(path)).transpose()?.map(Into::into);
    let mut xattrs = Vec::new();
    for name in xattr::list(path)? {
        if !PRIVATE.iter().any(|private| name.to_string_lossy().starts_with(private)) {
            let value = xattr::get(path, &name)?.unwrap_or_default();
            xattrs.push((name, value));
        }
    }
    xattrs.sort();
    let is_device = stat.file_type().is_char_device() || stat.file_type().is_block_device();
    Ok(Looks {
        mode: stat.mode(),
        owner: (stat.uid(), stat.gid()),
        size: if stat.is_dir() { 0 } else { stat.size() },
        mtime: (stat.mtime(), stat.mtime_nsec()),
        rdev: if is_device { stat.rdev() } else { 0 },
        target,
        xattrs,
    })
}

/// Both sides of a name have to look the same, with the same content where it is a regular file.
///
/// # Errors
/// What differs.
pub fn same(ground: &Ground<'_>, name: &str) -> anyhow::Result<Looks> {
    let [near, far] = ground.both(name);
    let (here, there) = (looks(&near)?, looks(&far)?);
    ensure!(here == there, "{name}: {here:?} on the primary, {there:?} on the secondary");
    if fs::symlink_metadata(&near)?.is_file() && here.size < 64 << 20 {
        ensure!(fs::read(&near)? == fs::read(&far)?, "{name}: the contents differ");
    }
    Ok(here)
}

/// As [`same`] for each of these names.
///
/// # Errors
/// What differs.
pub fn all_same<'n>(ground: &Ground<'_>, names: impl IntoIterator<Item = &'n str>) -> anyhow::Result<()> {
    names.into_iter().try_for_each(|name| same(ground, name).map(drop))
}

/// The secondary has to have exactly these names in the scenario's directory.
///
/// # Errors
/// What it has instead.
pub fn only(dir: &Path, expected: &[&str]) -> anyhow::Result<()> {
    let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>()?;
    let mut names: Vec<String> = names.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    let mut expected: Vec<&str> = expected.to_vec();
    names.sort();
    expected.sort_unstable();
    ensure!(names == expected, "{} has {names:?}, not {expected:?}", dir.display());
    Ok(())
}

/// Whether two names lead to one inode, and how many names it has.
///
/// # Errors
/// What the system says.
pub fn inode(path: &Path) -> anyhow::Result<(u64, u64)> {
    let stat = fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
    Ok((stat.ino(), stat.nlink()))
}

/// Bytes on the disk.
///
/// # Errors
/// What the system says.
pub fn disk_bytes(path: &Path) -> anyhow::Result<u64> {
    Ok(fs::symlink_metadata(path).with_context(|| path.display().to_string())?.blocks() * 512)
}

/// Bytes of a file that are not in holes. Not the same as what it takes on the disk: XFS allocates in advance for
/// clones that are written to.
///
/// # Errors
/// What the system says.
pub fn data_bytes(path: &Path) -> anyhow::Result<u64> {
    let file = fs::File::open(path).with_context(|| path.display().to_string())?;
    let (mut bytes, mut offset) = (0, 0);
    loop {
        let start = match rustix::fs::seek(&file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(bytes),
            Err(e) => return Err(e.into()),
        };
        offset = rustix::fs::seek(&file, SeekFrom::Hole(start))?;
        bytes += offset - start;
    }
}
