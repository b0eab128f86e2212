//! Mark, pending list and epoch of one replica set: two small files, written in turn.
//!
//! `state-<session>-<replica set>.a` and `.b` in `.gsync/`: magic `GSYNCST2`, sequence number `u64`, length of the
//! body `u32`, CRC-32 of sequence number and body `u32` (all little endian), postcard body. The whole one with the higher
//! number counts; a torn write leaves the other. Apart from the index, so that a lost index costs no mark.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use posix::beneath;
use protocol::agent::Stored;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::losses::Losses;
use crate::private::Private;

const MAGIC: &[u8; 8] = b"GSYNCST2";

/// Magic, sequence number, length, checksum.
const HEADER_BYTES: usize = 24;

/// The largest body that is read. A full pending list with long reasons is far below.
const MAX_BODY_BYTES: u64 = 64 << 20;

/// What is kept for one session and replica set.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// The highest epoch that was welcomed.
    pub epoch: u64,
    /// What the worker stored.
    pub stored: Stored,
    /// What was lost lately.
    pub losses: Losses,
}

/// The files of one session and replica set.
#[derive(Debug)]
pub struct StateFile {
    name: String,
    sequence: u64,
}

impl StateFile {
    /// Reads what is stored; the default when nothing is (or both files are damaged, which a worker takes as the
    /// order to look at everything again).
    ///
    /// # Errors
    /// What the system says.
    pub fn open(private: &Private, session: [u8; 16], replica_set: u32) -> io::Result<(StateFile, State)> {
        let name = format!("state-{}-{replica_set}", protocol::Gfid(session));
        let mut newest = (StateFile { name: name.clone(), sequence: 0 }, State::default());
        for slot in ["a", "b"] {
            let file = format!("{name}.{slot}");
            match read_slot(private, &file)? {
                Slot::Whole(sequence, state) if sequence > newest.0.sequence => {
                    newest.0.sequence = sequence;
                    newest.1 = *state;
                }
                Slot::Damaged => tracing::warn!(file, "a state file is damaged; the other one counts"),
                Slot::Whole(..) | Slot::Absent => {}
            }
        }
        Ok(newest)
    }

    /// Stores durably.
    ///
    /// # Errors
    /// What the system says; the older state is still there then.
    pub fn write(&mut self, private: &Private, state: &State) -> io::Result<()> {
        let sequence = self.sequence + 1;
        let slot = if sequence.is_multiple_of(2) { "a" } else { "b" };
        let file = format!("{}.{slot}", self.name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let mode = Mode::RUSR | Mode::WUSR;
        let mut file = File::from(beneath::open_file(private.base.as_fd(), file.as_bytes(), flags, mode)?);
        file.write_all(&encode(sequence, state)?)?;
        file.sync_all()?;
        if sequence <= 2 {
            rustix::fs::fsync(&private.base)?;
        }
        self.sequence = sequence;
        Ok(())
    }
}

enum Slot {
    Absent,
    Damaged,
    Whole(u64, Box<State>),
}

fn read_slot(private: &Private, name: &str) -> io::Result<Slot> {
    let file = match beneath::open_file(private.base.as_fd(), name.as_bytes(), OFlags::RDONLY, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Slot::Absent),
        Err(e) => return Err(e),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BODY_BYTES + HEADER_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(decode(&bytes).map_or(Slot::Damaged, |(sequence, state)| Slot::Whole(sequence, Box::new(state))))
}

fn encode(sequence: u64, state: &State) -> io::Result<Vec<u8>> {
    let body = postcard::to_stdvec(state).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    let length = u32::try_from(body.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend(sequence.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend(checksum(sequence, &body).to_le_bytes());
    bytes.extend(body);
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Option<(u64, State)> {
    let (magic, rest) = bytes.split_first_chunk::<8>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (expected, body) = rest.split_first_chunk::<4>()?;
    let sequence = u64::from_le_bytes(*sequence);
    let whole = magic == MAGIC
        && u32::from_le_bytes(*length) as usize == body.len()
        && u32::from_le_bytes(*expected) == checksum(sequence, body);
    if !whole {
        return None;
    }
    Some((sequence, postcard::from_bytes(body).ok()?))
}

fn checksum(sequence: u64, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&sequence.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_damage_of_one_slot_is_noticed() {
        let state = State { epoch: 7, stored: Stored::default(), losses: Losses::default() };
        let good = encode(3, &state).unwrap();
        assert_eq!(decode(&good), Some((3, state)));
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 0x10;
            assert_eq!(decode(&bad), None, "byte {i}");
            assert_eq!(decode(&good[..i]), None, "cut at {i}");
        }
    }
}
