//! Which slices a journal has: the union of its index and of what is on the disk, and what neither proves.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::begins;
use crate::error::{Error, Result};
use crate::htime::Htime;
use crate::layout::{HTIME_DIR, Place, absent, htime_ts, list_slices};
use crate::race;
use crate::seal::Seals;
use crate::unproven::{Gap, Reason};

/// A rolled slice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SliceRef {
    /// Its end.
    pub(crate) ts: u64,
    /// Its file; `None` where the index knows it and the disk does not.
    pub(crate) place: Option<Place>,
    /// Whether the index knows it.
    pub(crate) indexed: bool,
}

/// A journal's slices, looked at again and again while it grows.
///
/// Memory: some 50 bytes a slice later than the `after` of the last refresh, and for each refresh as much again.
#[derive(Debug)]
pub(crate) struct Index {
    dir: PathBuf,
    /// In the order of their names' numbers.
    pub(crate) htimes: Vec<Htime>,
    /// Slices with a file, and how many records say so.
    indexed: BTreeMap<u64, u32>,
    pub(crate) seals: Seals,
    /// Gaps that the last listing showed.
    listed_gaps: Vec<Gap>,
    /// The latest time that anything in the journal has.
    pub(crate) newest: u64,
    /// Everything up to this time may have been removed (where that can be read).
    pub(crate) removed_until: u64,
    /// Directories read so far; a reader that waits at the tail reads none.
    pub(crate) directories: u64,
}

impl Index {
    pub(crate) fn new(dir: &Path) -> Index {
        Index {
            dir: dir.to_owned(),
            htimes: Vec::new(),
            indexed: BTreeMap::new(),
            seals: Seals::default(),
            listed_gaps: Vec::new(),
            newest: 0,
            removed_until: 0,
            directories: 0,
        }
    }

    /// Looks again, and returns the slices that end later than `after`, in order.
    ///
    /// What it returns has no holes even while the brick goes on rolling: a listing that shows a slice may miss an
    /// earlier one that was renamed meanwhile, so only a second listing is believed, up to the latest slice of the
    /// first.
    pub(crate) fn refresh(&mut self, after: u64) -> Result<Vec<SliceRef>> {
        self.read_htimes(after)?;
        let indexed: BTreeSet<u64> = self.indexed.keys().copied().collect();
        race::point();
        let mut listing = list_slices(&self.dir, after)?;
        self.directories += listing.directories;
        let last = listing.files.keys().chain(&indexed).max().copied();
        race::point();
        if last.is_some() {
            listing = list_slices(&self.dir, after)?;
            self.directories += listing.directories;
        }
        race::point();
        self.newest = self.newest.max(listing.newest);
        // Once more: a slice listed now may have got its record meanwhile.
        self.read_htimes(after)?;
        self.seals.read(&self.dir, after)?;
        // Last: it is written before anything is removed.
        let removed_until = begins::read(&self.dir)?;
        self.note_listing(&listing.files, &listing.doubled);
        match removed_until {
            Some(ts) => {
                self.newest = self.newest.max(ts);
                self.removed_until = ts;
            }
            None => self.listed_gaps.push(Gap::new(u64::MAX, 0, None, Reason::IndexDamaged)),
        }

        let Some(last) = last else { return Ok(Vec::new()) };
        let all: BTreeSet<u64> = listing.files.range(..=last).map(|(&ts, _)| ts).chain(indexed).collect();
        let is_joined = |ts: u64| !listing.files.contains_key(&ts) && self.is_joined(ts, &listing.files);
        let all: Vec<u64> = all.into_iter().filter(|&ts| !is_joined(ts)).collect();
        let slice = |ts| SliceRef { ts, place: listing.files.remove(&ts), indexed: self.indexed.contains_key(&ts) };
        Ok(all.into_iter().map(slice).collect())
    }

    /// Whether the records of a slice that is not there are in a later one, which is.
    fn is_joined(&self, ts: u64, files: &BTreeMap<u64, Place>) -> bool {
        self.seals.joined_over(ts).any(|over| {
            let len =
                files.get(&over).and_then(|place| fs::metadata(place.path(&self.dir, over)).ok()).map(|m| m.len());
            len.and_then(|len| self.seals.joined_from(over, len)).is_some_and(|from| from < ts)
        })
    }

    /// Returns every gap that is known now.
    pub(crate) fn gaps(&self) -> Vec<Gap> {
        let mut gaps = self.listed_gaps.clone();
        for htime in &self.htimes {
            gaps.extend(htime.gaps.iter().cloned());
            gaps.extend(htime.open_gaps());
        }
        for pair in self.htimes.windows(2) {
            let (before, next) = (&pair[0], &pair[1]);
            let key = next.created.saturating_sub(1).max(before.newest);
            let from = before.newest.min(next.created);
            gaps.push(Gap::new(key, from, Some(next.created.max(before.newest)), Reason::ChangelogOff));
        }
        for (&ts, _) in self.indexed.iter().filter(|&(_, &records)| records > 1) {
            gaps.push(Gap::new(ts - 1, ts - 1, Some(ts), Reason::SliceOverwritten));
        }
        gaps
    }

    /// Returns when the index begins.
    pub(crate) fn begins(&self) -> Option<u64> {
        self.htimes.first().map(|htime| htime.created)
    }

    fn note_listing(&mut self, files: &BTreeMap<u64, Place>, doubled: &[u64]) {
        self.listed_gaps.clear();
        for &ts in doubled {
            self.listed_gaps.push(Gap::new(ts - 1, ts - 1, Some(ts), Reason::SliceDoubled));
        }
        let Some((&newest_file, _)) = files.last_key_value() else { return };
        let Some(newest_indexed) = self.htimes.iter().map(|htime| htime.newest).max() else {
            self.listed_gaps.push(Gap::new(newest_file - 1, 0, Some(newest_file), Reason::NoIndex));
            return;
        };
        if let (Some(begins), Some((&oldest_file, _))) = (self.begins(), files.first_key_value())
            && oldest_file < begins
        {
            let gap = Gap::new(begins - 1, oldest_file, Some(begins), Reason::BeforeIndex);
            self.listed_gaps.push(gap);
        }
        // One slice may have its name and be about to get its record; it gets that before the next gets its name.
        if files.range(newest_indexed.saturating_add(1)..).count() > 1 {
            let gap = Gap::new(newest_file - 1, newest_indexed, Some(newest_file), Reason::IndexIncomplete);
            self.listed_gaps.push(gap);
        }
    }

    fn read_htimes(&mut self, after: u64) -> Result<()> {
        self.indexed = self.indexed.split_off(&after.saturating_add(1));
        self.find_htimes()?;
        if self.read_known_htimes(after)? {
            // Counted from records of before and of now: once more, from nothing.
            self.indexed.clear();
            for htime in &mut self.htimes {
                *htime = Htime::new(htime.created, std::mem::take(&mut htime.path));
            }
            self.read_known_htimes(after)?;
        }
        Ok(())
    }

    fn read_known_htimes(&mut self, after: u64) -> Result<bool> {
        let mut is_replaced = false;
        for htime in &mut self.htimes {
            is_replaced |= htime.read(&mut |record| {
                if record.has_file && record.ts > after {
                    *self.indexed.entry(record.ts).or_default() += 1;
                }
            })?;
            self.newest = self.newest.max(htime.newest);
        }
        Ok(is_replaced)
    }

    fn find_htimes(&mut self) -> Result<()> {
        let path = self.dir.join(HTIME_DIR);
        self.directories += 1;
        let read = match fs::read_dir(&path) {
            Ok(read) => read,
            Err(error) if absent(&error) => {
                self.htimes.clear();
                return Ok(());
            }
            Err(error) => return Err(Error::io("list", &path)(error)),
        };
        let mut found: BTreeMap<u64, OsString> = BTreeMap::new();
        for entry in read {
            let name = entry.map_err(Error::io("list", &path))?.file_name();
            if let Some(created) = htime_ts(&name) {
                found.insert(created, name);
            }
        }
        self.htimes.retain(|htime| found.remove(&htime.created).is_some());
        self.htimes.extend(found.into_iter().map(|(created, name)| Htime::new(created, path.join(name))));
        self.htimes.sort_by_key(|htime| htime.created);
        Ok(())
    }
}
