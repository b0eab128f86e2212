//! Content on its way into the stage of the secondary.
//!
//! A stage channel starts as a control channel does: [`MAGIC`](crate::hello::MAGIC) both ways, a frame
//! [`StageHello`] from the worker, a frame [`StageReady`] from the agent. Then the worker sends a tar stream: 512-byte
//! ustar headers, each followed by its content padded to 512 bytes. The name of an entry is a [`Piece`]: where its content
//! belongs, and with the last one of a file, how long the file is: bytes that no piece covered are a hole. A small file is
//! one entry. Mode, owner, group and mtime of the header are the file's, so that it can wait in the stage with the
//! attributes that it most likely gets. The first entry of a file starts it anew; entries of different files are not mixed
//! on one channel. To each last piece the agent answers with a frame [`Staged`].

use changelog::Gfid;
use serde::{Deserialize, Serialize};

use crate::hello::Versions;

/// The largest piece of content in one entry, bytes: what both sides hold in memory for a channel.
pub const MAX_PIECE_BYTES: usize = 1 << 20;

/// The name of an entry: `<gfid>/<offset>`, for the last piece of a file `<gfid>/<offset>/<size>/<nanos>`, all numbers in
/// decimal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The object.
    pub gfid: Gfid,
    /// Where its content begins in the file.
    pub offset: u64,
    /// With the last piece.
    pub end: Option<End>,
}

/// What is known at the end of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    /// Size of the file.
    pub size: u64,
    /// What the header's mtime lacks: nanoseconds.
    pub mtime_nanos: u32,
}

impl Piece {
    /// As it is written into a header.
    pub fn to_name(&self) -> String {
        let Piece { gfid, offset, end } = self;
        match end {
            None => format!("{gfid}/{offset}"),
            Some(End { size, mtime_nanos }) => format!("{gfid}/{offset}/{size}/{mtime_nanos}"),
        }
    }

    /// Reads a name; `None` for anything that [`Piece::to_name`] does not write, or beyond what a file can have.
    pub fn parse(name: &[u8]) -> Option<Piece> {
        let mut parts = std::str::from_utf8(name).ok()?.split('/');
        let gfid = Gfid::parse(parts.next()?.as_bytes()).ok()?;
        let offset = parse_offset(parts.next()?)?;
        let end = match (parts.next(), parts.next(), parts.next()) {
            (None, ..) => None,
            (Some(size), Some(nanos), None) => {
                let mtime_nanos = u32::try_from(parse_offset(nanos)?).ok().filter(|&n| n < 1_000_000_000)?;
                Some(End { size: parse_offset(size)?, mtime_nanos })
            }
            _ => return None,
        };
        Some(Piece { gfid, offset, end })
    }
}

/// Digits only, within what a file can have.
fn parse_offset(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    text.parse().ok().filter(|&n: &u64| digits && n <= i64::MAX as u64)
}

/// Opens a stage channel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StageHello {
    /// What the worker speaks.
    pub versions: Versions,
    /// The token of the control channel ([`Welcome::stage_token`](crate::agent::Welcome::stage_token)).
    pub token: String,
}

/// The agent's answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum StageReady {
    /// Send.
    Ready,
    /// The token is not known (any more).
    Refused,
}

/// What became of one file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Staged {
    /// The object.
    pub gfid: Gfid,
    /// 0, or the `errno` of the first write that failed (the rest of the file was thrown away).
    pub errno: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_refused() {
        let gfid = Gfid([0xab; 16]);
        for end in [None, Some(End { size: i64::MAX as u64, mtime_nanos: 999_999_999 })] {
            let piece = Piece { gfid, offset: i64::MAX as u64, end };
            assert_eq!(Piece::parse(piece.to_name().as_bytes()), Some(piece));
            assert!(piece.to_name().len() <= 100, "longer than a header's name");
        }
        for rest in ["", "/", "/-1", "/+1", "/1/2", "/1/2/", "/1/2/3/4", "/1/2/1000000000", "/9223372036854775808"] {
            assert_eq!(Piece::parse(format!("{gfid}{rest}").as_bytes()), None, "{rest}");
        }
        assert_eq!(Piece::parse(b"../0"), None);
    }
}
