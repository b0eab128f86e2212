//! One of the two trees: on this machine or behind a channel.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::client::{Answers, Client};
use crate::request::Request;
use crate::{Entry, VerifyError, Walk};

/// How many entries go to the comparing thread at once, at most.
const BATCH_ENTRIES: usize = 256;

/// How many bytes of paths make a batch full: in very deep trees each path is long.
const BATCH_PATH_BYTES: usize = 256 << 10;

/// How many batches a walk may be ahead of the comparison.
const BATCHES_AHEAD: usize = 4;

/// A tree that can be compared.
#[derive(Debug)]
pub struct Side {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Local(PathBuf),
    Channel(Box<Client>),
}

impl Side {
    /// A tree on this machine.
    pub fn local(root: impl Into<PathBuf>) -> Side {
        Side { source: Source::Local(root.into()) }
    }

    /// A tree behind a channel at whose other end [`serve`](crate::serve()) answers, e.g. stdout and stdin of a child
    /// process.
    ///
    /// # Errors
    /// When the peer does not answer, or not as it should.
    pub fn channel(
        input: impl Read + Send + 'static,
        output: impl Write + Send + 'static,
    ) -> Result<Side, VerifyError> {
        let client = Client::greet(Box::new(input), Box::new(output))?;
        Ok(Side { source: Source::Channel(Box::new(client)) })
    }

    /// Begins to look. A local walk runs in a thread of its own from here on, so that two sides work at the same time.
    pub(crate) fn manifest(&mut self, request: Request) -> Result<Manifest<'_>, VerifyError> {
        match &mut self.source {
            Source::Local(root) => Ok(Manifest::Local(LocalManifest::start(root, request)?)),
            Source::Channel(client) => Ok(Manifest::Channel(client.ask(request)?)),
        }
    }
}

/// The entries of one side, in order.
pub(crate) enum Manifest<'a> {
    Local(LocalManifest),
    Channel(Answers<'a>),
}

impl Manifest<'_> {
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, VerifyError> {
        match self {
            Manifest::Local(local) => local.next_entry(),
            Manifest::Channel(answers) => answers.next_entry(),
        }
    }
}

/// A walk in another thread, which ends when this is dropped.
pub(crate) struct LocalManifest {
    root: PathBuf,
    batches: Receiver<Vec<Entry>>,
    batch: std::vec::IntoIter<Entry>,
    thread: Option<JoinHandle<()>>,
}

impl LocalManifest {
    fn start(root: &Path, request: Request) -> Result<LocalManifest, VerifyError> {
        let walk = Walk::open(root, request)?;
        let (sender, batches) = sync_channel(BATCHES_AHEAD);
        let thread = std::thread::Builder::new()
            .name("verify-walk".into())
            .spawn(move || send_all(walk, &sender))
            .map_err(|source| VerifyError::Thread { source })?;
        Ok(LocalManifest { root: root.to_owned(), batches, batch: Vec::new().into_iter(), thread: Some(thread) })
    }

    fn next_entry(&mut self) -> Result<Option<Entry>, VerifyError> {
        loop {
            if let Some(entry) = self.batch.next() {
                return Ok(Some(entry));
            }
            match self.batches.recv() {
                Ok(batch) => self.batch = batch.into_iter(),
                // The thread is done; a panic in it must not look like the end of the tree.
                Err(_) => match self.thread.take().map(JoinHandle::join) {
                    Some(Err(_)) => return Err(VerifyError::WalkBroke { path: self.root.clone() }),
                    Some(Ok(())) | None => return Ok(None),
                },
            }
        }
    }
}

fn send_all(mut walk: Walk, sender: &SyncSender<Vec<Entry>>) {
    loop {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_ENTRIES && bytes < BATCH_PATH_BYTES {
            let Some(entry) = walk.next() else { break };
            bytes += entry.path.as_bytes().len();
            batch.push(entry);
        }
        // Nobody listens any more when the comparison failed on the other side.
        if batch.is_empty() || sender.send(batch).is_err() {
            return;
        }
    }
}
