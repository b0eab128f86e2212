//! The writer's side of a journal that does not grow for ever: removing slices, and compacting them.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::begins::{self, replace};
use crate::compact::{Group, KeySet, put, seal_of};
use crate::disk::{AppendFile, step};
use crate::error::{Error, Result};
use crate::htime::{HTIME_XATTR, parse_index_record};
use crate::layout::{HTIME_DIR, absent, dated_name};
use crate::seal::{SEALS, Seal};
use crate::writer::{JournalWriter, set_xattr};

/// So many index records of slices that are gone are kept before the index is written anew.
const STALE_MAX: u64 = 256;

/// The newest slices are left alone: readers may be about to find out what became of the open one.
const NEWEST_KEPT: usize = 2;

/// A compaction under way, from the newest slice back. Given up at any moment, it leaves a journal that is whole.
#[derive(Debug)]
pub struct Compaction {
    /// Slices with later ends are left alone.
    below: u64,
    group: Group,
}

impl JournalWriter {
    /// Bytes of all slices.
    pub fn bytes(&self) -> u64 {
        self.slices.values().sum::<u64>() + self.position().offset
    }

    /// Everything up to this time may be missing; 0 if nothing was removed.
    pub fn begins(&self) -> u64 {
        self.begins
    }

    /// The ends of the rolled slices with their sizes, oldest first.
    pub fn slices(&self) -> impl Iterator<Item = (u64, u64)> {
        self.slices.iter().map(|(&ts, &bytes)| (ts, bytes))
    }

    /// Removes the slices that end at `until` or before. Readers with an older position are told. Returns how many.
    ///
    /// # Errors
    /// [`Error::Io`]; call it again.
    pub fn remove_until(&mut self, until: u64) -> Result<usize> {
        let victims: Vec<u64> = self.slices.range(..=until).map(|(&ts, _)| ts).collect();
        let Some(&last) = victims.last() else { return Ok(0) };
        if last > self.begins {
            begins::write(&self.dir, last)?;
            self.begins = last;
        }
        for &ts in &victims {
            self.unlink(ts)?;
        }
        self.stale += victims.len() as u64;
        self.rewrite_index_if_due()?;
        Ok(victims.len())
    }

    /// Says that what happened up to now may not be in the journal: every reader looks at the brick itself.
    ///
    /// # Errors
    /// As [`JournalWriter::roll`].
    pub fn declare_incomplete(&mut self, now_secs: u64) -> Result<()> {
        self.roll(now_secs)?;
        let ts = self.last_ts;
        begins::write(&self.dir, ts)?;
        self.begins = ts;
        self.after = self.after.max(ts);
        Ok(())
    }

    /// Begins to compact the slices that end at `until` or before.
    pub fn begin_compaction(&self, until: u64) -> Compaction {
        let newest = self.slices.keys().rev().nth(NEWEST_KEPT - 1).copied().unwrap_or(0);
        Compaction { below: until.saturating_add(1).min(newest), group: Group::default() }
    }

    /// Goes on with a compaction: reads one slice. Returns whether there is more to do.
    ///
    /// # Errors
    /// [`Error::Io`]; give the compaction up then, and begin a new one later.
    pub fn compact(&mut self, compaction: &mut Compaction, keys: &mut dyn KeySet) -> Result<bool> {
        let next = self.slices.range(..compaction.below).next_back().map(|(&ts, _)| ts);
        let Some(ts) = next else {
            self.finish_group(std::mem::take(&mut compaction.group))?;
            self.rewrite_index()?;
            return Ok(false);
        };
        // A hole is to be reported by readers, so nothing is joined over it.
        let newer = compaction.group.ends.last().copied();
        if newer.is_some_and(|newer| self.holes.range(ts..newer).next().is_some()) {
            self.finish_group(std::mem::take(&mut compaction.group))?;
        }
        compaction.below = ts;
        if !compaction.group.take(&self.dir, ts, keys)? || compaction.group.is_full() {
            self.finish_group(std::mem::take(&mut compaction.group))?;
        }
        Ok(true)
    }

    fn finish_group(&mut self, group: Group) -> Result<()> {
        let (Some(&newest), Some(&oldest)) = (group.ends.first(), group.ends.last()) else { return Ok(()) };
        if !group.is_worth_it() {
            return Ok(());
        }
        let bytes = group.to_bytes();
        let from = self.slices.range(..oldest).next_back().map_or(self.begins, |(&ts, _)| ts.max(self.begins));
        let seal = seal_of(&bytes);
        step(&self.seals.path)?;
        self.seals.append(seal.joined_line(newest, from).as_bytes())?;
        put(&self.dir, newest, &bytes)?;
        self.slices.insert(newest, bytes.len() as u64);
        for &ts in &group.ends[1..] {
            self.unlink(ts)?;
            self.stale += 1;
        }
        Ok(())
    }

    fn unlink(&mut self, ts: u64) -> Result<()> {
        let path = self.dir.join(dated_name(ts));
        step(&path)?;
        match fs::remove_file(&path) {
            Err(error) if !absent(&error) => return Err(Error::io("remove", &path)(error)),
            _ => {}
        }
        self.slices.remove(&ts);
        // The directories of a day, month and year, once they are empty.
        path.ancestors().skip(1).take(3).try_for_each(|dir| fs::remove_dir(dir).ok());
        Ok(())
    }

    fn rewrite_index_if_due(&mut self) -> Result<()> {
        let is_due = self.stale >= STALE_MAX && self.stale >= self.slices.len() as u64;
        if is_due { self.rewrite_index() } else { Ok(()) }
    }

    /// Leaves out of index and seals what is not there any more. The last record stays: it says how late it is.
    fn rewrite_index(&mut self) -> Result<()> {
        self.stale = 0;
        let path = self.htime.path.clone();
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let all: Vec<&[u8]> = bytes.split_inclusive(|&byte| byte == 0).filter(|r| r.ends_with(&[0])).collect();
        let is_kept = |record: &[u8]| {
            parse_index_record(&record[..record.len() - 1]).is_none_or(|found| match found.has_file {
                true => self.slices.contains_key(&found.ts) || self.holes.contains(&found.ts),
                false => found.ts > self.begins,
            })
        };
        let count = all.len();
        let kept: Vec<&[u8]> =
            all.into_iter().enumerate().filter(|(i, r)| i + 1 == count || is_kept(r)).map(|(_, r)| r).collect();
        self.htime_records = kept.len() as u64;
        let (records, last_ts) = (self.htime_records, kept.last().and_then(|r| parse_index_record(&r[..r.len() - 1])));
        let new = kept.concat();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        replace(&self.dir.join(HTIME_DIR), &name, &new, |path| {
            if let Some(last) = last_ts {
                set_xattr(path, HTIME_XATTR, format!("{}:{records}", last.ts).as_bytes());
            }
        })?;
        self.htime = AppendFile::open(&path, new.len() as u64)?;

        let path = self.dir.join(SEALS);
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let is_there = |line: &&[u8]| Seal::parse(line).is_some_and(|(ts, ..)| self.slices.contains_key(&ts));
        let mut new = Vec::new();
        for line in bytes.split(|&byte| byte == b'\n').filter(is_there) {
            new.extend_from_slice(line);
            new.push(b'\n');
        }
        replace(&self.dir, SEALS, &new, |_| ())?;
        self.seals = AppendFile::open(&path, new.len() as u64)?;
        Ok(())
    }
}

/// Takes away what an interrupted removal left.
pub(crate) fn sweep(dir: &Path, begins: u64, ends: impl Iterator<Item = u64>) -> Result<()> {
    for ts in ends.filter(|&ts| ts <= begins) {
        let path = dir.join(dated_name(ts));
        match fs::remove_file(&path) {
            Err(error) if !absent(&error) => return Err(Error::io("remove", &path)(error)),
            _ => {}
        }
    }
    for file in [dir.join("BEGINS.new"), dir.join("SEALS.new")] {
        drop(fs::remove_file(file));
    }
    let htimes = fs::read_dir(dir.join(HTIME_DIR)).into_iter().flatten().flatten();
    for entry in htimes.filter(|entry| entry.file_name().as_bytes().ends_with(b".new")) {
        drop(fs::remove_file(entry.path()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
