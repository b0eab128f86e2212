//! The store of several machines, in etcd.
//!
//! Layout
//! - [`options`]: how to reach it
//! - `pool`: asking one member after the other; `changes`: watching over broken connections
//! - `lease`: staying known to live, and what lasts only as long
//! - `election`: campaigns
//!
//! Below the prefix: `keys/<key>` for what is put and announced, `elections/<election>/<candidate>@<lease>-<number>` for
//! candidates, `writers/<name>` with the last conditional write of each node.

mod changes;
mod election;
mod lease;
pub mod options;
mod pool;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use etcd_client::{
    Compare, CompareOp, DeleteOptions, Error, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse,
};
use tokio::sync::Mutex;
use uuid::Uuid;

pub use options::{EtcdOptions, TlsFiles};

use crate::ids::Epoch;
use crate::leadership::Leadership;
use crate::store::{Entry, Expected, Leader, Store, StoreError, StoreFuture, Watch, check_limits};
use lease::Life;
use pool::{CALL_LIMIT, Failure, Pool};

/// A [`Store`] in etcd.
#[derive(Clone)]
pub struct Etcd(Arc<Inner>);

struct Inner {
    options: EtcdOptions,
    pool: Arc<Pool>,
    life: Arc<Life>,
    writer: Writer,
}

/// Tells whether a conditional write was made whose answer got lost.
struct Writer {
    /// What was written last; one write after the other, so that it is only overwritten when its fate is known.
    number: Mutex<u64>,
    /// Of this process.
    id: Uuid,
}

impl Etcd {
    /// Reaches etcd and makes this process known there.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] after 10 s, or [`StoreError::Refused`].
    pub async fn open(options: EtcdOptions) -> Result<Etcd, StoreError> {
        let pool = Arc::new(Pool::new(options.clone()));
        let life = Life::begin(&options, &pool).await?;
        let writer = Writer { number: Mutex::default(), id: Uuid::new_v4() };
        Ok(Etcd(Arc::new(Inner { options, pool, life, writer })))
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd").field("options", &self.0.options).finish_non_exhaustive()
    }
}

impl Inner {
    fn keys(&self) -> String {
        format!("{}keys/", self.options.prefix)
    }

    fn stored(&self, key: &str) -> String {
        format!("{}keys/{key}", self.options.prefix)
    }

    async fn read(&self, key: String, options: Option<GetOptions>) -> Result<Vec<Entry>, StoreError> {
        let strip = self.keys().len();
        let ask = |mut connection: pool::Connection| {
            let (key, options) = (key.clone(), options.clone());
            async move { connection.kv.get(key, options).await }
        };
        let answer = self.pool.call(CALL_LIMIT, ask).await?;
        Ok(answer.kvs().iter().filter_map(|kv| entry(kv, strip)).collect())
    }

    /// Makes a change if the key is as expected, exactly once also where an answer got lost: the change and a number are
    /// written together, and where the key is not as expected but the number is ours, it was us.
    async fn write(&self, key: &str, expected: Expected, change: TxnOp) -> Result<u64, StoreError> {
        let mut number = self.writer.number.lock().await;
        *number += 1;
        let mark = format!("{}writers/{}", self.options.prefix, self.options.name);
        let mark_value = format!("{}/{number}", self.writer.id);
        let stored = self.stored(key);
        let is_as_expected = match expected {
            Expected::Any => vec![],
            Expected::Absent => vec![Compare::create_revision(stored, CompareOp::Equal, 0)],
            Expected::Revision(revision) => {
                vec![Compare::mod_revision(stored, CompareOp::Equal, i64::try_from(revision).unwrap_or(i64::MAX))]
            }
        };
        let txn = Txn::new()
            .when(is_as_expected)
            .and_then([change, TxnOp::put(mark.clone(), mark_value.clone(), None)])
            .or_else([TxnOp::get(mark, None)]);
        let answer = self.pool.call(CALL_LIMIT, |connection| transact(connection, txn.clone())).await?;
        if answer.succeeded() {
            return Ok(answer.header().map_or(0, |header| unsigned(header.revision())));
        }
        match answer.op_responses().first() {
            Some(TxnOpResponse::Get(found)) => match found.kvs().first() {
                Some(kv) if kv.value() == mark_value.as_bytes() => Ok(unsigned(kv.mod_revision())),
                _ => Err(StoreError::Conflict { key: key.into() }),
            },
            _ => Err(StoreError::Conflict { key: key.into() }),
        }
    }
}

impl Store for Etcd {
    fn get(&self, key: &str) -> StoreFuture<'_, Option<Entry>> {
        let key = self.0.stored(key);
        Box::pin(async move { Ok(self.0.read(key, None).await?.pop()) })
    }

    fn list(&self, prefix: &str) -> StoreFuture<'_, Vec<Entry>> {
        let prefix = self.0.stored(prefix);
        Box::pin(async move { self.0.read(prefix, Some(GetOptions::new().with_prefix())).await })
    }

    fn put(&self, key: &str, value: Vec<u8>, expected: Expected) -> StoreFuture<'_, u64> {
        let key = key.to_owned();
        Box::pin(async move {
            check_limits(&key, &value)?;
            let change = TxnOp::put(self.0.stored(&key), value, None);
            self.0.write(&key, expected, change).await
        })
    }

    fn delete(&self, key: &str, expected: Expected) -> StoreFuture<'_, u64> {
        let key = key.to_owned();
        Box::pin(async move {
            self.0.life.withdraw(&self.0.stored(&key)).await;
            let change = TxnOp::delete(self.0.stored(&key), None::<DeleteOptions>);
            self.0.write(&key, expected, change).await
        })
    }

    fn announce(&self, key: &str, value: Vec<u8>) -> StoreFuture<'_, ()> {
        let key = key.to_owned();
        Box::pin(async move {
            check_limits(&key, &value)?;
            self.0.life.announce(self.0.stored(&key), value).await
        })
    }

    fn watch(&self, prefix: &str) -> StoreFuture<'_, Watch> {
        let prefix = prefix.to_owned();
        Box::pin(async move {
            let changes = changes::watch(&self.0.pool, self.0.stored(&prefix), self.0.keys().len()).await?;
            Ok(Watch { prefix, changes })
        })
    }

    fn campaign(&self, election: &str, candidate: &str) -> StoreFuture<'_, Leadership> {
        let (election, candidate) = (election.to_owned(), candidate.to_owned());
        Box::pin(async move {
            check_limits(&election, &[])?;
            self.0.campaign(&election, &candidate).await
        })
    }

    fn resign(&self, election: &str, epoch: Epoch) -> StoreFuture<'_, ()> {
        let election = election.to_owned();
        Box::pin(async move { self.0.life.resign(&election, epoch).await })
    }

    fn leader(&self, election: &str) -> StoreFuture<'_, Option<Leader>> {
        let election = election.to_owned();
        Box::pin(async move { self.0.leader(&election).await })
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let ended = self.0.life.end().await;
            self.0.pool.close();
            ended
        })
    }
}

async fn transact(mut connection: pool::Connection, txn: Txn) -> Result<etcd_client::TxnResponse, Error> {
    connection.kv.txn(txn).await
}

/// Writes a key under a lease.
async fn put_leased(pool: &Pool, key: &str, value: &[u8], lease: i64) -> Result<(), Failure> {
    let ask = |mut connection: pool::Connection| {
        let (key, value) = (key.to_owned(), value.to_owned());
        async move { connection.kv.put(key, value, Some(PutOptions::new().with_lease(lease))).await }
    };
    pool.call(CALL_LIMIT, ask).await.map(drop)
}

/// The revision that etcd has now.
async fn revision_now(pool: &Pool, prefix: &str, limit: std::time::Duration) -> Result<i64, StoreError> {
    let ask = |mut connection: pool::Connection| {
        let prefix = prefix.to_owned();
        async move { connection.kv.get(prefix, Some(GetOptions::new().with_prefix().with_count_only())).await }
    };
    let answer = pool.call(limit, ask).await?;
    Ok(answer.header().map_or(0, |header| header.revision()))
}

/// An entry of ours; `strip` bytes of its key are left out. Absent for a key that is no text: nobody of us made it.
fn entry(kv: &KeyValue, strip: usize) -> Option<Entry> {
    let key = std::str::from_utf8(kv.key()).ok()?.get(strip..)?.to_owned();
    Some(Entry { key, value: kv.value().to_vec(), revision: unsigned(kv.mod_revision()) })
}

/// etcd's revisions are signed and never negative.
fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or_default()
}
