//! The values that are compared, as they are shown.

use std::fmt::{self, Display};

use posix::{Kind, Time};
use serde::{Deserialize, Serialize, Serializer};

use crate::path::write_encoded;

/// How many bytes of an xattr's value are kept to be shown; an ACL of 31 entries fits.
const HEAD_BYTES: usize = 256;

/// A BLAKE3 hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

/// Permission bits with setuid, setgid and sticky.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mode(pub u32);

/// Owner and group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The number of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Device(pub u64);

/// A point in time, shown in seconds since 1970 with nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment(pub Time);

/// A type, in words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Type(pub Kind);

/// Bytes that are shown percent-encoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Text(pub Vec<u8>);

/// An xattr's value: its beginning to be shown, and what decides whether two are equal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct XattrValue {
    /// Length in bytes.
    pub length: u64,
    /// The first bytes.
    pub head: Vec<u8>,
    /// Hash of the whole value where `head` is not all of it.
    pub digest: Option<Digest>,
}

/// What is shown for something that one side may not have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Maybe<T>(pub Option<T>);

/// A value on each side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pair<T> {
    /// On the primary.
    pub primary: T,
    /// On the secondary.
    pub secondary: T,
}

impl XattrValue {
    /// Keeps what is needed of a value.
    pub fn of(value: &[u8]) -> XattrValue {
        let head = &value[..value.len().min(HEAD_BYTES)];
        let digest = (head.len() < value.len()).then(|| Digest(*blake3::hash(value).as_bytes()));
        XattrValue { length: value.len() as u64, head: head.to_vec(), digest }
    }
}

impl<T> Pair<T> {
    /// The primary's value first, as everywhere.
    pub fn new(primary: T, secondary: T) -> Pair<T> {
        Pair { primary, secondary }
    }
}

impl<T: Display> Display for Pair<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on the primary, {} on the secondary", self.primary, self.secondary)
    }
}

impl<T: Display> Serialize for Pair<T> {
    /// As an object with the members `primary` and `secondary`, each the text that is shown.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut pair = serializer.serialize_struct("Pair", 2)?;
        pair.serialize_field("primary", &self.primary.to_string())?;
        pair.serialize_field("secondary", &self.secondary.to_string())?;
        pair.end()
    }
}

impl Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

impl Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", rustix::fs::major(self.0), rustix::fs::minor(self.0))
    }
}

impl Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0.secs, self.0.nanos)
    }
}

impl Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::File => "file",
            Kind::Directory => "directory",
            Kind::Symlink => "symbolic link",
            Kind::Fifo => "fifo",
            Kind::Socket => "socket",
            Kind::CharDevice => "character device",
            Kind::BlockDevice => "block device",
        })
    }
}

impl Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_encoded(f, &self.0)
    }
}

impl Display for XattrValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        write_encoded(f, &self.head)?;
        f.write_str("\"")?;
        match self.digest {
            Some(digest) => write!(f, "... ({} bytes, blake3 {digest})", self.length),
            None => Ok(()),
        }
    }
}

impl<T: Display> Display for Maybe<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("absent"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_told_from_one_with_the_same_beginning() {
        let (mut a, mut b) = (vec![b'x'; 5000], vec![b'x'; 5000]);
        assert_eq!(XattrValue::of(&a), XattrValue::of(&b));
        a[4999] = b'a';
        b[4999] = b'b';
        assert_ne!(XattrValue::of(&a), XattrValue::of(&b));
        assert!(XattrValue::of(&a).head.len() == HEAD_BYTES);
    }

    #[test]
    fn values_are_shown_as_people_write_them() {
        assert_eq!(Mode(0o4755).to_string(), "4755");
        assert_eq!(Mode(0o44).to_string(), "0044");
        assert_eq!(Device(rustix::fs::makedev(8, 17)).to_string(), "8:17");
        assert_eq!(Moment(Time { secs: 17, nanos: 5 }).to_string(), "17.000000005");
        assert_eq!(XattrValue::of(b"a\0").to_string(), "\"a%00\"");
        assert_eq!(Pair::new(1, 2).to_string(), "1 on the primary, 2 on the secondary");
    }
}
