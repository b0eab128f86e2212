//! The small name space.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// What things are called; the first ones are taken more often.
const NAMES: [&[u8]; 12] = [
    b"a",
    b"b",
    b"c",
    b"d",
    b"e f",
    b"new\nline",
    b"\xff\xfe",
    b"100%41",
    b".hidden",
    b"-rf",
    b"caf\xc3\xa9",
    b"012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567\
      8901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
];

/// Where symbolic links point to: to siblings and to nothing, never out of the directories of the test.
const TARGETS: [&[u8]; 5] = [b"a", b"b", b"./c/d", b"/nonexistent/target", b"e f"];

/// The most names in a path.
const DEPTH_MAX: usize = 3;

/// Any name.
pub(super) fn name(random: &mut fastrand::Rng) -> &'static OsStr {
    // The smaller of two: the first names are taken much more often than the last ones.
    let index = random.usize(0..NAMES.len()).min(random.usize(0..NAMES.len()));
    OsStr::from_bytes(NAMES[index])
}

/// Any path: mostly one or two names.
pub(super) fn path(random: &mut fastrand::Rng) -> PathBuf {
    let depth = random.usize(1..=DEPTH_MAX).min(random.usize(1..=DEPTH_MAX));
    (0..depth).map(|_| name(random)).collect()
}

/// Any target of a symbolic link.
pub(super) fn target(random: &mut fastrand::Rng) -> &'static OsStr {
    OsStr::from_bytes(TARGETS[random.usize(0..TARGETS.len())])
}
