//! The 16-byte identity of an object.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Identifies one object of a volume: the same on every replica and on the secondary, kept through renames and
/// hard links.
///
/// Printed as 36 characters of lower-case hexadecimal with dashes, as GlusterFS does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Gfid(pub [u8; 16]);

/// A text that is not a GFID.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a GFID (36 characters, hexadecimal with dashes): {text:?}")]
pub struct BadGfid {
    /// The text, lossily decoded and cut to 64 characters.
    pub text: String,
}

/// Length of a GFID in its text form.
pub const GFID_TEXT_LEN: usize = 36;

impl Gfid {
    /// The root directory of every volume, as in GlusterFS.
    pub const ROOT: Gfid = Gfid([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

    /// The directory in which the recorder's changelog parks an object that has to give way while names are
    /// exchanged. It exists in changelogs only, never on a disk.
    pub const PARKING: Gfid = Gfid([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]);

    /// Parses the text form from bytes.
    ///
    /// # Errors
    /// [`BadGfid`] when the bytes are not 36 characters of hexadecimal with dashes at 8, 13, 18 and 23.
    pub fn parse(text: &[u8]) -> Result<Gfid, BadGfid> {
        let bad = || BadGfid { text: String::from_utf8_lossy(&text[..text.len().min(64)]).into_owned() };
        if text.len() != GFID_TEXT_LEN {
            return Err(bad());
        }
        let mut bytes = [0u8; 16];
        let mut digits = 0;
        for (i, &c) in text.iter().enumerate() {
            if matches!(i, 8 | 13 | 18 | 23) {
                if c != b'-' {
                    return Err(bad());
                }
                continue;
            }
            let value = (c as char).to_digit(16).ok_or_else(bad)? as u8;
            bytes[digits / 2] = bytes[digits / 2] << 4 | value;
            digits += 1;
        }
        Ok(Gfid(bytes))
    }
}

impl FromStr for Gfid {
    type Err = BadGfid;
    fn from_str(text: &str) -> Result<Gfid, BadGfid> {
        Gfid::parse(text.as_bytes())
    }
}

impl fmt::Display for Gfid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Gfid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let text = "c5250af6-720e-4bfe-b938-827614304f39";
        assert_eq!(text.parse::<Gfid>().unwrap().to_string(), text);
        assert_eq!(Gfid::ROOT.to_string(), "00000000-0000-0000-0000-000000000001");
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in ["", "c5250af6", "c5250af6-720e-4bfe-b938-827614304f3g", "c5250af6x720e-4bfe-b938-827614304f39"] {
            assert!(bad.parse::<Gfid>().is_err(), "{bad}");
        }
    }
}
