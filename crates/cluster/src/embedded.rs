//! The store of one machine, in a directory that one process owns: sled, made to survive a power cut.
//!
//! sled's `flush` never calls fsync, so that a power cut can lose the file's size and with it everything. Every write
//! here is followed by an fsync of sled's file `db`, and the files and directories are made durable once at creation.
//!
//! One tree: `k/<key>` has the revision (8 bytes, little endian) and the value, `e/<election>` the last epoch, `summary`
//! what there should be. What is announced is only in memory. A write changes an entry and the summary in one batch. The file `complete` appears when the
//! first summary is durable: a store that has the file and no summary is damaged, not new.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::feed::{Elections, Feed};
use crate::ids::Epoch;
use crate::leadership::Leadership;
use crate::store::{Change, Entry, Expected, Leader, Store, StoreError, StoreFuture, Watch, check_limits};
use crate::summary::Summary;

/// sled's cache in bytes: the store holds sessions and volumes, kilobytes in all.
const CACHE_BYTES: u64 = 4 << 20;

const KEY_PREFIX: &str = "k/";
const EPOCH_PREFIX: &str = "e/";
const SUMMARY_KEY: &str = "summary";
const COMPLETE_FILE: &str = "complete";

/// A [`Store`] on the local disk.
#[derive(Clone, Debug)]
pub struct Embedded(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    db: sled::Db,
    /// sled's file, for the fsync that sled leaves out.
    file: File,
    /// What the store holds; locked for a write, so that writes are decided one after the other.
    summary: Mutex<Summary>,
    /// What was announced: it lasts as long as this process.
    announced: Mutex<BTreeMap<String, Entry>>,
    /// Set when a write could not be made durable.
    failed: AtomicBool,
    feed: Feed,
    elections: Elections,
    /// Held as long as the store is open; declared last, so that sled is closed before.
    _lock: File,
}

impl Embedded {
    /// Opens the store in `path`, or creates it.
    ///
    /// # Errors
    /// [`StoreError::Busy`], [`StoreError::Damaged`] or [`StoreError::Io`].
    pub fn open(path: &Path) -> Result<Embedded, StoreError> {
        let io = |source| StoreError::Io { path: path.into(), source };
        let lock = lock(path)?;
        let db = open_guarded(path)?;
        let file = File::open(path.join("db")).map_err(io)?;
        let summary = if path.join(COMPLETE_FILE).exists() {
            check_whole(&db).map_err(|reason| damaged(path, &reason))?
        } else {
            db.insert(SUMMARY_KEY, &Summary::default().encode()).map_err(|error| damaged(path, &error))?;
            db.flush().map_err(|error| damaged(path, &error))?;
            make_durable(path).map_err(io)?;
            Summary::default()
        };
        Ok(Embedded(Arc::new(Inner {
            path: path.into(),
            db,
            file,
            summary: Mutex::new(summary),
            announced: Mutex::default(),
            failed: AtomicBool::new(false),
            feed: Feed::new(),
            elections: Elections::default(),
            _lock: lock,
        })))
    }

    /// Runs a blocking write away from the async threads.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner, &mut Summary) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.0);
        let run = move || {
            let mut summary = inner.summary.lock().unwrap_or_else(PoisonError::into_inner);
            inner.check_failed()?;
            work(&inner, &mut summary)
        };
        tokio::task::spawn_blocking(run).await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Inner {
    fn check_failed(&self) -> Result<(), StoreError> {
        if self.failed.load(Ordering::Acquire) { Err(StoreError::Closed) } else { Ok(()) }
    }

    fn read(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.check_failed()?;
        if let Some(entry) = self.announced().get(key) {
            return Ok(Some(entry.clone()));
        }
        let found = self.db.get(stored_key(key)).map_err(|error| damaged(&self.path, &error))?;
        found.map(|bytes| self.entry(key.into(), &bytes)).transpose()
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        self.check_failed()?;
        let mut entries = Vec::new();
        for item in self.db.scan_prefix(stored_key(prefix)) {
            let (key, bytes) = item.map_err(|error| damaged(&self.path, &error))?;
            let key = std::str::from_utf8(&key[KEY_PREFIX.len()..]).map_err(|error| damaged(&self.path, &error))?;
            entries.push(self.entry(key.into(), &bytes)?);
        }
        let announced = self.announced();
        entries.extend(announced.values().filter(|entry| entry.key.starts_with(prefix)).cloned());
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }

    fn announced(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, key: String, bytes: &[u8]) -> Result<Entry, StoreError> {
        let (revision, value) =
            bytes.split_first_chunk::<8>().ok_or_else(|| damaged(&self.path, &format!("'{key}' is too short")))?;
        Ok(Entry { key, value: value.to_vec(), revision: u64::from_le_bytes(*revision) })
    }

    fn check(&self, key: &str, expected: Expected) -> Result<(), StoreError> {
        let revision = self.read(key)?.map(|entry| entry.revision);
        if expected.holds(revision) { Ok(()) } else { Err(StoreError::Conflict { key: key.into() }) }
    }

    /// Writes or removes one entry and returns when that is durable.
    fn commit(&self, summary: &mut Summary, key: &str, value: Option<&[u8]>) -> Result<(), StoreError> {
        let mut next = *summary;
        next.revision += 1;
        if let Some(old) = self.db.get(key).map_err(|error| damaged(&self.path, &error))? {
            next.remove(key.as_bytes(), &old);
        }
        let mut batch = sled::Batch::default();
        match value {
            Some(value) => {
                next.add(key.as_bytes(), value);
                batch.insert(key, value);
            }
            None => batch.remove(key),
        }
        batch.insert(SUMMARY_KEY, &next.encode());
        let written = self.db.apply_batch(batch).and_then(|()| self.db.flush());
        let durable = written.map_err(io::Error::other).and_then(|_| self.file.sync_all());
        durable.map_err(|source| {
            self.failed.store(true, Ordering::Release);
            StoreError::Io { path: self.path.clone(), source }
        })?;
        *summary = next;
        Ok(())
    }

    fn put(&self, summary: &mut Summary, key: &str, value: Vec<u8>, expected: Expected) -> Result<u64, StoreError> {
        self.check(key, expected)?;
        let stored = [&(summary.revision + 1).to_le_bytes()[..], &value].concat();
        self.commit(summary, &stored_key(key), Some(&stored))?;
        self.feed.publish(Change::Put(Entry { key: key.into(), value, revision: summary.revision }));
        Ok(summary.revision)
    }

    fn delete(&self, summary: &mut Summary, key: &str, expected: Expected) -> Result<u64, StoreError> {
        self.check(key, expected)?;
        if self.announced().remove(key).is_some() {
            summary.revision += 1;
            self.feed.publish(Change::Deleted { key: key.into(), revision: summary.revision });
        } else if self.read(key)?.is_some() {
            self.commit(summary, &stored_key(key), None)?;
            self.feed.publish(Change::Deleted { key: key.into(), revision: summary.revision });
        }
        Ok(summary.revision)
    }

    /// A revision that is not stored: who remembers it ends with this process.
    fn announce(&self, summary: &mut Summary, key: String, value: Vec<u8>) {
        summary.revision += 1;
        let entry = Entry { key, value, revision: summary.revision };
        self.announced().insert(entry.key.clone(), entry.clone());
        self.feed.publish(Change::Put(entry));
    }

    fn withdraw_all(&self, summary: &mut Summary) {
        for (key, _) in std::mem::take(&mut *self.announced()) {
            summary.revision += 1;
            self.feed.publish(Change::Deleted { key, revision: summary.revision });
        }
    }

    fn next_epoch(&self, summary: &mut Summary, election: &str) -> Result<Epoch, StoreError> {
        let key = format!("{EPOCH_PREFIX}{election}");
        let last = match self.db.get(&key).map_err(|error| damaged(&self.path, &error))? {
            None => 0,
            Some(bytes) => match bytes.as_ref().try_into() {
                Ok(bytes) => u64::from_le_bytes(bytes),
                Err(_) => return Err(damaged(&self.path, &"an epoch is no number")),
            },
        };
        self.commit(summary, &key, Some(&(last + 1).to_le_bytes()))?;
        Ok(Epoch(last + 1))
    }
}

impl Store for Embedded {
    fn get(&self, key: &str) -> StoreFuture<'_, Option<Entry>> {
        let found = self.0.read(key);
        Box::pin(async move { found })
    }

    fn list(&self, prefix: &str) -> StoreFuture<'_, Vec<Entry>> {
        let found = self.0.list(prefix);
        Box::pin(async move { found })
    }

    fn put(&self, key: &str, value: Vec<u8>, expected: Expected) -> StoreFuture<'_, u64> {
        let key = key.to_owned();
        Box::pin(async move {
            check_limits(&key, &value)?;
            self.write(move |inner, summary| inner.put(summary, &key, value, expected)).await
        })
    }

    fn delete(&self, key: &str, expected: Expected) -> StoreFuture<'_, u64> {
        let key = key.to_owned();
        Box::pin(self.write(move |inner, summary| inner.delete(summary, &key, expected)))
    }

    fn announce(&self, key: &str, value: Vec<u8>) -> StoreFuture<'_, ()> {
        let key = key.to_owned();
        Box::pin(async move {
            check_limits(&key, &value)?;
            let announce = move |inner: &Inner, summary: &mut Summary| {
                inner.announce(summary, key, value);
                Ok(())
            };
            self.write(announce).await
        })
    }

    fn watch(&self, prefix: &str) -> StoreFuture<'_, Watch> {
        let watch = Watch { prefix: prefix.into(), changes: self.0.feed.subscribe() };
        Box::pin(async move { Ok(watch) })
    }

    fn campaign(&self, election: &str, candidate: &str) -> StoreFuture<'_, Leadership> {
        let (election, candidate) = (election.to_owned(), candidate.to_owned());
        Box::pin(async move {
            check_limits(&election, &[])?;
            let reservation = self.0.elections.reserve(&election, &candidate).await;
            let epoch = self.write(move |inner, summary| inner.next_epoch(summary, &election)).await?;
            Ok(reservation.win(epoch))
        })
    }

    fn resign(&self, election: &str, epoch: Epoch) -> StoreFuture<'_, ()> {
        self.0.elections.resign(election, epoch);
        Box::pin(async { Ok(()) })
    }

    fn leader(&self, election: &str) -> StoreFuture<'_, Option<Leader>> {
        let leader = self.0.elections.leader(election);
        Box::pin(async move { Ok(leader) })
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        self.0.elections.clear();
        let withdraw = |inner: &Inner, summary: &mut Summary| {
            inner.withdraw_all(summary);
            Ok(())
        };
        Box::pin(self.write(withdraw))
    }
}

fn stored_key(key: &str) -> String {
    format!("{KEY_PREFIX}{key}")
}

fn damaged(path: &Path, reason: &dyn ToString) -> StoreError {
    StoreError::Damaged { path: path.into(), reason: reason.to_string() }
}

/// sled panics on some damage instead of returning an error.
fn open_guarded(path: &Path) -> Result<sled::Db, StoreError> {
    let config =
        sled::Config::new().path(path).mode(sled::Mode::LowSpace).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Io(source))) => Err(StoreError::Io { path: path.into(), source }),
        Ok(Err(error)) => Err(damaged(path, &error)),
        Err(_) => Err(damaged(path, &"it could not be opened at all")),
    }
}

/// Takes the store for this process. sled has a lock of its own, but its error cannot be told from others.
fn lock(path: &Path) -> Result<File, StoreError> {
    let io = |source| StoreError::Io { path: path.into(), source };
    std::fs::create_dir_all(path).map_err(io)?;
    let file = File::create(path.join("lock")).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Busy { path: path.into() }),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

/// Compares what is there with what should be.
fn check_whole(db: &sled::Db) -> Result<Summary, String> {
    let mut found = Summary::default();
    let mut summary = None;
    for item in db.iter() {
        let (key, value) = item.map_err(|error| error.to_string())?;
        if key == SUMMARY_KEY.as_bytes() {
            summary = Summary::decode(&value);
        } else {
            found.add(&key, &value);
        }
    }
    match summary {
        Some(summary) if summary.has_same_entries(&found) => Ok(summary),
        Some(_) => Err("entries are missing or changed".into()),
        None => Err("its summary is missing".into()),
    }
}

/// Makes a new store's files and names durable; later only `db` grows.
fn make_durable(path: &Path) -> io::Result<()> {
    for name in ["conf", "db"] {
        File::open(path.join(name))?.sync_all()?;
    }
    File::create(path.join(COMPLETE_FILE))?.sync_all()?;
    File::open(path)?.sync_all()?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}
