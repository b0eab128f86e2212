//! A door that becomes the rsync server, and the agent's hold on it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use posix::passing::FdStream;
use protocol::{encode, read_frame};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::asked::{Asked, DOOR_VERSION, DoorAnswer, DoorHello};
use super::{accepted, path_below};
use crate::error::AgentError;
use crate::private::{SOCKET, open_base, open_root};

/// How long the agent waits for an rsync that it has killed.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Becomes the rsync server in the directory of the stage; returns only when that fails.
///
/// # Errors
/// [`AgentError::UnknownToken`] when there is no such stage, else what went wrong.
pub fn run(root: &Path, token: &str, options: &[String]) -> Result<(), AgentError> {
    let system = |tried| move |source| AgentError::System { tried, source };
    let base = open_base(&open_root(root)?)?;
    // Without an agent there is no stage: none is started.
    let stream = UnixStream::connect(path_below(&base, SOCKET)).map_err(|_| AgentError::UnknownToken)?;
    // A group of its own, so that the agent can end rsync with its helpers. Fails for the leader of a session, which
    // has one already.
    let _ = rustix::process::setpgid(None, None);
    let mut agent = FdStream::new(stream);
    let hello = encode(&DoorHello { version: DOOR_VERSION, asked: Asked::Rsync { token: token.into() } })?;
    agent.send(&hello, &[]).map_err(system("asking the agent"))?;
    accepted(read_frame::<DoorAnswer>(&mut agent)?)?;
    let stage = agent.take_fd().ok_or(AgentError::UnknownToken)?;
    rustix::process::fchdir(&stage).map_err(|e| system("entering the stage")(e.into()))?;
    drop(stage);
    // The socket stays open as long as rsync or one of its helpers lives: its end is how the agent knows.
    let kept = agent.get_ref().as_fd();
    rustix::io::fcntl_setfd(kept, rustix::io::FdFlags::empty()).map_err(|e| system("keeping the socket")(e.into()))?;
    let error = Command::new("rsync").args(options).arg("./").exec();
    Err(system("starting rsync (is it installed?)")(error))
}

/// An rsync that writes into a stage.
#[derive(Debug)]
pub struct RunningRsync {
    /// Its process; the descriptor stays with it when the number is used again.
    process: OwnedFd,
    pid: Pid,
    /// Open at the other side until the last process of rsync has ended.
    socket: UnixStream,
}

impl RunningRsync {
    /// The process at the other side of a door's socket, which waits for our answer.
    ///
    /// # Errors
    /// What the system says.
    pub fn of(socket: &UnixStream) -> io::Result<RunningRsync> {
        let pid = rustix::net::sockopt::socket_peercred(socket)?.pid;
        let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        Ok(RunningRsync { process, pid, socket: socket.try_clone()? })
    }

    /// Whether all of its processes have ended.
    pub fn has_ended(&self) -> bool {
        self.wait(Duration::ZERO)
    }

    /// Kills it and waits: it may have a live file open, which nobody else may touch before.
    pub fn end(self) {
        if self.has_ended() || self.pid == rustix::process::getpid() {
            return;
        }
        // While the leader lives its number, and so the group's, is not used again.
        let is_leader = rustix::process::getpgid(Some(self.pid)).is_ok_and(|group| group == self.pid);
        let is_alive = rustix::process::pidfd_send_signal(&self.process, Signal::STOP).is_ok();
        if is_alive && is_leader {
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        }
        let _ = rustix::process::pidfd_send_signal(&self.process, Signal::KILL);
        if !self.wait(END_PATIENCE) {
            tracing::error!(pid = self.pid.as_raw_nonzero().get(), "an rsync of a worker that is gone does not end");
        }
    }

    fn wait(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            let mut fds = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&left)) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(0) | Err(_) => return false,
                Ok(_) => return true,
            }
        }
    }
}
