//! The first line of a slice: version and encoding of what follows.

use crate::error::Damage;

const VERSION_TAG: &[u8] = b"GlusterFS Changelog | version: v";
const ENCODING_TAG: &[u8] = b" | encoding : ";

/// Length of each header that can be read. No record begins before it.
pub const HEADER_BYTES: u64 = 51;

/// Longest accepted header; the real one has 51 bytes, the rest is room for numbers of several digits.
const HEADER_MAX: usize = 80;

/// Layout of the records of deletes: the only difference between the two versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// GlusterFS 3.5 and 3.6.
    V1_1,
    /// GlusterFS 3.7 and later: deletes have a path or a placeholder.
    V1_2,
}

/// How fields are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// 1: raw GFIDs, numbers as four bytes, little endian (GlusterFS: of the machine that wrote it).
    Binary,
    /// 2: text; GlusterFS's default.
    Ascii,
}

/// What a header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Format {
    /// Layout of deletes.
    pub version: Version,
    /// Form of the fields.
    pub encoding: Encoding,
}

/// What the first bytes of a slice are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderStep {
    /// A whole header.
    Header {
        /// What it says.
        format: Format,
        /// Its length with the line feed.
        len: usize,
    },
    /// The beginning of a header.
    Incomplete,
    /// Something else.
    Damaged(Damage),
}

impl Format {
    /// What our own recorder writes, and GlusterFS since 3.7.
    pub const OWN: Format = Format { version: Version::V1_2, encoding: Encoding::Ascii };

    /// All formats that can be read.
    pub const ALL: [Format; 4] = [
        Format { version: Version::V1_1, encoding: Encoding::Binary },
        Format { version: Version::V1_1, encoding: Encoding::Ascii },
        Format { version: Version::V1_2, encoding: Encoding::Binary },
        Format { version: Version::V1_2, encoding: Encoding::Ascii },
    ];

    /// Returns the header with its line feed.
    pub fn header(self) -> Vec<u8> {
        let version = match self.version {
            Version::V1_1 => b"1.1",
            Version::V1_2 => b"1.2",
        };
        let encoding = match self.encoding {
            Encoding::Binary => b"1\n",
            Encoding::Ascii => b"2\n",
        };
        [VERSION_TAG, version, ENCODING_TAG, encoding].concat()
    }
}

/// Reads the header at the beginning of `bytes`.
pub fn decode_header(bytes: &[u8]) -> HeaderStep {
    let Some(line_end) = bytes.iter().take(HEADER_MAX).position(|&byte| byte == b'\n') else {
        let known = bytes.len().min(VERSION_TAG.len());
        return if bytes.len() < HEADER_MAX && bytes[..known] == VERSION_TAG[..known] {
            HeaderStep::Incomplete
        } else {
            HeaderStep::Damaged(Damage::Header)
        };
    };
    match parse_line(&bytes[..line_end]) {
        Ok(format) => HeaderStep::Header { format, len: line_end + 1 },
        Err(damage) => HeaderStep::Damaged(damage),
    }
}

fn parse_line(line: &[u8]) -> Result<Format, Damage> {
    let rest = line.strip_prefix(VERSION_TAG).ok_or(Damage::Header)?;
    let version_len = rest.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b'.')).ok_or(Damage::Header)?;
    let (version, rest) = rest.split_at(version_len);
    let version = match version {
        b"1.1" => Version::V1_1,
        b"1.2" => Version::V1_2,
        _ => return Err(Damage::Version),
    };
    let encoding = match rest.strip_prefix(ENCODING_TAG).ok_or(Damage::Header)? {
        b"1" => Encoding::Binary,
        b"2" => Encoding::Ascii,
        _ => return Err(Damage::Encoding),
    };
    Ok(Format { version, encoding })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_formats_round_trip_and_every_prefix_is_incomplete() {
        for format in Format::ALL {
            let header = format.header();
            assert_eq!(header.len() as u64, HEADER_BYTES);
            for len in 0..header.len() {
                assert_eq!(decode_header(&header[..len]), HeaderStep::Incomplete, "{len}");
            }
            let more = [header.as_slice(), b"D"].concat();
            assert_eq!(decode_header(&more), HeaderStep::Header { format, len: 51 });
        }
    }

    #[test]
    fn other_headers_are_refused() {
        for (line, damage) in [
            ("GlusterFS Changelog | version: v1.3 | encoding : 2\n", Damage::Version),
            ("GlusterFS Changelog | version: v11.2 | encoding : 2\n", Damage::Version),
            ("GlusterFS Changelog | version: v1.2 | encoding : 3\n", Damage::Encoding),
            ("GlusterFS Changelog | version: v1.2 | encoding : \n", Damage::Encoding),
            ("GlusterFS Changelog | version: v1.2 | Encoding : 2\n", Damage::Header),
            ("\n", Damage::Header),
            ("Dc5250af6", Damage::Header),
        ] {
            assert_eq!(decode_header(line.as_bytes()), HeaderStep::Damaged(damage), "{line}");
        }
    }
}
