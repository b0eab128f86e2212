//! A primary that writes a changelog, and a secondary that behaves as the agent does, in memory.

mod primary;
mod secondary;

pub use primary::Primary;
pub use secondary::Secondary;

use protocol::{Kind, Object, Time};

/// An object of which only type, version and mode matter.
pub fn object(kind: Kind, version: u64, mode: u32) -> Object {
    let time = Time { secs: version as i64, nanos: 0 };
    Object {
        kind,
        mode,
        uid: 0,
        gid: 0,
        nlink: 1,
        rdev: 0,
        size: version,
        mtime: time,
        ctime: Time { secs: version as i64, nanos: mode },
        target: Vec::new(),
        xattrs: Vec::new(),
    }
}

/// What a tree looks like: for each path the object's identity, version and mode.
pub type Tree = std::collections::BTreeMap<String, (protocol::Gfid, u64, u32)>;
