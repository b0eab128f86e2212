//! What the operator's `create` asks an agent: JSON on stdin and stdout of a door, one object each.

use serde::{Deserialize, Serialize};

/// What is at a secondary's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Not even the directory above is there.
    #[default]
    Lost,
    /// Nothing, in an existing directory.
    Missing,
    /// Something that is not a directory.
    Other,
    /// An empty directory.
    Empty,
    /// A directory that was a secondary before.
    Ours,
    /// A directory with something in it.
    Filled,
}

/// Something that a secondary's file system or kernel cannot do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lack {
    /// What, for the operator.
    pub feature: String,
    /// What the system said.
    pub reason: String,
    /// Whether nothing works without it; else only objects that need it cannot be replicated.
    pub is_vital: bool,
}

/// Which session uses a root; kept in `.gsync/claim`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Claim {
    /// Identity of the session (UUID text).
    pub session: String,
    /// Its name.
    pub name: String,
    /// Node and directory of the primary, for messages.
    pub primary: String,
}

/// What a root is like. Fields that an agent does not know of have their defaults.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Release of the agent.
    pub software: String,
    /// Oldest protocol that it speaks.
    pub protocol_min: u16,
    /// Newest protocol that it speaks.
    pub protocol_max: u16,
    /// Whether it runs as root.
    pub is_root: bool,
    /// What is at the root.
    pub place: Place,
    /// The root, absolute and without links.
    pub path: String,
    /// Whether the root (or the directory above a missing one) can be written to.
    pub is_writable: bool,
    /// Type of the file system.
    pub file_system: Option<String>,
    /// Free space, bytes.
    pub free_bytes: Option<u64>,
    /// Free inodes; absent where the file system makes them as needed.
    pub free_inodes: Option<u64>,
    /// Whether files can share extents.
    pub can_clone: bool,
    /// What is missing.
    pub lacks: Vec<Lack>,
    /// Version of the rsync in PATH.
    pub rsync: Option<String>,
    /// Release of the kernel.
    pub kernel: String,
    /// Identity of the running kernel: equal on the same machine, also in a container of it.
    pub boot_id: String,
    /// Where the root is on its file system, whatever it is mounted as.
    pub location: Option<Location>,
    /// Wall clock, milliseconds since 1970.
    pub now_ms: u64,
    /// Which session uses the root.
    pub claim: Option<Claim>,
    /// Why the root cannot be served.
    pub error: Option<String>,
}

/// A directory by its file system, not by its path: bind mounts of one directory have the same.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Location {
    /// Device number of the file system, `major:minor`.
    pub device: String,
    /// Path from the root of that file system.
    pub path: String,
}

impl Location {
    /// Whether one directory is the other, or lies in it.
    pub fn overlaps(&self, other: &Location) -> bool {
        self.is_inside(other) || other.is_inside(self)
    }

    /// Whether this is `other` or a directory in it.
    pub fn is_inside(&self, other: &Location) -> bool {
        self.device == other.device && std::path::Path::new(&self.path).starts_with(&other.path)
    }
}

/// What becomes of that which a root holds already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holdings {
    /// There must be nothing.
    #[default]
    None,
    /// It is an older copy: what is equal is kept, what differs is sent, the rest goes to quarantine at the end.
    Adopt,
    /// It goes to quarantine now.
    Quarantine,
}

/// Asks a door to make a root ready for a session (`gsync prepare`).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Prepare {
    /// The session.
    pub claim: Claim,
    /// What becomes of what is there.
    pub holdings: Holdings,
    /// Take the root over from another session.
    pub force: bool,
}

/// Asks a door to undo [`Prepare`] (`gsync release`): the root is free for other sessions.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Release {
    /// Identity of the session; nothing is done when another one uses the root.
    pub session: String,
}

/// Answer to [`Prepare`] and [`Release`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Prepared {
    /// Why it was not done.
    pub error: Option<String>,
    /// Where the holdings are now, below the root; only after [`Holdings::Quarantine`].
    pub quarantine: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_overlap_by_component() {
        let at = |path: &str| Location { device: "8:1".into(), path: path.into() };
        assert!(at("/a/b").is_inside(&at("/a")) && at("/a").overlaps(&at("/a/b")) && at("/a").overlaps(&at("/a")));
        assert!(at("/a").is_inside(&at("/")) && !at("/ab").overlaps(&at("/a")));
        assert!(!at("/a").overlaps(&Location { device: "8:2".into(), path: "/a".into() }));
    }
}
