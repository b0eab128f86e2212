//! Reaching the agent of a root, starting it when there is none.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use posix::beneath;
use posix::passing::FdStream;
use protocol::{encode, read_frame};
use rustix::fs::{Mode, OFlags, RenameFlags};

use super::asked::{Asked, DOOR_VERSION, DoorAnswer, DoorHello};
use super::{accepted, path_below};
use crate::error::AgentError;
use crate::private::{LOG, SOCKET, open_base, open_root};

/// How long a door tries: an agent that is just stopping may have much to write.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// The agent's log is put aside at this size.
const MAX_LOG_BYTES: u64 = 4 << 20;

/// Reaches the agent, has it take stdin and stdout, and returns the connection.
///
/// # Errors
/// [`AgentError::NotRoot`], [`AgentError::Root`] or [`AgentError::Unreachable`].
pub fn connect(root: &Path, program: &Path, asked: &Asked) -> Result<FdStream, AgentError> {
    if !rustix::process::geteuid().is_root() {
        return Err(AgentError::NotRoot);
    }
    let base = open_base(&open_root(root)?)?;
    let deadline = Instant::now() + PATIENCE;
    let mut child: Option<Child> = None;
    loop {
        if let Some(agent) = ask(&base, asked)? {
            return Ok(agent);
        }
        let is_starting = match child.as_mut().map(Child::try_wait) {
            None => false,
            Some(Ok(None)) => true,
            // Another one was there first, and may have stopped since.
            Some(Ok(Some(status))) if status.success() => false,
            Some(_) => return Err(AgentError::Unreachable { reason: last_line(&base) }),
        };
        if !is_starting {
            child = Some(start(root, program, &base)?);
        }
        if Instant::now() >= deadline {
            return Err(AgentError::Unreachable { reason: format!("no answer for {} s", PATIENCE.as_secs()) });
        }
        std::thread::sleep(PAUSE);
    }
}

/// Tries once; `None` when there is no agent, or one that is just stopping.
fn ask(base: &OwnedFd, asked: &Asked) -> Result<Option<FdStream>, AgentError> {
    let Ok(stream) = UnixStream::connect(path_below(base, SOCKET)) else { return Ok(None) };
    let mut agent = FdStream::new(stream);
    let hello = encode(&DoorHello { version: DOOR_VERSION, asked: asked.clone() })?;
    let (stdin, stdout) = (rustix::stdio::stdin(), rustix::stdio::stdout());
    if agent.send(&hello, &[stdin, stdout]).is_err() {
        return Ok(None);
    }
    let Ok(answer) = read_frame::<DoorAnswer>(&mut agent) else { return Ok(None) };
    accepted(answer)?;
    Ok(Some(agent))
}

/// Starts the agent, apart from our session: it serves others when we are gone.
fn start(root: &Path, program: &Path, base: &OwnedFd) -> Result<Child, AgentError> {
    let system = |source| AgentError::System { tried: "starting the agent", source };
    if let Ok(log) = std::fs::metadata(path_below(base, LOG))
        && log.len() > MAX_LOG_BYTES
    {
        let _ = rustix::fs::renameat_with(base, LOG, base, format!("{LOG}.old"), RenameFlags::empty());
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND;
    let mode = Mode::RUSR | Mode::WUSR;
    let log = beneath::open_file(base.as_fd(), LOG.as_bytes(), flags, mode).map_err(system)?;
    let mut command = Command::new(program);
    command.args(["serve", "--detach", "--root"]).arg(root);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::from(log));
    command.spawn().map_err(system)
}

/// The last thing that the agent said.
fn last_line(base: &OwnedFd) -> String {
    let read = || -> std::io::Result<String> {
        let mut log = File::open(path_below(base, LOG))?;
        let end = log.seek(SeekFrom::End(0))?;
        log.seek(SeekFrom::Start(end.saturating_sub(2000)))?;
        let mut tail = Vec::new();
        log.read_to_end(&mut tail)?;
        Ok(String::from_utf8_lossy(&tail).lines().last().unwrap_or_default().to_string())
    };
    format!("it ended at once: {}", read().unwrap_or_default())
}
