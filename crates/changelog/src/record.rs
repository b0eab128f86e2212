//! One line of a slice: which name or which object to look at.

use crate::gfid::Gfid;

/// The longest file name that Linux accepts, in bytes.
pub const NAME_MAX: usize = 255;

/// A file operation number of GlusterFS (`glusterfs_fop_t`), as records carry it.
///
/// Any number may appear in an M record; those that are not known are kept as they are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Fop(pub u32);

/// A name in a directory: the directory by GFID, the name as the raw bytes that the application chose.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EntryName {
    /// The directory.
    pub parent: Gfid,
    /// The name, 1 to 255 bytes, without NUL and `/`.
    pub name: Vec<u8>,
}

/// Mode and owner as the application passed them when it made the object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Birth {
    /// `st_mode` with type bits (where the caller supplied them).
    pub mode: u32,
    /// The caller's uid.
    pub uid: u32,
    /// The caller's gid.
    pub gid: u32,
}

/// What happened to a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryOp {
    /// A regular file was made.
    Create(Birth, EntryName),
    /// A device, FIFO or socket was made (or, on a healed replica, any file).
    Mknod(Birth, EntryName),
    /// A directory was made.
    Mkdir(Birth, EntryName),
    /// A symbolic link was made. Its target is not recorded.
    Symlink(EntryName),
    /// The object got a further name.
    Link(EntryName),
    /// The object moved from the first name to the second.
    Rename(EntryName, EntryName),
    /// A name of a non-directory went away; the path is there only with `changelog.capture-del-path`.
    Unlink(EntryName, Option<Vec<u8>>),
    /// A directory went away; path as in `Unlink`.
    Rmdir(EntryName, Option<Vec<u8>>),
}

/// One record of a slice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// E: a name of the object changed.
    Entry(Gfid, EntryOp),
    /// D: the object's content changed.
    Data(Gfid),
    /// M: the object's mode, owner, times, xattrs or ACL changed. The operation is only the first of its class in
    /// the slice.
    Meta(Gfid, Fop),
}

impl Record {
    /// The object that the record is about.
    pub fn gfid(&self) -> Gfid {
        match self {
            Record::Entry(gfid, _) | Record::Data(gfid) | Record::Meta(gfid, _) => *gfid,
        }
    }
}
