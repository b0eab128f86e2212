//! A child process whose stdin and stdout are the channel.

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use protocol::frame::{FRAME_HEADER_BYTES, parse_header};
use protocol::hello::MAGIC;
use protocol::{FrameError, decode, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use crate::error::SyncError;
use crate::target::Target;

/// The longest line of a child's stderr that is kept.
const MAX_LINE_BYTES: u64 = 4096;

/// A channel to the agent's door.
#[derive(Debug)]
pub struct Channel {
    /// What we say.
    pub input: ChildStdin,
    /// What the agent says.
    pub output: BufReader<ChildStdout>,
    /// The child; it is killed when the channel is dropped.
    pub child: Child,
    /// What it says besides.
    pub said: LastLine,
}

/// The last line that a child wrote to its stderr.
#[derive(Clone, Debug, Default)]
pub struct LastLine(Arc<Mutex<String>>);

impl Channel {
    /// Starts a channel and exchanges the magic bytes.
    ///
    /// # Errors
    /// [`SyncError::Start`], [`SyncError::Connect`] with what the child said, or [`SyncError::NotOurs`].
    pub async fn open(target: &Target, words: &[&str]) -> Result<Channel, SyncError> {
        let line = target.command(words);
        let mut child = Command::new(&line[0])
            .args(&line[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| SyncError::Start { program: line[0].to_string_lossy().into_owned(), source })?;
        let said = LastLine::follow(child.stderr.take(), "door");
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(SyncError::Ended);
        };
        let mut channel = Channel { input, output: BufReader::with_capacity(64 << 10, output), child, said };
        match channel.exchange_magic().await {
            Ok(true) => Ok(channel),
            Ok(false) => Err(SyncError::NotOurs),
            Err(e) => {
                let status = channel.child.wait().await.ok();
                Err(SyncError::Connect { reason: channel.said.or(&explain(status, &e)) })
            }
        }
    }

    async fn exchange_magic(&mut self) -> std::io::Result<bool> {
        self.input.write_all(&MAGIC).await?;
        self.input.flush().await?;
        let mut magic = [0; MAGIC.len()];
        self.output.read_exact(&mut magic).await?;
        Ok(magic == MAGIC)
    }
}

fn explain(status: Option<ExitStatus>, error: &std::io::Error) -> String {
    match status {
        Some(status) => format!("the channel ended with {status}"),
        None => error.to_string(),
    }
}

impl LastLine {
    /// Reads a child's stderr in the background, logs each line and keeps the last.
    pub fn follow(stderr: Option<ChildStderr>, program: &'static str) -> LastLine {
        let last = LastLine::default();
        let Some(stderr) = stderr else { return last };
        let kept = last.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stderr);
            let mut line = Vec::new();
            while let Ok(n) = (&mut lines).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await {
                if n == 0 {
                    break;
                }
                let text = String::from_utf8_lossy(&line).trim().to_owned();
                if !text.is_empty() {
                    tracing::debug!(program, text, "child says");
                    *kept.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
                }
                line.clear();
            }
        });
        last
    }

    /// The last line, or `other` if there was none.
    pub fn or(&self, other: &str) -> String {
        let line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if line.is_empty() { other.to_owned() } else { line.clone() }
    }
}

/// Writes one frame.
///
/// # Errors
/// What the channel says.
pub async fn write_frame<T: Serialize>(channel: &mut (impl AsyncWrite + Unpin), message: &T) -> Result<(), FrameError> {
    channel.write_all(&encode(message)?).await?;
    Ok(channel.flush().await?)
}

/// Reads one frame.
///
/// # Errors
/// [`FrameError::Closed`] at a clean end, else what went wrong.
pub async fn read_frame<T: DeserializeOwned>(channel: &mut (impl AsyncRead + Unpin)) -> Result<T, FrameError> {
    let mut header = [0; FRAME_HEADER_BYTES];
    match channel.read_exact(&mut header).await {
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Err(FrameError::Closed),
        other => other?,
    };
    let (length, checksum) = parse_header(header)?;
    let mut body = vec![0; length];
    channel.read_exact(&mut body).await?;
    decode(&body, checksum)
}
