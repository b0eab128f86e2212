//! File handles: what the kernel calls an object, and the GFID that follows from it.

use changelog::Gfid;

use crate::identity::Identity;

/// The longest handle (`MAX_HANDLE_SZ` of Linux).
pub const HANDLE_BYTES_MAX: usize = 128;

/// Where the derivation of GFIDs is defined; another text would give every object another identity.
const DERIVATION: &str = "gsync recorder: gfid of a file handle, version 2";

/// A file handle: type (little endian) and opaque bytes, together unique on one file system and never used again.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Handle(Box<[u8]>);

impl Handle {
    /// Makes a handle; `None` when it is longer than Linux allows.
    pub fn new(kind: i32, bytes: &[u8]) -> Option<Handle> {
        if bytes.len() > HANDLE_BYTES_MAX {
            return None;
        }
        let mut all = Vec::with_capacity(4 + bytes.len());
        all.extend_from_slice(&kind.to_le_bytes());
        all.extend_from_slice(bytes);
        Some(Handle(all.into()))
    }

    /// Takes what [`Handle::as_bytes`] gave; `None` when it cannot have been that.
    pub fn from_bytes(all: &[u8]) -> Option<Handle> {
        let (kind, bytes) = all.split_at_checked(4)?;
        Handle::new(i32::from_le_bytes(kind.try_into().ok()?), bytes)
    }

    /// Type and bytes, as they are kept in the index.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The type, which the file system chose.
    pub fn kind(&self) -> i32 {
        i32::from_le_bytes([self.0[0], self.0[1], self.0[2], self.0[3]])
    }

    /// The opaque part.
    pub fn bytes(&self) -> &[u8] {
        &self.0[4..]
    }
}

/// Gives the objects of one brick their GFIDs.
#[derive(Clone, Debug)]
pub struct Namer {
    key: [u8; 32],
    root: Handle,
}

impl Namer {
    /// For the brick with this number, on this file system and with this root directory.
    ///
    /// Handles of two file systems may be equal, so that the file system is part of what names are derived from.
    pub fn new(brick: [u8; 16], identity: &Identity) -> Namer {
        let of = [brick.as_slice(), identity.filesystem.as_bytes()].concat();
        Namer { key: blake3::derive_key(DERIVATION, &of), root: identity.root.clone() }
    }

    /// The GFID of the object with this handle.
    ///
    /// It is derived, so nothing is written to the brick, nothing has to be kept in memory, and an index that was
    /// lost is rebuilt with the same GFIDs. A handle carries the inode's generation: a new file never gets the GFID
    /// of an old one.
    pub fn gfid(&self, handle: &Handle) -> Gfid {
        if *handle == self.root {
            return Gfid::ROOT;
        }
        let hash = blake3::keyed_hash(&self.key, handle.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.as_bytes()[..16]);
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Gfid(bytes)
    }

    /// The root directory's handle.
    pub fn root(&self) -> &Handle {
        &self.root
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gfids_are_version_8_and_stable() {
        let root = Handle::new(1, &[0; 8]).unwrap();
        let identity = Identity { filesystem: "uuid:01".into(), root: root.clone() };
        let namer = Namer::new([7; 16], &identity);
        let file = Handle::new(1, &[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        let text = namer.gfid(&file).to_string();
        assert_eq!(text.as_bytes()[14], b'8');
        assert!(matches!(text.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
        // Changing this means a new identity for every object of every brick.
        assert_eq!(text, "fc620982-6af8-8725-8d77-d74db0c5efdc");
        assert_eq!(namer.gfid(&root), Gfid::ROOT);
        assert_ne!(Namer::new([8; 16], &identity).gfid(&file), namer.gfid(&file));
        let elsewhere = Identity { filesystem: "uuid:02".into(), ..identity };
        assert_ne!(Namer::new([7; 16], &elsewhere).gfid(&file), namer.gfid(&file));
    }

    #[test]
    fn bytes_round_trip() {
        let handle = Handle::new(-3, b"abc").unwrap();
        assert_eq!(Handle::from_bytes(handle.as_bytes()), Some(handle.clone()));
        assert_eq!((handle.kind(), handle.bytes()), (-3, b"abc".as_slice()));
        assert_eq!(Handle::from_bytes(b"abc"), None);
        assert_eq!(Handle::new(0, &[0; 129]), None);
    }
}
