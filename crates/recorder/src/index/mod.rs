//! The index of one brick: which objects there are, under which names, and what they looked like.
//!
//! A redb database, so its memory is bounded. One writer (the pipeline) and any number of readers. Commits are not
//! durable one by one: the changelog is written before, and is the index's redo log (see [`redo`]).

pub mod edit;
pub mod redo;
pub mod row;
pub mod view;

use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use redb::{Builder, Database, Durability, ReadableDatabase, TableDefinition};

use crate::error::{Error, Result};
pub use edit::Edit;
pub use row::{Row, Stamp};
pub use view::View;

/// Memory for pages of one index.
const CACHE_BYTES: usize = 32 << 20;

/// Raised when a table changes its meaning; an index of another version is set aside and made anew.
const FORMAT_VERSION: u64 = 1;

/// GFID -> [`Row`].
pub(crate) const OBJECTS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("objects");
/// GFID of a directory, name -> GFID.
pub(crate) const ENTRIES: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("entries");
/// GFID, GFID of a directory, name -> nothing.
pub(crate) const NAMES: TableDefinition<'static, &[u8], ()> = TableDefinition::new("names");
/// Number -> GFID of a directory that is to be listed; the largest number is next.
pub(crate) const TODO: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("todo");
/// GFID of a directory, name: missing there while a crawl runs, and the object not found elsewhere yet.
pub(crate) const LOST: TableDefinition<'static, &[u8], ()> = TableDefinition::new("lost");
/// [`Pending`], key -> nothing: what the process had in memory when this was committed.
pub(crate) const PENDING: TableDefinition<'static, &[u8], ()> = TableDefinition::new("pending");
/// Name of a value -> value.
pub(crate) const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");

/// Kinds of keys in the table `pending`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pending {
    /// GFID of a directory, name: to be looked at again, its object was not found.
    Deferred = 1,
    /// GFID of a directory that left the brick: what was below it is to be removed.
    Doomed = 2,
    /// GFID of a file that is owed a D record.
    Owed = 3,
    /// GFID of a directory, name: from the changelog, not compared with the brick yet.
    Redone = 4,
}

/// An open index.
pub struct Index {
    database: Database,
    /// Held for writing from the first byte of a batch in the changelog to its commit here: who reads a record and then
    /// asks must not be told that the object is not recorded yet.
    gate: RwLock<()>,
}

impl Index {
    /// Opens or makes the index.
    ///
    /// # Errors
    /// [`Error::Index`], [`Error::IndexDamaged`] for another format.
    pub fn open(path: &Path) -> Result<Index> {
        let database = Builder::new().set_cache_size(CACHE_BYTES).create(path)?;
        let index = Index { database, gate: RwLock::new(()) };
        index.edit(true, |edit| match edit.meta_u64("format")? {
            None => edit.set_meta("format", &FORMAT_VERSION.to_le_bytes()),
            Some(FORMAT_VERSION) => Ok(()),
            Some(_) => Err(Error::IndexDamaged { what: "its format version" }),
        })?;
        Ok(index)
    }

    /// Begins to read, as of the last commit.
    ///
    /// # Errors
    /// [`Error::Index`].
    pub fn view(&self) -> Result<View> {
        View::new(&self.database.begin_read()?)
    }

    /// Begins to read, with everything that is in the changelog by now.
    ///
    /// # Errors
    /// [`Error::Index`].
    pub fn published_view(&self) -> Result<View> {
        let _gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        self.view()
    }

    /// To be held while a batch is published: appended to the changelog and committed here.
    pub fn publishing(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the index in one transaction; nothing is changed where `change` fails.
    ///
    /// # Errors
    /// [`Error::Index`], or what `change` says.
    pub fn edit<T>(&self, durable: bool, change: impl FnOnce(&mut Edit<'_>) -> Result<T>) -> Result<T> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
        // Otherwise the first opening after a kill walks through all of the index.
        transaction.set_quick_repair(durable);
        let result = change(&mut Edit::new(&transaction)?)?;
        transaction.commit()?;
        Ok(result)
    }
}

/// The key of a name: GFID of the directory, name.
pub(crate) fn entry_key(slot: &crate::slot::Slot) -> Vec<u8> {
    let mut key = Vec::with_capacity(16 + slot.name.len());
    key.extend_from_slice(&slot.parent.0);
    key.extend_from_slice(&slot.name);
    key
}

/// The key of an object's name: GFID, GFID of the directory, name.
pub(crate) fn name_key(gfid: changelog::Gfid, slot: &crate::slot::Slot) -> Vec<u8> {
    let mut key = Vec::with_capacity(32 + slot.name.len());
    key.extend_from_slice(&gfid.0);
    key.extend_from_slice(&slot.parent.0);
    key.extend_from_slice(&slot.name);
    key
}
