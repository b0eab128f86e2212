//! The changelog as the index's redo log.
//!
//! What was recorded is what consumers believe. After a crash the index is older than the changelog; a crawl against
//! it would not see that a file which was recorded in between is gone again. So records behind the index's position
//! are carried out on the index before anything is compared.

use std::path::Path;

use changelog::{EntryOp, Fop, Gfid, JournalReader, Position, Record};
use posix::Kind;

use super::{Edit, Index, Pending, Row, Stamp, entry_key};
use crate::error::Result;
use crate::slot::Slot;

/// Records in one transaction.
const BATCH: usize = 8192;

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Redone {
    /// Records that were carried out.
    pub records: u64,
    /// The changelog cannot prove that these were all.
    pub unproven: bool,
}

/// Carries out what the changelog has behind the index's position. With `remember`, the names in it are noted as
/// pending and new directories as to be listed: nothing is known of the objects that were made but that they exist.
///
/// # Errors
/// What changelog or index say.
pub fn redo(index: &Index, journal: &Path, remember: bool) -> Result<Redone> {
    let from = index.view()?.position()?.unwrap_or(Position::START);
    let mut reader = JournalReader::open(journal, from)?;
    let mut redone = Redone::default();
    loop {
        let batch = reader.read(BATCH)?;
        for span in &batch.unproven {
            // Records that are missing here can leave names on the secondary of which nobody knows; a worker that
            // reads the same changelog is told of the same span and rescans.
            tracing::warn!(?span, "the changelog has an unproven span");
            redone.unproven = true;
        }
        redone.records += batch.records.len() as u64;
        index.edit(batch.at_tail, |edit| {
            for (_, record) in &batch.records {
                apply(edit, record)?;
                if remember {
                    note(edit, record)?;
                }
            }
            edit.set_position(batch.next)
        })?;
        if batch.at_tail {
            return Ok(redone);
        }
    }
}

fn apply(edit: &mut Edit<'_>, record: &Record) -> Result<()> {
    let Record::Entry(gfid, op) = record else { return Ok(()) };
    match op {
        EntryOp::Create(..) | EntryOp::Mknod(..) | EntryOp::Mkdir(..) | EntryOp::Symlink(_) => {
            add(edit, *gfid, &op.entry().into(), kind_of(op))
        }
        EntryOp::Link(entry) => add(edit, *gfid, &entry.into(), Kind::File),
        EntryOp::Rename(from, to) => {
            edit.move_name(&from.into(), &to.into(), *gfid)?;
            ensure(edit, *gfid, Kind::File)
        }
        EntryOp::Unlink(entry, _) | EntryOp::Rmdir(entry, _) => edit.remove_name(&entry.into()).map(drop),
    }
}

fn note(edit: &mut Edit<'_>, record: &Record) -> Result<()> {
    let Record::Entry(gfid, op) = record else { return Ok(()) };
    for entry in [Some(op.entry()), op.new_entry()].into_iter().flatten() {
        edit.add_pending(Pending::Redone, &entry_key(&entry.into()))?;
    }
    let is_new = matches!(op, EntryOp::Mkdir(..)) || op.entry().parent == Gfid::PARKING;
    if is_new && edit.object(*gfid)?.is_some_and(|row| row.is_dir()) {
        edit.add_todo(*gfid)?;
    }
    Ok(())
}

fn add(edit: &mut Edit<'_>, gfid: Gfid, slot: &Slot, kind: Kind) -> Result<()> {
    edit.add_name(slot, gfid)?;
    ensure(edit, gfid, kind)
}

/// An object of which no more is known than that it exists; the crawl will find everything else changed.
fn ensure(edit: &mut Edit<'_>, gfid: Gfid, kind: Kind) -> Result<()> {
    if edit.object(gfid)?.is_none() {
        let owed = kind == Kind::File;
        edit.put_object(gfid, &Row { kind, owed, doubted: false, stamp: Stamp::default(), handle: None })?;
    }
    Ok(())
}

fn kind_of(op: &EntryOp) -> Kind {
    let mode = op.birth().map_or(0, |birth| birth.mode);
    match (op.fop(), Kind::from_st_mode(mode)) {
        (Fop::MKDIR, _) => Kind::Directory,
        (Fop::SYMLINK, _) => Kind::Symlink,
        (_, Some(kind)) => kind,
        (_, None) => Kind::File,
    }
}
