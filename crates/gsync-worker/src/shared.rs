//! What a worker shows of itself while it works.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use changelog::Position;
use tokio::sync::{Notify, watch};

use crate::control::{Halted, WorkerState, WorkerStatus};

/// How far a worker is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// The mark that is durable on the secondary; `None` while there is no connection, or a rescan.
    pub durable: Option<Position>,
    /// How often it was stored on the secondary that both sides are to be compared as a whole.
    pub resyncs: u64,
    /// Pending items.
    pub pending: u64,
}

/// Shared between the worker and its control socket.
#[derive(Debug)]
pub struct Shared {
    status: Mutex<WorkerStatus>,
    progress: watch::Sender<Progress>,
    waiters: AtomicUsize,
    resync: AtomicBool,
    /// Told when somebody begins to wait (the mark should be stored soon) or asks for something.
    pub hurry: Notify,
    /// What the operator said to a halt: removals that are accepted.
    answer: Mutex<Option<Option<u64>>>,
    answered: Notify,
}

impl Default for Shared {
    fn default() -> Shared {
        Shared {
            status: Mutex::new(WorkerStatus::unknown()),
            progress: watch::Sender::new(Progress::default()),
            waiters: AtomicUsize::new(0),
            resync: AtomicBool::new(false),
            hurry: Notify::new(),
            answer: Mutex::new(None),
            answered: Notify::new(),
        }
    }
}

impl Shared {
    /// The status now.
    pub fn status(&self) -> WorkerStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the status.
    pub fn update(&self, change: impl FnOnce(&mut WorkerStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Says why the worker halts, and waits for the operator: how many removals are accepted, if any.
    pub async fn wait_for_answer(&self, halted: Halted) -> Option<u64> {
        *self.lock_answer() = None;
        self.update(|s| {
            s.state = WorkerState::Halted;
            s.halted = Some(halted);
        });
        loop {
            self.answered.notified().await;
            if let Some(answer) = self.lock_answer().take() {
                self.update(|s| {
                    s.state = WorkerState::Initializing;
                    s.halted = None;
                    s.error.clear();
                });
                return answer;
            }
        }
    }

    /// Answers a halt; returns whether there is one.
    pub fn resume(&self, accept_removals: bool) -> bool {
        let Some(halted) = self.status().halted else { return false };
        *self.lock_answer() = Some(accept_removals.then_some(halted.removals));
        self.answered.notify_one();
        true
    }

    fn lock_answer(&self) -> std::sync::MutexGuard<'_, Option<Option<u64>>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how far the worker is.
    pub fn publish(&self, progress: Progress) {
        self.progress.send_if_modified(|old| std::mem::replace(old, progress) != progress);
    }

    /// Follows how far the worker is.
    pub fn subscribe(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Whether somebody waits for the mark.
    pub fn has_waiters(&self) -> bool {
        self.waiters.load(Ordering::Relaxed) > 0
    }

    /// Asks for a comparison of both sides.
    pub fn ask_resync(&self) {
        self.resync.store(true, Ordering::Relaxed);
        self.hurry.notify_one();
    }

    /// Whether one was asked for; asks no more.
    pub fn take_resync(&self) -> bool {
        self.resync.swap(false, Ordering::Relaxed)
    }

    /// Counts one who waits, until the guard is dropped.
    pub fn wait_guard(&self) -> WaitGuard<'_> {
        self.waiters.fetch_add(1, Ordering::Relaxed);
        self.hurry.notify_one();
        WaitGuard(self)
    }
}

/// One who waits.
#[derive(Debug)]
pub struct WaitGuard<'a>(&'a Shared);

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}
