//! Events that were read and are not in the changelog yet, in memory that outlives the process.
//!
//! A ring of the kernel's own bytes in a memory file. Whoever holds its descriptor keeps the content (see
//! [`keeper`](crate::keeper)). The kernel writes events right into it, so that there is no moment at which an event
//! is neither in the kernel's queue nor here. Positions count bytes from the ring's beginning and only grow.
//! `docs/formats.md` has the layout.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::SeqCst;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};

use crate::sys::Shared;

/// Room for events. Unread ones wait in the kernel, where they are merged; 32 MiB are some 250,000 events, about as
/// many as are written down between two syncs of the index.
pub const RING_BYTES: u64 = 32 << 20;

/// The smallest ring.
const BYTES_MIN: u64 = 4 * READ_MIN;

/// One read(2) at most.
const READ_MAX: u64 = 64 << 10;

/// One read(2) at least: more than the largest event (a rename: two names of 255 bytes, three handles of 128).
const READ_MIN: u64 = 4096;

/// Bytes handed out at once when events are read again.
const RUN_MAX: usize = 256 << 10;

/// Memory that was used beyond this is given back when the ring is empty.
const KEPT_BYTES: u64 = 1 << 20;

/// Bricks of which the ring knows how much they have written down. Others are crawled when the recorder starts.
pub const BRICKS_MAX: usize = 64;

const MAGIC: u64 = u64::from_le_bytes(*b"GSRING1\0");
const DATA: usize = 4096;

// Offsets of the header's numbers.
const AT_MAGIC: usize = 0;
const AT_CAPACITY: usize = 8;
const AT_ID: usize = 16;
const AT_HEAD: usize = 32;
const AT_ACKED: usize = 40;
/// Position of the first byte of the current lap.
const AT_BASE: usize = 48;
/// One more than the head while the kernel writes there.
const AT_READING: usize = 56;
const AT_LOST: usize = 64;
const AT_BRICKS: usize = 128;
const BRICK_BYTES: usize = 32;

/// The smallest event.
const EVENT_MIN: u64 = 24;

/// Identity of a ring, another one for each that was ever made.
pub type RingId = [u8; 16];

/// The ring, as the one recorder of the file system uses it, or as its keeper looks at it.
#[derive(Debug)]
pub struct Ring {
    shared: Shared,
    memory: OwnedFd,
    capacity: u64,
    /// Zero up to this position.
    cleared: u64,
    /// How far the lap was written.
    used: u64,
}

impl Ring {
    /// Makes an empty one with room for so many bytes.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(capacity: u64) -> io::Result<Ring> {
        let capacity = capacity.next_multiple_of(8).max(BYTES_MIN);
        let memory = rustix::fs::memfd_create("gsync-events", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&memory, DATA as u64 + capacity)?;
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let shared = Shared::map(memory.as_fd(), DATA + capacity as usize)?;
        let mut id = [0; 16];
        rustix::io::read(std::fs::File::open("/dev/urandom")?, &mut id)?;
        shared.put(AT_ID, &id);
        shared.number(AT_CAPACITY).store(capacity, SeqCst);
        shared.number(AT_MAGIC).store(MAGIC, SeqCst);
        Ok(Ring { shared, memory, capacity, cleared: 0, used: 0 })
    }

    /// Takes one over. A read that its former owner did not live to note is noted.
    ///
    /// # Errors
    /// `InvalidData` for something that is no such ring.
    pub fn open(memory: OwnedFd) -> io::Result<Ring> {
        let mut ring = Ring::peek(memory)?;
        let head = ring.head();
        if ring.number(AT_READING) == head + 1 {
            let end = ring.walk(head, ring.run_end(head), |_, _| {})?;
            ring.shared.number(AT_HEAD).store(end, SeqCst);
        }
        ring.shared.number(AT_READING).store(0, SeqCst);
        // What is not known to be clear is cleared again.
        ring.cleared = ring.head();
        ring.used = ring.capacity;
        Ok(ring)
    }

    /// Looks at one that belongs to somebody else.
    ///
    /// # Errors
    /// As [`Ring::open`].
    pub fn peek(memory: OwnedFd) -> io::Result<Ring> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let size = rustix::fs::fstat(&memory)?.st_size as u64;
        let sealed = rustix::fs::fcntl_get_seals(&memory)?.contains(SealFlags::SHRINK);
        let capacity = size.checked_sub(DATA as u64).filter(|capacity| sealed && *capacity >= BYTES_MIN);
        let capacity = capacity.ok_or_else(invalid)?;
        let shared = Shared::map(memory.as_fd(), usize::try_from(size).map_err(|_| invalid())?)?;
        let ring = Ring { shared, memory, capacity, cleared: 0, used: capacity };
        let (head, acked, base) = (ring.head(), ring.acked(), ring.number(AT_BASE));
        let sound = ring.number(AT_MAGIC) == MAGIC && ring.number(AT_CAPACITY) == capacity;
        let sound = sound && base <= acked && acked <= head && head - acked <= capacity;
        if sound { Ok(ring) } else { Err(invalid()) }
    }

    /// Its identity.
    pub fn id(&self) -> RingId {
        let mut id = Vec::with_capacity(16);
        self.shared.copy(AT_ID..AT_ID + 16, &mut id);
        id.try_into().unwrap_or_default()
    }

    /// Behind the last event.
    pub fn head(&self) -> u64 {
        self.number(AT_HEAD)
    }

    /// What is before this is written down for good.
    pub fn acked(&self) -> u64 {
        self.number(AT_ACKED)
    }

    /// Grows whenever events are thrown away.
    pub fn lost(&self) -> u64 {
        self.number(AT_LOST)
    }

    /// Notes that events are or were thrown away: to be called before and after that, so that nobody who saw a number
    /// misses what was thrown away later.
    pub fn note_loss(&self) {
        self.shared.number(AT_LOST).fetch_add(1, SeqCst);
    }

    /// When more than half of it waits to be written down: how many bytes are worth a sync.
    pub fn wanted(&self) -> Option<u64> {
        (self.head() - self.acked() > self.capacity / 2).then_some(self.capacity / 8)
    }

    /// The descriptor that keeps the content.
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    fn number(&self, at: usize) -> u64 {
        self.shared.number(at).load(SeqCst)
    }

    fn offset(&self, position: u64) -> u64 {
        (position - self.number(AT_BASE)) % self.capacity
    }

    /// Where the lap of a position ends.
    fn lap_end(&self, position: u64) -> u64 {
        position + self.capacity - self.offset(position)
    }

    /// How far a read that began at `head` can have come.
    fn run_end(&self, head: u64) -> u64 {
        (head + READ_MAX).min(self.lap_end(head)).min(self.acked() + self.capacity)
    }

    fn at(&self, position: u64) -> usize {
        DATA + self.offset(position) as usize
    }

    /// Reads once from a group; appends the events to `out` as well. Returns where they begin, or `None` when there is
    /// no room.
    ///
    /// # Errors
    /// What the system says; `WouldBlock` when there is nothing.
    pub fn read(&mut self, group: BorrowedFd<'_>, out: &mut Vec<u8>) -> io::Result<Option<u64>> {
        let mut head = self.head();
        let rest = self.lap_end(head) - head;
        if rest < READ_MIN {
            if self.capacity - (head - self.acked()) < rest + READ_MIN {
                return Ok(None);
            }
            // A length of zero ends the lap.
            self.shared.clear(self.at(head)..self.at(head) + rest as usize);
            head += rest;
            self.shared.number(AT_HEAD).store(head, SeqCst);
            self.cleared = head;
        }
        let end = self.run_end(head);
        if end - head < READ_MIN {
            return Ok(None);
        }
        let from = self.cleared.clamp(head, end);
        self.shared.clear(self.at(head) + (from - head) as usize..self.at(head) + (end - head) as usize);
        self.cleared = end;
        self.shared.number(AT_READING).store(head + 1, SeqCst);
        let read = self.shared.read_from(group, self.at(head)..self.at(head) + (end - head) as usize);
        let length = *read.as_ref().unwrap_or(&0);
        self.shared.number(AT_HEAD).store(head + length as u64, SeqCst);
        self.shared.number(AT_READING).store(0, SeqCst);
        self.used = self.used.max(self.offset(head) + length as u64);
        self.shared.copy(self.at(head)..self.at(head) + length, out);
        read.map(|_| Some(head))
    }

    /// Goes through the events behind a position again, in pieces of whole events, oldest first.
    ///
    /// # Errors
    /// `InvalidData` when they are not there any more or damaged.
    pub fn replay(&self, from: u64, each: impl FnMut(u64, &[u8])) -> io::Result<()> {
        if from < self.acked() || from > self.head() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let end = self.walk(from, self.head(), each)?;
        if end == self.head() { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// Walks from event to event up to `end`, or up to where the last one ends.
    fn walk(&self, from: u64, end: u64, mut each: impl FnMut(u64, &[u8])) -> io::Result<u64> {
        let (mut at, mut run, mut bytes) = (from, from, Vec::new());
        while at < end {
            let rest = self.lap_end(at).min(end) - at;
            let length = if rest < 4 { 0 } else { self.event_length(at) };
            if length != 0 {
                if length < EVENT_MIN || length > rest {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                self.shared.copy(self.at(at)..self.at(at) + length as usize, &mut bytes);
                at += length;
            }
            if !bytes.is_empty() && (length == 0 || bytes.len() >= RUN_MAX || at >= end) {
                each(run, &bytes);
                bytes.clear();
            }
            if length == 0 {
                let lap_end = self.lap_end(at);
                if lap_end > end || lap_end - at >= READ_MIN {
                    return Ok(at);
                }
                at = lap_end;
            }
            if bytes.is_empty() {
                run = at;
            }
        }
        Ok(at)
    }

    fn event_length(&self, position: u64) -> u64 {
        let mut word = Vec::with_capacity(4);
        self.shared.copy(self.at(position)..self.at(position) + 4, &mut word);
        u64::from(u32::from_ne_bytes(word.try_into().unwrap_or_default()))
    }

    /// Lets go of what is before a position. A ring that is empty begins from the front, so that few pages are used.
    pub fn acknowledge(&mut self, position: u64) {
        let (head, acked) = (self.head(), self.acked());
        let position = position.clamp(acked, head);
        self.shared.number(AT_ACKED).store(position, SeqCst);
        if position < head || head == self.number(AT_BASE) {
            return;
        }
        self.shared.number(AT_BASE).store(head, SeqCst);
        self.cleared = head;
        if self.used > KEPT_BYTES {
            let free = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let (from, bytes) = (DATA as u64 + KEPT_BYTES, self.capacity - KEPT_BYTES);
            let _ = rustix::fs::fallocate(&self.memory, free, from, bytes);
            self.used = 0;
        }
    }

    /// Bricks whose events it holds, and up to where each has them written down for good.
    pub fn bricks(&self) -> Vec<([u8; 16], u64)> {
        (0..BRICKS_MAX).filter_map(|slot| self.brick_in(slot)).collect()
    }

    /// Notes how far a brick is. Nothing happens where there are too many.
    pub fn set_brick(&self, id: [u8; 16], covered: u64) {
        let used = (0..BRICKS_MAX).find(|&slot| self.brick_in(slot).is_some_and(|(known, _)| known == id));
        if let Some(slot) = used.or_else(|| (0..BRICKS_MAX).find(|&slot| self.brick_in(slot).is_none())) {
            let at = AT_BRICKS + slot * BRICK_BYTES;
            self.shared.put(at, &id);
            self.shared.number(at + 16).store(covered, SeqCst);
            self.shared.number(at + 24).store(1, SeqCst);
        }
    }

    /// Forgets a brick.
    pub fn remove_brick(&self, id: [u8; 16]) {
        if let Some(slot) = (0..BRICKS_MAX).find(|&slot| self.brick_in(slot).is_some_and(|(known, _)| known == id)) {
            self.shared.number(AT_BRICKS + slot * BRICK_BYTES + 24).store(0, SeqCst);
        }
    }

    fn brick_in(&self, slot: usize) -> Option<([u8; 16], u64)> {
        let at = AT_BRICKS + slot * BRICK_BYTES;
        if self.number(at + 24) != 1 {
            return None;
        }
        let mut id = Vec::with_capacity(16);
        self.shared.copy(at..at + 16, &mut id);
        Some((id.try_into().unwrap_or_default(), self.number(at + 16)))
    }
}

#[cfg(test)]
mod tests;
