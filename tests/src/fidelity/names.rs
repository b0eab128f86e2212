//! Names of any bytes.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::ensure;

use super::{Ground, Half, Scenario, look};

/// What this module has.
pub const SCENARIOS: &[Scenario] = &[Scenario { name: "any-names", before: make, live: change, check }];

/// What programs stumble over.
const NAMES: [&[u8]; 15] = [
    b"new\nline",
    b"invalid \xff\xfe utf-8 \xc3\x28",
    b"-rf",
    b"--delete",
    b"trailing ",
    b"...",
    b"*?[a-z]",
    b"quotes'\"`$(id)",
    b"back\\slash\\012",
    b"colon:name",
    b"\x01\x1b[31m\x7f",
    b"#hash %41 %",
    b".gsync",
    "sn\u{f6}w\u{2603}\u{202e}".as_bytes(),
    b".hidden.swp~",
];

fn path(dir: &std::path::Path, name: &[u8]) -> PathBuf {
    dir.join(OsStr::from_bytes(name))
}

/// All names, among them each single byte and the longest.
fn all() -> Vec<Vec<u8>> {
    let single = (1..=255u8).filter(|byte| !b"/.".contains(byte)).map(|byte| vec![byte]);
    let long = [b'l', 0xff, b'\n'].into_iter().map(|byte| [&b"255"[..], &[byte; 252]].concat());
    NAMES.iter().map(|name| name.to_vec()).chain(single).chain(long).collect()
}

fn make(ground: &Ground) -> anyhow::Result<()> {
    for (number, name) in all().iter().enumerate() {
        match number % 3 {
            0 => fs::write(path(&ground.near, name), name)?,
            1 => {
                fs::create_dir(path(&ground.near, name))?;
                fs::write(path(&path(&ground.near, name), name), name)?;
            }
            _ => std::os::unix::fs::symlink(OsStr::from_bytes(name), path(&ground.near, name))?,
        }
    }
    fs::create_dir(ground.near.join("late"))?;
    Ok(())
}

fn change(ground: &Ground) -> anyhow::Result<()> {
    for (number, name) in all().iter().enumerate() {
        let late = path(&ground.near.join("late"), name);
        match number % 4 {
            0 => fs::rename(path(&ground.near, name), late)?,
            1 => fs::write(late, "late")?,
            2 => fs::create_dir(late)?,
            _ => {}
        }
    }
    Ok(())
}

fn check(ground: &Ground, half: Half) -> anyhow::Result<()> {
    for (number, name) in all().iter().enumerate() {
        let moved = half == Half::Both && number % 4 == 0;
        let dir = if moved { ground.far.join("late") } else { ground.far.clone() };
        let there = path(&dir, name);
        let what = there.display();
        match number % 3 {
            0 => ensure!(fs::read(&there)? == *name, "{what}"),
            1 => ensure!(fs::read(path(&there, name))? == *name, "{what}"),
            _ => ensure!(fs::read_link(&there)?.as_os_str().as_bytes() == name, "{what}"),
        }
        look::same(ground, "late")?;
    }
    Ok(())
}
