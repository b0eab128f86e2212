//! Signs of life, and what follows when the machine went down without one: content may have been lost.

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use changelog::{Gfid, JournalReader, Position, Record};

use super::Brick;
use crate::error::Result;
use crate::index::{Index, Stamp};
use crate::journal::now_secs;

/// After a power cut the file system may have lost what was written in this time before the last heartbeat (30 s until
/// a page is old, 5 s until it is written, 5 s until the file system commits, and as much again).
const SUSPECT_SECS: u64 = 90;

/// More objects than this are not remembered: all are suspected then.
const TOLD_MAX: usize = 1_000_000;

/// Records read at once.
const READ_BATCH: usize = 8192;

/// Which files may have another content than was recorded, although nothing of them looks different.
///
/// It stays until a crawl has ended, also over restarts.
#[derive(Debug)]
pub struct Suspicion {
    /// Those that changed since then, seconds since 1970.
    since: i64,
    /// And those of which the changelog told since then: a mapped page may be written long before it is told. `None`:
    /// all.
    told: Option<HashSet<Gfid>>,
}

impl Suspicion {
    /// Whether it concerns a file that had this stamp, and has that one.
    pub fn covers(&self, gfid: Gfid, before: Option<&Stamp>, now: &Stamp) -> bool {
        let changed = before.map_or(now.ctime.secs, |before| before.ctime.secs.max(now.ctime.secs));
        changed >= self.since || self.told.as_ref().is_none_or(|told| told.contains(&gfid))
    }

    /// What is to be suspected at this start.
    ///
    /// # Errors
    /// What index or changelog say.
    pub(super) fn at_start(index: &Index, journal: &Path) -> Result<Option<Suspicion>> {
        let view = index.view()?;
        let number = |key: &str| -> Result<Option<u64>> {
            Ok(view.meta(key)?.and_then(|value| value.try_into().ok()).map(u64::from_le_bytes))
        };
        let rebooted = view.meta("boot")?.is_some_and(|boot| boot != boot_id());
        // Also after a clean stop of the recorder: what it had seen may not have been on the disk when power failed.
        let new = rebooted.then(|| number("heartbeat").map(|beat| beat.unwrap_or(0).saturating_sub(SUSPECT_SECS)));
        let Some(since) = [new.transpose()?, number("suspect")?].into_iter().flatten().min() else { return Ok(None) };
        // Before the new boot is noted: a crawl that is interrupted has to begin again with the same suspicion.
        index.edit(true, |edit| edit.set_meta("suspect", &since.to_le_bytes()))?;
        Ok(Some(Suspicion { since: since as i64, told: told_since(journal, since)? }))
    }
}

fn told_since(journal: &Path, since: u64) -> Result<Option<HashSet<Gfid>>> {
    // The slice that had not ended by then, and what came after it.
    let mut reader = JournalReader::open(journal, Position { after: since.saturating_sub(1), offset: 0 })?;
    let mut told = HashSet::new();
    loop {
        let batch = reader.read(READ_BATCH)?;
        told.extend(batch.records.iter().filter_map(|(_, record)| match record {
            Record::Data(gfid) => Some(*gfid),
            _ => None,
        }));
        if told.len() > TOLD_MAX {
            return Ok(None);
        }
        if batch.at_tail {
            return Ok(Some(told));
        }
    }
}

impl Brick {
    /// Notes when and on which boot the recorder was alive.
    pub(super) fn beat(&mut self) -> Result<()> {
        let boot = boot_id();
        self.heartbeat = Instant::now();
        self.save(|edit| {
            edit.set_meta("boot", &boot)?;
            edit.set_meta("heartbeat", &now_secs().to_le_bytes())
        })
    }

    /// Everything was looked at.
    pub(super) fn end_suspicion(&mut self) -> Result<()> {
        match self.suspicion.take() {
            Some(_) => self.index.edit(true, |edit| edit.remove_meta("suspect")),
            None => Ok(()),
        }
    }
}

fn boot_id() -> Vec<u8> {
    std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use changelog::{JournalOptions, JournalWriter};
    use posix::Time;

    use super::*;

    fn stamp(ctime: i64) -> Stamp {
        Stamp { ctime: Time { secs: ctime, nanos: 0 }, ..Stamp::default() }
    }

    #[test]
    fn files_that_changed_or_were_told_of_are_suspected() {
        let (told, other) = (Gfid([1; 16]), Gfid([2; 16]));
        let some = Suspicion { since: 100, told: Some(HashSet::from([told])) };
        for (gfid, before, now, expected) in [
            (other, None, 99, false),
            (other, None, 100, true),
            (other, Some(99), 99, false),
            // The disk went back to an older state than was recorded.
            (other, Some(100), 50, true),
            (other, Some(50), 100, true),
            (told, Some(50), 50, true),
        ] {
            let before = before.map(stamp);
            assert_eq!(some.covers(gfid, before.as_ref(), &stamp(now)), expected, "{before:?} {now}");
        }
        assert!(Suspicion { since: 100, told: None }.covers(other, Some(&stamp(1)), &stamp(1)));
    }

    #[test]
    fn the_changelog_says_what_was_told_lately() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = JournalWriter::create_or_open(dir.path(), JournalOptions { now_secs: 1000 }).unwrap();
        for (number, ends) in [(1, 1010), (2, 1020), (3, 1030)] {
            writer
                .append(&[Record::Data(Gfid([number; 16])), Record::Meta(Gfid([9; 16]), changelog::Fop::SETATTR)])
                .unwrap();
            writer.roll(ends).unwrap();
        }
        writer.append(&[Record::Data(Gfid([4; 16]))]).unwrap();
        for (since, expected) in [(0, vec![1, 2, 3, 4]), (1020, vec![2, 3, 4]), (1021, vec![3, 4]), (5000, vec![4])] {
            let mut told: Vec<u8> =
                told_since(dir.path(), since).unwrap().unwrap().iter().map(|gfid| gfid.0[0]).collect();
            told.sort();
            assert_eq!(told, expected, "since {since}");
        }
    }
}
