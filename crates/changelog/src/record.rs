//! One line of a slice: which name or which object to look at.

use std::fmt;

use crate::gfid::Gfid;

/// The longest file name that Linux accepts, in bytes.
pub const NAME_MAX: usize = 255;

/// Names of `glusterfs_fop_t` by number, as GlusterFS prints them without `GF_FOP_`.
const FOP_NAMES: [&str; 59] = [
    "NULL",
    "STAT",
    "READLINK",
    "MKNOD",
    "MKDIR",
    "UNLINK",
    "RMDIR",
    "SYMLINK",
    "RENAME",
    "LINK",
    "TRUNCATE",
    "OPEN",
    "READ",
    "WRITE",
    "STATFS",
    "FLUSH",
    "FSYNC",
    "SETXATTR",
    "GETXATTR",
    "REMOVEXATTR",
    "OPENDIR",
    "FSYNCDIR",
    "ACCESS",
    "CREATE",
    "FTRUNCATE",
    "FSTAT",
    "LK",
    "LOOKUP",
    "READDIR",
    "INODELK",
    "FINODELK",
    "ENTRYLK",
    "FENTRYLK",
    "XATTROP",
    "FXATTROP",
    "FGETXATTR",
    "FSETXATTR",
    "RCHECKSUM",
    "SETATTR",
    "FSETATTR",
    "READDIRP",
    "FORGET",
    "RELEASE",
    "RELEASEDIR",
    "GETSPEC",
    "FREMOVEXATTR",
    "FALLOCATE",
    "DISCARD",
    "ZEROFILL",
    "IPC",
    "SEEK",
    "LEASE",
    "COMPOUND",
    "GETACTIVELK",
    "SETACTIVELK",
    "PUT",
    "ICREATE",
    "NAMELINK",
    "COPY_FILE_RANGE",
];

/// A file operation number of GlusterFS (`glusterfs_fop_t`), as records carry it.
///
/// Any number may appear in an M record; those that are not known are kept as they are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Fop(pub u32);

impl Fop {
    /// Operation 3.
    pub const MKNOD: Fop = Fop(3);
    /// Operation 4.
    pub const MKDIR: Fop = Fop(4);
    /// Operation 5.
    pub const UNLINK: Fop = Fop(5);
    /// Operation 6.
    pub const RMDIR: Fop = Fop(6);
    /// Operation 7.
    pub const SYMLINK: Fop = Fop(7);
    /// Operation 8.
    pub const RENAME: Fop = Fop(8);
    /// Operation 9.
    pub const LINK: Fop = Fop(9);
    /// Operation 17.
    pub const SETXATTR: Fop = Fop(17);
    /// Operation 19.
    pub const REMOVEXATTR: Fop = Fop(19);
    /// Operation 23.
    pub const CREATE: Fop = Fop(23);
    /// Operation 36.
    pub const FSETXATTR: Fop = Fop(36);
    /// Operation 38.
    pub const SETATTR: Fop = Fop(38);
    /// Operation 39.
    pub const FSETATTR: Fop = Fop(39);
    /// Operation 45.
    pub const FREMOVEXATTR: Fop = Fop(45);

    /// Returns the name in upper case, `None` for a number that GlusterFS 11 does not have.
    pub fn name(self) -> Option<&'static str> {
        usize::try_from(self.0).ok().and_then(|number| FOP_NAMES.get(number)).copied()
    }
}

impl fmt::Display for Fop {
    /// The name, or the decimal number where there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

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

impl EntryOp {
    /// Returns the operation's number.
    pub fn fop(&self) -> Fop {
        match self {
            EntryOp::Create(..) => Fop::CREATE,
            EntryOp::Mknod(..) => Fop::MKNOD,
            EntryOp::Mkdir(..) => Fop::MKDIR,
            EntryOp::Symlink(_) => Fop::SYMLINK,
            EntryOp::Link(_) => Fop::LINK,
            EntryOp::Rename(..) => Fop::RENAME,
            EntryOp::Unlink(..) => Fop::UNLINK,
            EntryOp::Rmdir(..) => Fop::RMDIR,
        }
    }

    /// Returns the name that changed; of a rename the old one.
    pub fn entry(&self) -> &EntryName {
        match self {
            EntryOp::Create(_, entry)
            | EntryOp::Mknod(_, entry)
            | EntryOp::Mkdir(_, entry)
            | EntryOp::Symlink(entry)
            | EntryOp::Link(entry)
            | EntryOp::Rename(entry, _)
            | EntryOp::Unlink(entry, _)
            | EntryOp::Rmdir(entry, _) => entry,
        }
    }

    /// Returns the new name of a rename.
    pub fn new_entry(&self) -> Option<&EntryName> {
        match self {
            EntryOp::Rename(_, entry) => Some(entry),
            _ => None,
        }
    }

    /// Returns mode and owner where the operation made an object that has them in its record.
    pub fn birth(&self) -> Option<Birth> {
        match self {
            EntryOp::Create(birth, _) | EntryOp::Mknod(birth, _) | EntryOp::Mkdir(birth, _) => Some(*birth),
            _ => None,
        }
    }
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
