//! Staying known to live: one lease of this process, what hangs on it, and how sure it is.
//!
//! The lease is renewed far more often than needed. When it ends all the same, etcd has removed what hung on it: leads are
//! lost then, announcements are made again under a new lease. While etcd does not answer nothing is given up: the lease
//! may well be there when it is back, because etcd starts the time of all leases anew when it elects a leader.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use etcd_client::Error;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::options::EtcdOptions;
use super::pool::{CALL_LIMIT, Connection, Failure, Pool};
use super::put_leased;
use crate::ids::Epoch;
use crate::leadership::{BootTime, Leadership, Proof, boot_time};
use crate::store::StoreError;

/// The longest time between two renewals.
const RENEW_MAX: Duration = Duration::from_secs(3);

/// After one that failed.
const RETRY: Duration = Duration::from_millis(300);

/// How long somebody waits for a lease before he is told that there is none.
const LEASE_LIMIT: Duration = Duration::from_secs(10);

/// This process, as etcd knows it.
pub(super) struct Life {
    pool: Arc<Pool>,
    options: EtcdOptions,
    state: Mutex<State>,
    /// The lease, as in the state, for those who wait for one.
    leases: watch::Sender<Option<i64>>,
    /// Held while something is announced, so that an old value never overwrites a newer one.
    announcing: tokio::sync::Mutex<()>,
    /// Looks at once instead of at the next renewal.
    kick: Arc<Notify>,
    /// Makes the keys of candidates unique: one that is being removed is never used again.
    candidates: AtomicU64,
}

#[derive(Default)]
struct State {
    lease: Option<i64>,
    proven_until: BootTime,
    held: HashMap<String, Held>,
    announced: BTreeMap<String, Announced>,
    /// Keys of candidates who do not want it any more.
    given_up: BTreeSet<String>,
}

/// A lead.
pub(super) struct Held {
    pub(super) key: String,
    pub(super) create_revision: i64,
    pub(super) candidate: String,
    pub(super) epoch: Epoch,
    /// Dropped with the lead, so that its holder knows.
    proof: watch::Sender<Proof>,
}

struct Announced {
    value: Vec<u8>,
    /// Under which lease it is in etcd.
    under: Option<i64>,
}

impl Life {
    /// Ends the previous process's life and begins one.
    pub(super) async fn begin(options: &EtcdOptions, pool: &Arc<Pool>) -> Result<Arc<Life>, StoreError> {
        super::revision_now(pool, &options.prefix, CALL_LIMIT).await?;
        if let Some(lease) = options.lease_file.as_deref().and_then(read_lease) {
            revoke(pool, lease).await?;
        }
        let life = Arc::new(Life {
            pool: Arc::clone(pool),
            options: options.clone(),
            state: Mutex::default(),
            leases: watch::Sender::new(None),
            announcing: tokio::sync::Mutex::default(),
            kick: Arc::default(),
            candidates: AtomicU64::default(),
        });
        life.grant().await?;
        tokio::spawn(keep(Arc::downgrade(&life), Arc::clone(&life.kick)));
        Ok(life)
    }

    /// The lease; waits a while for one.
    pub(super) async fn lease(&self) -> Result<i64, StoreError> {
        let mut leases = self.leases.subscribe();
        match timeout(LEASE_LIMIT, leases.wait_for(Option::is_some)).await {
            Ok(Ok(lease)) => Ok(lease.unwrap_or_default()),
            _ => Err(StoreError::Unreachable { reason: "no lease could be had".into() }),
        }
    }

    /// A new name for a candidate's key below `prefix`.
    pub(super) fn candidate_key(&self, prefix: &str, candidate: &str, lease: i64) -> String {
        let number = self.candidates.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}{candidate}@{lease:016x}-{number}")
    }

    /// Removes a candidate's key, now or when etcd can be reached.
    pub(super) fn give_up(&self, key: &str) {
        self.lock().given_up.insert(key.into());
        self.kick.notify_one();
    }

    /// What this process holds of an election, if it is this candidate.
    pub(super) fn held(&self, election: &str, candidate: &str) -> Option<(String, i64)> {
        let state = self.lock();
        let held = state.held.get(election).filter(|held| held.candidate == candidate)?;
        Some((held.key.clone(), held.create_revision))
    }

    /// Notes a lead that was won under a lease; `None` if that has ended meanwhile.
    pub(super) fn hold(
        &self,
        election: &str,
        lease: i64,
        (key, create_revision): (&str, i64),
        candidate: &str,
        epoch: Epoch,
    ) -> Option<Leadership> {
        let mut state = self.lock();
        if state.lease != Some(lease) {
            return None;
        }
        let proof = watch::Sender::new(Proof::Until(state.proven_until));
        let leadership = Leadership::new(epoch, proof.subscribe());
        let held = Held { key: key.into(), create_revision, candidate: candidate.into(), epoch, proof };
        state.held.insert(election.into(), held);
        Some(leadership)
    }

    /// Notes that a lead is over although the lease is not.
    pub(super) fn forget(&self, election: &str, key: &str) {
        let mut state = self.lock();
        if state.held.get(election).is_some_and(|held| held.key == key) {
            state.held.remove(election);
        }
    }

    pub(super) async fn resign(&self, election: &str, epoch: Epoch) -> Result<(), StoreError> {
        {
            let mut state = self.lock();
            let Some(held) = state.held.get(election).filter(|held| held.epoch == epoch) else { return Ok(()) };
            let key = held.key.clone();
            state.held.remove(election);
            state.given_up.insert(key);
        }
        self.remove_given_up().await
    }

    pub(super) async fn announce(&self, key: String, value: Vec<u8>) -> Result<(), StoreError> {
        self.lock().announced.insert(key, Announced { value, under: None });
        self.lease().await?;
        self.announce_all().await
    }

    pub(super) async fn withdraw(&self, key: &str) {
        let _announcing = self.announcing.lock().await;
        self.lock().announced.remove(key);
    }

    /// Ends it in order: everything that hangs on the lease is removed at once.
    pub(super) async fn end(&self) -> Result<(), StoreError> {
        let lease = {
            let mut state = self.lock();
            state.held.clear();
            state.announced.clear();
            state.lease.take()
        };
        self.leases.send_replace(None);
        match lease {
            Some(lease) => revoke(&self.pool, lease).await,
            None => Ok(()),
        }
    }

    /// One look after everything; how long until the next one.
    async fn tend(&self) -> Duration {
        let lease = self.lock().lease;
        let alive = match lease {
            Some(lease) => self.renew(lease).await,
            None => self.grant().await,
        };
        let settled = match alive {
            Ok(()) => self.remove_given_up().await.and(self.announce_all().await),
            Err(error) => Err(error),
        };
        match settled {
            Ok(()) => (self.options.lease / 3).min(RENEW_MAX),
            Err(error) => {
                tracing::debug!(%error, "etcd");
                RETRY
            }
        }
    }

    async fn grant(&self) -> Result<(), StoreError> {
        let seconds = i64::try_from(self.options.lease.as_secs()).unwrap_or(i64::MAX);
        let ask = |mut connection: Connection| async move {
            let asked = boot_time();
            Ok((asked, connection.lease.grant(seconds, None).await?.id()))
        };
        let (asked, lease) = self.pool.call(CALL_LIMIT, ask).await?;
        if let Some(file) = &self.options.lease_file
            && let Err(error) = fs::write(file, format!("{lease:016x}\n"))
        {
            tracing::warn!(%error, file = %file.display(), "the lease is not noted: after a crash it has to expire");
        }
        let mut state = self.lock();
        state.lease = Some(lease);
        state.proven_until = asked + self.options.lease;
        drop(state);
        self.leases.send_replace(Some(lease));
        tracing::info!(lease = format!("{lease:016x}"), "known to etcd");
        Ok(())
    }

    async fn renew(&self, lease: i64) -> Result<(), StoreError> {
        let ask = |mut connection: Connection| async move {
            let asked = boot_time();
            match connection.lease.keep_alive(lease).await {
                Ok(_) => Ok(Some(asked)),
                Err(Error::LeaseKeepAliveError(_)) => Ok(None),
                Err(error) => Err(error),
            }
        };
        match self.pool.call(CALL_LIMIT, ask).await {
            Ok(Some(asked)) => {
                self.prove(lease, asked + self.options.lease);
                Ok(())
            }
            Ok(None) | Err(Failure::NotFound) => {
                self.lose(lease);
                self.grant().await
            }
            Err(Failure::Store(error)) => Err(error),
        }
    }

    fn prove(&self, lease: i64, until: BootTime) {
        let mut state = self.lock();
        if state.lease == Some(lease) {
            state.proven_until = until;
            for held in state.held.values() {
                held.proof.send_replace(Proof::Until(until));
            }
        }
    }

    fn lose(&self, lease: i64) {
        let mut state = self.lock();
        if state.lease != Some(lease) {
            return;
        }
        tracing::warn!(lease = format!("{lease:016x}"), leads = state.held.len(), "etcd took this node for dead");
        state.lease = None;
        state.held.clear();
        state.given_up.clear();
        drop(state);
        self.leases.send_replace(None);
    }

    async fn remove_given_up(&self) -> Result<(), StoreError> {
        loop {
            let Some(key) = self.lock().given_up.first().cloned() else { return Ok(()) };
            let ask = |mut connection: Connection| {
                let key = key.clone();
                async move { connection.kv.delete(key, None).await }
            };
            self.pool.call(CALL_LIMIT, ask).await?;
            self.lock().given_up.remove(&key);
        }
    }

    async fn announce_all(&self) -> Result<(), StoreError> {
        let _announcing = self.announcing.lock().await;
        loop {
            let (key, value, lease) = {
                let state = self.lock();
                let Some(lease) = state.lease else { return Ok(()) };
                let missing = state.announced.iter().find(|(_, announced)| announced.under != Some(lease));
                let Some((key, announced)) = missing else { return Ok(()) };
                (key.clone(), announced.value.clone(), lease)
            };
            put_leased(&self.pool, &key, &value, lease).await?;
            let mut state = self.lock();
            if let Some(announced) = state.announced.get_mut(&key).filter(|announced| announced.value == value) {
                announced.under = Some(lease);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks after a life as long as somebody has it.
async fn keep(life: Weak<Life>, kick: Arc<Notify>) {
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            () = sleep(pause) => {}
            () = kick.notified() => {}
        }
        let Some(life) = life.upgrade().filter(|life| !life.pool.is_closed()) else { return };
        pause = life.tend().await;
    }
}

async fn revoke(pool: &Pool, lease: i64) -> Result<(), StoreError> {
    let ask = |mut connection: Connection| async move { connection.lease.revoke(lease).await };
    match pool.call(CALL_LIMIT, ask).await {
        Ok(_) | Err(Failure::NotFound) => Ok(()),
        Err(Failure::Store(error)) => Err(error),
    }
}

fn read_lease(file: &Path) -> Option<i64> {
    i64::from_str_radix(fs::read_to_string(file).ok()?.trim(), 16).ok()
}
