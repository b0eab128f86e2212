//! What the pieces say to each other, to the byte.
//!
//! Layout:
//! - [`frame`]: length, checksum, postcard body; how a frame is read and written
//! - [`hello`]: magic bytes and version ranges, the first thing on every channel
//! - [`agent`]: worker and agent over a control channel
//! - [`check`]: what the operator's command asks an agent
//! - [`rsync`]: the one way in which rsync is called
//! - [`stage`]: content on its way into the stage of the secondary
//! - [`brick`]: worker and recorder over a local socket
//! - [`hold`]: who holds the recorder's queue of events
//!
//! Enums are append-only: a new message goes to the end of its enum and raises [`hello::VERSION_MAX`].

#![forbid(unsafe_code)]

pub mod agent;
pub mod brick;
pub mod check;
pub mod frame;
pub mod hello;
pub mod hold;
pub mod rsync;
pub mod stage;

pub use changelog::{EntryName, Gfid};
pub use frame::{FrameError, MAX_FRAME_BYTES, decode, encode, read_frame, write_frame};
pub use posix::{Kind, Object, Time, Xattr};

use serde::{Deserialize, Serialize};

/// The state of a file's content on the primary when it was read: equal values mean equal content.
///
/// A file whose data changed has another ctime (Linux 6.13 and later also within one clock tick).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Version {
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change of content.
    pub mtime: Time,
    /// Time of the last change of the inode.
    pub ctime: Time,
}

impl Version {
    /// The version that the attributes of a regular file state.
    pub fn of(object: &Object) -> Version {
        Version { size: object.size, mtime: object.mtime, ctime: object.ctime }
    }
}

/// A name in a directory as it travels: like [`EntryName`], checked by [`Place::is_valid`] at the border.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Place {
    /// The directory.
    pub parent: Gfid,
    /// The name: 1 to 255 bytes without NUL and `/`, neither `.` nor `..`.
    pub name: Vec<u8>,
}

impl Place {
    /// Whether the name is one that a file system can have.
    pub fn is_valid(&self) -> bool {
        let name = self.name.as_slice();
        !name.is_empty()
            && name.len() <= changelog::record::NAME_MAX
            && name != b"."
            && name != b".."
            && !name.contains(&0)
            && !name.contains(&b'/')
    }

    /// About how many bytes it takes in a message.
    pub fn weight_bytes(&self) -> usize {
        24 + self.name.len()
    }
}

impl From<EntryName> for Place {
    fn from(entry: EntryName) -> Place {
        Place { parent: entry.parent, name: entry.name }
    }
}
