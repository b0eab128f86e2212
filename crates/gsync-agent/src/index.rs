//! The index: what is known of each object, and under which names it lives.
//!
//! A cache of what is stamped on the objects. Changes are committed without a wait for the disk; [`Index::sync`]
//! makes all of them durable. After an unclean stop it is thrown away and made again from the stamps.

use std::ops::Bound;
use std::path::Path;

use protocol::{Gfid, Kind, Place, Time, Version};
use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};

use crate::error::IndexError;

/// Format of the tables; raised when a row changes.
const FORMAT: u64 = 1;

/// Changes between two commits: keeps what the store holds for one transaction small.
const CHANGES_PER_COMMIT: u32 = 1000;

/// Pages that the store keeps in memory, bytes.
const CACHE_BYTES: usize = 64 << 20;

/// Number of the format under `format`; 1 under `complete` when a crawl has ended.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// GFID to [`Row`].
const OBJECTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("objects");
/// GFID, GFID of the directory, name: there.
const NAMES: TableDefinition<&[u8], ()> = TableDefinition::new("names");
/// Directories that a crawl has still to read.
const TO_CRAWL: TableDefinition<&[u8], ()> = TableDefinition::new("to-crawl");

/// What is known of one object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Type.
    pub kind: Kind,
    /// The primary's version of the content that the file has; `None` when that is not known.
    pub version: Option<Version>,
    /// The mtime that a directory has on the primary; given back after entries were changed here.
    pub mtime: Option<Time>,
}

impl Row {
    /// Nothing known but the type.
    pub fn new(kind: Kind) -> Row {
        Row { kind, version: None, mtime: None }
    }
}

/// The open index.
pub struct Index {
    /// The transaction that takes the changes; `None` only while it is being replaced.
    transaction: Option<WriteTransaction>,
    database: Database,
    changes: u32,
}

impl Index {
    /// Makes an empty index.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn create(path: impl AsRef<Path>) -> Result<Index, IndexError> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
        let transaction = database.begin_write()?;
        transaction.open_table(META)?.insert("format", FORMAT)?;
        transaction.open_table(OBJECTS)?;
        transaction.open_table(NAMES)?;
        transaction.open_table(TO_CRAWL)?;
        Ok(Index { transaction: Some(transaction), database, changes: 0 })
    }

    /// Opens an index that is complete.
    ///
    /// # Errors
    /// [`IndexError`]: make a new one.
    pub fn open(path: impl AsRef<Path>) -> Result<Index, IndexError> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).open(path)?;
        let transaction = database.begin_write()?;
        {
            let meta = transaction.open_table(META)?;
            let value = |key| -> Result<u64, IndexError> { Ok(meta.get(key)?.map_or(0, |v| v.value())) };
            let found = value("format")?;
            if found != FORMAT {
                return Err(IndexError::Format { found });
            }
            if value("complete")? != 1 {
                return Err(IndexError::Incomplete);
            }
        }
        Ok(Index { transaction: Some(transaction), database, changes: 0 })
    }

    /// Says that everything below the root is in the index.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn set_complete(&mut self) -> Result<(), IndexError> {
        self.transaction().open_table(META)?.insert("complete", 1)?;
        self.changed()
    }

    /// What is known of an object.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn get(&self, gfid: Gfid) -> Result<Option<Row>, IndexError> {
        let objects = self.transaction().open_table(OBJECTS)?;
        let Some(bytes) = objects.get(gfid.0.as_slice())? else { return Ok(None) };
        Ok(Some(postcard::from_bytes(bytes.value()).map_err(|_| IndexError::Row { gfid })?))
    }

    /// The first directory behind `last`, in the order of GFIDs.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn next_directory(&self, last: Option<Gfid>) -> Result<Option<Gfid>, IndexError> {
        let objects = self.transaction().open_table(OBJECTS)?;
        let from = match &last {
            Some(last) => Bound::Excluded(last.0.as_slice()),
            None => Bound::Unbounded,
        };
        for entry in objects.range::<&[u8]>((from, Bound::Unbounded))? {
            let (key, value) = entry?;
            let gfid = key.value().try_into().map(Gfid).map_err(|_| IndexError::Row { gfid: Gfid::ROOT })?;
            let row: Row = postcard::from_bytes(value.value()).map_err(|_| IndexError::Row { gfid })?;
            if row.kind == Kind::Directory {
                return Ok(Some(gfid));
            }
        }
        Ok(None)
    }

    /// Stores what is known of an object.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn put(&mut self, gfid: Gfid, row: &Row) -> Result<(), IndexError> {
        let bytes = postcard::to_stdvec(row).map_err(|_| IndexError::Row { gfid })?;
        self.transaction().open_table(OBJECTS)?.insert(gfid.0.as_slice(), bytes.as_slice())?;
        self.changed()
    }

    /// All names of an object, as last seen.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn names(&self, gfid: Gfid) -> Result<Vec<Place>, IndexError> {
        self.names_up_to(gfid, usize::MAX)
    }

    /// One name of an object, as last seen.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn name(&self, gfid: Gfid) -> Result<Option<Place>, IndexError> {
        Ok(self.names_up_to(gfid, 1)?.pop())
    }

    fn names_up_to(&self, gfid: Gfid, limit: usize) -> Result<Vec<Place>, IndexError> {
        let names = self.transaction().open_table(NAMES)?;
        let mut found = Vec::new();
        for entry in names.range(gfid.0.as_slice()..)?.take(limit) {
            let (key, _) = entry?;
            let key = key.value();
            let Some((own, rest)) = key.split_first_chunk::<16>() else { break };
            if *own != gfid.0 {
                break;
            }
            let (parent, name) = rest.split_first_chunk::<16>().ok_or(IndexError::Row { gfid })?;
            found.push(Place { parent: Gfid(*parent), name: name.to_vec() });
        }
        Ok(found)
    }

    /// The first `max` names behind `after`, in the order of their objects, as last seen.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn list(&self, after: Option<&(Gfid, Place)>, max: usize) -> Result<Vec<(Gfid, Place)>, IndexError> {
        let names = self.transaction().open_table(NAMES)?;
        let after = after.map(|(gfid, place)| name_key(*gfid, place));
        let begin = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut found = Vec::new();
        for entry in names.range::<&[u8]>((begin, Bound::Unbounded))?.take(max) {
            let (key, _) = entry?;
            let Some((gfid, rest)) = key.value().split_first_chunk::<16>().map(|(g, r)| (Gfid(*g), r)) else {
                continue;
            };
            let (parent, name) = rest.split_first_chunk::<16>().ok_or(IndexError::Row { gfid })?;
            found.push((gfid, Place { parent: Gfid(*parent), name: name.to_vec() }));
        }
        Ok(found)
    }

    /// Whether a name is there already; cheaper than adding it again.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn has_name(&self, gfid: Gfid, place: &Place) -> Result<bool, IndexError> {
        Ok(self.transaction().open_table(NAMES)?.get(name_key(gfid, place).as_slice())?.is_some())
    }

    /// Adds a name.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn add_name(&mut self, gfid: Gfid, place: &Place) -> Result<(), IndexError> {
        self.transaction().open_table(NAMES)?.insert(name_key(gfid, place).as_slice(), ())?;
        self.changed()
    }

    /// Takes a name away.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn remove_name(&mut self, gfid: Gfid, place: &Place) -> Result<(), IndexError> {
        self.transaction().open_table(NAMES)?.remove(name_key(gfid, place).as_slice())?;
        self.changed()
    }

    /// Forgets an object and its names.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn forget(&mut self, gfid: Gfid) -> Result<(), IndexError> {
        for place in self.names(gfid)? {
            self.remove_name(gfid, &place)?;
        }
        self.transaction().open_table(OBJECTS)?.remove(gfid.0.as_slice())?;
        self.changed()
    }

    /// Number of objects.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn objects(&self) -> Result<u64, IndexError> {
        Ok(self.transaction().open_table(OBJECTS)?.len()?)
    }

    /// Remembers a directory for the crawl.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn push_crawl(&mut self, gfid: Gfid) -> Result<(), IndexError> {
        self.transaction().open_table(TO_CRAWL)?.insert(gfid.0.as_slice(), ())?;
        self.changed()
    }

    /// The next directory of the crawl.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn pop_crawl(&mut self) -> Result<Option<Gfid>, IndexError> {
        let next = {
            let mut to_crawl = self.transaction().open_table(TO_CRAWL)?;
            let first = to_crawl.pop_first()?;
            first.and_then(|(key, _)| key.value().try_into().ok().map(Gfid))
        };
        self.changed()?;
        Ok(next)
    }

    /// Makes all changes durable. What is in the file system must be durable before.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn sync(&mut self) -> Result<(), IndexError> {
        self.commit(Durability::Immediate)
    }

    fn changed(&mut self) -> Result<(), IndexError> {
        self.changes += 1;
        if self.changes < CHANGES_PER_COMMIT { Ok(()) } else { self.commit(Durability::None) }
    }

    fn commit(&mut self, durability: Durability) -> Result<(), IndexError> {
        self.changes = 0;
        if let Some(mut transaction) = self.transaction.take() {
            transaction.set_durability(durability)?;
            transaction.commit()?;
        }
        self.transaction = Some(self.database.begin_write()?);
        Ok(())
    }

    fn transaction(&self) -> &WriteTransaction {
        // A failed commit is fatal for the agent, so nobody asks afterwards.
        self.transaction.as_ref().expect("replaced at once by every commit that succeeded")
    }
}

/// An index of before an unclean stop: a hint which content a file has.
pub struct OldIndex {
    database: Database,
}

impl OldIndex {
    /// Opens it when it is whole.
    pub fn open(path: impl AsRef<Path>) -> Option<OldIndex> {
        let path = path.as_ref();
        if !path.exists() {
            return None;
        }
        // The store panics on some damages; an old index is worth no restart.
        let opened = std::panic::catch_unwind(|| {
            let mut database = Database::builder().set_cache_size(CACHE_BYTES).open(path).ok()?;
            database.check_integrity().ok()?.then_some(database)
        });
        Some(OldIndex { database: opened.ok()?? })
    }

    /// What was known of an object.
    pub fn get(&self, gfid: Gfid) -> Option<Row> {
        let transaction = self.database.begin_read().ok()?;
        let objects = transaction.open_table(OBJECTS).ok()?;
        let bytes = objects.get(gfid.0.as_slice()).ok()??;
        postcard::from_bytes(bytes.value()).ok()
    }
}

fn name_key(gfid: Gfid, place: &Place) -> Vec<u8> {
    [gfid.0.as_slice(), place.parent.0.as_slice(), place.name.as_slice()].concat()
}
