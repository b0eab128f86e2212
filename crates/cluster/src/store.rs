//! What is asked of the shared store.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;

use crate::feed::Subscription;
use crate::ids::Epoch;
use crate::leadership::Leadership;

/// The longest key in bytes; also what an etcd key of ours never reaches.
pub const KEY_MAX: usize = 512;

/// The largest value in bytes: below etcd's default limit of 1.5 MiB for a request.
pub const VALUE_MAX: usize = 1 << 20;

/// What an operation of a [`Store`] returns.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A small, watched key-value store that all nodes share.
///
/// Contract, which `contract.rs` tests for each implementation:
/// - A write that returned `Ok` is durable: it survives a power cut. A write that failed with
///   [`StoreError::Conflict`], [`StoreError::Limit`] or [`StoreError::Refused`] changed nothing. After any other error
///   it is not known whether it happened; read before trying again.
/// - Each write gets a revision that is higher than that of every earlier write of the whole store.
/// - Reads see every write that returned before the read began.
/// - All operations may be called at the same time, from any number of callers; conditional writes of one key are
///   decided one after the other.
/// - A call that is given up by dropping its future may or may not take effect. A campaign that is given up is: it
///   never wins later.
pub trait Store: Send + Sync + fmt::Debug {
    /// Reads a key.
    fn get(&self, key: &str) -> StoreFuture<'_, Option<Entry>>;

    /// Reads all keys that begin with `prefix`, sorted by key.
    fn list(&self, prefix: &str) -> StoreFuture<'_, Vec<Entry>>;

    /// Writes a key if it is as expected; returns the revision of the write.
    fn put(&self, key: &str, value: Vec<u8>, expected: Expected) -> StoreFuture<'_, u64>;

    /// Removes a key if it is as expected; removing an absent key with [`Expected::Any`] is no error. Returns the
    /// revision of the store after it.
    fn delete(&self, key: &str, expected: Expected) -> StoreFuture<'_, u64>;

    /// Writes a key that lasts only as long as this process is known to live: it is gone after [`Store::close`], after
    /// the process has ended, or a while after it was cut off; then it comes back by itself. Not durable. Never use a
    /// key for both this and [`Store::put`].
    fn announce(&self, key: &str, value: Vec<u8>) -> StoreFuture<'_, ()>;

    /// Reports every change of a key that begins with `prefix` and is made after this returned, in order. What was
    /// written before that and after an earlier read may be reported too.
    fn watch(&self, prefix: &str) -> StoreFuture<'_, Watch>;

    /// Returns when `candidate` leads `election`, with an epoch that is higher than every one returned for this
    /// election before, restarts of all nodes included. A candidate that leads already is elected anew, at once, with
    /// a new epoch, and its older [`Leadership`] is lost; another one waits until the leader resigns or is lost. No
    /// name of an election may be another one's followed by `/`; a candidate is a name as in [`crate::ids::is_name`].
    fn campaign(&self, election: &str, candidate: &str) -> StoreFuture<'_, Leadership>;

    /// Gives up the lead won with `epoch`; nothing happens if it is not held any more. After an error it is given up
    /// as soon as the store can be reached.
    fn resign(&self, election: &str, epoch: Epoch) -> StoreFuture<'_, ()>;

    /// Who leads an election now.
    fn leader(&self, election: &str) -> StoreFuture<'_, Option<Leader>>;

    /// Gives up every lead and takes back everything that was announced. Nothing may be asked afterwards.
    fn close(&self) -> StoreFuture<'_, ()>;
}

/// A key with its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// Revision of the write that made it so.
    pub revision: u64,
}

/// The winner of an election.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leader {
    /// Who.
    pub candidate: String,
    /// With which fencing number.
    pub epoch: Epoch,
}

/// What a writer believes about a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// Anything.
    Any,
    /// It does not exist.
    Absent,
    /// It was last written at this revision.
    Revision(u64),
}

impl Expected {
    /// Whether a key is as expected; `revision` is that of the key, if it exists.
    pub fn holds(self, revision: Option<u64>) -> bool {
        match self {
            Expected::Any => true,
            Expected::Absent => revision.is_none(),
            Expected::Revision(wanted) => revision == Some(wanted),
        }
    }
}

/// What a watch reports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A key was written.
    Put(Entry),
    /// A key was removed.
    Deleted {
        /// The key.
        key: String,
        /// Revision of the store after it.
        revision: u64,
    },
    /// Changes were lost because they were not fetched in time, or the connection broke: list again.
    Lost,
}

/// A stream of changes.
#[derive(Debug)]
pub struct Watch {
    pub(crate) prefix: String,
    pub(crate) changes: Subscription,
}

impl Watch {
    /// Waits for the next change; `None` when the store was closed.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            let change = self.changes.next().await?;
            let key = match &change {
                Change::Put(entry) => &entry.key,
                Change::Deleted { key, .. } => key,
                Change::Lost => return Some(change),
            };
            if key.starts_with(&self.prefix) {
                return Some(change);
            }
        }
    }
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The key is not as expected: read again and decide again.
    #[error("'{key}' was changed by somebody else")]
    Conflict {
        /// The key.
        key: String,
    },
    /// Key or value is over the limit. Fatal for the caller.
    #[error("the key or the value of '{key}' is over the limit")]
    Limit {
        /// The key.
        key: String,
    },
    /// Another process has the store open. Retry when that process has ended.
    #[error("the store {} is in use by another process", path.display())]
    Busy {
        /// Its directory.
        path: PathBuf,
    },
    /// The store cannot be read. Fatal; an operator has to move it aside and declare the sessions again.
    #[error("the store {} is damaged: {reason}", path.display())]
    Damaged {
        /// Its directory.
        path: PathBuf,
        /// What the store said.
        reason: String,
    },
    /// The disk failed. The store refuses everything from then on, because what is in memory may not be on the disk;
    /// open it again.
    #[error("the store {} could not be written", path.display())]
    Io {
        /// Its directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A store on other machines does not answer. Retry; the text says what to look at.
    #[error("cannot reach etcd: {reason}")]
    Unreachable {
        /// For each address why, and what to look at.
        reason: String,
    },
    /// A store on other machines does not let us do it. An operator has to mend it.
    #[error("etcd refused it: {reason}")]
    Refused {
        /// Why, and what to look at.
        reason: String,
    },
    /// The store was closed, or failed before. Open it again.
    #[error("the store is closed")]
    Closed,
}

pub(crate) fn check_limits(key: &str, value: &[u8]) -> Result<(), StoreError> {
    if key.is_empty() || key.len() > KEY_MAX || value.len() > VALUE_MAX {
        return Err(StoreError::Limit { key: key.chars().take(64).collect() });
    }
    Ok(())
}
