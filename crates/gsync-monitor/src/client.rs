//! The command's side of the monitor's socket. Blocking.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::api::{Answer, Failure, LINE_MAX, Request};

/// How long an answer may take that does not wait for anything. Stopping may wait for a worker.
const ANSWER_LIMIT: Duration = Duration::from_secs(40);

/// A connection to the monitor.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    channel: BufReader<UnixStream>,
}

/// Why the monitor did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It cannot be reached: it does not run, or ended meanwhile.
    #[error("cannot talk to the monitor at {}", path.display())]
    Io {
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It says no, and why.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// Its answer does not fit: it is of another release.
    #[error("the monitor's answer is not understood; it is of another release")]
    Unexpected,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::Io`] when there is no monitor.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let io = |source| ClientError::Io { path: path.into(), source };
        let channel = UnixStream::connect(path).map_err(io)?;
        Ok(Client { path: path.into(), channel: BufReader::new(channel) })
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// [`ClientError`]; [`Answer::Failed`] comes as [`ClientError::Failed`].
    pub fn ask(&mut self, request: &Request) -> Result<Answer, ClientError> {
        let waits = match request {
            Request::Wait { timeout_ms, .. } => Duration::from_millis(*timeout_ms),
            _ => Duration::ZERO,
        };
        let line = self.exchange(request, ANSWER_LIMIT + waits);
        let line = line.map_err(|source| ClientError::Io { path: self.path.clone(), source })?;
        match serde_json::from_slice(&line) {
            Ok(Answer::Failed(failure)) => Err(failure.into()),
            Ok(answer) => Ok(answer),
            Err(_) => Err(ClientError::Unexpected),
        }
    }

    fn exchange(&mut self, request: &Request, limit: Duration) -> io::Result<Vec<u8>> {
        self.channel.get_ref().set_read_timeout(Some(limit))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.channel.get_mut().write_all(&line)?;
        let mut answer = Vec::new();
        (&mut self.channel).take(LINE_MAX).read_until(b'\n', &mut answer)?;
        if answer.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        Ok(answer)
    }
}
