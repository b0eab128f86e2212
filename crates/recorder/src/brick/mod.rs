//! One brick: its changelog, its index, and what is still to be looked at.
//!
//! The order of every step: look, append to the changelog, make that durable, commit the index. The index is never
//! ahead of the changelog; where it is behind, the changelog is its redo log.
//!
//! - `opening`: what is checked before the index is believed; `alive`: how the last run ended
//! - `resuming`: going on after an earlier process, without a crawl
//! - `recording`: from what events mentioned to changelog and index
//! - `crawl`: what takes long

mod alive;
mod crawl;
mod opening;
mod recording;
mod resuming;
mod retaining;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use changelog::{Gfid, Position};

pub use alive::Suspicion;
pub use retaining::Claims;

use crate::batch::Owing;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::identity::Admitted;
use crate::index::redo::{Redone, redo};
use crate::index::{Index, Pending};
use crate::journal::{Journal, now_secs};
use crate::listing::Listing;
use crate::queue::Progress;
use crate::slot::Slot;
pub use resuming::QueueState;
use resuming::Saved;

/// Names in one batch: bounds memory and the time for which other work waits.
pub const BATCH_MAX: usize = 4096;

/// How often the index is made durable while there are changes.
const DURABLE_EVERY: Duration = Duration::from_secs(2);

/// How often it is noted that the recorder is alive.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);

/// A file that is written and not closed gets its D record after this time.
const OWED_AFTER: Duration = Duration::from_secs(10);

/// How often names whose objects were not found are looked at again.
const RETRY_EVERY: Duration = Duration::from_millis(20);

/// What a brick is, for the one who attaches it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BrickSpec {
    /// Identity.
    pub id: [u8; 16],
    /// The directory.
    pub path: PathBuf,
    /// Where changelog and index are.
    pub state: PathBuf,
}

impl BrickSpec {
    /// Directory of the changelog.
    pub fn journal_dir(&self) -> PathBuf {
        self.state.join("changelogs")
    }
}

/// A brick that is being recorded.
pub struct Brick {
    spec: BrickSpec,
    disk: Arc<Disk>,
    index: Arc<Index>,
    journal: Journal,
    crawling: bool,
    crawl_again: bool,
    /// Until the crawl after a power cut has ended.
    suspicion: Option<Suspicion>,
    listing: Option<Listing>,
    doomed: VecDeque<Gfid>,
    /// When a subtree that had left was last taken out of the index in part only.
    half_removed: Option<Instant>,
    deferred: HashMap<Slot, Instant>,
    retried: Instant,
    /// When no events were waiting.
    caught_up: Instant,
    owed: HashMap<Gfid, (Instant, Owing)>,
    undurable: bool,
    compacting: Option<retaining::Compacting>,
    durable: Instant,
    heartbeat: Instant,
    /// Which events were looked at; told before each step.
    progress: Progress,
    /// Up to where in the ring everything is in the durable index.
    saved: u64,
    /// Where the events begin that are to be looked at again, after a start without a crawl.
    resume_from: Option<u64>,
    /// There are keys of these in the table `pending`.
    has_pending: bool,
    /// Crawls that were begun and not counted yet.
    crawls: u64,
}

impl Brick {
    /// Opens changelog and index, brings the index up to the changelog, and begins a crawl, unless the queue of events
    /// has told of everything since the index was written ([`Brick::resume`] is to be called then). Events must be
    /// collected already.
    ///
    /// # Errors
    /// What system, changelog or index say; [`Error::NeedsConsent`] when the brick is empty and was not before.
    pub fn open(spec: BrickSpec, disk: Arc<Disk>, admitted: &Admitted, queue: &QueueState) -> Result<Brick> {
        std::fs::create_dir_all(&spec.state).map_err(Error::io("create", &spec.state))?;
        let has_journal = spec.journal_dir().join(changelog::layout::HTIME_DIR).is_dir();
        let mut journal = Journal::open(&spec.journal_dir())?;
        let path = spec.state.join("index.redb");
        let mut index = opening::open_index(&path)?;
        if !has_journal && index.view()?.position()?.is_some() {
            // The changelog was removed: one that holds later differences only would be taken for the whole.
            drop(index);
            opening::set_aside(&path, "its changelog is gone")?;
            index = opening::open_index(&path)?;
        }
        // Of a brick that took the place of another one the index knows nothing yet.
        let saved = Saved::read(&index)?.filter(|saved| saved.continues(queue) && !admitted.replaced);
        let Redone { records: redone, unproven } = redo(&index, journal.dir(), saved.is_some())?;
        let saved = saved.filter(|_| !unproven);
        if unproven {
            // What was removed while nobody watched may be known to nobody but the secondaries.
            journal.writer().declare_incomplete(now_secs())?;
        }
        if !admitted.consented {
            opening::check_not_emptied(&index, &disk)?;
        }
        opening::settle_root(&index, &disk, admitted)?;
        let suspicion = Suspicion::at_start(&index, journal.dir())?;
        if redone > 0 || suspicion.is_some() {
            let rebooted = suspicion.is_some();
            tracing::info!(path = %spec.path.display(), redone, rebooted, "index brought up to the changelog");
        }
        let now = Instant::now();
        let mut brick = Brick {
            spec,
            disk,
            index: Arc::new(index),
            journal,
            crawling: false,
            crawl_again: false,
            suspicion,
            listing: None,
            doomed: VecDeque::new(),
            half_removed: None,
            deferred: HashMap::new(),
            retried: now,
            caught_up: now,
            owed: HashMap::new(),
            undurable: false,
            compacting: None,
            durable: now,
            heartbeat: now,
            progress: queue.progress,
            saved: 0,
            resume_from: None,
            has_pending: true,
            crawls: 0,
        };
        match saved {
            Some(saved) => brick.go_on(&saved, redone > 0)?,
            None => {
                brick.index.edit(false, |edit| edit.clear_pending(Pending::Redone))?;
                brick.begin_crawl()?;
            }
        }
        brick.beat()?;
        Ok(brick)
    }

    /// What it was attached as.
    pub fn spec(&self) -> &BrickSpec {
        &self.spec
    }

    /// Its directory.
    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// The index, for readers.
    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Whether a crawl is running.
    pub fn crawling(&self) -> bool {
        self.crawling
    }

    /// How many crawls were begun since the last call.
    pub fn take_crawls(&mut self) -> u64 {
        std::mem::take(&mut self.crawls)
    }

    /// Where the changelog ends.
    pub fn position(&self) -> Position {
        self.journal.position()
    }

    /// Whether everything that is known to be looked at was looked at.
    pub fn settled(&self) -> bool {
        !self.crawling && !self.busy() && self.deferred.is_empty()
    }

    /// Whether [`Brick::background`] has something to do at once.
    pub fn busy(&self) -> bool {
        self.crawling || self.listing.is_some() || !self.doomed.is_empty()
    }

    /// When [`Brick::background`] is to be called next.
    pub fn next_call(&self) -> Option<Instant> {
        let retry = (!self.deferred.is_empty()).then(|| self.retried + RETRY_EVERY);
        let owed = self.owed.values().map(|(since, _)| *since + OWED_AFTER).min();
        let durable = self.undurable.then(|| self.durable + DURABLE_EVERY);
        let compact = self.compacting.is_some().then(Instant::now);
        [retry, owed, durable, compact].into_iter().flatten().min()
    }

    /// Does one step of what is not urgent. To be called while [`Brick::busy`] or at [`Brick::next_call`].
    ///
    /// # Errors
    /// As [`Brick::events`].
    pub fn background(&mut self) -> Result<()> {
        if !self.deferred.is_empty() && self.retried.elapsed() >= RETRY_EVERY {
            self.retry_deferred()?;
        }
        if let Some(dir) = self.doomed.front().copied() {
            self.remove_below(dir)?;
        } else if self.crawling || self.listing.is_some() {
            self.crawl_step()?;
        }
        self.pay_owed(false)?;
        self.journal.roll_if_due()?;
        self.compact_step();
        if self.progress.is_pressed(self.saved) || (self.undurable && self.durable.elapsed() >= DURABLE_EVERY) {
            self.make_durable()?;
        }
        if self.heartbeat.elapsed() >= HEARTBEAT_EVERY {
            self.beat()?;
        }
        Ok(())
    }

    /// Notes that no events were waiting at this time.
    pub fn note_caught_up(&mut self, at: Instant) {
        self.caught_up = at;
    }

    /// Notes which events were looked at by now. Where some were thrown away unread, a crawl begins.
    ///
    /// # Errors
    /// As [`Brick::start_crawl`].
    pub fn note_progress(&mut self, progress: Progress) -> Result<()> {
        if progress.lost != self.progress.lost {
            tracing::warn!(path = %self.spec.path.display(), "events were thrown away");
            self.start_crawl()?;
        }
        self.progress = progress;
        Ok(())
    }

    /// Up to where in the ring everything is written down for good.
    pub fn saved(&self) -> u64 {
        self.saved
    }

    /// Writes everything down and ends the slice.
    ///
    /// # Errors
    /// As [`Brick::events`].
    pub fn finish(&mut self) -> Result<()> {
        self.pay_owed(true)?;
        if !self.journal.is_empty() {
            self.journal.roll()?;
        }
        self.beat()
    }
}
