//! The engine `tar`: whole files through tar streams that stay open.
//!
//! Each stream is a channel of its own with a thread that reads files and writes entries, and one that reads the
//! agent's answers; a file is on its way as soon as the one before it is written, without waiting for its answer.

use std::io::{BufReader, BufWriter, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use protocol::hello::{MAGIC, Versions};
use protocol::stage::{StageHello, StageReady, Staged};
use tokio::sync::oneshot;

use crate::engine::{Engine, Sending, Sent, SentState};
use crate::error::SyncError;
use crate::source::Source;
use crate::target::Target;

mod entries;

/// Small files are gathered up to this size before they are written to the channel.
const GATHER_BYTES: usize = 128 << 10;

/// What a pipe to ssh (or to the door) may hold: the most that a process may ask for by default.
const PIPE_BYTES: usize = 1 << 20;

/// Files in one call: enough to fill the streams, few enough that their descriptors are no burden.
const BATCH_FILES: usize = 64;

/// The engine. Streams end when it is dropped.
#[derive(Debug)]
pub struct TarEngine {
    jobs: Sender<Job>,
    streams: Vec<Arc<Mutex<Child>>>,
}

/// One file and who waits for it.
struct Job {
    source: Source,
    done: oneshot::Sender<Sent>,
}

/// A file whose end entry is written; the agent's answer completes it.
struct Written {
    sent: Sent,
    done: oneshot::Sender<Sent>,
}

type Jobs = Arc<Mutex<Receiver<Job>>>;

impl TarEngine {
    /// Opens `streams` stage channels.
    ///
    /// # Errors
    /// When one of them cannot be opened.
    pub async fn open(target: &Target, token: &str, streams: usize) -> Result<TarEngine, SyncError> {
        let (jobs, receiver) = channel();
        let receiver: Jobs = Arc::new(Mutex::new(receiver));
        let mut engine = TarEngine { jobs, streams: Vec::new() };
        for _ in 0..streams {
            let (line, token, jobs) = (target.command(&["gsync", "stage"]), token.to_owned(), receiver.clone());
            let opened = tokio::task::spawn_blocking(move || open_stream(&line, &token, jobs)).await;
            engine.streams.push(opened.map_err(|_| SyncError::Ended)??);
        }
        Ok(engine)
    }
}

impl Drop for TarEngine {
    fn drop(&mut self) {
        for child in &self.streams {
            let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Engine for TarEngine {
    fn send(&self, sources: Vec<Source>) -> Sending<'_> {
        let mut waiting = Vec::with_capacity(sources.len());
        for source in sources {
            let (done, receiver) = oneshot::channel();
            waiting.push(self.jobs.send(Job { source, done }).map(|()| receiver));
        }
        Box::pin(async move {
            let mut all = Vec::with_capacity(waiting.len());
            for receiver in waiting {
                let receiver = receiver.map_err(|_| SyncError::Ended)?;
                all.push(receiver.await.map_err(|_| SyncError::Ended)?);
            }
            Ok(all)
        })
    }

    fn batch_files(&self) -> usize {
        BATCH_FILES
    }
}

/// Starts the child, shakes hands and starts both threads.
fn open_stream(line: &[std::ffi::OsString], token: &str, jobs: Jobs) -> Result<Arc<Mutex<Child>>, SyncError> {
    let mut child = Command::new(&line[0])
        .args(&line[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|source| SyncError::Start { program: line[0].to_string_lossy().into_owned(), source })?;
    let shaken = shake_hands(&mut child, token);
    let shared = Arc::new(Mutex::new(child));
    let (input, output) = match shaken {
        Ok(ends) => ends,
        Err(e) => {
            let mut child = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = child.kill();
            let _ = child.wait();
            return Err(e);
        }
    };
    let (written, answers) = channel();
    let local = SyncError::local("starting a thread");
    let spawned = thread::Builder::new()
        .name("tar-answers".into())
        .spawn(move || read_answers(output, &answers))
        .and_then(|_| thread::Builder::new().name("tar-stream".into()).spawn(move || stream(input, &jobs, &written)));
    spawned.map_err(local)?;
    Ok(shared)
}

fn shake_hands(child: &mut Child, token: &str) -> Result<(ChildStdin, ChildStdout), SyncError> {
    let (Some(mut input), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(SyncError::Ended);
    };
    // A longer pipe is fewer changes between us and ssh; where the system allows no more, this one does.
    let _ = rustix::pipe::fcntl_setpipe_size(&input, PIPE_BYTES);
    let hello = StageHello { versions: Versions::ours(), token: token.to_owned() };
    input.write_all(&MAGIC).map_err(SyncError::local("opening a stage channel"))?;
    protocol::write_frame(&mut input, &hello)?;
    let mut magic = [0; MAGIC.len()];
    output.read_exact(&mut magic).map_err(SyncError::local("opening a stage channel"))?;
    if magic != MAGIC {
        return Err(SyncError::NotOurs);
    }
    match protocol::read_frame(&mut output)? {
        StageReady::Ready => Ok((input, output)),
        StageReady::Refused => Err(SyncError::Ended),
    }
}

/// Takes files and writes them until the channel breaks or nobody can ask any more.
fn stream(input: ChildStdin, jobs: &Jobs, written: &Sender<Written>) {
    let mut channel = BufWriter::with_capacity(GATHER_BYTES, input);
    let mut buffer = Vec::new();
    while let Some(Job { source, done }) = next_job(jobs, &mut channel) {
        let Ok((sent, written_out)) = entries::write_file(&mut channel, &source, &mut buffer) else { break };
        if !written_out {
            let _ = done.send(sent);
        } else if written.send(Written { sent, done }).is_err() {
            break;
        }
    }
}

/// The next file; what was gathered is written out before waiting for it.
///
/// The stream that waits holds the queue: the others wait for the lock, with nothing gathered.
fn next_job(jobs: &Jobs, channel: &mut BufWriter<ChildStdin>) -> Option<Job> {
    if let Ok(jobs) = jobs.try_lock() {
        match jobs.try_recv() {
            Ok(job) => return Some(job),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => {}
        }
    }
    channel.flush().ok()?;
    jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// Completes files in the order in which they were written.
fn read_answers(output: ChildStdout, written: &Receiver<Written>) {
    // The agent gathers answers; so several are read at once.
    let mut output = BufReader::new(output);
    while let Ok(staged) = protocol::read_frame::<Staged>(&mut output) {
        let Ok(Written { mut sent, done }) = written.recv() else { break };
        if staged.gfid != sent.gfid {
            tracing::error!(expected = %sent.gfid, answered = %staged.gfid, "the agent answered for another file");
            break;
        }
        if staged.errno != 0 {
            let reason = std::io::Error::from_raw_os_error(staged.errno).to_string();
            sent.state = SentState::Failed { errno: staged.errno, reason: format!("writing to the stage: {reason}") };
        }
        let _ = done.send(sent);
    }
}
