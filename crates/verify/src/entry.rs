//! What was seen at one path.

use posix::{Kind, Time};
use serde::{Deserialize, Serialize};

use crate::TreePath;
use crate::value::{Digest, XattrValue};

/// One path of a tree and what was seen there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The path.
    pub path: TreePath,
    /// What was seen.
    pub outcome: Outcome,
}

/// What came of looking at a path at which there is something.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// It could be looked at.
    Seen(Box<Facts>),
    /// Another file system is mounted there; nothing of it was looked at.
    Mount,
    /// The system refused, e.g. an I/O error; nothing of it and below it is known.
    Unreadable {
        /// Error number.
        errno: i32,
    },
}

/// All of an object that is compared.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// Type.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size of a regular file, else 0.
    pub size: u64,
    /// Number of a device, else 0.
    pub rdev: u64,
    /// Time of the last change of content.
    pub mtime: Time,
    /// Time of the last change of the inode: not compared, it tells whether an object changed between two looks.
    pub ctime: Time,
    /// Target of a symbolic link, else empty.
    pub target: Vec<u8>,
    /// Replicated xattrs, sorted by name. POSIX ACLs are among them.
    pub xattrs: Vec<(Vec<u8>, XattrValue)>,
    /// Hash of a regular file's content.
    pub content: Option<Digest>,
    /// The inode, where an object other than a directory has more than one name.
    pub link: Option<Link>,
    /// Whether the object changed while it was looked at; then its facts may belong to different moments.
    pub unstable: bool,
}

/// What paths have in common that are names of one inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Link {
    /// Equal for all names of one inode, within one walk.
    pub group: u64,
    /// Number of names that the inode has anywhere.
    pub nlink: u64,
}

impl Entry {
    /// The facts, where they could be seen.
    pub fn facts(&self) -> Option<&Facts> {
        match &self.outcome {
            Outcome::Seen(facts) => Some(facts),
            Outcome::Mount | Outcome::Unreadable { .. } => None,
        }
    }
}

impl Outcome {
    /// A hash by which the outcomes of two walks can be compared: everything but the number of the link group.
    pub(crate) fn fingerprint(&self) -> Digest {
        let mut outcome = self.clone();
        if let Outcome::Seen(facts) = &mut outcome
            && let Some(link) = &mut facts.link
        {
            link.group = 0;
        }
        let bytes = postcard::to_stdvec(&outcome).expect("a vector takes all bytes of a plain structure");
        Digest(*blake3::hash(&bytes).as_bytes())
    }
}
