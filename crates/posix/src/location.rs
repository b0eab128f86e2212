//! Where a directory is on its file system, whatever it is mounted as.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A mount, as `/proc/self/mountinfo` tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Mount {
    device: String,
    root: Vec<u8>,
    point: Vec<u8>,
}

/// Returns the device number (`major:minor`) of the file system that a directory is on, and the directory's path from
/// the root of that file system. Two bind mounts of one directory have the same.
///
/// # Errors
/// What the system says; `NotFound` when no mount holds the path.
pub fn locate(path: &Path) -> io::Result<(String, PathBuf)> {
    let path = std::fs::canonicalize(path)?;
    let text = std::fs::read("/proc/self/mountinfo")?;
    find(&text, &path).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Identity of the running kernel.
///
/// # Errors
/// What the system says.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The last of the mounts with the longest mount point: later ones hide earlier ones.
fn find(mountinfo: &[u8], path: &Path) -> Option<(String, PathBuf)> {
    let mounts = mountinfo.split(|&c| c == b'\n').filter_map(parse);
    let holding = mounts.filter(|mount| path.starts_with(Path::new(std::ffi::OsStr::from_bytes(&mount.point))));
    let mount = holding.max_by_key(|mount| mount.point.len())?;
    let rest = path.strip_prefix(Path::new(std::ffi::OsStr::from_bytes(&mount.point))).ok()?;
    let root = Path::new(std::ffi::OsStr::from_bytes(&mount.root));
    Some((mount.device, root.join(rest).components().collect()))
}

fn parse(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|&c| c == b' ');
    let device = String::from_utf8(words.nth(2)?.to_vec()).ok()?;
    Some(Mount { device, root: unescape(words.next()?), point: unescape(words.next()?) })
}

/// Blanks, tabs, newlines and backslashes are written as `\` and three octal digits.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|d| first == b'\\' && d.iter().all(|c| matches!(c, b'0'..=b'7')));
        match octal {
            Some(digits) => {
                plain.push(digits.iter().fold(0u8, |n, d| n.wrapping_mul(8).wrapping_add(d - b'0')));
                rest = &tail[3..];
            }
            None => {
                plain.push(first);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bind_mounts_lead_to_the_same_place() {
        let info = b"22 1 8:1 / / rw - ext4 /dev/a rw\n\
                     30 22 8:2 /sub/data /mnt/with\\040blank rw - ext4 /dev/b rw\n\
                     31 22 8:1 /srv /mnt/srv rw shared:3 - ext4 /dev/a rw\n";
        let at = |path: &str| find(info, Path::new(path)).map(|(device, path)| (device, path.display().to_string()));
        assert_eq!(at("/srv/x"), Some(("8:1".into(), "/srv/x".into())));
        assert_eq!(at("/mnt/srv/x"), Some(("8:1".into(), "/srv/x".into())));
        assert_eq!(at("/mnt/srv"), Some(("8:1".into(), "/srv".into())));
        assert_eq!(at("/mnt/with blank/y"), Some(("8:2".into(), "/sub/data/y".into())));
        assert_eq!(at("/mnt/srvx"), Some(("8:1".into(), "/mnt/srvx".into())));
        assert!(locate(Path::new("/")).is_ok() && boot_id().is_ok_and(|id| id.len() > 30));
    }
}
