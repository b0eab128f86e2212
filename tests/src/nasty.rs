//! Concurrent writers that do everything to a small name space: the load of the differential tests.
//!
//! Several threads work on about a dozen names, in directories of the same names, below a brick and below a directory
//! outside of it on the same file system, so that they get in each other's way all the time: what one has just made is
//! renamed, exchanged, overwritten, linked, moved across the brick's border or removed by another. Each run prints its
//! seed; `GSYNC_SEED` repeats one (not the interleaving of the threads).

mod acl;
mod action;
mod counts;
mod names;

pub use counts::Counts;

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use action::Hand;

/// The variable that sets the seed.
pub const SEED_VARIABLE: &str = "GSYNC_SEED";

/// What load to make.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory that is replicated.
    pub brick: PathBuf,
    /// A directory beside it on the same file system, that is not.
    pub outside: PathBuf,
    /// Number of writers. Default: 4.
    pub threads: usize,
    /// Calls per second of all writers together; 0 for as many as there can be. Default: 0.
    pub rate: u64,
    /// The end, in calls. Default: none.
    pub operations_max: Option<u64>,
    /// The end, in time. Default: none.
    pub duration_max: Option<Duration>,
    /// Where the random choices begin. Default: `GSYNC_SEED`, else another one each time.
    pub seed: u64,
}

impl Options {
    /// Four writers, flat out, until they are stopped.
    pub fn new(brick: impl Into<PathBuf>, outside: impl Into<PathBuf>) -> Options {
        let seed = std::env::var(SEED_VARIABLE).ok().and_then(|seed| seed.parse().ok());
        Options {
            brick: brick.into(),
            outside: outside.into(),
            threads: 4,
            rate: 0,
            operations_max: None,
            duration_max: None,
            seed: seed.unwrap_or_else(|| fastrand::u64(..)),
        }
    }
}

/// Running writers; stopped on drop.
#[derive(Debug)]
pub struct Writers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    start: Instant,
    stop: AtomicBool,
    operations: AtomicU64,
    counts: Mutex<Counts>,
}

impl Writers {
    /// Starts the writers. Both directories must exist.
    pub fn start(options: Options) -> Writers {
        // Not println!: the seed of a run that hangs or is killed must be known, too.
        let _ = writeln!(std::io::stderr().lock(), "nasty writers: {SEED_VARIABLE}={}", options.seed);
        let shared = Arc::new(Shared {
            start: Instant::now(),
            stop: AtomicBool::new(false),
            operations: AtomicU64::new(0),
            counts: Mutex::new(Counts::default()),
            options,
        });
        let spawn = |number: usize| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.write(number as u64))
        };
        let threads = (0..shared.options.threads).map(spawn).collect();
        Writers { shared, threads }
    }

    /// How many calls were made so far.
    pub fn operations(&self) -> u64 {
        self.shared.operations.load(Ordering::Relaxed)
    }

    /// Stops the writers after what they are doing.
    pub fn stop(mut self) -> Counts {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.end()
    }

    /// Waits for the end that the options set.
    ///
    /// # Panics
    /// When they set none.
    pub fn join(mut self) -> Counts {
        let options = &self.shared.options;
        assert!(options.operations_max.is_some() || options.duration_max.is_some(), "these writers never end");
        self.end()
    }

    fn end(&mut self) -> Counts {
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        self.shared.counts.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// What one thread does.
    fn write(&self, number: u64) {
        let seed = self.options.seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut hand = Hand::new(&self.options.brick, &self.options.outside, seed);
        let mut counts = Counts::default();
        while let Some(turn) = self.next_turn() {
            self.pace(turn);
            let (name, result) = hand.act();
            counts.note(name, result);
        }
        self.counts.lock().unwrap_or_else(|e| e.into_inner()).add(&counts);
    }

    /// The number of the next call of any thread; `None` at the end.
    fn next_turn(&self) -> Option<u64> {
        let late = self.options.duration_max.is_some_and(|limit| self.start.elapsed() >= limit);
        if late || self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let turn = self.operations.fetch_add(1, Ordering::Relaxed);
        let over = self.options.operations_max.is_some_and(|limit| turn >= limit);
        if over {
            self.operations.fetch_sub(1, Ordering::Relaxed);
        }
        (!over).then_some(turn)
    }

    fn pace(&self, turn: u64) {
        if self.options.rate == 0 {
            return;
        }
        let due = Duration::from_secs_f64(turn as f64 / self.options.rate as f64);
        if let Some(early) = due.checked_sub(self.start.elapsed()) {
            std::thread::sleep(early);
        }
    }
}

#[cfg(test)]
mod tests;
