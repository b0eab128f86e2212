//! What a brick's journal has and what it cannot prove, for the operator (`geo-rep changelog history`).

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::Result;
use crate::index::Index;
use crate::layout::OPEN_SLICE;
use crate::unproven::Unproven;

/// A journal as its index and its directory show it. The slices themselves are not read; a [`crate::JournalReader`]
/// finds those that are torn or damaged.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct History {
    /// The journal's directory.
    pub dir: PathBuf,
    /// One for each time that the changelog was switched on.
    pub htimes: Vec<HtimeSummary>,
    /// The rolled slices that have, or should have, a file, in order.
    pub slices: Vec<SliceSummary>,
    /// Length of the open slice; `None` where the changelog is off.
    pub open_bytes: Option<u64>,
    /// Spans of which the journal tells everything, in order. The last one goes on.
    pub proven: Vec<Span>,
    /// Spans of which it may not, in order.
    pub unproven: Vec<Unproven>,
}

/// One HTIME file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct HtimeSummary {
    /// Its name.
    pub name: String,
    /// The number in its name: when the changelog was switched on.
    pub created: u64,
    /// Its latest record.
    pub newest: u64,
    /// Records in it, those of empty slices included.
    pub records: u64,
    /// Records of empty slices.
    pub empty: u64,
    /// Pieces of it that are no records.
    pub unreadable: u64,
    /// Bytes of an unfinished record at its end.
    pub torn_bytes: u64,
}

/// One rolled slice.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SliceSummary {
    /// Its end.
    pub ts: u64,
    /// Whether the index has it.
    pub indexed: bool,
    /// Its file; `None` where it is missing.
    pub path: Option<PathBuf>,
}

/// From a time to a time, in seconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Span {
    /// Its first second.
    pub from: u64,
    /// Its last second.
    pub to: u64,
}

impl History {
    /// Reads the index and lists the slices of the journal in `dir`.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn read(dir: &Path) -> Result<History> {
        std::fs::read_dir(dir).map_err(crate::Error::io("open", dir))?;
        let mut index = Index::new(dir);
        let found = index.refresh(0)?;
        let mut unproven: Vec<Unproven> = index.gaps().into_iter().map(|gap| gap.unproven).collect();
        let mut before = 0;
        for slice in &found {
            if slice.place.is_none() {
                let reason = crate::Reason::SliceMissing;
                unproven.push(Unproven { from: before, to: Some(slice.ts), reason });
            }
            before = slice.ts;
        }
        unproven.sort_by_key(|span| (span.from, span.to.unwrap_or(u64::MAX)));
        let proven = proven(&index, &unproven);
        let htimes = index.htimes.iter().map(|htime| HtimeSummary {
            name: format!("HTIME.{}", htime.created),
            created: htime.created,
            newest: htime.newest,
            records: htime.records,
            empty: htime.empty,
            unreadable: htime.unreadable,
            torn_bytes: htime.torn_bytes,
        });
        let slices = found.into_iter().map(|slice| SliceSummary {
            ts: slice.ts,
            indexed: slice.indexed,
            path: slice.place.map(|place| place.path(dir, slice.ts)),
        });
        Ok(History {
            dir: dir.to_owned(),
            htimes: htimes.collect(),
            slices: slices.collect(),
            open_bytes: std::fs::metadata(dir.join(OPEN_SLICE)).ok().map(|metadata| metadata.len()),
            proven,
            unproven,
        })
    }
}

/// What the index covers, less the unproven spans (sorted).
fn proven(index: &Index, unproven: &[Unproven]) -> Vec<Span> {
    let mut spans = Vec::new();
    let Some(mut from) = index.begins() else { return spans };
    for gap in unproven {
        if gap.from > from {
            spans.push(Span { from, to: gap.from });
        }
        from = from.max(gap.to.unwrap_or(u64::MAX));
    }
    if from < index.newest {
        spans.push(Span { from, to: index.newest });
    }
    spans
}
