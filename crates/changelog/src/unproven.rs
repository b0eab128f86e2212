//! Spans of time of which a journal cannot prove that it tells everything.

use std::fmt;

use serde::Serialize;

/// A span of time whose changes may be missing from the journal: it needs a look at the brick itself, one that also
/// finds deletes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Unproven {
    /// After this time (seconds since 1970, of the brick's clock).
    pub from: u64,
    /// Up to and including this time; `None`: up to the moment of the report.
    pub to: Option<u64>,
    /// Why.
    #[serde(flatten)]
    pub reason: Reason,
}

/// Why a span of time is unproven.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
#[non_exhaustive]
pub enum Reason {
    /// The changelog was off: one HTIME file ends, a later one begins.
    ChangelogOff,
    /// The index has the slice, the disk has not.
    SliceMissing,
    /// Two slices ended in the same second, and the second file replaced the first; or the index is damaged.
    SliceOverwritten,
    /// A slice that was being read went away without getting its name.
    SliceVanished,
    /// Two files claim to be the same slice (flat and dated); one was read.
    SliceDoubled,
    /// A rolled slice ends inside a record.
    SliceTorn {
        /// Where that record begins.
        offset: u64,
    },
    /// A rolled slice has something else than a record.
    SliceDamaged {
        /// Where that begins.
        offset: u64,
        /// What is wrong with it.
        damage: crate::error::Damage,
    },
    /// A slice has another length or checksum than its writer noted.
    SliceAltered,
    /// The slice is shorter than the position in it, or has no record there. It is read from its beginning.
    PositionInvalid,
    /// The journal has never been as late as the position: it was replaced, or lost its end.
    PositionUnknown,
    /// The position is older than the index.
    BeforeIndex,
    /// There are slices, but no index.
    NoIndex,
    /// Slices at the end have no record in the index, more than one that may be about to get it.
    IndexIncomplete,
    /// Something in the index is no record.
    IndexDamaged,
    /// The index ends before the time that its xattr has.
    IndexTruncated,
    /// Slices were removed on purpose: nobody was known to need them, or there was no room.
    Removed,
    /// The clock went backwards, so slices do not follow each other in the order of their times.
    ClockBackwards,
}

impl fmt::Display for Reason {
    /// In words, for the operator.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Reason::ChangelogOff => "it was switched off",
            Reason::SliceMissing => "a slice is missing",
            Reason::SliceOverwritten => "a slice was overwritten by another one of the same second",
            Reason::SliceVanished => "a slice went away while it was read",
            Reason::SliceDoubled => "there are two files for one slice",
            Reason::SliceTorn { offset } => return write!(f, "a slice ends inside of a record, at byte {offset}"),
            Reason::SliceDamaged { offset, damage } => {
                return write!(f, "a slice is damaged at byte {offset}: {damage}");
            }
            Reason::SliceAltered => "a slice is not as it was written",
            Reason::PositionInvalid => "there is no record at the position",
            Reason::PositionUnknown => "it ends before the position: it was replaced, or lost its end",
            Reason::BeforeIndex => "it begins after the position",
            Reason::NoIndex => "it has no index",
            Reason::IndexIncomplete => "its index does not have all slices",
            Reason::IndexDamaged => "its index is damaged",
            Reason::IndexTruncated => "its index lost its end",
            Reason::Removed => "its beginning was removed",
            Reason::ClockBackwards => "the clock went backwards",
        };
        f.write_str(text)
    }
}

/// An unproven span and which positions have it still ahead of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Gap {
    /// Positions with `after <= key` have not passed the gap yet.
    pub(crate) key: u64,
    pub(crate) unproven: Unproven,
}

impl Gap {
    pub(crate) fn new(key: u64, from: u64, to: Option<u64>, reason: Reason) -> Gap {
        Gap { key, unproven: Unproven { from, to, reason } }
    }
}
