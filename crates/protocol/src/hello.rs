//! The first thing on every channel: magic bytes, then each side's version range.

use serde::{Deserialize, Serialize};

/// Sent by both sides before their first frame. Not all printable, so that a shell's banner cannot be mistaken for
/// it, and broken by any conversion of line ends.
pub const MAGIC: [u8; 8] = *b"\x89GSync\r\n";

/// The oldest protocol that this build speaks.
pub const VERSION_MIN: u16 = 1;

/// The newest protocol that this build speaks. 1: the first.
pub const VERSION_MAX: u16 = 1;

/// What one side can speak.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Versions {
    /// Oldest protocol version.
    pub min: u16,
    /// Newest protocol version.
    pub max: u16,
    /// Software version, for messages only.
    pub software: String,
}

impl Versions {
    /// What this build can speak.
    pub fn ours() -> Versions {
        Versions { min: VERSION_MIN, max: VERSION_MAX, software: env!("CARGO_PKG_VERSION").into() }
    }

    /// The newest version that both sides speak.
    pub fn common(&self, other: &Versions) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(min: u16, max: u16) -> Versions {
        Versions { min, max, software: String::new() }
    }

    #[test]
    fn the_newest_common_version_is_taken() {
        assert_eq!(range(1, 3).common(&range(2, 5)), Some(3));
        assert_eq!(range(1, 2).common(&range(3, 4)), None);
        assert_eq!(range(3, 4).common(&range(1, 2)), None);
    }
}
