//! What the stores of one process share: handing out changes, and who leads which election.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::{Notify, broadcast, watch};

use crate::ids::Epoch;
use crate::leadership::{Leadership, Proof};
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

    pub(crate) fn is_watched(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// Waits until nobody watches any more.
    pub(crate) async fn unwatched(&self) {
        self.0.closed().await;
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

#[derive(Debug)]
struct Leading {
    leader: Leader,
    /// Dropped with the lead, so that its holder knows.
    proof: watch::Sender<Proof>,
}

impl Leading {
    fn new(candidate: &str, epoch: Epoch) -> Leading {
        let leader = Leader { candidate: candidate.into(), epoch };
        Leading { leader, proof: watch::Sender::new(Proof::Always) }
    }
}

/// Who leads, in one process: a leader is lost when the process ends, and nobody else could have taken over.
#[derive(Debug, Default)]
pub(crate) struct Elections {
    leaders: Mutex<HashMap<String, Leading>>,
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
        if leaders.get(election).is_some_and(|leading| leading.leader.epoch == epoch) {
            leaders.remove(election);
            self.changed.notify_waiters();
        }
    }

    pub(crate) fn leader(&self, election: &str) -> Option<Leader> {
        let leaders = self.lock();
        leaders.get(election).map(|leading| &leading.leader).filter(|leader| leader.epoch != RESERVED).cloned()
    }

    /// Ends every lead.
    pub(crate) fn clear(&self) {
        self.lock().clear();
        self.changed.notify_waiters();
    }

    fn claim(&self, election: &str, candidate: &str) -> bool {
        let mut leaders = self.lock();
        match leaders.get(election) {
            Some(leading) => leading.leader.candidate == candidate,
            None => {
                leaders.insert(election.into(), Leading::new(candidate, RESERVED));
                true
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Leading>> {
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
    pub(crate) fn win(self, epoch: Epoch) -> Leadership {
        let leading = Leading::new(&self.candidate, epoch);
        let leadership = Leadership::new(epoch, leading.proof.subscribe());
        self.elections.lock().insert(self.election.clone(), leading);
        leadership
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.elections.resign(&self.election, RESERVED);
    }
}
