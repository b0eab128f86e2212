//! A primary that writes a changelog, and a secondary that behaves as the agent does, in memory.

mod primary;
mod secondary;

pub use primary::Primary;
pub use secondary::Secondary;

use protocol::{Kind, Object, Time};

/// An object of which only type, version, mode and mtime matter. `touched`: the mtime that was set since the version was
/// written, 0 if none was.
pub fn object(kind: Kind, version: u64, mode: u32, touched: u32) -> Object {
    Object {
        kind,
        mode,
        uid: 0,
        gid: 0,
        nlink: 1,
        rdev: 0,
        size: version,
        mtime: Time { secs: version as i64, nanos: touched },
        ctime: Time { secs: version as i64, nanos: touched << 9 | mode },
        target: Vec::new(),
        xattrs: Vec::new(),
    }
}

/// What a tree looks like: for each path the object's identity, version, mode and mtime.
pub type Tree = std::collections::BTreeMap<String, (protocol::Gfid, u64, u32, Time)>;
