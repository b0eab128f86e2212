//! The recorder's side of a holder process ([`hold`](crate::hold)): finding or starting it, and talking to it.

use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use posix::passing::FdStream;
use protocol::hold::{Ask, HELD, HOLD_BYTES, NOTHING};

use super::{Held, Keeper};
use crate::hold::TALK_LIMIT;

/// How long a holder that was just started may take until it listens.
const UP_LIMIT: Duration = Duration::from_secs(20);

/// How often it is tried meanwhile.
const UP_POLL: Duration = Duration::from_millis(5);

/// A holder that ended is started again at most this often.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// A connection to the holder of one file system, once there is one.
#[derive(Debug)]
pub struct Holder {
    socket: PathBuf,
    /// Open as long as this process needs the queue: so the holder knows that somebody does.
    connection: Option<UnixStream>,
    tried: Option<Instant>,
}

impl Holder {
    /// The holder at this socket.
    pub fn new(socket: PathBuf) -> Holder {
        Holder { socket, connection: None, tried: None }
    }

    fn talk(&mut self, ask: Ask, fds: &[BorrowedFd<'_>]) -> io::Result<FdStream> {
        let stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(TALK_LIMIT))?;
        stream.set_write_timeout(Some(TALK_LIMIT))?;
        let mut stream = FdStream::new(stream);
        stream.send(&ask.bytes(), fds)?;
        Ok(stream)
    }

    /// Asks for what it holds.
    ///
    /// # Errors
    /// What the system says; `InvalidData` for an answer that is not understood.
    fn ask_to_take(&mut self) -> io::Result<Option<Held>> {
        let mut stream = self.talk(Ask::Take, &[])?;
        let mut answer = [0; HOLD_BYTES];
        stream.read_exact(&mut answer)?;
        match (answer, stream.take_fd(), stream.take_fd()) {
            (HELD, Some(group), Some(ring)) => {
                self.connection = Some(stream.into_inner());
                Ok(Some(Held { group, ring }))
            }
            (NOTHING, None, None) => Ok(None),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn ask_to_keep(&mut self, group: BorrowedFd<'_>, ring: BorrowedFd<'_>) -> io::Result<()> {
        let mut stream = self.talk(Ask::Keep, &[group, ring])?;
        let mut answer = [0; HOLD_BYTES];
        stream.read_exact(&mut answer)?;
        if answer != HELD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.connection = Some(stream.into_inner());
        Ok(())
    }
}

impl Keeper for Holder {
    fn take(&mut self) -> Option<Held> {
        match self.ask_to_take() {
            Ok(held) => held,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => None,
            Err(error) => {
                tracing::warn!(%error, socket = %self.socket.display(), "the holder of the queue does not hand it over");
                None
            }
        }
    }

    fn keep(&mut self, group: BorrowedFd<'_>, ring: BorrowedFd<'_>) -> io::Result<()> {
        self.tried = Some(Instant::now());
        self.connection = None;
        if UnixStream::connect(&self.socket).is_err() {
            start(&self.socket)?;
        }
        self.ask_to_keep(group, ring)
    }

    fn is_holding(&mut self) -> bool {
        if self.tried.is_some_and(|at| at.elapsed() < AGAIN_AFTER) {
            return true;
        }
        self.connection.as_ref().is_some_and(is_silent)
    }

    fn forget(&mut self) {
        self.connection = None;
        if let Ok(mut stream) = self.talk(Ask::End, &[]) {
            // Answered by its end.
            drop(stream.read(&mut [0]));
        }
    }
}

/// Whether a connection on which nothing more is sent is open: it becomes readable when it is closed only.
pub(crate) fn is_silent(connection: &UnixStream) -> bool {
    connection.set_nonblocking(true).is_ok()
        && matches!((&mut &*connection).read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Starts a holder that outlives this process, and waits until it listens.
fn start(socket: &Path) -> io::Result<()> {
    let mut command = Command::new(own_program());
    command.arg("hold").arg("--socket").arg(socket).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let deadline = Instant::now() + UP_LIMIT;
    while UnixStream::connect(socket).is_err() {
        if let Some(status) = child.try_wait()? {
            return Err(io::Error::other(format!("the holder ended: {status}")));
        }
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(UP_POLL);
    }
    // Somebody has to take note of its end.
    std::thread::Builder::new().name("holder".into()).spawn(move || drop(child.wait()))?;
    Ok(())
}

/// This program; where it was replaced by a newer one, that.
fn own_program() -> PathBuf {
    let running = std::env::current_exe().unwrap_or_default();
    let text = running.to_string_lossy();
    let path = PathBuf::from(text.strip_suffix(" (deleted)").unwrap_or(&text));
    if path.is_file() { path } else { "/proc/self/exe".into() }
}
