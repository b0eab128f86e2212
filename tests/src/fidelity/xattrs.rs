//! Extended attributes, capabilities and ACLs.

use std::fs;
use std::path::Path;

use anyhow::ensure;
use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid};

use super::{Ground, Half, Scenario, look};
use crate::fs::FileSystem;

/// What this module has.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "xattrs", before: make, live: change, check },
    Scenario { name: "large-xattrs", before: make_large, live: change_large, check: check_large },
    Scenario { name: "capabilities", before: make_capable, live: change_capable, check: check_capable },
    Scenario { name: "acls", before: make_acls, live: change_acls, check: check_acls },
];

/// Names of extended attributes of POSIX ACLs.
const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// Files with large values: their attributes alone are more than one message may hold.
const LARGE_FILES: usize = 270;

/// How many of them change.
const LARGE_CHANGES: usize = 12;

fn set(path: &Path, name: &str, value: &[u8]) -> anyhow::Result<()> {
    Ok(xattr::set(path, name, value)?)
}

fn make(ground: &Ground) -> anyhow::Result<()> {
    let at = |name: &str| ground.near.join(name);
    fs::write(at("file"), "x")?;
    fs::create_dir(at("dir"))?;
    std::os::unix::fs::symlink("nowhere", at("link"))?;
    rustix::fs::mknodat(CWD, at("fifo"), rustix::fs::FileType::Fifo, Mode::RWXU, 0)?;
    for name in ["file", "dir"] {
        set(&at(name), "user.kept", b"kept")?;
        set(&at(name), "user.changed", b"before")?;
        set(&at(name), "user.removed", b"here")?;
        set(&at(name), "user.empty", b"")?;
        set(&at(name), "user.bytes", &(0..=255).collect::<Vec<u8>>())?;
    }
    for name in ["file", "dir", "link", "fifo"] {
        set(&at(name), "trusted.kept", b"kept")?;
        set(&at(name), "trusted.changed", b"before")?;
        set(&at(name), "trusted.removed", b"here")?;
    }
    Ok(())
}

fn change(ground: &Ground) -> anyhow::Result<()> {
    let at = |name: &str| ground.near.join(name);
    for name in ["file", "dir"] {
        set(&at(name), "user.changed", b"after, and longer than it was before")?;
        set(&at(name), "user.new", b"new")?;
        xattr::remove(at(name), "user.removed")?;
    }
    for name in ["file", "dir", "link", "fifo"] {
        set(&at(name), "trusted.changed", b"")?;
        xattr::remove(at(name), "trusted.removed")?;
    }
    // Those of the file go with the content that replaces it, or not.
    fs::write(at("aside"), "y")?;
    set(&at("aside"), "user.own", b"own")?;
    fs::rename(at("aside"), at("replaced"))?;
    fs::write(at("file"), "another content")?;
    Ok(())
}

fn check(ground: &Ground, half: Half) -> anyhow::Result<()> {
    look::all_same(ground, ["file", "dir", "link", "fifo"])?;
    let names = |name: &str| -> anyhow::Result<usize> { Ok(look::looks(&ground.far.join(name))?.xattrs.len()) };
    match half {
        Half::First => ensure!(names("file")? == 8 && names("dir")? == 8 && names("link")? == 3 && names("fifo")? == 3),
        Half::Both => {
            ensure!(names("file")? == 7 && names("dir")? == 7 && names("link")? == 2 && names("fifo")? == 2);
            ensure!(look::same(ground, "replaced")?.xattrs.len() == 1);
        }
    }
    Ok(())
}

/// The largest value that fits beside the stamp of the secondary.
fn largest(kind: FileSystem) -> usize {
    match kind {
        FileSystem::Ext4 => 3000,
        FileSystem::Xfs => 65_536,
        FileSystem::Btrfs => 15_000,
        FileSystem::Tmpfs => 30_000,
    }
}

fn make_large(ground: &Ground) -> anyhow::Result<()> {
    let value = vec![7; largest(ground.kind)];
    for number in 0..LARGE_FILES {
        let path = ground.near.join(number.to_string());
        match number % 3 {
            0 => fs::write(&path, "x")?,
            1 => fs::create_dir(&path)?,
            _ => rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::Fifo, Mode::RWXU, 0)?,
        }
        set(&path, "trusted.large", &value)?;
    }
    Ok(())
}

fn change_large(ground: &Ground) -> anyhow::Result<()> {
    let value = vec![8; largest(ground.kind)];
    for number in 0..LARGE_CHANGES {
        set(&ground.near.join(number.to_string()), "trusted.large", &value)?;
    }
    fs::rename(ground.near.join("0"), ground.near.join("renamed"))?;
    Ok(())
}

fn check_large(ground: &Ground, half: Half) -> anyhow::Result<()> {
    for number in 1..LARGE_FILES {
        let looks = look::same(ground, &number.to_string())?;
        let expected = if half == Half::Both && number < LARGE_CHANGES { 8 } else { 7 };
        ensure!(looks.xattrs[0].1 == vec![expected; largest(ground.kind)], "{number}");
    }
    Ok(())
}

/// `security.capability` with these permitted and inheritable bits, effective (linux/capability.h, revision 2).
fn capability(permitted: u32, inheritable: u32) -> Vec<u8> {
    [0x0200_0001, permitted, inheritable, 0, 0].into_iter().flat_map(u32::to_le_bytes).collect()
}

fn make_capable(ground: &Ground) -> anyhow::Result<()> {
    for name in ["kept", "changed", "removed", "rewritten", "owned"] {
        fs::write(ground.near.join(name), name)?;
        set(&ground.near.join(name), "security.capability", &capability(1 << 10, 0))?;
    }
    Ok(())
}

fn change_capable(ground: &Ground) -> anyhow::Result<()> {
    let at = |name: &str| ground.near.join(name);
    set(&at("changed"), "security.capability", &capability(1 << 13, 1 << 12))?;
    xattr::remove(at("removed"), "security.capability")?;
    // Writing and chown(2) take it away.
    fs::write(at("rewritten"), "new content")?;
    let (uid, gid) = (Uid::from_raw(1), Gid::from_raw(1));
    rustix::fs::chownat(CWD, at("owned"), Some(uid), Some(gid), AtFlags::empty())?;
    fs::write(at("new"), "x")?;
    set(&at("new"), "security.capability", &capability(1, 0))
}

fn check_capable(ground: &Ground, half: Half) -> anyhow::Result<()> {
    let value = |name: &str| xattr::get(ground.far.join(name), "security.capability");
    look::all_same(ground, ["kept", "changed", "removed", "rewritten", "owned"])?;
    ensure!(value("kept")? == Some(capability(1 << 10, 0)));
    if half == Half::Both {
        look::same(ground, "new")?;
        ensure!(value("changed")? == Some(capability(1 << 13, 1 << 12)) && value("new")? == Some(capability(1, 0)));
        ensure!(value("removed")?.is_none() && value("owned")?.is_none());
    }
    Ok(())
}

/// An ACL with named users and a mask (linux/posix_acl_xattr.h).
fn acl(users: &[(u32, u16)]) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let named = users.iter().map(|&(user, perm)| (0x02, perm, user));
    let entries = [(0x01, 7, NOBODY)].into_iter().chain(named).chain([
        (0x04, 5, NOBODY),
        (0x08, 3, 4000),
        (0x10, 7, NOBODY),
        (0x20, 0, NOBODY),
    ]);
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        bytes.extend(u16::to_le_bytes(tag));
        bytes.extend(u16::to_le_bytes(perm));
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn make_acls(ground: &Ground) -> anyhow::Result<()> {
    let at = |name: &str| ground.near.join(name);
    for name in ["file", "file-removed", "file-changed"] {
        fs::write(at(name), "x")?;
        set(&at(name), ACCESS, &acl(&[(1000, 4), (1001, 6)]))?;
    }
    for name in ["dir", "dir-removed"] {
        fs::create_dir(at(name))?;
        set(&at(name), ACCESS, &acl(&[(1000, 5)]))?;
        set(&at(name), DEFAULT, &acl(&[(1002, 7)]))?;
    }
    // What is made below inherits; what is made over there must not inherit once more.
    fs::write(at("dir/inherits"), "x")?;
    fs::create_dir(at("dir/inherits-too"))?;
    fs::write(at("dir/without"), "x")?;
    xattr::remove(at("dir/without"), ACCESS)?;
    Ok(())
}

fn change_acls(ground: &Ground) -> anyhow::Result<()> {
    let at = |name: &str| ground.near.join(name);
    xattr::remove(at("file-removed"), ACCESS)?;
    set(&at("file-changed"), ACCESS, &acl(&[(5, 1), (6, 2), (7, 3)]))?;
    // chmod(2) changes the mask of the ACL.
    rustix::fs::chmodat(CWD, at("file"), Mode::from_raw_mode(0o604), AtFlags::empty())?;
    xattr::remove(at("dir-removed"), ACCESS)?;
    xattr::remove(at("dir-removed"), DEFAULT)?;
    fs::write(at("dir/late"), "x")?;
    fs::create_dir_all(at("dir/late-dir/deeper"))?;
    fs::write(at("dir/late-without"), "x")?;
    xattr::remove(at("dir/late-without"), ACCESS)?;
    fs::rename(at("file"), at("dir/moved-in"))?;
    Ok(())
}

fn check_acls(ground: &Ground, half: Half) -> anyhow::Result<()> {
    let has =
        |name: &str, which: &str| -> anyhow::Result<bool> { Ok(xattr::get(ground.far.join(name), which)?.is_some()) };
    look::all_same(ground, ["file-removed", "file-changed", "dir", "dir-removed"])?;
    look::all_same(ground, ["dir/inherits", "dir/inherits-too", "dir/without"])?;
    ensure!(has("dir", ACCESS)? && has("dir", DEFAULT)? && has("dir/inherits-too", DEFAULT)?);
    ensure!(!has("dir/without", ACCESS)?);
    match half {
        Half::First => ensure!(has("file", ACCESS)? && has("dir-removed", DEFAULT)? && has("file-removed", ACCESS)?),
        Half::Both => {
            look::all_same(ground, ["dir/late", "dir/late-dir/deeper", "dir/late-without", "dir/moved-in"])?;
            ensure!(!has("dir-removed", DEFAULT)? && !has("dir-removed", ACCESS)? && !has("file-removed", ACCESS)?);
            ensure!(has("dir/moved-in", ACCESS)? && !has("dir/late-without", ACCESS)?);
        }
    }
    Ok(())
}
