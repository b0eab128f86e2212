//! Reading the index.

use std::ops::Bound;

use changelog::{Gfid, Position};
use redb::{ReadOnlyTable, ReadTransaction, ReadableTableMetadata};

use super::row::gfid_from;
use super::{ENTRIES, LOST, META, NAMES, OBJECTS, PENDING, Pending, Row, TODO, entry_key, name_key};
use crate::error::Result;
use crate::slot::Slot;

/// The index as of one commit.
pub struct View {
    objects: ReadOnlyTable<&'static [u8], &'static [u8]>,
    entries: ReadOnlyTable<&'static [u8], &'static [u8]>,
    names: ReadOnlyTable<&'static [u8], ()>,
    todo: ReadOnlyTable<u64, &'static [u8]>,
    lost: ReadOnlyTable<&'static [u8], ()>,
    pending: ReadOnlyTable<&'static [u8], ()>,
    meta: ReadOnlyTable<&'static str, &'static [u8]>,
}

impl View {
    pub(super) fn new(transaction: &ReadTransaction) -> Result<View> {
        Ok(View {
            objects: transaction.open_table(OBJECTS)?,
            entries: transaction.open_table(ENTRIES)?,
            names: transaction.open_table(NAMES)?,
            todo: transaction.open_table(TODO)?,
            lost: transaction.open_table(LOST)?,
            pending: transaction.open_table(PENDING)?,
            meta: transaction.open_table(META)?,
        })
    }

    /// What is known of an object.
    ///
    /// # Errors
    /// As all methods here: what the database says.
    pub fn object(&self, gfid: Gfid) -> Result<Option<Row>> {
        self.objects.get(gfid.0.as_slice())?.map(|row| Row::decode(row.value())).transpose()
    }

    /// The first `max` objects behind `after`, in the order of their GFIDs.
    pub fn objects_behind(&self, after: Option<Gfid>, max: usize) -> Result<Vec<(Gfid, Row)>> {
        let begin = after.as_ref().map_or(Bound::Unbounded, |gfid| Bound::Excluded(gfid.0.as_slice()));
        let mut found = Vec::new();
        for item in self.objects.range::<&[u8]>((begin, Bound::Unbounded))?.take(max) {
            let (gfid, row) = item?;
            found.push((gfid_from(gfid.value())?, Row::decode(row.value())?));
        }
        Ok(found)
    }

    /// Number of objects.
    pub fn objects(&self) -> Result<u64> {
        Ok(self.objects.len()?)
    }

    /// Which object is at a name.
    pub fn entry(&self, slot: &Slot) -> Result<Option<Gfid>> {
        self.entries.get(entry_key(slot).as_slice())?.map(|gfid| gfid_from(gfid.value())).transpose()
    }

    /// The first `max` names of an object.
    pub fn names(&self, gfid: Gfid, max: usize) -> Result<Vec<Slot>> {
        let mut slots = Vec::new();
        for item in self.names.range::<&[u8]>(gfid.0.as_slice()..)?.take(max) {
            let (key, _) = item?;
            let Some((parent, name)) = key.value().strip_prefix(&gfid.0).and_then(|key| key.split_at_checked(16))
            else {
                break;
            };
            slots.push(Slot::new(gfid_from(parent)?, name));
        }
        Ok(slots)
    }

    /// The first `max` entries of a directory, behind `after` where that is given.
    pub fn children(&self, dir: Gfid, after: Option<&[u8]>, max: usize) -> Result<Vec<(Slot, Gfid)>> {
        let begin = entry_key(&Slot::new(dir, after.unwrap_or_default()));
        let begin = if after.is_some() { Bound::Excluded(begin.as_slice()) } else { Bound::Included(begin.as_slice()) };
        let mut found = Vec::new();
        for item in self.entries.range::<&[u8]>((begin, Bound::Unbounded))?.take(max) {
            let (key, gfid) = item?;
            let Some(name) = key.value().strip_prefix(&dir.0) else { break };
            found.push((Slot::new(dir, name), gfid_from(gfid.value())?));
        }
        Ok(found)
    }

    /// The first `max` names of all objects, in their order, behind `after`.
    pub fn all_names(&self, after: Option<(Gfid, &Slot)>, max: usize) -> Result<Vec<(Gfid, Slot)>> {
        let begin = after.map(|(gfid, slot)| name_key(gfid, slot));
        let begin = begin.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut found = Vec::new();
        for item in self.names.range::<&[u8]>((begin, Bound::Unbounded))?.take(max) {
            let (key, _) = item?;
            let Some((gfid, rest)) = key.value().split_at_checked(16) else { continue };
            let Some((parent, name)) = rest.split_at_checked(16) else { continue };
            found.push((gfid_from(gfid)?, Slot::new(gfid_from(parent)?, name)));
        }
        Ok(found)
    }

    /// The next directory to be listed.
    pub fn next_todo(&self) -> Result<Option<(u64, Gfid)>> {
        self.todo_before(None)
    }

    /// The directory to be listed after the one with this number.
    pub fn todo_before(&self, number: Option<u64>) -> Result<Option<(u64, Gfid)>> {
        match self.todo.range(..number.unwrap_or(u64::MAX))?.next_back() {
            Some(item) => {
                let (number, gfid) = item?;
                Ok(Some((number.value(), gfid_from(gfid.value())?)))
            }
            None => Ok(None),
        }
    }

    /// The first `max` names that the crawl missed, behind `after`.
    pub fn lost(&self, after: Option<&Slot>, max: usize) -> Result<Vec<Slot>> {
        let begin = after.map(entry_key);
        let begin = begin.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut found = Vec::new();
        for item in self.lost.range::<&[u8]>((begin, Bound::Unbounded))?.take(max) {
            let (key, _) = item?;
            if let Some((parent, name)) = key.value().split_at_checked(16) {
                found.push(Slot::new(gfid_from(parent)?, name));
            }
        }
        Ok(found)
    }

    /// The first `max` keys of a kind, behind `after`.
    pub fn pending(&self, kind: Pending, after: Option<&[u8]>, max: usize) -> Result<Vec<Vec<u8>>> {
        let begin = [&[kind as u8], after.unwrap_or_default()].concat();
        let begin = if after.is_some() { Bound::Excluded(begin.as_slice()) } else { Bound::Included(begin.as_slice()) };
        let mut found = Vec::new();
        for item in self.pending.range::<&[u8]>((begin, Bound::Unbounded))?.take(max) {
            let (key, _) = item?;
            let Some(key) = key.value().strip_prefix(&[kind as u8]) else { break };
            found.push(key.to_vec());
        }
        Ok(found)
    }

    /// The first `max` names of a kind, behind `after`.
    pub fn pending_names(&self, kind: Pending, after: Option<&Slot>, max: usize) -> Result<Vec<Slot>> {
        let keys = self.pending(kind, after.map(entry_key).as_deref(), max)?;
        let slots = keys.iter().filter_map(|key| key.split_at_checked(16));
        slots.map(|(parent, name)| Ok(Slot::new(gfid_from(parent)?, name))).collect()
    }

    /// The first `max` GFIDs of a kind, behind `after`.
    pub fn pending_gfids(&self, kind: Pending, after: Option<Gfid>, max: usize) -> Result<Vec<Gfid>> {
        let keys = self.pending(kind, after.as_ref().map(|gfid| gfid.0.as_slice()), max)?;
        keys.iter().map(|key| gfid_from(key)).collect()
    }

    /// The changelog's position when this was committed.
    pub fn position(&self) -> Result<Option<Position>> {
        let Some(value) = self.meta.get("position")? else { return Ok(None) };
        Ok(std::str::from_utf8(value.value()).ok().and_then(|text| text.parse().ok()))
    }

    /// A value of the table `meta`.
    pub fn meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.meta.get(key)?.map(|value| value.value().to_vec()))
    }
}
