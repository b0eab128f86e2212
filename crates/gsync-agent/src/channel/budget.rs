//! How much of one worker may be under way: the reader of its channel waits before it reads more.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Requests of one worker that may wait at a time; beyond, its channel is not read.
pub const MAX_REQUESTS: usize = 64;

/// Bytes of requests of one worker that may wait at a time (a single larger one may as well).
pub const MAX_BYTES: usize = 32 << 20;

/// Counts what is under way.
#[derive(Debug, Default)]
pub struct Budget {
    used: Mutex<Used>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Used {
    requests: usize,
    bytes: usize,
    closed: bool,
}

impl Budget {
    /// Waits until there is room for a request; `false` when the channel is over.
    pub fn take(&self, bytes: usize) -> bool {
        let mut used = self.lock();
        while !used.closed && used.requests > 0 && (used.requests >= MAX_REQUESTS || used.bytes + bytes > MAX_BYTES) {
            used = self.freed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        used.requests += 1;
        used.bytes += bytes;
        !used.closed
    }

    /// A request was answered.
    pub fn give_back(&self, bytes: usize) {
        let mut used = self.lock();
        used.requests = used.requests.saturating_sub(1);
        used.bytes = used.bytes.saturating_sub(bytes);
        self.freed.notify_one();
    }

    /// Nothing will be given back any more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.freed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
