//! POSIX ACLs as they are stored in xattrs, in the short text form of getfacl(1).

use std::fmt::{self, Display};

use crate::value::XattrValue;

/// The xattr of the ACL that decides about access.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";

/// The xattr of the ACL that new objects in a directory inherit.
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

/// `POSIX_ACL_XATTR_VERSION` of linux/posix_acl_xattr.h.
const VERSION: u32 = 2;

/// An ACL that is shown as text where it can be understood, else as bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acl(pub XattrValue);

impl Display for Acl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match text(&self.0.head) {
            Some(text) => {
                f.write_str(&text)?;
                f.write_str(if self.0.digest.is_some() { ",..." } else { "" })
            }
            None => self.0.fmt(f),
        }
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    let (version, entries) = bytes.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != VERSION {
        return None;
    }
    let entries: Option<Vec<String>> = entries.chunks_exact(8).map(entry).collect();
    Some(entries?.join(","))
}

fn entry(bytes: &[u8]) -> Option<String> {
    let [tag0, tag1, perm0, perm1, id @ ..] = <[u8; 8]>::try_from(bytes).ok()?;
    let id = u32::from_le_bytes(id);
    let who = match u16::from_le_bytes([tag0, tag1]) {
        0x01 => "u:".to_owned(),
        0x02 => format!("u:{id}"),
        0x04 => "g:".to_owned(),
        0x08 => format!("g:{id}"),
        0x10 => "m:".to_owned(),
        0x20 => "o:".to_owned(),
        _ => return None,
    };
    let perm = u16::from_le_bytes([perm0, perm1]);
    let flag = |bit: u16, letter: char| if perm & bit == 0 { '-' } else { letter };
    Some(format!("{who}:{}{}{}", flag(4, 'r'), flag(2, 'w'), flag(1, 'x')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acl_is_shown_as_getfacl_would() {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for (tag, perm, id) in
            [(1u16, 6u16, u32::MAX), (2, 4, 1000), (4, 4, u32::MAX), (0x10, 4, u32::MAX), (0x20, 0, 0)]
        {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(perm.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        let acl = |bytes: &[u8]| Acl(XattrValue::of(bytes)).to_string();
        assert_eq!(acl(&bytes), "u::rw-,u:1000:r--,g::r--,m::r--,o::---");
        // What is no ACL is shown as it is.
        assert_eq!(acl(b"\x01"), "\"%01\"");
        bytes[4] = 0x77;
        assert!(acl(&bytes).starts_with("\"%02%00"));
    }
}
