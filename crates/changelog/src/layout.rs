//! Names and places of the files of a journal.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::race;

/// Name of the open slice.
pub const OPEN_SLICE: &str = "CHANGELOG";

/// Name of the directory of the index files.
pub const HTIME_DIR: &str = "htime";

const SLICE_PREFIX: &[u8] = b"CHANGELOG.";
const HTIME_PREFIX: &[u8] = b"HTIME.";
const DAY_SECONDS: u64 = 86_400;

/// Returns where GlusterFS keeps the journal of a brick (unless `changelog.changelog-dir` was changed).
pub fn locate(brick: &Path) -> PathBuf {
    brick.join(".glusterfs/changelogs")
}

/// Where the file of a rolled slice is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// `YYYY/MM/DD/CHANGELOG.<ts>` by the UTC date of ts: GlusterFS 8 and later, and our own.
    Dated,
    /// Anywhere else: flat (GlusterFS 7 and before), or in a directory of another date (its upgrade script uses the
    /// local date).
    Other(Box<Path>),
}

impl Place {
    pub(crate) fn path(&self, dir: &Path, ts: u64) -> PathBuf {
        match self {
            Place::Dated => dir.join(dated_name(ts)),
            Place::Other(path) => path.to_path_buf(),
        }
    }
}

/// Splits `<prefix><digits>`; anything else is `None`.
fn numbered(name: &[u8], prefix: &[u8]) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?;
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Returns the end of the slice that a file name stands for.
pub fn slice_ts(name: &OsStr) -> Option<u64> {
    numbered(name.as_bytes(), SLICE_PREFIX)
}

/// Returns the creation time in the name of an index file. `HTIME.<ts>.bak` is none.
pub fn htime_ts(name: &OsStr) -> Option<u64> {
    numbered(name.as_bytes(), HTIME_PREFIX)
}

/// Returns year, month and day (UTC) of a time; years beyond 9999 are cut to 9999.
pub(crate) fn utc_date(ts: u64) -> (u64, u64, u64) {
    // Days since 0000-03-01, in eras of 400 years (Howard Hinnant, "chrono-compatible low-level date algorithms").
    let days = ts / DAY_SECONDS + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year.min(9999), month, day)
}

/// Returns `YYYY/MM/DD/CHANGELOG.<ts>`.
pub(crate) fn dated_name(ts: u64) -> PathBuf {
    let (year, month, day) = utc_date(ts);
    PathBuf::from(format!("{year:04}/{month:02}/{day:02}/CHANGELOG.{ts}"))
}

/// The rolled slices that are on the disk.
#[derive(Default, Debug)]
pub(crate) struct Listing {
    /// End of the slice, and where its file is.
    pub(crate) files: BTreeMap<u64, Place>,
    /// Slices of which there are two files.
    pub(crate) doubled: Vec<u64>,
    /// The latest end seen, those not asked for included.
    pub(crate) newest: u64,
    /// Directories read.
    pub(crate) directories: u64,
}

/// Lists the slices that end later than `after`. Directories of dates before that are not opened.
///
/// A date directory can be off by a day (see [`Place::Other`]), so the day before is read too.
pub(crate) fn list_slices(dir: &Path, after: u64) -> Result<Listing> {
    let mut listing = Listing::default();
    let (year, month, day) = utc_date(after.saturating_sub(DAY_SECONDS));
    for (name, path) in entries(dir, &mut listing)? {
        listing.take(dir, &name, &path, after);
        let Some(this_year) = date_part(&name, 4).filter(|&found| found >= year) else { continue };
        for (name, path) in entries(&path, &mut listing)? {
            let Some(this_month) = date_part(&name, 2) else { continue };
            if (this_year, this_month) < (year, month) {
                continue;
            }
            for (name, path) in entries(&path, &mut listing)? {
                let Some(this_day) = date_part(&name, 2) else { continue };
                if (this_year, this_month, this_day) < (year, month, day) {
                    continue;
                }
                for (name, path) in entries(&path, &mut listing)? {
                    listing.take(dir, &name, &path, after);
                }
            }
        }
    }
    Ok(listing)
}

impl Listing {
    fn take(&mut self, dir: &Path, name: &[u8], path: &Path, after: u64) {
        let Some(ts) = numbered(name, SLICE_PREFIX) else { return };
        self.newest = self.newest.max(ts);
        if ts <= after {
            return;
        }
        let dated = path == dir.join(dated_name(ts));
        let place = if dated { Place::Dated } else { Place::Other(path.into()) };
        match self.files.get(&ts) {
            None => {
                self.files.insert(ts, place);
            }
            Some(_) => {
                self.doubled.push(ts);
                if dated {
                    self.files.insert(ts, place);
                }
            }
        }
    }
}

fn date_part(name: &[u8], len: usize) -> Option<u64> {
    if name.len() == len { numbered(name, b"") } else { None }
}

/// Lists a directory; of a path that is no directory, or is gone by now, nothing.
fn entries(path: &Path, listing: &mut Listing) -> Result<Vec<(Vec<u8>, PathBuf)>> {
    listing.directories += 1;
    race::point();
    let read = match fs::read_dir(path) {
        Ok(read) => read,
        Err(error) if absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", path)(error)),
    };
    let mut found = Vec::new();
    for entry in read {
        let entry = entry.map_err(Error::io("list", path))?;
        found.push((entry.file_name().as_bytes().to_vec(), entry.path()));
    }
    Ok(found)
}

/// Says whether an error means that there is no such file or directory.
pub(crate) fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_utc() {
        for (ts, date) in [
            (0, (1970, 1, 1)),
            (951_782_399, (2000, 2, 28)),
            (951_782_400, (2000, 2, 29)),
            (1_795_221_437, (2026, 11, 21)),
            (4_107_542_399, (2100, 2, 28)),
            (4_107_542_400, (2100, 3, 1)),
        ] {
            assert_eq!(utc_date(ts), date, "{ts}");
        }
        assert_eq!(dated_name(1_795_221_437), Path::new("2026/11/21/CHANGELOG.1795221437"));
        assert_eq!(utc_date(u64::MAX).0, 9999);
    }

    #[test]
    fn names_are_strict() {
        assert_eq!(htime_ts(OsStr::new("HTIME.1795221431")), Some(1_795_221_431));
        for bad in ["HTIME.1795221431.bak", "HTIME.", "HTIME.+1", "htime.1", "HTIME.99999999999999999999"] {
            assert_eq!(htime_ts(OsStr::new(bad)), None, "{bad}");
        }
        assert_eq!(slice_ts(OsStr::new("CHANGELOG.SNAP")), None);
        assert_eq!(slice_ts(OsStr::new("CHANGELOG")), None);
    }
}
