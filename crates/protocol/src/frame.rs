//! Frames: `u32` length (little endian, of the body), `u32` CRC-32 of the body, postcard body.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest body. A batch of 4,096 bindings with long names and ACLs fits; a peer that announces more is refused
/// before anything is allocated.
pub const MAX_FRAME_BYTES: usize = 16 << 20;

/// Length and checksum before each body.
pub const FRAME_HEADER_BYTES: usize = 8;

/// Why a frame could not be had. Every variant ends the channel; what was asked for is asked again on the next one.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The channel broke.
    #[error("the channel broke")]
    Io(#[from] io::Error),
    /// The peer closed the channel between two frames.
    #[error("the channel was closed")]
    Closed,
    /// The length is over the limit: not a peer of ours, or another protocol.
    #[error("a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")]
    TooLong {
        /// The announced length in bytes.
        length: usize,
    },
    /// The checksum does not fit.
    #[error("a frame was damaged on the way")]
    Damaged,
    /// The body is not what was expected.
    #[error("a frame could not be understood")]
    Malformed(#[from] postcard::Error),
}

/// Makes the bytes of one frame.
///
/// # Errors
/// [`FrameError::TooLong`] when the message is larger than a frame may be.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = postcard::to_extend(message, vec![0; FRAME_HEADER_BYTES])?;
    let length = bytes.len() - FRAME_HEADER_BYTES;
    if length > MAX_FRAME_BYTES {
        return Err(FrameError::TooLong { length });
    }
    let checksum = crc32fast::hash(&bytes[FRAME_HEADER_BYTES..]);
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    Ok(bytes)
}

/// Reads length and checksum out of a frame's header.
///
/// # Errors
/// [`FrameError::TooLong`].
pub fn parse_header(header: [u8; FRAME_HEADER_BYTES]) -> Result<(usize, u32), FrameError> {
    let [l0, l1, l2, l3, c0, c1, c2, c3] = header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(FrameError::TooLong { length });
    }
    Ok((length, u32::from_le_bytes([c0, c1, c2, c3])))
}

/// Checks and decodes the body of a frame.
///
/// # Errors
/// [`FrameError::Damaged`] or [`FrameError::Malformed`].
pub fn decode<T: DeserializeOwned>(body: &[u8], checksum: u32) -> Result<T, FrameError> {
    if crc32fast::hash(body) != checksum {
        return Err(FrameError::Damaged);
    }
    Ok(postcard::from_bytes(body)?)
}

/// Reads one frame from a blocking channel.
///
/// # Errors
/// [`FrameError::Closed`] at a clean end, else what went wrong.
pub fn read_frame<T: DeserializeOwned>(channel: &mut impl Read) -> Result<T, FrameError> {
    let mut header = [0; FRAME_HEADER_BYTES];
    let mut have = 0;
    while have < header.len() {
        match channel.read(&mut header[have..]) {
            Ok(0) if have == 0 => return Err(FrameError::Closed),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    let (length, checksum) = parse_header(header)?;
    let mut body = vec![0; length];
    channel.read_exact(&mut body)?;
    decode(&body, checksum)
}

/// Writes one frame to a blocking channel, with one write call.
///
/// # Errors
/// As [`encode`], or what the channel says.
pub fn write_frame<T: Serialize>(channel: &mut impl Write, message: &T) -> Result<(), FrameError> {
    channel.write_all(&encode(message)?)?;
    Ok(channel.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_round_trips() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &("hello", 7u64)).unwrap();
        let mut channel = bytes.as_slice();
        assert_eq!(read_frame::<(String, u64)>(&mut channel).unwrap(), ("hello".into(), 7));
        assert!(matches!(read_frame::<u8>(&mut channel), Err(FrameError::Closed)));
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let good = encode(&vec![1u8, 2, 3, 4]).unwrap();
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 0x40;
            assert!(read_frame::<Vec<u8>>(&mut bad.as_slice()).is_err(), "byte {i}");
        }
    }
}
