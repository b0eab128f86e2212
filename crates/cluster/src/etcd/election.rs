//! Campaigns. Candidates queue up with a key each; the oldest key leads, and the next one when that is gone.
//!
//! The epoch is the revision of a write that the leader makes to its own key when it has come to lead: later than every
//! write of earlier leaders, whose keys are gone by then. So it grows also when a leader is elected anew.

use std::time::Duration;

use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse};
use tokio::time::{sleep, timeout};

use super::lease::Life;
use super::pool::{CALL_LIMIT, Connection, Failure};
use super::{Inner, changes, transact, unsigned};
use crate::feed::Subscription;
use crate::ids::Epoch;
use crate::leadership::Leadership;
use crate::store::{Leader, StoreError};

/// A candidate looks this often without being told that anything changed.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Before a candidate who waits tries again to reach etcd.
const PAUSE: Duration = Duration::from_secs(1);

/// A place in the queue; left when dropped.
struct Place<'a> {
    life: &'a Life,
    key: String,
    create_revision: i64,
    stays: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.stays {
            self.life.give_up(&self.key);
        }
    }
}

/// What the queue says.
enum Turn {
    /// The own key is the oldest one.
    Ours,
    /// This process leads already, as the same candidate.
    Held(String, i64),
    /// The own key is gone.
    Gone,
}

/// A key in the queue.
pub(super) struct Candidate {
    key: String,
    create_revision: i64,
    mod_revision: i64,
}

impl Inner {
    pub(super) async fn campaign(&self, election: &str, candidate: &str) -> Result<Leadership, StoreError> {
        let prefix = self.election_prefix(election);
        loop {
            let lease = self.life.lease().await?;
            if let Some((key, create_revision)) = self.life.held(election, candidate) {
                match self.claim(election, lease, (&key, create_revision), candidate).await? {
                    Some(leadership) => return Ok(leadership),
                    None => self.life.forget(election, &key),
                }
                continue;
            }
            let Some(mut place) = self.queue(&prefix, candidate, lease).await? else { continue };
            match self.wait_for_turn(election, &prefix, candidate, &place).await? {
                Turn::Gone => continue,
                Turn::Held(key, create_revision) => {
                    if let Some(leadership) = self.claim(election, lease, (&key, create_revision), candidate).await? {
                        return Ok(leadership);
                    }
                }
                Turn::Ours => {
                    let own = (place.key.as_str(), place.create_revision);
                    if let Some(leadership) = self.claim(election, lease, own, candidate).await? {
                        place.stays = true;
                        return Ok(leadership);
                    }
                }
            }
        }
    }

    pub(super) async fn leader(&self, election: &str) -> Result<Option<Leader>, StoreError> {
        let prefix = self.election_prefix(election);
        let queue = self.candidates(&prefix).await?;
        // One that was not written to since has not come to lead yet.
        let first = queue.into_iter().next().filter(|first| first.mod_revision > first.create_revision);
        Ok(first.map(|first| {
            let name = first.key[prefix.len()..].split('@').next().unwrap_or_default();
            Leader { candidate: name.to_owned(), epoch: Epoch(unsigned(first.mod_revision)) }
        }))
    }

    fn election_prefix(&self, election: &str) -> String {
        format!("{}elections/{election}/", self.options.prefix)
    }

    /// Takes a place at the end; `None` when the lease has just ended.
    async fn queue(&self, prefix: &str, candidate: &str, lease: i64) -> Result<Option<Place<'_>>, StoreError> {
        let key = self.life.candidate_key(prefix, candidate, lease);
        let mut place = Place { life: &self.life, key: key.clone(), create_revision: 0, stays: false };
        let is_new = [Compare::create_revision(key.clone(), CompareOp::Equal, 0)];
        let put = TxnOp::put(key.clone(), candidate, Some(PutOptions::new().with_lease(lease)));
        // Asked twice, because the first answer got lost: it is there already.
        let txn = Txn::new().when(is_new).and_then([put]).or_else([TxnOp::get(key, None)]);
        let answer = match self.pool.call(CALL_LIMIT, |connection| transact(connection, txn.clone())).await {
            Ok(answer) => answer,
            Err(Failure::NotFound) => {
                sleep(PAUSE).await;
                return Ok(None);
            }
            Err(Failure::Store(error)) => return Err(error),
        };
        place.create_revision = match answer.op_responses().first() {
            Some(TxnOpResponse::Get(found)) => found.kvs().first().map_or(0, |kv| kv.create_revision()),
            _ => answer.header().map_or(0, |header| header.revision()),
        };
        Ok(Some(place))
    }

    /// Waits as long as it takes, also while etcd cannot be reached.
    async fn wait_for_turn(
        &self,
        election: &str,
        prefix: &str,
        candidate: &str,
        place: &Place<'_>,
    ) -> Result<Turn, StoreError> {
        let mut watch: Option<Subscription> = None;
        loop {
            if let Some((key, create_revision)) = self.life.held(election, candidate) {
                return Ok(Turn::Held(key, create_revision));
            }
            match self.candidates(prefix).await {
                Ok(queue) if queue.iter().all(|candidate| candidate.key != place.key) => return Ok(Turn::Gone),
                Ok(queue) if queue.first().is_some_and(|first| first.key == place.key) => return Ok(Turn::Ours),
                Ok(_) => {}
                Err(StoreError::Unreachable { .. }) => {
                    sleep(PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error),
            }
            match &mut watch {
                Some(watch) => {
                    let _ = timeout(LOOK_EVERY, watch.next()).await;
                }
                None => match changes::watch(&self.pool, prefix.to_owned(), 0).await {
                    // What happened before the watch began shows in the next look at the queue.
                    Ok(begun) => watch = Some(begun),
                    Err(StoreError::Unreachable { .. }) => sleep(PAUSE).await,
                    Err(error) => return Err(error),
                },
            }
        }
    }

    /// Takes the lead with the oldest key; `None` if that is gone.
    async fn claim(
        &self,
        election: &str,
        lease: i64,
        own: (&str, i64),
        candidate: &str,
    ) -> Result<Option<Leadership>, StoreError> {
        let (key, create_revision) = own;
        let is_ours = [Compare::create_revision(key, CompareOp::Equal, create_revision)];
        let put = TxnOp::put(key, candidate, Some(PutOptions::new().with_lease(lease)));
        let txn = Txn::new().when(is_ours).and_then([put]);
        let answer = match self.pool.call(CALL_LIMIT, |connection| transact(connection, txn.clone())).await {
            Ok(answer) => answer,
            Err(Failure::NotFound) => return Ok(None),
            Err(Failure::Store(error)) => return Err(error),
        };
        if !answer.succeeded() {
            return Ok(None);
        }
        let epoch = Epoch(answer.header().map_or(0, |header| unsigned(header.revision())));
        Ok(self.life.hold(election, lease, own, candidate, epoch))
    }

    /// The queue, oldest first.
    pub(super) async fn candidates(&self, prefix: &str) -> Result<Vec<Candidate>, StoreError> {
        let ask = |mut connection: Connection| {
            let options = GetOptions::new().with_prefix().with_keys_only();
            let options = options.with_sort(SortTarget::Create, SortOrder::Ascend);
            let prefix = prefix.to_owned();
            async move { connection.kv.get(prefix, Some(options)).await }
        };
        let answer = self.pool.call(CALL_LIMIT, ask).await?;
        let candidate = |kv: &etcd_client::KeyValue| Candidate {
            key: String::from_utf8_lossy(kv.key()).into_owned(),
            create_revision: kv.create_revision(),
            mod_revision: kv.mod_revision(),
        };
        Ok(answer.kvs().iter().map(candidate).collect())
    }
}
