//! The manifest protocol, to the byte.
//!
//! Each side sends [`MAGIC`] and a frame with its [`Versions`], then reads the other's. Then the client asks as often
//! as it wants: one [`Ask::Whole`], or [`Ask::Some`] until one is the last; the server answers with any number of
//! [`Answer::Entries`] and one [`Answer::End`] or [`Answer::Failed`]. Closing the channel between two requests is the
//! end. Frames are those of [`protocol::frame`]: length, CRC-32, postcard.

use std::io::{Read, Write};

use protocol::FrameError;
use protocol::frame::{read_frame, write_frame};
use protocol::hello::Versions;
use serde::{Deserialize, Serialize};

use crate::path::shared_bytes;
use crate::request::Look;
use crate::{Entry, Outcome, TreePath, VerifyError};

/// The first bytes of both sides; unlike the other channels', so that the wrong one is noticed.
pub(crate) const MAGIC: [u8; 8] = *b"\x89GMnfs\r\n";

/// The only version there is. 1: the first.
const VERSION: u16 = 1;

/// About how many bytes of entries or looks go into one frame.
pub(crate) const BATCH_BYTES: usize = 64 << 10;

/// A request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Look at everything.
    Whole,
    /// Look at these paths.
    Some {
        /// Path and whether to look below it.
        looks: Vec<(Vec<u8>, bool)>,
        /// Whether these were all.
        last: bool,
    },
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The next entries.
    Entries(Vec<WireEntry>),
    /// There are no more.
    End {
        /// Number of entries that were sent, as a check.
        objects: u64,
    },
    /// The request cannot be answered.
    Failed {
        /// Why, for people.
        reason: String,
    },
}

/// An entry whose path is told by what it has in common with the one before, so that deep trees stay small.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct WireEntry {
    /// How many bytes of the path before are kept.
    pub shared: u64,
    /// What follows them.
    pub rest: Vec<u8>,
    /// What was seen.
    pub outcome: Outcome,
}

impl WireEntry {
    pub(crate) fn pack(entry: Entry, before: &TreePath) -> WireEntry {
        let path = entry.path.as_bytes();
        let shared = shared_bytes(path, before.as_bytes());
        WireEntry { shared: shared as u64, rest: path[shared..].to_vec(), outcome: entry.outcome }
    }

    /// `None` for a path that is none or that does not come after the one before.
    pub(crate) fn unpack(self, before: Option<&TreePath>) -> Option<Entry> {
        let kept = before.map_or(&[][..], TreePath::as_bytes);
        let mut path = kept.get(..usize::try_from(self.shared).ok()?)?.to_vec();
        path.extend_from_slice(&self.rest);
        let path = TreePath::from_bytes(path)?;
        let in_order = before.is_none_or(|before| *before < path);
        (in_order && !path.is_private()).then_some(Entry { path, outcome: self.outcome })
    }
}

pub(crate) fn pack_look(look: Look) -> (Vec<u8>, bool) {
    (look.path.as_bytes().to_vec(), look.deep)
}

pub(crate) fn unpack_look((path, deep): (Vec<u8>, bool)) -> Option<Look> {
    Some(Look { path: TreePath::from_bytes(path)?, deep })
}

/// Tells who we are and learns who the peer is.
pub(crate) fn greet(input: &mut impl Read, output: &mut impl Write) -> Result<(), VerifyError> {
    let ours = Versions { min: VERSION, max: VERSION, software: env!("CARGO_PKG_VERSION").into() };
    output.write_all(&MAGIC).map_err(FrameError::from)?;
    write_frame(output, &ours)?;
    let mut found = [0; MAGIC.len()];
    input.read_exact(&mut found).map_err(FrameError::from)?;
    if found != MAGIC {
        return Err(VerifyError::NotManifest { found });
    }
    let theirs: Versions = read_frame(input)?;
    match ours.common(&theirs) {
        Some(_) => Ok(()),
        None => Err(VerifyError::Version { min: theirs.min, max: theirs.max }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::from_bytes(text.into()).unwrap()
    }

    #[test]
    fn paths_are_told_by_what_is_new_in_them() {
        let mut before = None;
        for text in ["", "a", "a/b", "a/b/c", "a/bc", "b"] {
            let entry = Entry { path: path(text), outcome: Outcome::Mount };
            let packed = WireEntry::pack(entry.clone(), before.as_ref().unwrap_or(&TreePath::root()));
            assert_eq!(packed.unpack(before.as_ref()), Some(entry));
            before = Some(path(text));
        }
    }

    #[test]
    fn what_no_walk_meets_is_refused() {
        let unpack = |shared, rest: &str, before: Option<&str>| {
            let packed = WireEntry { shared, rest: rest.into(), outcome: Outcome::Mount };
            packed.unpack(before.map(path).as_ref()).map(|entry| entry.path)
        };
        assert_eq!(unpack(2, "c", Some("a/b")), Some(path("a/c")));
        // Twice the same, and back.
        assert_eq!(unpack(3, "", Some("a/b")), None);
        assert_eq!(unpack(2, "a", Some("a/b")), None);
        assert_eq!(unpack(0, "", Some("a/b")), None);
        // More in common than there is.
        assert_eq!(unpack(4, "c", Some("a/b")), None);
        assert_eq!(unpack(1, "c", None), None);
        assert_eq!(unpack(u64::MAX, "c", Some("a/b")), None);
        // Out of the tree, and what is no part of it.
        assert_eq!(unpack(0, "../x", None), None);
        assert_eq!(unpack(0, ".gsync/x", None), None);
    }
}
