//! A walk over what is to be adopted: an object with a name outside of the root must not be adopted, because its
//! changes would show there.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use posix::beneath;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use crate::private::Private;

/// Objects with several names that are counted; more are refused, because the counts are held in memory (64 MiB).
const MAX_LINKED: usize = 2_000_000;

/// How deep directories may lie; each level holds one open.
const MAX_DEPTH: usize = 4096;

/// Names still to be found of each object with several names, by inode.
#[derive(Debug, Default)]
struct Census {
    missing: HashMap<u64, (u64, Vec<u8>)>,
}

/// Refuses a root that holds a file which has a name outside of the root too.
///
/// # Errors
/// For the operator, with one of them.
pub fn refuse_foreign_links(private: &Private) -> Result<(), String> {
    let mut census = Census::default();
    let device = rustix::fs::fstat(&private.root).map_err(|e| e.to_string())?.st_dev;
    let root = beneath::open_file(private.root.as_fd(), b".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
    census.walk(root.map_err(|e| e.to_string())?, device, &mut Vec::new(), 0)?;
    let mut foreign: Vec<&Vec<u8>> =
        census.missing.values().filter(|(left, _)| *left > 0).map(|(_, path)| path).collect();
    foreign.sort_unstable();
    let Some(first) = foreign.first() else { return Ok(()) };
    Err(format!(
        "{} files have hard links outside of this directory, where their changes would show too, such as {}: copy \
         the directory with 'cp -a' and name the copy, or use --quarantine",
        foreign.len(),
        first.escape_ascii()
    ))
}

impl Census {
    fn walk(&mut self, dir: OwnedFd, device: u64, path: &mut Vec<u8>, depth: usize) -> Result<(), String> {
        let fail = |path: &[u8], e: &dyn std::fmt::Display| format!("/{} cannot be read: {e}", path.escape_ascii());
        if depth > MAX_DEPTH {
            return Err(format!("/{} lies too deep to be adopted", path.escape_ascii()));
        }
        for entry in Dir::read_from(&dir).map_err(|e| fail(path, &e))? {
            let entry = entry.map_err(|e| fail(path, &e))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let length = path.len();
            path.extend_from_slice(name.to_bytes());
            let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| fail(path, &e))?;
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_dir && stat.st_dev != device {
                return Err(format!("/{} is a mount point: unmount it first", path.escape_ascii()));
            }
            if is_dir {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let child = beneath::open_file(dir.as_fd(), name.to_bytes(), flags, Mode::empty());
                let child = child.map_err(|e| fail(path, &e))?;
                path.push(b'/');
                self.walk(child, device, path, depth + 1)?;
            } else if stat.st_nlink > 1 {
                let counted = self.missing.entry(stat.st_ino).or_insert_with(|| (stat.st_nlink, path.clone()));
                counted.0 = counted.0.saturating_sub(1);
                if self.missing.len() > MAX_LINKED {
                    return Err(format!("more than {MAX_LINKED} files with hard links cannot be adopted"));
                }
            }
            path.truncate(length);
        }
        Ok(())
    }
}
