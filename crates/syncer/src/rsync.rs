//! Differences, by the real rsync on both ends.
//!
//! rsync is given links named by GFID that lead to our open descriptors, so that no path can change its meaning
//! while it works; on the other side it finds what the agent prepared under the same names.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};

use protocol::agent::{Request, Response};
use protocol::rsync::CLIENT_OPTIONS;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Semaphore;

use crate::control::Control;
use crate::engine::{Sent, SentState};
use crate::error::SyncError;
use crate::source::{Snapshot, Source};
use crate::target::Target;

mod said;

use said::Said;

/// Files in one call of rsync: its start costs about 50 ms on each side, its descriptors stay below the usual limit
/// of 1,024 with several calls at once.
const BATCH_FILES: usize = 128;

/// "Error in file I/O" (also a full disk), "some files could not be transferred", "some files vanished": the agent tells
/// which are complete.
const PARTIAL: [i32; 3] = [11, 23, 24];

/// Calls at the same time: each is a channel of a connection on which sshd allows 10, with control and tar streams.
const MAX_CALLS: usize = 5;

/// Calls rsync.
#[derive(Debug)]
pub struct RsyncEngine {
    target: Target,
    control: Control,
    token: String,
    program: PathBuf,
    run_dir: PathBuf,
    calls: AtomicU64,
    slots: Semaphore,
}

/// Which files are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needs {
    /// All.
    Nothing,
    /// Those of which the secondary has an older content.
    Basis,
}

/// A directory of links that goes away with its call.
struct LinkDir(PathBuf);

impl RsyncEngine {
    /// Prepares everything; rsync is started when there is something to send.
    pub fn new(target: Target, control: Control, token: String, program: PathBuf, run_dir: PathBuf) -> RsyncEngine {
        RsyncEngine {
            target,
            control,
            token,
            program,
            run_dir,
            calls: AtomicU64::new(0),
            slots: Semaphore::new(MAX_CALLS),
        }
    }

    /// Sends files, and gives back those that are not sent because they lack what is needed.
    ///
    /// # Errors
    /// As [`Engine::send`].
    pub async fn send_if(&self, sources: Vec<Source>, needs: Needs) -> Result<(Vec<Sent>, Vec<Source>), SyncError> {
        if sources.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let _slot = self.slots.acquire().await.map_err(|_| SyncError::Ended)?;
        let (ready, mut all) = begin_all(sources);
        if ready.is_empty() {
            return Ok((all, Vec::new()));
        }
        let gfids: Vec<_> = ready.iter().map(|(source, _)| source.gfid).collect();
        let prepared = match self.control.call(Request::Prepare(gfids)).await? {
            Response::Prepared(prepared) if prepared.len() == ready.len() => prepared,
            _ => return Err(SyncError::NotOurs),
        };
        let (mut sending, mut rest) = (Vec::new(), Vec::new());
        for (file, has_basis) in ready.into_iter().zip(prepared) {
            if has_basis || needs == Needs::Nothing { sending.push(file) } else { rest.push(file.0) }
        }
        if !sending.is_empty() {
            let links = self.link(&sending).map_err(SyncError::local("making links for rsync"))?;
            let ended = self.run(&links.0, &sending).await?;
            drop(links);
            all.extend(sending.into_iter().map(|(source, before)| judge(&source, before, &ended)));
        }
        Ok((all, rest))
    }

    /// Makes a link named by GFID to each descriptor.
    fn link(&self, ready: &[(Source, Snapshot)]) -> io::Result<LinkDir> {
        let dir = self.run_dir.join(format!("rsync-{}", self.calls.fetch_add(1, Ordering::Relaxed)));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir)?;
        let links = LinkDir(dir);
        let process = std::process::id();
        for (source, _) in ready {
            let target = format!("/proc/{process}/fd/{}", source.fd.as_raw_fd());
            std::os::unix::fs::symlink(target, links.0.join(source.gfid.to_string()))?;
        }
        Ok(links)
    }

    /// How many files make a good call.
    pub fn batch_files(&self) -> usize {
        BATCH_FILES
    }

    /// Runs rsync.
    async fn run(&self, links: &Path, ready: &[(Source, Snapshot)]) -> Result<Ended, SyncError> {
        let (shell, host) = self.target.rsync_shell();
        let mut source = links.as_os_str().to_owned();
        source.push("/");
        let mut child = Command::new(&self.program)
            .args(CLIENT_OPTIONS)
            .arg("--files-from=-")
            .arg("-e")
            .arg(shell)
            .arg(source)
            .arg(format!("{host}:{}/", self.token))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| SyncError::Start { program: self.program.display().to_string(), source })?;
        let listening = said::listen(child.stderr.take());
        let names: Vec<u8> = ready.iter().flat_map(|(s, _)| format!("{}\0", s.gfid).into_bytes()).collect();
        if let Some(mut input) = child.stdin.take() {
            // rsync may end before it has read everything; its exit code tells more than our broken pipe.
            let _ = input.write_all(&names).await;
        }
        let status = child.wait().await.map_err(SyncError::local("waiting for rsync"))?;
        let said = said::all(listening).await;
        match status.code() {
            Some(0) => Ok(Ended::Well),
            Some(code) if PARTIAL.contains(&code) => {
                tracing::warn!(code, message = said.why(), "rsync could not send all files");
                Ok(Ended::Partly(said))
            }
            _ => Err(SyncError::Rsync { status: status.to_string(), message: said.why() }),
        }
    }
}

/// How a call of rsync ended.
enum Ended {
    /// It carried all files to their end.
    Well,
    /// Some of them it did not; the agent tells which.
    Partly(Said),
}

impl Drop for LinkDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Looks at all files; those that cannot be sent now are answered at once.
fn begin_all(sources: Vec<Source>) -> (Vec<(Source, Snapshot)>, Vec<Sent>) {
    let (mut ready, mut rest) = (Vec::new(), Vec::new());
    for source in sources {
        match source.begin() {
            Ok(Some(before)) => ready.push((source, before)),
            Ok(None) => rest.push(Sent { gfid: source.gfid, state: SentState::Busy, bytes: 0 }),
            Err(e) => rest.push(Sent { gfid: source.gfid, state: failed(&e), bytes: 0 }),
        }
    }
    (ready, rest)
}

/// What became of a file.
fn judge(source: &Source, before: Snapshot, ended: &Ended) -> Sent {
    let bytes = before.object.size;
    let state = match (source.stood_still(&before), ended) {
        // A file that is being written has another mtime by the time rsync looks at it: that rsync ended well is all
        // that tells.
        (Ok(true), Ended::Well) => SentState::Staged { object: before.object, whole: source.accept_unstable },
        (Ok(true), Ended::Partly(said)) => match said.about(source.gfid) {
            Some(reason) => SentState::Failed { errno: 0, reason },
            None => SentState::Staged { object: before.object, whole: false },
        },
        (Ok(false), _) => SentState::Busy,
        (Err(e), _) => failed(&e),
    };
    Sent { gfid: source.gfid, state, bytes }
}

fn failed(error: &io::Error) -> SentState {
    SentState::Failed { errno: error.raw_os_error().unwrap_or(0), reason: format!("looking at the file: {error}") }
}
