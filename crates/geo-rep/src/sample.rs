//! A small tree with a bit of everything, and changes to it.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Directories of the sample.
const DIRECTORIES: usize = 12;

/// Files in each of them.
const FILES: usize = 25;

/// What the changes work on, so that nothing that was there before is touched.
pub const PLAYGROUND: &str = "geo-rep-quickstart";

/// Fills a directory.
pub fn make(root: &Path) -> io::Result<()> {
    for directory in 0..DIRECTORIES {
        let dir = root.join(format!("album-{directory:02}"));
        fs::create_dir(&dir)?;
        for file in 0..FILES {
            let line = format!("picture {file} of album {directory}\n");
            fs::write(dir.join(format!("picture-{file:03}.txt")), line.repeat(1 + file * 40))?;
        }
    }
    let first = root.join("album-00");
    fs::hard_link(first.join("picture-000.txt"), root.join("favourite.txt"))?;
    symlink("album-00/picture-001.txt", root.join("newest"))?;
    fs::set_permissions(first.join("picture-002.txt"), Permissions::from_mode(0o600))?;
    // Not every file system has user xattrs (tmpfs got them late).
    let _ = xattr::set(first.join("picture-003.txt"), "user.comment", b"from the quickstart");
    Ok(())
}

/// One change, how to tell that it has arrived, and what to say.
pub struct Change {
    /// What is done, for the user.
    pub said: &'static str,
    /// Does it below the primary.
    pub make: fn(&Path) -> io::Result<()>,
    /// Whether it can be seen below the secondary.
    pub is_seen: fn(&Path) -> bool,
}

/// The changes, in order; each uses what the ones before left.
pub const CHANGES: &[Change] = &[
    Change {
        said: "create a directory with a file",
        make: |root| {
            fs::create_dir(root.join("new"))?;
            fs::write(root.join("new/hello.txt"), "hello\n")
        },
        is_seen: |root| holds(&root.join("new/hello.txt"), b"hello\n"),
    },
    Change {
        said: "rename the directory",
        make: |root| fs::rename(root.join("new"), root.join("renamed")),
        is_seen: |root| root.join("renamed/hello.txt").exists() && !root.join("new").exists(),
    },
    Change {
        said: "give the file a second name (hard link)",
        make: |root| fs::hard_link(root.join("renamed/hello.txt"), root.join("second.txt")),
        is_seen: |root| is_same_file(&root.join("renamed/hello.txt"), &root.join("second.txt")),
    },
    Change {
        said: "append to the file",
        make: |root| OpenOptions::new().append(true).open(root.join("second.txt"))?.write_all(b"world\n"),
        is_seen: |root| holds(&root.join("renamed/hello.txt"), b"hello\nworld\n"),
    },
    Change {
        said: "change the file's mode",
        make: |root| fs::set_permissions(root.join("second.txt"), Permissions::from_mode(0o640)),
        is_seen: |root| mode(&root.join("second.txt")) == Some(0o640),
    },
    Change {
        said: "delete the second name",
        make: |root| fs::remove_file(root.join("second.txt")),
        is_seen: |root| !root.join("second.txt").exists() && root.join("renamed/hello.txt").exists(),
    },
];

/// The directory that the changes are made in, below a root.
pub fn playground(root: &Path) -> PathBuf {
    root.join(PLAYGROUND)
}

fn holds(path: &Path, content: &[u8]) -> bool {
    fs::read(path).is_ok_and(|found| found == content)
}

fn mode(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|metadata| metadata.permissions().mode() & 0o7777)
}

fn is_same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let inode = |path: &Path| fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    inode(a).is_some() && inode(a) == inode(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_seen_only_after_it_was_made() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path()).unwrap();
        let root = playground(dir.path());
        fs::create_dir(&root).unwrap();
        for change in CHANGES {
            assert!(!(change.is_seen)(&root), "{} is seen before", change.said);
            (change.make)(&root).unwrap();
            assert!((change.is_seen)(&root), "{} is not seen", change.said);
        }
    }
}
