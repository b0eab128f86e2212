//! `Content`: what is in the stage takes the place of a file's content, under all its names.

use std::os::fd::AsFd;

use posix::{Kind, Object, beneath};
use protocol::agent::Outcome;
use protocol::{Gfid, Version};
use rustix::fs::RenameFlags;

use super::{Ready, Staging, attributes};
use crate::error::{Step, Tried, Trouble};
use crate::index::Row;
use crate::private::Private;
use crate::stage::{By, Claimed};
use crate::stamp;
use crate::tree::{Spot, Tree, check_gfid};

/// Carries one statement out.
///
/// # Errors
/// [`Outcome::NeedContent`] when the stage has nothing complete, else [`Trouble`]. A file with several names may have
/// the new content under some of them then; stating it again completes that.
pub fn content(tree: &mut Tree, staging: &mut Staging, gfid: Gfid, object: &Object, whole: bool) -> Step<()> {
    check_gfid(gfid)?;
    if object.kind != Kind::File {
        return Err(Trouble::refused("only files have content"));
    }
    let row = tree.index.get(gfid)?;
    if let Some(row) = row
        && row.kind != Kind::File
    {
        return Err(Trouble::refused(format!("{gfid} is a {:?} here and a file on the primary", row.kind)));
    }
    let stage = staging.stage.clone();
    let Some(claimed) = stage.claim(gfid, object, whole).tried("take a file from the stage")? else {
        let done = attributes::has(tree, staging, gfid, &Version::of(object))?;
        return if done { Ok(()) } else { Err(Trouble::Answer(Outcome::NeedContent)) };
    };
    let taken = take(tree, staging, gfid, object, &claimed);
    if taken.is_err() {
        stage.unclaim(gfid, &claimed);
    }
    taken
}

fn take(tree: &mut Tree, staging: &mut Staging, gfid: Gfid, object: &Object, claimed: &Claimed) -> Step<()> {
    let staged = staging.stage.numbered(claimed.number);
    let names = tree.find_all(gfid)?;
    if !matches!(claimed.by, By::Channel(attributes) if attributes.suffice(object)) {
        let fd = beneath::open_path(staged.dir.as_fd(), &staged.name).tried("open a staged file")?;
        object.apply(fd.as_fd()).tried("set attributes of a staged file")?;
        stamp::set(fd.as_fd(), gfid).tried("stamp a staged file")?;
    }
    let Some((first, others)) = names.split_first() else {
        staging.keep(gfid, Ready { number: claimed.number, version: Version::of(object) });
        return Ok(());
    };
    let is_live_file = match claimed.by {
        By::Channel(_) => false,
        By::Rsync { inode } => tree.stat(first)?.1 == inode,
    };
    if is_live_file {
        tree.unlink(None, &staged)?;
    } else if others.is_empty() {
        tree.rename(gfid, &staged, first, RenameFlags::empty())?;
    } else {
        replace_all(tree, gfid, &staged, &names)?;
    }
    tree.in_place.remove(&gfid);
    staging.drop_ready(gfid);
    let row = tree.index.get(gfid)?.unwrap_or(Row::new(Kind::File));
    Ok(tree.index.put(gfid, &Row { version: Some(Version::of(object)), ..row })?)
}

/// Replaces several names, one by one. The new content has a name in `relink/` meanwhile, by which a start after a
/// crash knows that the other names have to follow.
fn replace_all(tree: &mut Tree, gfid: Gfid, staged: &Spot, names: &[Spot]) -> Step<()> {
    let marker = relink_spot(&tree.private, gfid);
    match tree.unlink(None, &marker) {
        Err(Trouble::Answer(Outcome::Failed { errno, .. })) if errno == libc::ENOENT => {}
        other => other?,
    }
    tree.link(gfid, staged, &marker)?;
    relink(tree, gfid, &marker, names)?;
    tree.unlink(None, staged)?;
    tree.unlink(None, &marker)
}

/// Where the new content of a file with several names is while they are replaced.
pub fn relink_spot(private: &Private, gfid: Gfid) -> Spot {
    Spot::unindexed(&private.relink, gfid.to_string())
}

/// Replaces each name by a link to `content`, where it is not one already.
///
/// # Errors
/// [`Trouble`]; the names before the one that failed are replaced.
pub fn relink(tree: &mut Tree, gfid: Gfid, content: &Spot, names: &[Spot]) -> Step<()> {
    let (_, inode) = tree.stat(content)?;
    for name in names {
        // After a crash some are: a rename over one would do nothing and leave the spare name behind.
        if tree.stat(name)?.1 == inode {
            continue;
        }
        let spare = tree.spare();
        tree.link(gfid, content, &spare)?;
        if let Err(trouble) = tree.rename(gfid, &spare, name, RenameFlags::empty()) {
            tree.discard(&spare, Kind::File);
            return Err(trouble);
        }
    }
    Ok(())
}
