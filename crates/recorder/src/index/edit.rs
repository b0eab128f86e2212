//! Changing the index: one transaction.

use changelog::{Gfid, Position};
use redb::{ReadableTable, Table, WriteTransaction};

use super::row::gfid_from;
use super::{ENTRIES, LOST, META, NAMES, OBJECTS, PENDING, Pending, Row, TODO, entry_key, name_key};
use crate::error::Result;
use crate::slot::Slot;

/// The tables of an open transaction.
pub struct Edit<'txn> {
    objects: Table<'txn, &'static [u8], &'static [u8]>,
    entries: Table<'txn, &'static [u8], &'static [u8]>,
    names: Table<'txn, &'static [u8], ()>,
    todo: Table<'txn, u64, &'static [u8]>,
    lost: Table<'txn, &'static [u8], ()>,
    pending: Table<'txn, &'static [u8], ()>,
    meta: Table<'txn, &'static str, &'static [u8]>,
}

impl<'txn> Edit<'txn> {
    pub(super) fn new(transaction: &'txn WriteTransaction) -> Result<Edit<'txn>> {
        Ok(Edit {
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

    /// Writes down what is known of an object.
    pub fn put_object(&mut self, gfid: Gfid, row: &Row) -> Result<()> {
        self.objects.insert(gfid.0.as_slice(), row.encode().as_slice())?;
        Ok(())
    }

    /// Puts an object at a name. Whatever the index has there before loses it.
    pub fn add_name(&mut self, slot: &Slot, gfid: Gfid) -> Result<()> {
        let before = self.entries.get(entry_key(slot).as_slice())?.map(|found| gfid_from(found.value())).transpose()?;
        match before {
            Some(found) if found == gfid => return Ok(()),
            Some(_) => drop(self.remove_name(slot)?),
            None => {}
        }
        self.entries.insert(entry_key(slot).as_slice(), gfid.0.as_slice())?;
        self.names.insert(name_key(gfid, slot).as_slice(), ())?;
        Ok(())
    }

    /// Takes a name away, and the object with its last name. Returns which object had it.
    pub fn remove_name(&mut self, slot: &Slot) -> Result<Option<Gfid>> {
        let Some(gfid) = self.take_name(slot)? else { return Ok(None) };
        if !self.has_name(gfid)? {
            self.objects.remove(gfid.0.as_slice())?;
        }
        Ok(Some(gfid))
    }

    /// Moves an object from one name to another one.
    pub fn move_name(&mut self, from: &Slot, to: &Slot, gfid: Gfid) -> Result<()> {
        if self.entries.get(entry_key(from).as_slice())?.is_some_and(|found| found.value() == gfid.0) {
            self.take_name(from)?;
        }
        self.add_name(to, gfid)
    }

    fn take_name(&mut self, slot: &Slot) -> Result<Option<Gfid>> {
        let Some(gfid) = self.entries.remove(entry_key(slot).as_slice())?.map(|gfid| gfid_from(gfid.value())) else {
            return Ok(None);
        };
        let gfid = gfid?;
        self.names.remove(name_key(gfid, slot).as_slice())?;
        Ok(Some(gfid))
    }

    /// Whether the object has a name.
    pub fn has_name(&self, gfid: Gfid) -> Result<bool> {
        match self.names.range::<&[u8]>(gfid.0.as_slice()..)?.next() {
            Some(item) => Ok(item?.0.value().starts_with(&gfid.0)),
            None => Ok(false),
        }
    }

    /// Notes that a directory is to be listed, before all others that are noted.
    pub fn add_todo(&mut self, dir: Gfid) -> Result<()> {
        let number = self.todo.last()?.map_or(0, |(number, _)| number.value() + 1);
        self.todo.insert(number, dir.0.as_slice())?;
        Ok(())
    }

    /// Strikes a directory off the list.
    pub fn remove_todo(&mut self, number: u64) -> Result<()> {
        self.todo.remove(number)?;
        Ok(())
    }

    /// Notes that a name is missing and its object was not found elsewhere.
    pub fn add_lost(&mut self, slot: &Slot) -> Result<()> {
        self.lost.insert(entry_key(slot).as_slice(), ())?;
        Ok(())
    }

    /// Strikes a name off.
    pub fn remove_lost(&mut self, slot: &Slot) -> Result<()> {
        self.lost.remove(entry_key(slot).as_slice())?;
        Ok(())
    }

    /// Forgets an unfinished crawl.
    pub fn clear_crawl(&mut self) -> Result<()> {
        self.todo.retain(|_, _| false)?;
        self.lost.retain(|_, _| false)?;
        Ok(())
    }

    /// Notes something that is not finished.
    pub fn add_pending(&mut self, kind: Pending, key: &[u8]) -> Result<()> {
        self.pending.insert([&[kind as u8], key].concat().as_slice(), ())?;
        Ok(())
    }

    /// Strikes it off.
    pub fn remove_pending(&mut self, kind: Pending, key: &[u8]) -> Result<()> {
        self.pending.remove([&[kind as u8], key].concat().as_slice())?;
        Ok(())
    }

    /// Strikes everything of a kind off.
    pub fn clear_pending(&mut self, kind: Pending) -> Result<()> {
        Ok(self.pending.retain_in::<&[u8], _>([kind as u8].as_slice()..[kind as u8 + 1].as_slice(), |_, ()| false)?)
    }

    /// Notes how far the changelog is contained.
    pub fn set_position(&mut self, position: Position) -> Result<()> {
        self.set_meta("position", position.to_string().as_bytes())
    }

    /// A number of the table `meta`.
    pub fn meta_u64(&self, key: &str) -> Result<Option<u64>> {
        let value = self.meta.get(key)?;
        Ok(value.and_then(|value| value.value().try_into().ok().map(u64::from_le_bytes)))
    }

    /// Takes a value out of the table `meta`.
    pub fn remove_meta(&mut self, key: &str) -> Result<()> {
        self.meta.remove(key)?;
        Ok(())
    }

    /// Writes a value of the table `meta`.
    pub fn set_meta(&mut self, key: &str, value: &[u8]) -> Result<()> {
        self.meta.insert(key, value)?;
        Ok(())
    }
}
