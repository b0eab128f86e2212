//! The events of one file system: in the kernel's queue, then in the ring, until they are written down.
//!
//! Both survive this process where a [`Keeper`] holds their descriptors. Who takes them over goes on where the ring's
//! last owner wrote something down, as if nothing had happened.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::group::{Group, Level, waiting_events};
use crate::keeper::Keeper;
use crate::ring::{RING_BYTES, Ring, RingId};

/// So many events may wait in the kernel (up to 1 GB there); then they are thrown away and bricks are crawled.
pub const EVENTS_MAX: u64 = 5_000_000;

/// The kernel walks through all waiting events, with a lock that writers need, to count them: this many times as long as
/// that took passes before it is asked again.
const COUNT_SHARE: u32 = 1000;

/// And at least this long.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// How a new queue is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueOptions {
    /// Leave the kernel's limit of 16,384 waiting events in place; beyond it bricks are crawled.
    pub limited: bool,
    /// Room in the ring.
    pub ring_bytes: u64,
    /// More than this is not asked of the kernel.
    pub best: Level,
}

impl Default for QueueOptions {
    fn default() -> QueueOptions {
        QueueOptions { limited: false, ring_bytes: RING_BYTES, best: Level::Full }
    }
}

/// Where a brick's index stands: what it needs to know of the queue when it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Which ring.
    pub ring: RingId,
    /// All events before this position were looked at.
    pub position: u64,
    /// How often events were thrown away before they were read, see [`Ring::lost`].
    pub lost: u64,
    /// The ring needs room: what was looked at is to be made durable as soon as that gains so many bytes.
    pub wanted: Option<u64>,
}

impl Progress {
    /// Whether the ring needs that a brick which is durable up to `saved` is made durable again.
    pub fn is_pressed(&self, saved: u64) -> bool {
        // A brick begins at the head of the ring; events that were read before and not looked at lie behind it.
        self.wanted.is_some_and(|wanted| self.position.saturating_sub(saved) >= wanted)
    }
}

/// What a drain came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drained {
    /// There was nothing.
    Nothing,
    /// Everything was read.
    All,
    /// The ring is full: what is left has to be written down first.
    Full,
}

/// Group and ring of one file system.
pub struct Queue {
    group: Group,
    ring: Ring,
    keeper: Box<dyn Keeper>,
    /// Whether this process has it from an earlier one.
    is_held: bool,
    /// Whose events are not to be reported: our own, once what an earlier process with our number did was read.
    own_pid: Option<i32>,
    buffer: Vec<u8>,
    count: Counter,
}

impl Queue {
    /// Goes on with the queue that the keeper holds, or begins a new one.
    ///
    /// # Errors
    /// As [`Group::open`].
    pub fn open(
        mut keeper: Box<dyn Keeper>,
        root: BorrowedFd<'_>,
        path: &Path,
        options: QueueOptions,
    ) -> Result<Queue> {
        let QueueOptions { limited, best, .. } = options;
        let held = keeper.take().and_then(|held| {
            let group = Group::adopt(held.group, root, path, limited, best)?;
            let ring = Ring::open(held.ring);
            let ring = ring.inspect_err(|error| tracing::warn!(%error, "the held queue has no sound ring")).ok()?;
            Some((group, ring))
        });
        let is_held = held.is_some();
        let (group, ring) = match held {
            Some(held) => held,
            None => {
                let ring = Ring::create(options.ring_bytes).map_err(Error::io("make the ring for", path))?;
                let group = Group::open(path, limited, best)?;
                group.mark(root, path)?;
                (group, ring)
            }
        };
        tracing::info!(path = %path.display(), is_held, waiting = ring.head() - ring.acked(), "queue of events");
        let own_pid = if is_held { None } else { Some(own_pid()) };
        let mut queue = Queue { group, ring, keeper, is_held, own_pid, buffer: Vec::new(), count: Counter::default() };
        if !is_held {
            queue.hand_over();
        }
        Ok(queue)
    }

    /// Whether an earlier process began it.
    pub fn is_held(&self) -> bool {
        self.is_held
    }

    /// Begins to collect events of the file system of `root`, see [`Group::mark`].
    ///
    /// # Errors
    /// As there.
    pub fn mark(&mut self, root: BorrowedFd<'_>, path: &Path) -> Result<()> {
        let was_marked = self.group.info().is_ok_and(|info| info.mark.is_some());
        self.group.mark(root, path)?;
        if !was_marked {
            // It was unmounted: no brick on it has been told of everything.
            self.ring.note_loss();
        }
        Ok(())
    }

    /// The group, to mute directories.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// The ring.
    pub fn ring(&mut self) -> &mut Ring {
        &mut self.ring
    }

    /// Where it stands, given the position of the oldest event that was not looked at.
    pub fn progress(&self, oldest: Option<u64>) -> Progress {
        Progress {
            ring: self.ring.id(),
            position: oldest.unwrap_or_else(|| self.ring.head()),
            lost: self.ring.lost(),
            wanted: self.ring.wanted(),
        }
    }

    /// Reads everything that has happened so far, as far as there is room. `absorb` gets the events, the position at
    /// which they begin, and the number of the process whose events are our own.
    ///
    /// # Errors
    /// What the system says.
    pub fn drain(&mut self, mut absorb: impl FnMut(u64, &[u8], Option<i32>)) -> io::Result<Drained> {
        let mut drained = Drained::Nothing;
        loop {
            self.buffer.clear();
            match self.ring.read(self.group.as_fd(), &mut self.buffer) {
                Ok(Some(position)) if !self.buffer.is_empty() => {
                    drained = Drained::All;
                    absorb(position, &self.buffer, self.own_pid);
                }
                Ok(Some(_)) => return Ok(drained),
                Ok(None) => return Ok(Drained::Full),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.own_pid = Some(own_pid());
                    return Ok(drained);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Throws waiting events away when there are too many of them.
    pub fn cap(&mut self) {
        if self.count.is_too_long(self.group.as_fd(), EVENTS_MAX) {
            tracing::warn!("more than {EVENTS_MAX} events wait: they are given up");
            discard(self.group.as_fd(), &self.ring);
        }
    }

    /// Looks whether the keeper still holds everything.
    pub fn tend(&mut self) {
        if !self.keeper.is_holding() {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        if let Err(error) = self.keeper.keep(self.group.as_fd(), self.ring.memory()) {
            tracing::warn!(%error, "nobody holds the queue of events: after the next start of the recorder bricks are crawled");
        }
    }

    /// Nobody needs it any more.
    pub fn forget(&mut self) {
        self.keeper.forget();
    }

    /// A descriptor to wait on, independent of the queue's lock.
    ///
    /// # Errors
    /// What the system says.
    pub fn poll_fd(&self) -> io::Result<OwnedFd> {
        self.group.as_fd().try_clone_to_owned()
    }
}

/// Says whether too many events wait, without asking the kernel too often.
#[derive(Debug, Default)]
pub struct Counter {
    not_before: Option<Instant>,
}

impl Counter {
    /// Whether more than `max` events wait; `false` also when it is too early to ask.
    pub fn is_too_long(&mut self, group: BorrowedFd<'_>, max: u64) -> bool {
        let start = Instant::now();
        if self.not_before.is_some_and(|at| start < at) {
            return false;
        }
        let waiting = waiting_events(group).unwrap_or(0);
        self.not_before = Some(Instant::now() + (start.elapsed() * COUNT_SHARE).max(COUNT_EVERY));
        waiting > max
    }
}

/// Throws away what waits in a group, and notes that.
pub fn discard(group: BorrowedFd<'_>, ring: &Ring) {
    ring.note_loss();
    let mut buffer = vec![0; 256 << 10];
    // The group does not block.
    while matches!(rustix::io::read(group, &mut buffer[..]), Ok(1..) | Err(rustix::io::Errno::INTR)) {}
    ring.note_loss();
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_ring_presses_for_what_it_gains() {
        let at = |position, wanted| Progress { position, wanted, ..Progress::default() };
        assert!(!at(100, None).is_pressed(0));
        assert!(!at(100, Some(50)).is_pressed(51));
        assert!(at(100, Some(50)).is_pressed(50));
        // Saved at the head when it was attached, and told of older events then.
        assert!(!at(100, Some(50)).is_pressed(120));
    }
}
