//! What the stores of one process share: handing out changes, and who leads which election.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::{Notify, broadcast};

use crate::ids::Epoch;
use crate::store::{Change, Leader};

/// Changes kept for a watcher that does not fetch them; beyond, it gets [`Change::Lost`].
const BACKLOG: usize = 256;

/// Hands changes to every watcher.
#[derive(Debug)]
pub(crate) struct Feed(broadcast::Sender<Change>);

impl Feed {
    pub(crate) fn new() -> Feed {
        Feed(broadcast::Sender::new(BACKLOG))
    }

    pub(crate) fn publish(&self, change: Change) {
        // An error only says that nobody watches.
        let _ = self.0.send(change);
    }

    pub(crate) fn subscribe(&self) -> Subscription {
        Subscription(self.0.subscribe())
    }
}

/// The receiving side of a [`Feed`].
#[derive(Debug)]
pub(crate) struct Subscription(broadcast::Receiver<Change>);

impl Subscription {
    pub(crate) async fn next(&mut self) -> Option<Change> {
        match self.0.recv().await {
            Ok(change) => Some(change),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Change::Lost),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Stands for the epoch of an election that is reserved; the first real one is 1.
const RESERVED: Epoch = Epoch(0);

/// Who leads, in one process: a leader is lost when the process ends, and nobody else could have taken over.
#[derive(Debug, Default)]
pub(crate) struct Elections {
    leaders: Mutex<HashMap<String, Leader>>,
    changed: Notify,
}

impl Elections {
    /// Waits until nobody else leads and reserves the election for `candidate`.
    pub(crate) async fn reserve(&self, election: &str, candidate: &str) -> Reservation<'_> {
        loop {
            let changed = self.changed.notified();
            if self.claim(election, candidate) {
                return Reservation { elections: self, election: election.into(), candidate: candidate.into() };
            }
            changed.await;
        }
    }

    pub(crate) fn resign(&self, election: &str, epoch: Epoch) {
        let mut leaders = self.lock();
        if leaders.get(election).is_some_and(|leader| leader.epoch == epoch) {
            leaders.remove(election);
            self.changed.notify_waiters();
        }
    }

    pub(crate) fn leader(&self, election: &str) -> Option<Leader> {
        self.lock().get(election).filter(|leader| leader.epoch != RESERVED).cloned()
    }

    fn claim(&self, election: &str, candidate: &str) -> bool {
        let mut leaders = self.lock();
        match leaders.get(election) {
            Some(leader) => leader.candidate == candidate,
            None => {
                leaders.insert(election.into(), Leader { candidate: candidate.into(), epoch: RESERVED });
                true
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Leader>> {
        self.leaders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An election that is won as soon as its epoch is known; given up when dropped before.
#[derive(Debug)]
pub(crate) struct Reservation<'a> {
    elections: &'a Elections,
    election: String,
    candidate: String,
}

impl Reservation<'_> {
    pub(crate) fn win(self, epoch: Epoch) -> Epoch {
        let leader = Leader { candidate: self.candidate.clone(), epoch };
        self.elections.lock().insert(self.election.clone(), leader);
        epoch
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.elections.resign(&self.election, RESERVED);
    }
}
