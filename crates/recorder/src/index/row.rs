//! What the index keeps of one object.

use changelog::Gfid;
use posix::{Kind, Object, Time};

use crate::error::{Error, Result};
use crate::handle::Handle;

/// Bytes before the handle.
const FIXED_BYTES: usize = 34;

/// Set while a D record is owed, see [`Row::owed`].
const OWED: u8 = 1;

/// Set where equal times do not prove equal content, see [`Row::doubted`].
const DOUBTED: u8 = 2;

/// One row of the table `objects`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Type.
    pub kind: Kind,
    /// Content was changed (or may have been), and no D record says so yet.
    pub owed: bool,
    /// The last D record tells of a content that may have the same times as another one that was told before: equal times
    /// prove nothing.
    pub doubted: bool,
    /// State when it was last looked at.
    pub stamp: Stamp,
    /// The handle; `None` of an object that only the changelog told about, until it is looked at.
    pub handle: Option<Handle>,
}

/// By what a change is noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stamp {
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change of content.
    pub mtime: Time,
    /// Time of the last change of the inode.
    pub ctime: Time,
}

impl Stamp {
    /// Of these attributes.
    pub fn of(object: &Object) -> Stamp {
        Stamp { size: object.size, mtime: object.mtime, ctime: object.ctime }
    }

    /// Whether the content may be another one.
    pub fn same_content(&self, other: &Stamp) -> bool {
        (self.size, self.mtime) == (other.size, other.mtime)
    }
}

impl Row {
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Directory
    }

    /// To bytes, as `docs/formats.md` describes them.
    pub fn encode(&self) -> Vec<u8> {
        let handle = self.handle.as_ref().map_or(&[][..], Handle::as_bytes);
        let mut out = Vec::with_capacity(FIXED_BYTES + handle.len());
        out.push(kind_to_byte(self.kind));
        out.push(if self.owed { OWED } else { 0 } | if self.doubted { DOUBTED } else { 0 });
        out.extend_from_slice(&self.stamp.size.to_le_bytes());
        for time in [self.stamp.mtime, self.stamp.ctime] {
            out.extend_from_slice(&time.secs.to_le_bytes());
            out.extend_from_slice(&time.nanos.to_le_bytes());
        }
        out.extend_from_slice(handle);
        out
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`Error::IndexDamaged`].
    pub fn decode(bytes: &[u8]) -> Result<Row> {
        let damaged = || Error::IndexDamaged { what: "a row of the table objects" };
        let (fixed, handle) = bytes.split_at_checked(FIXED_BYTES).ok_or_else(damaged)?;
        let time = |at: usize| Time { secs: u64_at(fixed, at) as i64, nanos: u32_at(fixed, at + 8) };
        Ok(Row {
            kind: kind_from_byte(fixed[0]).ok_or_else(damaged)?,
            owed: fixed[1] & OWED != 0,
            doubted: fixed[1] & DOUBTED != 0,
            stamp: Stamp { size: u64_at(fixed, 2), mtime: time(10), ctime: time(22) },
            handle: match handle {
                [] => None,
                handle => Some(Handle::from_bytes(handle).ok_or_else(damaged)?),
            },
        })
    }
}

/// Reads the 16 bytes of a GFID.
///
/// # Errors
/// [`Error::IndexDamaged`].
pub fn gfid_from(bytes: &[u8]) -> Result<Gfid> {
    let bytes = bytes.try_into().map_err(|_| Error::IndexDamaged { what: "a GFID" })?;
    Ok(Gfid(bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |sum, &byte| sum << 8 | u32::from(byte))
}

const KINDS: [Kind; 7] =
    [Kind::File, Kind::Directory, Kind::Symlink, Kind::Fifo, Kind::Socket, Kind::CharDevice, Kind::BlockDevice];

fn kind_to_byte(kind: Kind) -> u8 {
    KINDS.iter().position(|&known| known == kind).unwrap_or(0) as u8
}

fn kind_from_byte(byte: u8) -> Option<Kind> {
    KINDS.get(usize::from(byte)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_round_trip_to_the_byte() {
        let row = Row {
            kind: Kind::Symlink,
            owed: true,
            doubted: true,
            stamp: Stamp {
                size: 0x0102,
                mtime: Time { secs: -5, nanos: 999_999_999 },
                ctime: Time { secs: 1 << 40, nanos: 1 },
            },
            handle: Handle::new(1, b"abcdefgh"),
        };
        let bytes = row.encode();
        assert_eq!(bytes.len(), 34 + 4 + 8);
        assert_eq!(bytes[..4], [2, 3, 2, 1]);
        assert_eq!(Row::decode(&bytes).unwrap(), row);
        let stub = Row { handle: None, ..row };
        assert_eq!(Row::decode(&stub.encode()).unwrap(), stub);
        for length in 0..34 {
            assert!(Row::decode(&bytes[..length]).is_err());
        }
    }
}
