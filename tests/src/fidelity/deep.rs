//! Trees deeper than `PATH_MAX`: no path leads to their bottom, only one directory after the other.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, ensure};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::{Ground, Half, Scenario};

/// What this module has.
pub const SCENARIOS: &[Scenario] = &[Scenario { name: "deep-trees", before: make, live: change, check }];

/// Levels, each with a name of this length: three times `PATH_MAX`.
const LEVELS: usize = 60;
const NAME_BYTES: usize = 200;

fn level() -> String {
    "d".repeat(NAME_BYTES)
}

fn open_dir(dir: impl AsFd, name: &Path) -> anyhow::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    rustix::fs::openat(dir, name, flags, Mode::empty()).with_context(|| format!("opening {}", name.display()))
}

/// Goes down, making what is not there.
fn descend(top: &Path, levels: usize, make: bool) -> anyhow::Result<OwnedFd> {
    let mut dir = open_dir(CWD, top)?;
    for number in 0..levels {
        if make {
            rustix::fs::mkdirat(&dir, level(), Mode::RWXU)?;
        }
        dir = open_dir(&dir, Path::new(&level())).with_context(|| format!("level {number}"))?;
    }
    Ok(dir)
}

fn put(dir: &OwnedFd, name: &str, content: &str) -> anyhow::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let fd = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o640))?;
    Ok(File::from(fd).write_all(content.as_bytes())?)
}

fn get(dir: &OwnedFd, name: &str) -> anyhow::Result<String> {
    let fd = rustix::fs::openat(dir, name, OFlags::RDONLY, Mode::empty()).with_context(|| name.to_owned())?;
    let mut content = String::new();
    File::from(fd).read_to_string(&mut content)?;
    Ok(content)
}

fn make(ground: &Ground) -> anyhow::Result<()> {
    for name in ["changed", "moved", "removed"] {
        std::fs::create_dir(ground.near.join(name))?;
        let bottom = descend(&ground.near.join(name), LEVELS, true)?;
        put(&bottom, "bottom", "first")?;
    }
    Ok(())
}

fn change(ground: &Ground) -> anyhow::Result<()> {
    let bottom = descend(&ground.near.join("changed"), LEVELS, false)?;
    put(&bottom, "bottom", "changed")?;
    put(&bottom, "late", "late")?;
    rustix::fs::mkdirat(&bottom, "late-dir", Mode::RWXU)?;
    put(&open_dir(&bottom, Path::new("late-dir"))?, "f", "f")?;
    rustix::fs::linkat(&bottom, "bottom", &bottom, "bottom-again", AtFlags::empty())?;
    // The whole tree below the bottom of another one: twice as deep.
    let middle = descend(&ground.near.join("moved"), LEVELS / 2, false)?;
    rustix::fs::renameat(&middle, level(), &bottom, "from-the-middle")?;
    std::fs::rename(ground.near.join("moved"), ground.near.join("moved-too"))?;
    remove_levels(&ground.near.join("removed"))?;
    std::fs::create_dir(ground.near.join("late"))?;
    put(&descend(&ground.near.join("late"), LEVELS, true)?, "bottom", "late")
}

/// Removes from the bottom up.
fn remove_levels(top: &Path) -> anyhow::Result<()> {
    for levels in (0..=LEVELS).rev() {
        let dir = descend(top, levels, false)?;
        match levels {
            LEVELS => rustix::fs::unlinkat(&dir, "bottom", AtFlags::empty())?,
            _ => rustix::fs::unlinkat(&dir, level(), AtFlags::REMOVEDIR)?,
        }
    }
    Ok(std::fs::remove_dir(top)?)
}

fn check(ground: &Ground, half: Half) -> anyhow::Result<()> {
    let far = |name: &str, levels| descend(&ground.far.join(name), levels, false);
    if half == Half::First {
        for name in ["changed", "moved", "removed"] {
            ensure!(get(&far(name, LEVELS)?, "bottom")? == "first");
        }
        return Ok(());
    }
    let bottom = far("changed", LEVELS)?;
    ensure!(get(&bottom, "bottom")? == "changed" && get(&bottom, "bottom-again")? == "changed");
    ensure!(get(&bottom, "late")? == "late" && get(&open_dir(&bottom, Path::new("late-dir"))?, "f")? == "f");
    let mut dir = open_dir(&bottom, Path::new("from-the-middle"))?;
    for _ in 0..LEVELS - LEVELS / 2 - 1 {
        dir = open_dir(&dir, Path::new(&level()))?;
    }
    ensure!(get(&dir, "bottom")? == "first");
    far("moved-too", LEVELS / 2)?;
    ensure!(get(&far("late", LEVELS)?, "bottom")? == "late");
    ensure!(!ground.far.join("removed").exists() && !ground.far.join("moved").exists());
    Ok(())
}
