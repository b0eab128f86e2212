//! A worker's two ends, as its door handed them over.
//!
//! Layout:
//! - `mod`: reading and writing that ends when the peer, the door or the agent says so
//! - [`control`]: control channels
//! - [`content`]: stage channels
//! - [`budget`]: how much of one worker may be under way

pub mod budget;
pub mod content;
pub mod control;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use protocol::FrameError;
use protocol::hello::MAGIC;
use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::io::Errno;

/// What is written at a time: a pipe that polls as writable takes this much without blocking (`PIPE_BUF`).
const WRITE_BYTES: usize = 4096;

/// Ends something from another thread.
#[derive(Clone, Debug)]
pub struct Stopper {
    event: Arc<OwnedFd>,
}

impl Stopper {
    /// Not stopped yet.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<Stopper> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Stopper { event: Arc::new(event) })
    }

    /// Stops whoever waits, now and later.
    pub fn stop(&self) {
        // Fails only when the counter is full, which is as stopped as it can be.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Whether somebody else still holds it.
    pub fn is_used(&self) -> bool {
        Arc::strong_count(&self.event) > 1
    }

    /// Becomes readable when stopped.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Both directions of a channel.
#[derive(Debug)]
pub struct Ends {
    input: OwnedFd,
    output: OwnedFd,
    /// Closed by the door when it ends, and by us to end it.
    door: UnixStream,
    stop: Stopper,
}

impl Ends {
    /// Takes the descriptors over.
    pub fn new(input: OwnedFd, output: OwnedFd, door: UnixStream, stop: Stopper) -> Arc<Ends> {
        Arc::new(Ends { input, output, door, stop })
    }

    /// Ends the channel.
    pub fn stop(&self) {
        self.stop.stop();
    }

    /// Waits until `fd` is ready.
    fn wait(&self, fd: BorrowedFd<'_>, events: PollFlags) -> io::Result<()> {
        loop {
            let mut fds = [
                PollFd::from_borrowed_fd(fd, events),
                PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN),
                // Doors say nothing after their first message: readable means closed.
                PollFd::from_borrowed_fd(self.door.as_fd(), PollFlags::IN),
            ];
            match rustix::event::poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            let [ready, stopped, door] = fds.map(|fd| !fd.revents().is_empty());
            if stopped || door {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if ready {
                return Ok(());
            }
        }
    }
}

/// The reading side.
#[derive(Debug)]
pub struct ChannelReader(pub Arc<Ends>);

impl ChannelReader {
    /// Lets more be under way than a pipe holds by itself: fewer changes between us and who writes. Where it is no pipe,
    /// or the system does not allow it, nothing changes.
    pub fn widen(&self, bytes: usize) {
        let _ = rustix::pipe::fcntl_setpipe_size(&self.0.input, bytes);
    }

    /// Has the kernel carry at most `most` bytes from the channel into a file, at `offset`; how many, 0 at the end of the
    /// channel. They are copied once instead of twice.
    ///
    /// # Errors
    /// What the system says; `EINVAL` where the channel is no pipe, or the file system does not do this.
    pub fn splice(&self, file: &OwnedFd, mut offset: u64, most: usize) -> io::Result<usize> {
        self.0.wait(self.0.input.as_fd(), PollFlags::IN)?;
        let flags = rustix::pipe::SpliceFlags::empty();
        Ok(rustix::pipe::splice(&self.0.input, None, file, Some(&mut offset), most, flags)?)
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.wait(self.0.input.as_fd(), PollFlags::IN)?;
        Ok(rustix::io::read(&self.0.input, buffer)?)
    }
}

/// The writing side.
#[derive(Debug)]
pub struct ChannelWriter(pub Arc<Ends>);

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.wait(self.0.output.as_fd(), PollFlags::OUT)?;
        Ok(rustix::io::write(&self.0.output, &bytes[..bytes.len().min(WRITE_BYTES)])?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the magic bytes of the other side.
///
/// # Errors
/// [`FrameError`]; `InvalidData` when they are others.
pub fn read_magic(reader: &mut impl Read) -> Result<(), FrameError> {
    let mut magic = [0; MAGIC.len()];
    reader.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the peer is not a worker").into());
    }
    Ok(())
}
