//! Questions to a worker, over its control socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use gsync_worker::control::{ControlRequest, ControlResponse, WorkerStatus};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long a worker may take to say how it is.
const STATUS_LIMIT: Duration = Duration::from_secs(2);

/// What a worker may take beyond the time that it was given to wait.
const WAIT_MARGIN: Duration = Duration::from_secs(5);

/// The longest answer in bytes.
const ANSWER_MAX: u64 = 1 << 20;

/// Asks a worker how it is.
///
/// # Errors
/// When it cannot be reached, or not understood.
pub async fn status(socket: &Path) -> io::Result<WorkerStatus> {
    match ask(socket, &ControlRequest::Status, STATUS_LIMIT).await? {
        ControlResponse::Status(status) => Ok(status),
        other => Err(unexpected(&other)),
    }
}

/// Waits until everything that was changed before is on the secondary; returns whether it is, and how much is pending.
///
/// # Errors
/// When the worker cannot be reached, or ends meanwhile.
pub async fn wait(socket: &Path, limit: Duration) -> io::Result<(bool, u64)> {
    let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    match ask(socket, &ControlRequest::Wait { timeout_ms }, limit + WAIT_MARGIN).await? {
        ControlResponse::Waited { done, pending } => Ok((done, pending)),
        other => Err(unexpected(&other)),
    }
}

/// Has both sides compared as a whole; returns whether it is durable that this has to be done.
///
/// # Errors
/// When the worker cannot be reached, or ends meanwhile.
pub async fn resync(socket: &Path, limit: Duration) -> io::Result<(bool, u64)> {
    let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    match ask(socket, &ControlRequest::Resync { timeout_ms }, limit + WAIT_MARGIN).await? {
        ControlResponse::Waited { done, pending } => Ok((done, pending)),
        other => Err(unexpected(&other)),
    }
}

/// Lets a worker go on that halted; returns whether it had.
///
/// # Errors
/// When the worker cannot be reached.
pub async fn resume(socket: &Path, accept_removals: bool) -> io::Result<bool> {
    match ask(socket, &ControlRequest::Resume { accept_removals }, STATUS_LIMIT).await? {
        ControlResponse::Resumed { was_halted } => Ok(was_halted),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(response: &ControlResponse) -> io::Error {
    match response {
        ControlResponse::Error { message } => io::Error::other(message.clone()),
        _ => io::Error::other("the worker's answer does not fit the question"),
    }
}

async fn ask(socket: &Path, request: &ControlRequest, limit: Duration) -> io::Result<ControlResponse> {
    let talk = async {
        let mut channel = UnixStream::connect(socket).await?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        channel.write_all(&line).await?;
        let mut answer = Vec::new();
        BufReader::new(channel).take(ANSWER_MAX).read_until(b'\n', &mut answer).await?;
        if answer.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        Ok(serde_json::from_slice(&answer)?)
    };
    timeout(limit, talk).await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
}
