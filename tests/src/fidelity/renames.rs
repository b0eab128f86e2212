//! Names that move: exchanged, overwritten, whited out, in and out of the brick, out of nowhere.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use anyhow::ensure;
use rustix::fs::{AtFlags, CWD, RenameFlags};

use super::{Ground, Half, Scenario, look};

/// What this module has.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "tmpfile-and-linkat", before: nothing, live: link_tmpfiles, check: check_tmpfiles },
    Scenario { name: "rename-exchange", before: make_pairs, live: exchange_pairs, check: check_pairs },
    Scenario { name: "rename-whiteout", before: make_whiteout, live: white_out, check: check_whiteout },
    Scenario { name: "rename-over", before: make_over, live: rename_over, check: check_over },
    Scenario { name: "in-and-out", before: make_crossing, live: cross, check: check_crossing },
];

fn nothing(_: &Ground) -> anyhow::Result<()> {
    Ok(())
}

fn tmpfile(dir: &Path) -> anyhow::Result<File> {
    Ok(File::options().read(true).write(true).custom_flags(libc::O_TMPFILE).open(dir)?)
}

fn link_in(file: &File, path: &Path) -> anyhow::Result<()> {
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(CWD, source, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

fn link_tmpfiles(ground: &Ground) -> anyhow::Result<()> {
    let mut file = tmpfile(&ground.near)?;
    file.write_all(b"written before it had a name")?;
    link_in(&file, &ground.near.join("closed-later"))?;
    file.write_all(b", and after")?;
    drop(file);
    let mut file = tmpfile(&ground.near)?;
    file.write_all(&[b'x'; 1 << 20])?;
    link_in(&file, &ground.near.join("two-names"))?;
    link_in(&file, &ground.near.join("two-names-2"))?;
    drop(file);
    link_in(&tmpfile(&ground.near)?, &ground.near.join("empty"))?;
    let mut file = tmpfile(&ground.outside)?;
    file.write_all(b"from outside")?;
    link_in(&file, &ground.near.join("from-outside"))
}

fn check_tmpfiles(ground: &Ground, half: Half) -> anyhow::Result<()> {
    if half == Half::First {
        return Ok(());
    }
    look::only(&ground.far, &["closed-later", "two-names", "two-names-2", "empty", "from-outside"])?;
    look::all_same(ground, ["closed-later", "two-names", "empty", "from-outside"])?;
    ensure!(look::inode(&ground.far.join("two-names"))?.1 == 2);
    Ok(())
}

/// What changes places with what.
const PAIRS: [(&str, &str); 6] = [
    ("file-1", "file-2"),
    ("dir-1", "dir-2"),
    ("file-3", "dir-3"),
    ("link-4", "dir-4"),
    ("dir-5", "dir-5b/inside"),
    ("file-6", "dir-6/file-6"),
];

fn make_pairs(ground: &Ground) -> anyhow::Result<()> {
    for (one, other) in PAIRS {
        for name in [one, other] {
            let path = ground.near.join(name);
            fs::create_dir_all(path.parent().unwrap_or(&ground.near))?;
            match name.rsplit('/').next().unwrap_or(name).get(..4) {
                Some("file") => fs::write(&path, name)?,
                Some("link") => std::os::unix::fs::symlink(name, &path)?,
                _ => {
                    fs::create_dir(&path)?;
                    fs::write(path.join("content"), name)?;
                }
            }
        }
    }
    Ok(())
}

fn exchange(ground: &Ground, one: &str, other: &str) -> anyhow::Result<()> {
    let (one, other) = (ground.near.join(one), ground.near.join(other));
    Ok(rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

fn exchange_pairs(ground: &Ground) -> anyhow::Result<()> {
    PAIRS.iter().try_for_each(|(one, other)| exchange(ground, one, other))?;
    // There and back again, and in a ring.
    exchange(ground, "file-1", "file-3")?;
    exchange(ground, "file-1", "file-3")?;
    exchange(ground, "dir-1", "dir-4")?;
    exchange(ground, "dir-4", "dir-2")?;
    fs::write(ground.near.join("dir-5/late"), "late")?;
    Ok(())
}

fn check_pairs(ground: &Ground, half: Half) -> anyhow::Result<()> {
    let read = |name: &str| fs::read_to_string(ground.far.join(name));
    if half == Half::First {
        ensure!(read("file-1")? == "file-1" && read("dir-1/content")? == "dir-1");
        return Ok(());
    }
    ensure!(read("file-1")? == "file-2" && read("file-2")? == "file-1");
    ensure!(read("file-3/content")? == "dir-3" && read("dir-3")? == "file-3");
    ensure!(read("link-4/content")? == "dir-4" && read("dir-5/content")? == "dir-5b/inside");
    ensure!(read("dir-5b/inside/content")? == "dir-5" && read("dir-5/late")? == "late");
    ensure!(read("file-6")? == "dir-6/file-6" && read("dir-6/file-6")? == "file-6");
    ensure!(fs::read_link(ground.far.join("dir-1"))? == Path::new("link-4"));
    ensure!(read("dir-2/content")? == "dir-2" && read("dir-4/content")? == "dir-1");
    Ok(())
}

fn make_whiteout(ground: &Ground) -> anyhow::Result<()> {
    fs::write(ground.near.join("file"), "file")?;
    fs::create_dir(ground.near.join("dir"))?;
    Ok(fs::write(ground.near.join("dir/f"), "f")?)
}

fn white_out(ground: &Ground) -> anyhow::Result<()> {
    for name in ["file", "dir"] {
        let (from, to) = (ground.near.join(name), ground.near.join(format!("{name}-moved")));
        rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::WHITEOUT)?;
    }
    Ok(())
}

fn check_whiteout(ground: &Ground, half: Half) -> anyhow::Result<()> {
    if half == Half::Both {
        look::only(&ground.far, &["file", "file-moved", "dir", "dir-moved"])?;
        look::all_same(ground, ["file", "file-moved", "dir", "dir-moved/f"])?;
        ensure!(fs::symlink_metadata(ground.far.join("dir"))?.file_type().is_char_device());
    }
    Ok(())
}

fn make_over(ground: &Ground) -> anyhow::Result<()> {
    let at = |name: &str| ground.near.join(name);
    for name in ["file-1", "file-2", "linked", "device-2"] {
        fs::write(at(name), name)?;
    }
    fs::hard_link(at("linked"), at("linked-2"))?;
    for name in ["dir-1", "dir-2"] {
        fs::create_dir(at(name))?;
    }
    fs::write(at("dir-1/f"), "f")?;
    Ok(())
}

fn rename_over(ground: &Ground) -> anyhow::Result<()> {
    let at = |name: &str| ground.near.join(name);
    fs::rename(at("file-1"), at("file-2"))?;
    fs::rename(at("dir-1"), at("dir-2"))?;
    // Over one name of two, and one name over the other of the same file, which does nothing.
    fs::write(at("late"), "late")?;
    fs::rename(at("late"), at("linked"))?;
    fs::hard_link(at("linked-2"), at("linked-3"))?;
    fs::rename(at("linked-2"), at("linked-3"))?;
    std::os::unix::fs::symlink("target", at("link"))?;
    fs::rename(at("link"), at("device-2"))?;
    // A directory over an empty one that was made a moment ago, twice.
    for name in ["new-1", "new-2", "new-3"] {
        fs::create_dir(at(name))?;
    }
    fs::rename(at("new-1"), at("new-2"))?;
    fs::rename(at("new-2"), at("new-3"))?;
    Ok(())
}

fn check_over(ground: &Ground, half: Half) -> anyhow::Result<()> {
    if half == Half::First {
        return look::all_same(ground, ["file-1", "file-2", "dir-1/f", "dir-2", "linked"]);
    }
    look::only(&ground.far, &["file-2", "dir-2", "linked", "linked-2", "linked-3", "device-2", "new-3"])?;
    ensure!(fs::read(ground.far.join("file-2"))? == b"file-1" && fs::read(ground.far.join("dir-2/f"))? == b"f");
    ensure!(fs::read(ground.far.join("linked"))? == b"late");
    ensure!(look::inode(&ground.far.join("linked-2"))? == look::inode(&ground.far.join("linked-3"))?);
    ensure!(look::inode(&ground.far.join("linked-3"))?.1 == 2);
    look::all_same(ground, ["device-2", "new-3"])
}

fn make_tree(dir: &Path, word: &str) -> anyhow::Result<()> {
    fs::create_dir_all(dir.join("a/b/c"))?;
    for name in ["f", "a/f", "a/b/f", "a/b/c/f"] {
        fs::write(dir.join(name), format!("{word} {name}"))?;
    }
    Ok(())
}

fn make_crossing(ground: &Ground) -> anyhow::Result<()> {
    make_tree(&ground.near.join("leaves"), "leaves")?;
    make_tree(&ground.near.join("comes-back"), "comes-back")?;
    make_tree(&ground.outside.join("enters"), "enters")?;
    make_tree(&ground.outside.join("replaces"), "replaces")?;
    fs::create_dir(ground.near.join("replaced"))?;
    fs::hard_link(ground.near.join("leaves/a/f"), ground.near.join("stays"))?;
    fs::hard_link(ground.outside.join("enters/a/b/f"), ground.outside.join("enters/again"))?;
    fs::hard_link(ground.outside.join("enters/f"), ground.outside.join("one-name-outside"))?;
    Ok(())
}

fn cross(ground: &Ground) -> anyhow::Result<()> {
    let (inside, outside) = (|name: &str| ground.near.join(name), |name: &str| ground.outside.join(name));
    fs::rename(inside("leaves"), outside("left"))?;
    fs::rename(outside("enters"), inside("entered"))?;
    fs::rename(inside("comes-back"), outside("aside"))?;
    // What changes outside is not told by anybody.
    fs::write(outside("aside/a/f"), "changed outside")?;
    fs::remove_dir_all(outside("aside/a/b"))?;
    fs::write(outside("aside/new"), "new")?;
    fs::rename(outside("aside"), inside("came-back"))?;
    fs::rename(outside("replaces"), inside("replaced"))?;
    fs::write(inside("entered/a/late"), "late")?;
    fs::write(outside("left/a/f"), "changed through the name outside")?;
    Ok(())
}

fn check_crossing(ground: &Ground, half: Half) -> anyhow::Result<()> {
    let far = |name: &str| ground.far.join(name);
    if half == Half::First {
        look::only(&ground.far, &["leaves", "comes-back", "replaced", "stays"])?;
        ensure!(look::inode(&far("stays"))? == look::inode(&far("leaves/a/f"))?);
        return Ok(());
    }
    look::only(&ground.far, &["entered", "came-back", "replaced", "stays"])?;
    look::all_same(ground, ["entered/a/b/c/f", "entered/a/late", "entered/f", "replaced/a/b/c/f", "stays"])?;
    look::all_same(ground, ["came-back/a/f", "came-back/new"])?;
    ensure!(look::inode(&far("entered/again"))? == look::inode(&far("entered/a/b/f"))?);
    ensure!(fs::read(far("came-back/a/f"))? == b"changed outside" && !far("came-back/a/b").exists());
    ensure!(fs::read(far("stays"))? == b"changed through the name outside");
    Ok(())
}
