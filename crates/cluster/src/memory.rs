//! The store in memory, for tests.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use crate::feed::{Elections, Feed};
use crate::ids::Epoch;
use crate::leadership::Leadership;
use crate::store::{Change, Entry, Expected, Leader, Store, StoreError, StoreFuture, Watch, check_limits};

/// A [`Store`] that lives as long as its process.
#[derive(Debug)]
pub struct Memory {
    inner: Mutex<Inner>,
    feed: Feed,
    elections: Elections,
}

#[derive(Debug, Default)]
struct Inner {
    keys: BTreeMap<String, (u64, Vec<u8>)>,
    announced: BTreeSet<String>,
    epochs: HashMap<String, u64>,
    revision: u64,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory { inner: Mutex::default(), feed: Feed::new(), elections: Elections::default() }
    }
}

impl Memory {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn check(&self, key: &str, expected: Expected) -> Result<(), StoreError> {
        let revision = self.keys.get(key).map(|(revision, _)| *revision);
        if expected.holds(revision) { Ok(()) } else { Err(StoreError::Conflict { key: key.into() }) }
    }

    fn put(&mut self, feed: &Feed, key: String, value: Vec<u8>) -> u64 {
        self.revision += 1;
        self.keys.insert(key.clone(), (self.revision, value.clone()));
        feed.publish(Change::Put(Entry { key, value, revision: self.revision }));
        self.revision
    }

    fn delete(&mut self, feed: &Feed, key: String) -> u64 {
        self.announced.remove(&key);
        if self.keys.remove(&key).is_some() {
            self.revision += 1;
            feed.publish(Change::Deleted { key, revision: self.revision });
        }
        self.revision
    }
}

impl Store for Memory {
    fn get(&self, key: &str) -> StoreFuture<'_, Option<Entry>> {
        let found = self.lock().keys.get(key).cloned();
        let key = key.to_owned();
        Box::pin(async move { Ok(found.map(|(revision, value)| Entry { key, value, revision })) })
    }

    fn list(&self, prefix: &str) -> StoreFuture<'_, Vec<Entry>> {
        let inner = self.lock();
        let keys = inner.keys.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        let entry = |(key, (revision, value)): (&String, &(u64, Vec<u8>))| Entry {
            key: key.clone(),
            value: value.clone(),
            revision: *revision,
        };
        let entries = keys.map(entry).collect();
        Box::pin(async move { Ok(entries) })
    }

    fn put(&self, key: &str, value: Vec<u8>, expected: Expected) -> StoreFuture<'_, u64> {
        let key = key.to_owned();
        Box::pin(async move {
            check_limits(&key, &value)?;
            let mut inner = self.lock();
            inner.check(&key, expected)?;
            Ok(inner.put(&self.feed, key, value))
        })
    }

    fn delete(&self, key: &str, expected: Expected) -> StoreFuture<'_, u64> {
        let key = key.to_owned();
        Box::pin(async move {
            let mut inner = self.lock();
            inner.check(&key, expected)?;
            Ok(inner.delete(&self.feed, key))
        })
    }

    fn announce(&self, key: &str, value: Vec<u8>) -> StoreFuture<'_, ()> {
        let key = key.to_owned();
        Box::pin(async move {
            check_limits(&key, &value)?;
            let mut inner = self.lock();
            inner.announced.insert(key.clone());
            inner.put(&self.feed, key, value);
            Ok(())
        })
    }

    fn watch(&self, prefix: &str) -> StoreFuture<'_, Watch> {
        let watch = Watch { prefix: prefix.into(), changes: self.feed.subscribe() };
        Box::pin(async move { Ok(watch) })
    }

    fn campaign(&self, election: &str, candidate: &str) -> StoreFuture<'_, Leadership> {
        let (election, candidate) = (election.to_owned(), candidate.to_owned());
        Box::pin(async move {
            let reservation = self.elections.reserve(&election, &candidate).await;
            let mut inner = self.lock();
            let epoch = inner.epochs.entry(election).or_default();
            *epoch += 1;
            Ok(reservation.win(Epoch(*epoch)))
        })
    }

    fn resign(&self, election: &str, epoch: Epoch) -> StoreFuture<'_, ()> {
        self.elections.resign(election, epoch);
        Box::pin(async { Ok(()) })
    }

    fn leader(&self, election: &str) -> StoreFuture<'_, Option<Leader>> {
        let leader = self.elections.leader(election);
        Box::pin(async move { Ok(leader) })
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        self.elections.clear();
        let mut inner = self.lock();
        for key in std::mem::take(&mut inner.announced) {
            inner.delete(&self.feed, key);
        }
        Box::pin(async { Ok(()) })
    }
}
