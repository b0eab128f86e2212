//! A primary volume and its bricks.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::ids::BrickId;

/// One or more bricks that are replicated together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Volume {
    /// Its name, unique.
    pub name: String,
    /// Its bricks, in order; the order never changes, because a brick's place in it names its log.
    pub bricks: Vec<Brick>,
}

/// A directory tree on a disk of one node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Brick {
    /// Its identity.
    pub id: BrickId,
    /// The node that it is on.
    pub node: String,
    /// Its directory, absolute and without symbolic links.
    pub path: PathBuf,
    /// Number of its replica set in the volume, from 0; bricks of one replica set hold the same data.
    pub replica_set: u32,
}

impl Volume {
    /// A volume of one directory.
    pub fn single(name: String, node: String, path: PathBuf) -> Volume {
        Volume { name, bricks: vec![Brick { id: BrickId::random(), node, path, replica_set: 0 }] }
    }

    /// Whether the volume is exactly this one directory.
    pub fn is_single(&self, node: &str, path: &Path) -> bool {
        matches!(self.bricks.as_slice(), [brick] if brick.node == node && brick.path == path)
    }
}
