//! Modes, owners and times.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::ensure;
use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid};

use super::{Ground, Half, Scenario, look};
use crate::fs::FileSystem;

/// What this module has.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "special-bits", before: make_bits, live: change_bits, check: check_bits },
    Scenario { name: "owners", before: make_owners, live: change_owners, check: check_owners },
    Scenario { name: "times", before: make_times, live: change_times, check: check_times },
];

/// The highest number that is not "none".
const HIGHEST_ID: u32 = u32::MAX - 1;

fn chmod(path: &Path, mode: u32) -> anyhow::Result<()> {
    Ok(rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())?)
}

fn chown(path: &Path, uid: u32, gid: u32) -> anyhow::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    Ok(rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn set_mtime(path: &Path, (secs, nanos): (i64, i64)) -> anyhow::Result<()> {
    let stamp = Timespec { tv_sec: secs, tv_nsec: nanos };
    let times = Timestamps { last_access: stamp, last_modification: stamp };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn make_bits(ground: &Ground) -> anyhow::Result<()> {
    for bits in 0..8u32 {
        let (file, dir) = (ground.near.join(format!("file-{bits}")), ground.near.join(format!("dir-{bits}")));
        fs::write(&file, "x")?;
        chmod(&file, bits << 9 | 0o751)?;
        fs::create_dir(&dir)?;
        // The group of the directory is given to what is made in it, and its setgid bit to directories.
        chown(&dir, 0, 2000)?;
        chmod(&dir, bits << 9 | 0o751)?;
        fs::write(dir.join("f"), "x")?;
        fs::create_dir(dir.join("d"))?;
        chown(&dir.join("f"), 0, 0)?;
    }
    Ok(())
}

fn change_bits(ground: &Ground) -> anyhow::Result<()> {
    for bits in 0..8u32 {
        let (file, dir) = (ground.near.join(format!("file-{bits}")), ground.near.join(format!("dir-{bits}")));
        fs::write(dir.join("late"), "x")?;
        chown(&dir.join("late"), 3, 3)?;
        fs::create_dir(dir.join("late-dir"))?;
        chmod(&dir.join("late-dir"), 0o700)?;
        chmod(&file, (7 - bits) << 9 | 0o640)?;
        chmod(&dir, (7 - bits) << 9 | 0o705)?;
    }
    // A content that is written anew keeps its bits when root writes.
    fs::write(ground.near.join("file-0"), "new content")?;
    Ok(())
}

fn check_bits(ground: &Ground, half: Half) -> anyhow::Result<()> {
    for bits in 0..8u32 {
        for name in [format!("file-{bits}"), format!("dir-{bits}"), format!("dir-{bits}/f"), format!("dir-{bits}/d")] {
            look::same(ground, &name)?;
        }
        let expected = if half == Half::First { bits << 9 | 0o751 } else { (7 - bits) << 9 | 0o640 };
        let mode = look::looks(&ground.far.join(format!("file-{bits}")))?.mode & 0o7777;
        // Writing drops setuid and setgid unless the writer may set them.
        ensure!(bits == 0 || mode == expected, "{mode:o} instead of {expected:o}");
        if half == Half::Both {
            look::all_same(ground, [format!("dir-{bits}/late").as_str(), &format!("dir-{bits}/late-dir")])?;
        }
    }
    Ok(())
}

fn make_owners(ground: &Ground) -> anyhow::Result<()> {
    for name in ["file", "setuid", "high"] {
        fs::write(ground.near.join(name), name)?;
        chown(&ground.near.join(name), 1000, 1001)?;
    }
    fs::create_dir(ground.near.join("dir"))?;
    symlink("nowhere", ground.near.join("link"))?;
    for name in ["dir", "link"] {
        chown(&ground.near.join(name), 1002, 1003)?;
    }
    chmod(&ground.near.join("setuid"), 0o6755)?;
    chown(&ground.near.join("high"), HIGHEST_ID, HIGHEST_ID)
}

fn change_owners(ground: &Ground) -> anyhow::Result<()> {
    // chown(2) takes the setuid and setgid bits away.
    chown(&ground.near.join("setuid"), 1, 2)?;
    ensure!(look::looks(&ground.near.join("setuid"))?.mode & 0o6000 == 0);
    chown(&ground.near.join("file"), HIGHEST_ID, 0)?;
    chown(&ground.near.join("dir"), 70_000, HIGHEST_ID)?;
    chown(&ground.near.join("link"), 70_001, 70_002)?;
    fs::write(ground.near.join("set-again"), "x")?;
    chmod(&ground.near.join("set-again"), 0o6755)?;
    chown(&ground.near.join("set-again"), 1, 2)?;
    chmod(&ground.near.join("set-again"), 0o6711)
}

fn check_owners(ground: &Ground, half: Half) -> anyhow::Result<()> {
    look::all_same(ground, ["file", "setuid", "high", "dir", "link"])?;
    ensure!(look::looks(&ground.far.join("high"))?.owner == (HIGHEST_ID, HIGHEST_ID));
    let setuid = look::looks(&ground.far.join("setuid"))?;
    match half {
        Half::First => ensure!(setuid.mode & 0o7777 == 0o6755 && setuid.owner == (1000, 1001), "{setuid:?}"),
        Half::Both => {
            ensure!(setuid.mode & 0o7777 == 0o755 && setuid.owner == (1, 2), "{setuid:?}");
            let again = look::same(ground, "set-again")?;
            ensure!(again.mode & 0o7777 == 0o6711 && again.owner == (1, 2), "{again:?}");
            ensure!(look::looks(&ground.far.join("link"))?.owner == (70_001, 70_002));
        }
    }
    Ok(())
}

/// Moments that the file system can store: long ago, just before and after 1970, far away.
fn moments(kind: FileSystem) -> Vec<(i64, i64)> {
    let (oldest, newest) = match kind {
        // 34 bits from 1901; its nanoseconds and the bits above 32 share a word.
        FileSystem::Ext4 => (-(1 << 31), (1 << 34) - (1 << 31) - 1),
        // 64 bits of nanoseconds from 1901, with the feature bigtime.
        FileSystem::Xfs => (-(1 << 31), 16_000_000_000),
        FileSystem::Btrfs | FileSystem::Tmpfs => (-100_000_000_000, 100_000_000_000),
    };
    vec![(oldest, 0), (-1, 999_999_999), (0, 0), (1, 1), (1 << 31, 5), (1 << 32, 123_456_789), (newest, 0)]
}

fn timed_names() -> [&'static str; 4] {
    ["file", "dir", "link", "fifo"]
}

fn make_timed(dir: &Path, moment: (i64, i64)) -> anyhow::Result<()> {
    fs::create_dir(dir)?;
    fs::write(dir.join("file"), "x")?;
    fs::create_dir(dir.join("dir"))?;
    fs::write(dir.join("dir/f"), "x")?;
    symlink("nowhere", dir.join("link"))?;
    rustix::fs::mknodat(CWD, dir.join("fifo"), rustix::fs::FileType::Fifo, Mode::RWXU, 0)?;
    timed_names().into_iter().try_for_each(|name| set_mtime(&dir.join(name), moment))
}

fn make_times(ground: &Ground) -> anyhow::Result<()> {
    for (number, moment) in moments(ground.kind).into_iter().enumerate() {
        make_timed(&ground.near.join(format!("first-{number}")), moment)?;
        make_timed(&ground.near.join(format!("changed-{number}")), (1_000_000_000, 1))?;
        make_timed(&ground.near.join(format!("written-{number}")), moment)?;
    }
    Ok(())
}

fn change_times(ground: &Ground) -> anyhow::Result<()> {
    for (number, moment) in moments(ground.kind).into_iter().enumerate() {
        make_timed(&ground.near.join(format!("late-{number}")), moment)?;
        for name in timed_names() {
            set_mtime(&ground.near.join(format!("changed-{number}")).join(name), moment)?;
        }
        // The content changes and the time is set back: same size, same time.
        let dir = ground.near.join(format!("written-{number}"));
        File::create(dir.join("file"))?.write_all(b"y")?;
        set_mtime(&dir.join("file"), moment)?;
        fs::rename(dir.join("dir/f"), dir.join("dir/g"))?;
        set_mtime(&dir.join("dir"), moment)?;
    }
    Ok(())
}

fn check_times(ground: &Ground, half: Half) -> anyhow::Result<()> {
    for (number, moment) in moments(ground.kind).into_iter().enumerate() {
        let dirs: &[&str] =
            if half == Half::First { &["first", "written"] } else { &["first", "changed", "written", "late"] };
        for dir in dirs {
            for name in timed_names() {
                let looks = look::same(ground, &format!("{dir}-{number}/{name}"))?;
                ensure!(looks.mtime == moment, "{dir}-{number}/{name}: {:?} instead of {moment:?}", looks.mtime);
            }
        }
        if half == Half::Both {
            ensure!(fs::read(ground.far.join(format!("written-{number}/file")))? == b"y");
        }
    }
    Ok(())
}
