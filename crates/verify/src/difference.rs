//! One thing that differs.

use std::fmt::{self, Display};
use std::io;

use serde::Serialize;

use crate::acl::Acl;
use crate::value::{Device, Digest, Maybe, Mode, Moment, Owner, Pair, Text, Type, XattrValue};
use crate::{Outcome, TreePath};

/// How many paths of a link group are shown in a line; JSON has them all.
const SHOWN_PATHS_MAX: usize = 8;

/// One thing that differs at one path.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Difference {
    /// Where; of link groups the first path.
    pub path: TreePath,
    /// What.
    #[serde(flatten)]
    pub what: What,
    /// Whether the object on the primary changed between the last two looks, or during the last one.
    pub in_flight: bool,
    /// What the primary had there, to tell whether it changed until the next look; `None` for nothing.
    #[serde(skip)]
    pub(crate) primary: Option<Digest>,
    /// Whether both sides have a directory there, so that looking at it again need not look below.
    #[serde(skip)]
    pub(crate) directory: bool,
}

/// What differs, with both values.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum What {
    /// The primary has it, the secondary has not.
    Missing(Lone),
    /// The secondary has it, the primary has not.
    Extra(Lone),
    /// The types differ; nothing else was compared, and nothing below.
    Type(Pair<Type>),
    /// Permission bits with setuid, setgid and sticky.
    Mode(Pair<Mode>),
    /// Owner or group.
    Owner(Pair<Owner>),
    /// Sizes of a file.
    Size(Pair<u64>),
    /// Contents of a file of the same size.
    Content(Pair<Digest>),
    /// Targets of a symbolic link.
    Target(Pair<Text>),
    /// Numbers of a device.
    Device(Pair<Device>),
    /// One extended attribute.
    Xattr {
        /// Its full name.
        #[serde(serialize_with = "as_text")]
        name: Text,
        /// Its values.
        #[serde(flatten)]
        values: Pair<Maybe<XattrValue>>,
    },
    /// The ACL that decides about access.
    Acl(Pair<Maybe<Acl>>),
    /// The ACL that new objects inherit.
    DefaultAcl(Pair<Maybe<Acl>>),
    /// Time of the last change of content.
    Mtime(Pair<Moment>),
    /// Which paths are names of one inode.
    Links(Links),
    /// The object, and what is below, could not be compared.
    Unverified(Pair<Trouble>),
    /// Nothing differed, but the object changed while it was looked at.
    Changing(Pair<Change>),
}

/// What only one side has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Lone {
    /// Its type, where it could be looked at.
    #[serde(serialize_with = "as_text")]
    pub kind: Maybe<Type>,
    /// Number of objects below it, of which no difference of their own is reported.
    pub below: u64,
}

/// The link groups of some paths that are linked with each other on one side or on both.
///
/// Each group is a list of paths that share one inode; only paths that both sides have are in it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Links {
    /// On the primary.
    pub primary: Vec<Vec<TreePath>>,
    /// On the secondary.
    pub secondary: Vec<Vec<TreePath>>,
}

/// Why one side could not be compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// This side could be looked at.
    None,
    /// Another file system is mounted there.
    Mount,
    /// The system refused with this error number.
    Errno(i32),
}

/// Whether one side changed while it was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// It did.
    Changed,
    /// It did not.
    Stable,
}

impl Trouble {
    pub(crate) fn of(outcome: &Outcome) -> Trouble {
        match outcome {
            Outcome::Seen(_) => Trouble::None,
            Outcome::Mount => Trouble::Mount,
            Outcome::Unreadable { errno } => Trouble::Errno(*errno),
        }
    }
}

impl Change {
    pub(crate) fn of(unstable: bool) -> Change {
        if unstable { Change::Changed } else { Change::Stable }
    }
}

impl Display for Difference {
    /// One line without its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.what)?;
        f.write_str(if self.in_flight { " (in flight)" } else { "" })
    }
}

impl Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Missing(lone) => write!(f, "missing on the secondary, {lone} on the primary"),
            What::Extra(lone) => write!(f, "missing on the primary, {lone} on the secondary"),
            What::Type(pair) => write!(f, "{pair}"),
            What::Mode(pair) => write!(f, "mode {pair}"),
            What::Owner(pair) => write!(f, "owner {pair}"),
            What::Size(pair) => write!(f, "size {pair}"),
            What::Content(pair) => write!(f, "content {pair}"),
            What::Target(pair) => write!(f, "target {pair}"),
            What::Device(pair) => write!(f, "device {pair}"),
            What::Xattr { name, values } => write!(f, "xattr {name} {values}"),
            What::Acl(pair) => write!(f, "ACL {pair}"),
            What::DefaultAcl(pair) => write!(f, "default ACL {pair}"),
            What::Mtime(pair) => write!(f, "mtime {pair}"),
            What::Links(links) => {
                f.write_str("hard links ")?;
                write_groups(f, &links.primary)?;
                f.write_str(" on the primary, ")?;
                write_groups(f, &links.secondary)?;
                f.write_str(" on the secondary")
            }
            What::Unverified(pair) => write!(f, "not compared: {pair}"),
            What::Changing(pair) => write!(f, "changed while it was looked at: {pair}"),
        }
    }
}

impl Display for Lone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind.0 {
            Some(kind) => write!(f, "{kind}")?,
            None => f.write_str("something that cannot be looked at")?,
        }
        match self.below {
            0 => Ok(()),
            below => write!(f, " with {below} objects below it"),
        }
    }
}

impl Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::None => f.write_str("readable"),
            Trouble::Mount => f.write_str("another file system"),
            Trouble::Errno(errno) => write!(f, "{}", io::Error::from_raw_os_error(*errno)),
        }
    }
}

impl Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Change::Changed => "changed",
            Change::Stable => "stable",
        })
    }
}

fn write_groups(f: &mut fmt::Formatter<'_>, groups: &[Vec<TreePath>]) -> fmt::Result {
    let mut shown = 0;
    for (index, group) in groups.iter().enumerate() {
        f.write_str(if index == 0 { "{" } else { " {" })?;
        for (index, path) in group.iter().enumerate() {
            if shown == SHOWN_PATHS_MAX {
                return f.write_str(" ...}");
            }
            shown += 1;
            write!(f, "{}{path}", if index == 0 { "" } else { ", " })?;
        }
        f.write_str("}")?;
    }
    Ok(())
}

fn as_text<T: Display, S: serde::Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
