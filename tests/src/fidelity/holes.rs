//! Holes stay holes, on the wire and on the disk; sizes that change; sizes beyond 32 bits.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use rustix::fs::FallocateFlags;

use super::kinds::bytes;
use super::{Ground, Half, Scenario, look};
use crate::fs::FileSystem;

/// What this module has.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "holes", before: make, live: change, check },
    Scenario { name: "over-4-gib", before: make_over, live: change_over, check: check_over },
    Scenario { name: "fallocate", before: make_allocated, live: change_allocated, check: check_allocated },
];

/// A file of 1 TiB with 1 MiB of data in it. Its bytes on the wire are counted, so it takes place alone.
pub const TERABYTE: Scenario =
    Scenario { name: "terabyte", before: nothing, live: make_terabyte, check: check_terabyte };

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Pieces of data in the file of 1 TiB, and how large each is.
const PIECES: u64 = 256;
const PIECE_BYTES: usize = 4096;

/// What the file of 1 TiB may cost on the wire and on the disk: its data, the headers and ssh, maps of extents.
const TERABYTE_COSTS: u64 = 3 * MIB;

/// How long a file may take to arrive.
const LIMIT: Duration = Duration::from_secs(120);

fn nothing(_: &Ground) -> anyhow::Result<()> {
    Ok(())
}

/// Data at these offsets and a hole behind.
fn sparse(path: &Path, size: u64, data: &[(u64, usize)]) -> anyhow::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    file.set_len(size)?;
    for (offset, length) in data {
        file.write_all_at(&bytes(*offset, *length), *offset)?;
    }
    Ok(file)
}

fn punch(file: &File, offset: u64, length: u64) -> anyhow::Result<()> {
    Ok(rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length)?)
}

fn reopen(ground: &Ground, name: &str) -> anyhow::Result<File> {
    Ok(OpenOptions::new().read(true).write(true).open(ground.near.join(name))?)
}

fn make(ground: &Ground) -> anyhow::Result<()> {
    let at = |name: &str| ground.near.join(name);
    sparse(&at("hole-alone"), 64 * MIB, &[])?;
    sparse(&at("data-ahead"), 64 * MIB, &[(0, 1 << 20)])?;
    sparse(&at("data-behind"), 64 * MIB, &[(63 * MIB, 1 << 20)])?;
    sparse(&at("data-between"), 64 * MIB, &[(5 * MIB + 1, 100_000), (31 * MIB, 3)])?;
    sparse(&at("more-data-than-holes"), 8 * MIB, &[(0, 3 << 20), (5 * MIB, 3 << 20)])?;
    sparse(&at("punched"), 8 * MIB, &[(0, 8 << 20)])?;
    sparse(&at("punched-away"), 4 * MIB, &[(0, 4 << 20)])?;
    sparse(&at("extended"), MIB, &[(0, 1 << 20)])?;
    sparse(&at("shrunk-and-extended"), 4 * MIB, &[(0, 4 << 20)])?;
    sparse(&at("filled"), 8 * MIB, &[(0, 4096)])?;
    Ok(())
}

fn change(ground: &Ground) -> anyhow::Result<()> {
    punch(&reopen(ground, "punched")?, MIB, 5 * MIB)?;
    punch(&reopen(ground, "punched-away")?, 0, 4 * MIB)?;
    reopen(ground, "extended")?.set_len(64 * MIB)?;
    let file = reopen(ground, "shrunk-and-extended")?;
    file.set_len(MIB + 17)?;
    file.set_len(4 * MIB)?;
    reopen(ground, "filled")?.write_all_at(&bytes(9, 8 << 20), 0)?;
    reopen(ground, "data-between")?.write_all_at(b"one more", 40 * MIB)?;
    reopen(ground, "more-data-than-holes")?.write_all_at(b"changed", 6 * MIB)?;
    Ok(())
}

/// Both sides the same, and about this much data there.
fn costs(ground: &Ground, name: &str, most: u64) -> anyhow::Result<()> {
    look::same(ground, name)?;
    let data = look::data_bytes(&ground.far.join(name))?;
    ensure!(data <= most, "{name}: {data} bytes of data on the secondary, at most {most} expected");
    Ok(())
}

fn check(ground: &Ground, half: Half) -> anyhow::Result<()> {
    costs(ground, "hole-alone", 64 << 10)?;
    costs(ground, "data-ahead", MIB + MIB / 2)?;
    costs(ground, "data-behind", MIB + MIB / 2)?;
    costs(ground, "data-between", MIB)?;
    costs(ground, "more-data-than-holes", 7 * MIB)?;
    match half {
        Half::First => look::all_same(ground, ["punched", "punched-away", "extended", "shrunk-and-extended", "filled"]),
        Half::Both => {
            costs(ground, "punched", 4 * MIB)?;
            costs(ground, "punched-away", 64 << 10)?;
            costs(ground, "extended", 2 * MIB)?;
            costs(ground, "shrunk-and-extended", 2 * MIB)?;
            look::same(ground, "filled").map(drop)
        }
    }
}

fn make_over(ground: &Ground) -> anyhow::Result<()> {
    let around = [(0, 5000), (2 * GIB - 10, 20), (4 * GIB - 4096, 8192), (5 * GIB - 1, 1)];
    sparse(&ground.near.join("first"), 5 * GIB, &around)?;
    sparse(&ground.near.join("cut"), 5 * GIB, &around)?;
    Ok(())
}

fn change_over(ground: &Ground) -> anyhow::Result<()> {
    let file = reopen(ground, "first")?;
    file.write_all_at(b"just before, across", 4 * GIB - 5)?;
    file.write_all_at(b"and beyond", 6 * GIB)?;
    reopen(ground, "cut")?.set_len(4 * GIB + 1)?;
    Ok(())
}

fn check_over(ground: &Ground, half: Half) -> anyhow::Result<()> {
    for (name, size) in [("first", 6 * GIB + 10), ("cut", 4 * GIB + 1)] {
        let size = if half == Half::First { 5 * GIB } else { size };
        ensure!(look::same(ground, name)?.size == size);
        for offset in [0, 2 * GIB - 10, 4 * GIB - 4096, 4 * GIB, 5 * GIB - 1, 6 * GIB] {
            let read = |dir: &Path| -> anyhow::Result<Vec<u8>> {
                let mut buffer = vec![0; 8192];
                let length = File::open(dir.join(name))?.read_at(&mut buffer, offset)?;
                buffer.truncate(length);
                Ok(buffer)
            };
            ensure!(read(&ground.near)? == read(&ground.far)?, "{name} differs at {offset}");
        }
        ensure!(look::disk_bytes(&ground.far.join(name))? < 2 * MIB);
    }
    Ok(())
}

fn make_allocated(ground: &Ground) -> anyhow::Result<()> {
    for name in ["kept-size", "grown", "collapsed", "inserted", "zeroed"] {
        sparse(&ground.near.join(name), MIB, &[(0, 1 << 20)])?;
    }
    rustix::fs::fallocate(reopen(ground, "kept-size")?, FallocateFlags::KEEP_SIZE, 0, 4 * MIB)?;
    Ok(())
}

fn change_allocated(ground: &Ground) -> anyhow::Result<()> {
    let change = |name: &str, flags, offset, length| -> anyhow::Result<()> {
        Ok(rustix::fs::fallocate(reopen(ground, name)?, flags, offset, length)?)
    };
    change("kept-size", FallocateFlags::KEEP_SIZE, 2 * MIB, 4 * MIB)?;
    change("grown", FallocateFlags::empty(), 0, 3 * MIB)?;
    change("zeroed", FallocateFlags::ZERO_RANGE, 100_000, 500_000)?;
    // btrfs has neither of these.
    if matches!(ground.kind, FileSystem::Ext4 | FileSystem::Xfs) {
        change("collapsed", FallocateFlags::COLLAPSE_RANGE, 128 << 10, 256 << 10)?;
        change("inserted", FallocateFlags::INSERT_RANGE, 128 << 10, 256 << 10)?;
    }
    Ok(())
}

fn check_allocated(ground: &Ground, half: Half) -> anyhow::Result<()> {
    look::all_same(ground, ["kept-size", "grown", "collapsed", "inserted", "zeroed"])?;
    if half == Half::Both {
        ensure!(look::looks(&ground.far.join("grown"))?.size == 3 * MIB);
        ensure!(look::looks(&ground.far.join("kept-size"))?.size == MIB);
    }
    Ok(())
}

fn make_terabyte(ground: &Ground) -> anyhow::Result<()> {
    ground.session.settle(LIMIT)?;
    let before = ground.proxy.wire();
    let stride = TIB / PIECES;
    let data: Vec<_> = (0..PIECES).map(|piece| (piece * stride + 12_288, PIECE_BYTES)).collect();
    // Made aside: a file that is seen half made is sent once more.
    sparse(&ground.outside.join("sparse"), TIB, &data)?;
    std::fs::rename(ground.outside.join("sparse"), ground.near.join("sparse"))?;
    ground.session.settle(LIMIT)?;
    let wire = ground.proxy.wire().since(before);
    eprintln!("1 TiB with {} KiB of data: {wire:?}", (PIECES * PIECE_BYTES as u64) >> 10);
    ensure!(wire.total() < TERABYTE_COSTS, "{wire:?}");
    // Once more when a little changes.
    let before = ground.proxy.wire();
    reopen(ground, "sparse")?.write_all_at(b"changed", TIB / 2)?;
    ground.session.settle(LIMIT)?;
    let wire = ground.proxy.wire().since(before);
    ensure!(wire.total() < TERABYTE_COSTS, "after a change: {wire:?}");
    Ok(())
}

fn check_terabyte(ground: &Ground, half: Half) -> anyhow::Result<()> {
    if half == Half::First {
        return Ok(());
    }
    ensure!(look::same(ground, "sparse")?.size == TIB);
    let disk = look::disk_bytes(&ground.far.join("sparse"))?;
    ensure!(disk < TERABYTE_COSTS, "{disk} bytes on the secondary's disk");
    Ok(())
}
