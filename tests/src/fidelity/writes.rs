//! Contents that change without write(2): mappings, copies inside the kernel, shared extents.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;

use anyhow::ensure;
use rustix::io::Errno;

use super::kinds::bytes;
use super::{Ground, Half, Scenario, look};
use crate::sys::Mapping;

/// What this module has.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "mapped", before: make_mapped, live: change_mapped, check: check_mapped },
    Scenario { name: "copied-ranges", before: make_copied, live: change_copied, check: check_copied },
    Scenario { name: "reflinks", before: make_cloned, live: change_cloned, check: check_cloned },
];

const SIZE: usize = 1 << 20;

const MAPPED: [&str; 4] = ["synced", "not-synced", "closed-before", "read-first"];

fn reopen(ground: &Ground, name: &str) -> anyhow::Result<File> {
    Ok(OpenOptions::new().read(true).write(true).open(ground.near.join(name))?)
}

fn make_mapped(ground: &Ground) -> anyhow::Result<()> {
    for name in MAPPED {
        fs::write(ground.near.join(name), bytes(1, SIZE))?;
    }
    Ok(())
}

fn change_mapped(ground: &Ground) -> anyhow::Result<()> {
    for (name, word) in MAPPED.into_iter().zip(["synced!", "not synced!", "closed before!", "read first!"]) {
        let file = reopen(ground, name)?;
        let mapping = Mapping::shared(&file, SIZE)?;
        if name == "closed-before" {
            drop(file);
        }
        for offset in [0, 4090, SIZE / 2, SIZE - word.len()] {
            mapping.store(offset, word.as_bytes());
        }
        if name == "synced" {
            mapping.sync()?;
        }
    }
    // A new file that is only ever written through a mapping.
    let file = File::options().read(true).write(true).create_new(true).open(ground.near.join("new"))?;
    file.set_len(SIZE as u64)?;
    Mapping::shared(&file, SIZE)?.store(70_000, b"through the mapping");
    Ok(())
}

fn check_mapped(ground: &Ground, half: Half) -> anyhow::Result<()> {
    look::all_same(ground, MAPPED)?;
    if half == Half::Both {
        look::same(ground, "new")?;
        ensure!(fs::read(ground.far.join("closed-before"))?.starts_with(b"closed before!"));
        ensure!(fs::read(ground.far.join("not-synced"))?.ends_with(b"not synced!"));
        ensure!(&fs::read(ground.far.join("new"))?[70_000..70_019] == b"through the mapping");
    }
    Ok(())
}

fn make_copied(ground: &Ground) -> anyhow::Result<()> {
    fs::write(ground.near.join("source"), bytes(2, SIZE))?;
    fs::write(ground.near.join("patched"), bytes(3, SIZE))?;
    Ok(())
}

fn copy_range(from: &File, to: &File, mut from_at: u64, mut to_at: u64, length: usize) -> anyhow::Result<()> {
    let end = from_at + length as u64;
    while from_at < end {
        let rest = (end - from_at) as usize;
        let copied = rustix::fs::copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), rest)?;
        ensure!(copied > 0, "the copy ended early");
    }
    Ok(())
}

fn change_copied(ground: &Ground) -> anyhow::Result<()> {
    let source = reopen(ground, "source")?;
    copy_range(&source, &File::create(ground.near.join("whole"))?, 0, 0, SIZE)?;
    copy_range(&source, &reopen(ground, "patched")?, 4096, 8192, 300_000)?;
    copy_range(&source, &reopen(ground, "patched")?, 0, SIZE as u64, 100_001)?;
    // Within the file itself.
    copy_range(&source, &source, 0, SIZE as u64 / 2, 65_536)
}

fn check_copied(ground: &Ground, half: Half) -> anyhow::Result<()> {
    look::all_same(ground, ["source", "patched"])?;
    if half == Half::Both {
        look::same(ground, "whole")?;
        ensure!(look::looks(&ground.far.join("patched"))?.size == SIZE as u64 + 100_001);
    }
    Ok(())
}

fn make_cloned(ground: &Ground) -> anyhow::Result<()> {
    for name in ["source", "cloned-over"] {
        fs::write(ground.near.join(name), bytes(name.len() as u64, SIZE))?;
    }
    clone(ground, "clone-first")
}

/// Where extents are not shared, the kernel has to say so; there is nothing to replicate then.
fn clone(ground: &Ground, name: &str) -> anyhow::Result<()> {
    let to = File::options().write(true).create(true).truncate(false).open(ground.near.join(name))?;
    match (rustix::fs::ioctl_ficlone(&to, reopen(ground, "source")?), ground.clones()) {
        (Ok(()), true) | (Err(Errno::OPNOTSUPP), false) => Ok(()),
        (other, _) => anyhow::bail!("a clone on {}: {other:?}", ground.kind),
    }
}

fn change_cloned(ground: &Ground) -> anyhow::Result<()> {
    clone(ground, "clone")?;
    clone(ground, "cloned-over")?;
    // What the source becomes is nothing to the clones.
    reopen(ground, "source")?.write_all_at(b"changed after the clones", 5000)?;
    reopen(ground, "clone")?.write_all_at(b"changed in the clone", 9000)?;
    Ok(())
}

fn check_cloned(ground: &Ground, half: Half) -> anyhow::Result<()> {
    look::all_same(ground, ["source", "cloned-over", "clone-first"])?;
    if half == Half::Both {
        look::same(ground, "clone")?;
        let expected = if ground.clones() { "source" } else { "cloned-over" };
        ensure!(fs::read(ground.far.join("cloned-over"))? == bytes(expected.len() as u64, SIZE));
    }
    Ok(())
}
