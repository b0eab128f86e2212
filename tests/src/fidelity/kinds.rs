//! Objects of each type.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::ensure;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid};

use super::{Ground, Half, Scenario, look};
use crate::fs::FileSystem;

/// What this module has.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "regular-files", before: make_files, live: change_files, check: check_files },
    Scenario { name: "directories", before: make_dirs, live: change_dirs, check: check_dirs },
    Scenario { name: "symlinks", before: make_links, live: change_links, check: check_links },
    Scenario { name: "special-files", before: make_special, live: change_special, check: check_special },
    Scenario { name: "empty-files", before: make_empty, live: change_empty, check: check_empty },
];

/// Around the sizes of blocks, pages and buffers.
const SIZES: [usize; 8] = [1, 511, 4095, 4096, 4097, 65_536, (1 << 20) + 1, (3 << 20) + 7];

/// Bytes that differ from place to place.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}

fn make_files(ground: &Ground) -> anyhow::Result<()> {
    for (seed, size) in SIZES.into_iter().enumerate() {
        for name in ["kept", "rewritten", "appended", "patched", "cut", "replaced"] {
            fs::write(ground.near.join(format!("{name}-{size}")), bytes(seed as u64, size))?;
        }
    }
    Ok(())
}

fn change_files(ground: &Ground) -> anyhow::Result<()> {
    for (seed, size) in SIZES.into_iter().enumerate() {
        let at = |name: &str| ground.near.join(format!("{name}-{size}"));
        let other = bytes(seed as u64 + 100, size + 3);
        fs::write(at("rewritten"), &other)?;
        fs::write(at("new"), &other)?;
        OpenOptions::new().append(true).open(at("appended"))?.write_all(&other)?;
        let patched = OpenOptions::new().write(true).open(at("patched"))?;
        std::os::unix::fs::FileExt::write_all_at(&patched, &other[..size.div_ceil(2)], size as u64 / 2)?;
        OpenOptions::new().write(true).open(at("cut"))?.set_len(size as u64 / 2)?;
        fs::write(at("aside"), &other)?;
        fs::rename(at("aside"), at("replaced"))?;
    }
    Ok(())
}

fn check_files(ground: &Ground, half: Half) -> anyhow::Result<()> {
    for size in SIZES {
        for name in ["kept", "rewritten", "appended", "patched", "cut", "replaced"] {
            look::same(ground, &format!("{name}-{size}"))?;
        }
        if half == Half::Both {
            look::same(ground, &format!("new-{size}"))?;
            ensure!(fs::metadata(ground.far.join(format!("cut-{size}")))?.len() == size as u64 / 2);
            ensure!(fs::metadata(ground.far.join(format!("appended-{size}")))?.len() == 2 * size as u64 + 3);
        }
    }
    Ok(())
}

fn make_dirs(ground: &Ground) -> anyhow::Result<()> {
    for name in ["a/b/c/d", "empty", "moved/below/deeper", "removed/below", "private"] {
        fs::create_dir_all(ground.near.join(name))?;
        fs::write(ground.near.join(name).join("f"), name)?;
    }
    fs::remove_file(ground.near.join("empty/f"))?;
    chmod(&ground.near.join("private"), 0o700)
}

fn change_dirs(ground: &Ground) -> anyhow::Result<()> {
    let at = |name: &str| ground.near.join(name);
    fs::rename(at("moved"), at("a/b/moved"))?;
    fs::write(at("a/b/moved/below/g"), "g")?;
    fs::remove_dir_all(at("removed"))?;
    fs::create_dir_all(at("new/x/y/z"))?;
    fs::write(at("new/x/y/z/f"), "f")?;
    // A directory and a file change places by name.
    fs::remove_dir(at("empty"))?;
    fs::write(at("empty"), "a file now")?;
    fs::remove_file(at("a/b/c/d/f"))?;
    fs::create_dir(at("a/b/c/d/f"))?;
    chmod(&at("private"), 0o311)
}

fn check_dirs(ground: &Ground, half: Half) -> anyhow::Result<()> {
    match half {
        Half::First => {
            look::only(&ground.far, &["a", "empty", "moved", "removed", "private"])?;
            look::all_same(ground, ["a", "a/b/c/d", "empty", "moved/below/deeper", "removed", "private"])
        }
        Half::Both => {
            look::only(&ground.far, &["a", "empty", "new", "private"])?;
            look::all_same(ground, ["a/b", "a/b/moved/below/g", "a/b/c/d/f", "empty", "new/x/y/z", "private"])
        }
    }
}

/// The longest target that this file system takes.
fn longest_target(kind: FileSystem) -> usize {
    match kind {
        FileSystem::Xfs => 1023,
        // What a page holds beside the item's own header.
        FileSystem::Btrfs => 3900,
        FileSystem::Ext4 | FileSystem::Tmpfs => 4095,
    }
}

fn target_of(length: usize) -> Vec<u8> {
    b"../some/where/".iter().copied().cycle().take(length).collect()
}

fn make_links(ground: &Ground) -> anyhow::Result<()> {
    let at = |name: &str| ground.near.join(name);
    fs::create_dir(at("dir"))?;
    fs::write(at("file"), "content")?;
    for (name, target) in [("to-file", "file"), ("to-dir", "dir"), ("dangling", "no/such/thing"), ("up", "../../..")] {
        symlink(target, at(name))?;
    }
    symlink("/absolute/target", at("absolute"))?;
    symlink(std::ffi::OsStr::from_bytes(b"any\n\xff\x01 bytes"), at("bytes"))?;
    let long = target_of(longest_target(ground.kind));
    symlink(std::ffi::OsString::from_vec(long), at("long"))?;
    for name in ["to-file", "dangling", "long"] {
        adjust_link(&at(name), 1001, 981_173_106)?;
    }
    Ok(())
}

/// Owner and time of the link itself.
fn adjust_link(path: &Path, owner: u32, secs: i64) -> anyhow::Result<()> {
    let owner = (Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner + 1)));
    rustix::fs::chownat(CWD, path, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
    let stamp = Timespec { tv_sec: secs, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: stamp, last_modification: stamp };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn change_links(ground: &Ground) -> anyhow::Result<()> {
    let at = |name: &str| ground.near.join(name);
    adjust_link(&at("to-dir"), 77, -5)?;
    adjust_link(&at("to-file"), 78, 12)?;
    symlink("elsewhere", at("aside"))?;
    fs::rename(at("aside"), at("dangling"))?;
    fs::rename(at("long"), at("dir/long"))?;
    fs::remove_file(at("absolute"))?;
    fs::hard_link(at("bytes"), at("bytes-again"))?;
    symlink("new", at("new"))?;
    fs::remove_file(at("up"))?;
    fs::write(at("up"), "a file now")?;
    Ok(())
}

fn check_links(ground: &Ground, half: Half) -> anyhow::Result<()> {
    let long = if half == Half::First { "long" } else { "dir/long" };
    look::all_same(ground, ["to-file", "to-dir", "dangling", "bytes", "up", long])?;
    let link = look::looks(&ground.far.join(long))?;
    ensure!(link.target.as_ref().is_some_and(|target| target.len() == longest_target(ground.kind)));
    ensure!(link.owner == (1001, 1002) && link.mtime == (981_173_106, 123_456_789), "{link:?}");
    if half == Half::Both {
        look::same(ground, "new")?;
        ensure!(fs::read_link(ground.far.join("dangling"))? == Path::new("elsewhere"));
        ensure!(look::looks(&ground.far.join("to-dir"))?.mtime == (-5, 123_456_789));
        ensure!(look::inode(&ground.far.join("bytes"))? == look::inode(&ground.far.join("bytes-again"))?);
        ensure!(fs::symlink_metadata(ground.far.join("absolute")).is_err());
    }
    Ok(())
}

/// Name, type and device number.
const SPECIAL: [(&str, FileType, (u32, u32)); 6] = [
    ("fifo", FileType::Fifo, (0, 0)),
    ("socket", FileType::Socket, (0, 0)),
    ("null", FileType::CharacterDevice, (1, 3)),
    ("large-numbers", FileType::CharacterDevice, (511, 262_143)),
    ("disk", FileType::BlockDevice, (8, 1)),
    ("large-disk", FileType::BlockDevice, (259, 70_000)),
];

fn mknod(path: &Path, kind: FileType, (major, minor): (u32, u32)) -> anyhow::Result<()> {
    let device = rustix::fs::makedev(major, minor);
    Ok(rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), device)?)
}

fn chmod(path: &Path, mode: u32) -> anyhow::Result<()> {
    Ok(rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())?)
}

fn make_special(ground: &Ground) -> anyhow::Result<()> {
    SPECIAL.into_iter().try_for_each(|(name, kind, device)| mknod(&ground.near.join(name), kind, device))
}

fn change_special(ground: &Ground) -> anyhow::Result<()> {
    let at = |name: &str| ground.near.join(name);
    for (name, kind, device) in SPECIAL {
        mknod(&at(&format!("new-{name}")), kind, device)?;
    }
    chmod(&at("fifo"), 0o777)?;
    chmod(&at("null"), 0o4711)?;
    rustix::fs::chownat(CWD, at("socket"), Some(Uid::from_raw(5)), None, AtFlags::empty())?;
    fs::rename(at("disk"), at("moved-disk"))?;
    fs::hard_link(at("large-disk"), at("large-disk-again"))?;
    // The same name, another type and another number.
    fs::remove_file(at("large-numbers"))?;
    mknod(&at("large-numbers"), FileType::BlockDevice, (7, 7))
}

fn check_special(ground: &Ground, half: Half) -> anyhow::Result<()> {
    look::all_same(ground, ["fifo", "socket", "null", "large-numbers", "large-disk"])?;
    let number = look::looks(&ground.far.join("large-disk"))?.rdev;
    ensure!(number == rustix::fs::makedev(259, 70_000), "{number:x}");
    match half {
        Half::First => look::same(ground, "disk").map(drop),
        Half::Both => {
            for (name, ..) in SPECIAL {
                look::same(ground, &format!("new-{name}"))?;
            }
            ensure!(look::inode(&ground.far.join("large-disk"))? == look::inode(&ground.far.join("large-disk-again"))?);
            look::same(ground, "moved-disk").map(drop)
        }
    }
}

fn make_empty(ground: &Ground) -> anyhow::Result<()> {
    for name in ["empty", "filled", "removed"] {
        File::create(ground.near.join(name))?;
    }
    Ok(fs::write(ground.near.join("emptied"), bytes(1, 100_000))?)
}

fn change_empty(ground: &Ground) -> anyhow::Result<()> {
    fs::write(ground.near.join("filled"), "filled")?;
    OpenOptions::new().write(true).open(ground.near.join("emptied"))?.set_len(0)?;
    fs::remove_file(ground.near.join("removed"))?;
    File::create(ground.near.join("new"))?;
    Ok(())
}

fn check_empty(ground: &Ground, half: Half) -> anyhow::Result<()> {
    look::all_same(ground, ["empty", "filled", "emptied"])?;
    if half == Half::Both {
        look::only(&ground.far, &["empty", "filled", "emptied", "new"])?;
        for name in ["empty", "emptied", "new"] {
            ensure!(look::same(ground, name)?.size == 0);
        }
    }
    Ok(())
}
