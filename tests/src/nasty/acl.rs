//! POSIX ACLs as the kernel takes them in an xattr.

/// An ACL with one named user and one named group, see linux/posix_acl_xattr.h.
pub(super) fn bytes(random: &mut fastrand::Rng) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let mut perm = || random.u16(0..8);
    let entries = [
        (0x01, perm(), NOBODY),
        (0x02, perm(), 1000 + u32::from(perm())),
        (0x04, perm(), NOBODY),
        (0x08, perm(), 1000 + u32::from(perm())),
        (0x10, perm(), NOBODY),
        (0x20, perm(), NOBODY),
    ];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        bytes.extend(u16::to_le_bytes(tag));
        bytes.extend(perm.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}
