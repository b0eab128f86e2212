//! The threads of one file system: one collects events, one drives the bricks.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use changelog::Position;
use protocol::brick::ACCEPT_FILE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::brick::{BATCH_MAX, Brick, BrickSpec, Claims, QueueState};
use crate::dirty::{Dirty, Taken};
use crate::disk::{Disk, Root};
use crate::error::{Error, Result};
use crate::event::Events;
use crate::group::Level;
use crate::handle::Namer;
use crate::identity;
use crate::index::Index;
use crate::queue::{Drained, Queue};

/// Events are collected at most this often: what happens to one object in between is merged by the kernel, which
/// costs writers less than a reader that takes every event alone.
const DRAIN_EVERY: Duration = Duration::from_millis(5);

/// How often the threads look whether they are to stop, and how late anything else may be.
const IDLE: Duration = Duration::from_millis(500);

/// A brick that failed is opened again after this time.
const REOPEN_AFTER: Duration = Duration::from_secs(5);

/// How often it is looked whether a brick is still at its path, and whether one that was not is back.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a barrier waits for objects that are moved to and fro.
const BARRIER_PATIENCE: Duration = Duration::from_secs(2);

/// Bricks that were recorded by the process before are waited for so long: their events are kept.
const EXPECTED_FOR: Duration = Duration::from_secs(30);

/// How often it is seen to that the queue is held.
const TEND_EVERY: Duration = Duration::from_secs(2);

/// An answer to whoever sent a command.
pub type Reply<T> = SyncSender<std::result::Result<T, String>>;

/// What the driving thread is asked to do.
pub enum Command {
    /// Drive this brick too.
    Attach(Arc<Attached>, Reply<()>),
    /// Write everything down and let go of the brick.
    Detach([u8; 16], Reply<()>),
    /// See `BrickRequest::Barrier`.
    Barrier([u8; 16], Reply<Position>),
    /// See `AdminRequest::Retain`.
    Retain([u8; 16], Claims, Reply<()>),
    /// Write everything down and end.
    Stop(Reply<()>),
}

/// A brick as other threads see it.
pub struct Attached {
    /// What it was attached as.
    pub spec: BrickSpec,
    /// What questions are answered from; `None` while it failed.
    pub open: RwLock<Option<Open>>,
    /// Whether a crawl is running.
    pub crawling: AtomicBool,
    /// How many crawls this process began.
    pub crawls: AtomicU64,
    /// The last error, empty if there is none.
    pub error: Mutex<String>,
}

/// What is open of a brick. Nobody keeps it longer than for one question: an open directory keeps a file system that
/// was unmounted in the kernel.
#[derive(Clone)]
pub struct Open {
    /// Its directory.
    pub disk: Arc<Disk>,
    /// Its index.
    pub index: Arc<Index>,
}

#[derive(Default)]
struct Inbox {
    state: Mutex<InboxState>,
    wake: Condvar,
}

#[derive(Default)]
struct InboxState {
    dirty: Dirty,
    commands: Vec<Command>,
    /// There is no room for what waits in the kernel.
    is_full: bool,
    /// Nobody will read commands any more.
    closed: bool,
}

/// The threads of one file system, as others see them.
pub struct Pipeline {
    inbox: Arc<Inbox>,
    queue: Arc<Mutex<Queue>>,
    level: Level,
    stopping: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pipeline {
    /// Starts the threads.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(queue: Queue) -> Result<Pipeline> {
        let failed = || Error::io("start", "the threads of a file system");
        let level = queue.group().level();
        let poll_fd = queue.poll_fd().map_err(failed())?;
        let inbox = Arc::new(Inbox::default());
        let queue = Arc::new(Mutex::new(queue));
        let stopping = Arc::new(AtomicBool::new(false));
        let collector = {
            let (inbox, queue, stopping) = (inbox.clone(), queue.clone(), stopping.clone());
            move || collect(&poll_fd, &queue, &inbox, &stopping)
        };
        let driver = Driver::new(inbox.clone(), queue.clone());
        let threads = vec![
            std::thread::Builder::new().name("collect".into()).spawn(collector).map_err(failed())?,
            std::thread::Builder::new().name("drive".into()).spawn(move || driver.run()).map_err(failed())?,
        ];
        Ok(Pipeline { inbox, queue, level, stopping, threads: Mutex::new(threads) })
    }

    /// Sends a command to the driving thread.
    pub fn send(&self, command: Command) {
        let mut state = lock(&self.inbox.state);
        if !state.closed {
            state.commands.push(command);
            self.inbox.wake.notify_one();
        }
    }

    /// How much the kernel reports.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The queue, to mute directories, or to let go of it.
    pub fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    /// Waits for the threads, after [`Command::Stop`] was answered.
    pub fn join(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        for thread in lock(&self.threads).drain(..) {
            drop(thread.join());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes events out of the kernel as they come.
fn collect(poll_fd: &OwnedFd, queue: &Mutex<Queue>, inbox: &Inbox, stopping: &AtomicBool) {
    let timeout = Timespec { tv_sec: 0, tv_nsec: IDLE.as_nanos() as i64 };
    let mut tended = Instant::now();
    while !stopping.load(Ordering::Relaxed) {
        if tended.elapsed() >= TEND_EVERY {
            lock(queue).tend();
            tended = Instant::now();
        }
        let mut fds = [PollFd::new(poll_fd, PollFlags::IN)];
        if !matches!(poll(&mut fds, Some(&timeout)), Ok(1..)) {
            continue;
        }
        let drained = drain(queue, inbox);
        inbox.wake.notify_one();
        if drained == Drained::Full {
            lock(queue).cap();
        }
        std::thread::sleep(DRAIN_EVERY);
    }
}

fn drain(queue: &Mutex<Queue>, inbox: &Inbox) -> Drained {
    let mut queue = lock(queue);
    let result = queue.drain(|position, bytes, own_pid| {
        let dirty = &mut lock(&inbox.state).dirty;
        Events::new(bytes).for_each(|event| dirty.absorb(&event, own_pid, position));
    });
    let drained = result.unwrap_or_else(|error| {
        // Nothing can be read: what happened is unknown.
        tracing::error!(%error, "events cannot be read");
        lock(&inbox.state).dirty.absorb_overflow(queue.ring().head());
        Drained::Nothing
    });
    lock(&inbox.state).is_full = drained == Drained::Full;
    drained
}

struct Driven {
    attached: Arc<Attached>,
    /// `None` while it failed.
    brick: Option<Brick>,
    reopen_at: Instant,
    looked_at: Instant,
}

struct Waiting {
    brick: [u8; 16],
    reply: Reply<Position>,
    patience_until: Instant,
}

/// What there is to do.
struct Next {
    commands: Vec<Command>,
    taken: Taken,
    /// Events were lost.
    overflow: bool,
    /// Nothing is left behind what was taken.
    caught_up: Option<Instant>,
}

/// Owns the bricks.
struct Driver {
    inbox: Arc<Inbox>,
    queue: Arc<Mutex<Queue>>,
    bricks: Vec<Driven>,
    waiting: Vec<Waiting>,
    started: Instant,
}

impl Driver {
    fn new(inbox: Arc<Inbox>, queue: Arc<Mutex<Queue>>) -> Driver {
        Driver { inbox, queue, bricks: Vec::new(), waiting: Vec::new(), started: Instant::now() }
    }

    fn run(mut self) {
        loop {
            let Next { commands, taken, overflow, caught_up } = self.next();
            if overflow {
                self.crawl_all();
            }
            if !taken.slots.is_empty() || !taken.objects.is_empty() {
                self.each(|brick| brick.events(&taken));
            }
            for command in commands {
                if self.obey(command) {
                    let mut state = lock(&self.inbox.state);
                    state.closed = true;
                    state.commands.clear();
                    return;
                }
            }
            self.note_progress();
            self.each(|brick| {
                if let Some(at) = caught_up {
                    brick.note_caught_up(at);
                }
                brick.background()
            });
            self.acknowledge();
            self.look_for_bricks();
            self.reopen_failed();
            self.answer_barriers();
        }
    }

    /// Waits until there is something to do.
    fn next(&self) -> Next {
        let bricks = || self.bricks.iter().filter_map(|driven| driven.brick.as_ref());
        let mut state = lock(&self.inbox.state);
        if !bricks().any(Brick::busy) && state.commands.is_empty() && state.dirty.is_quiet() {
            let next_call = bricks().filter_map(Brick::next_call).min();
            let wait = next_call.map_or(IDLE, |at| at.saturating_duration_since(Instant::now()).min(IDLE));
            state = self.inbox.wake.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        let overflow = state.dirty.take_overflow();
        let taken = state.dirty.take(BATCH_MAX);
        let caught_up = (state.dirty.is_empty() && !state.is_full).then(Instant::now);
        Next { commands: std::mem::take(&mut state.commands), taken, overflow, caught_up }
    }

    fn crawl_all(&mut self) {
        tracing::warn!("events were lost; all bricks of the file system are crawled");
        self.each(Brick::start_crawl);
    }

    /// Tells the bricks which events they have looked at.
    fn note_progress(&mut self) {
        let progress = {
            let queue = lock(&self.queue);
            let oldest = lock(&self.inbox.state).dirty.oldest();
            queue.progress(oldest)
        };
        self.each(|brick| brick.note_progress(progress));
    }

    /// Lets go of events that are written down for good by every brick.
    fn acknowledge(&mut self) {
        let mut queue = lock(&self.queue);
        let (ring, bricks) = (queue.ring(), &self.bricks);
        let known = ring.bricks();
        let mut done = u64::MAX;
        for (id, covered) in &known {
            match bricks.iter().find(|driven| driven.attached.spec.id == *id).map(|driven| &driven.brick) {
                Some(Some(brick)) if brick.saved() > *covered => ring.set_brick(*id, brick.saved()),
                Some(Some(_)) => {}
                None if self.started.elapsed() < EXPECTED_FOR => {}
                // It failed, or does not come: it will be crawled if it misses anything.
                _ => {
                    ring.remove_brick(*id);
                    continue;
                }
            }
        }
        for driven in bricks {
            if let Some(brick) = &driven.brick
                && !known.iter().any(|(id, _)| *id == driven.attached.spec.id)
            {
                ring.set_brick(driven.attached.spec.id, brick.saved());
            }
        }
        for (_, covered) in ring.bricks() {
            done = done.min(covered);
        }
        if bricks.is_empty() && done == u64::MAX {
            // Nobody needs what is told now.
            done = if self.started.elapsed() < EXPECTED_FOR { 0 } else { ring.head() };
        }
        ring.acknowledge(done);
    }

    /// Does something with every brick; one that fails is closed, to be opened again.
    fn each(&mut self, mut work: impl FnMut(&mut Brick) -> Result<()>) {
        for driven in &mut self.bricks {
            if let Some(brick) = &mut driven.brick
                && let Err(error) = work(brick)
            {
                driven.fail(&error);
            }
        }
    }

    /// Carries a command out. Returns whether the thread is to end.
    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Attach(attached, reply) => {
                let now = Instant::now();
                let mut driven = Driven { attached, brick: None, reopen_at: now, looked_at: now };
                let result = driven.open(&self.queue, true);
                if result.is_ok() {
                    self.bricks.push(driven);
                }
                drop(reply.send(result.map_err(|error| error.chain())));
            }
            Command::Detach(id, reply) => {
                self.catch_up();
                let mut result = Ok(());
                self.bricks.retain_mut(|driven| {
                    if driven.attached.spec.id != id {
                        return true;
                    }
                    result = driven.close();
                    false
                });
                lock(&self.queue).ring().remove_brick(id);
                drop(reply.send(result.map_err(|error| error.chain())));
            }
            Command::Barrier(brick, reply) => {
                self.catch_up();
                self.waiting.push(Waiting { brick, reply, patience_until: Instant::now() + BARRIER_PATIENCE });
            }
            Command::Retain(id, claims, reply) => {
                let driven = self.bricks.iter_mut().find(|driven| driven.attached.spec.id == id);
                if let Some(driven) = driven
                    && let Some(brick) = &mut driven.brick
                    && let Err(error) = brick.retain(&claims)
                {
                    driven.fail(&error);
                }
                drop(reply.send(Ok(())));
            }
            Command::Stop(reply) => {
                self.catch_up();
                for driven in &mut self.bricks {
                    let Some(Err(error)) = driven.brick.as_mut().map(Brick::finish) else { continue };
                    let path = driven.attached.spec.path.display();
                    tracing::error!(path = %path, error = %error.chain(), "not closed cleanly");
                    driven.let_go();
                }
                self.acknowledge();
                self.bricks.iter_mut().for_each(Driven::let_go);
                drop(reply.send(Ok(())));
                return true;
            }
        }
        false
    }

    /// Works on everything that happened before this call.
    fn catch_up(&mut self) {
        loop {
            let drained = drain(&self.queue, &self.inbox);
            let (taken, overflow) = {
                let mut state = lock(&self.inbox.state);
                (state.dirty.take(usize::MAX), state.dirty.take_overflow())
            };
            if overflow {
                self.crawl_all();
            }
            self.each(|brick| {
                brick.events(&taken)?;
                brick.pay_owed(true)
            });
            self.note_progress();
            if drained != Drained::Full {
                return;
            }
            self.each(Brick::make_durable);
            self.acknowledge();
        }
    }

    /// Lets go of bricks that are not where they were.
    fn look_for_bricks(&mut self) {
        for driven in &mut self.bricks {
            if driven.looked_at.elapsed() < LOOK_EVERY {
                continue;
            }
            driven.looked_at = Instant::now();
            let Some(brick) = &driven.brick else { continue };
            match brick.disk().check_presence() {
                // It is not needed, and must not count for what happens later.
                Ok(()) => drop(std::fs::remove_file(driven.attached.spec.state.join(ACCEPT_FILE))),
                Err(error) => driven.fail(&error),
            }
        }
    }

    fn reopen_failed(&mut self) {
        for driven in &mut self.bricks {
            if driven.brick.is_none() && Instant::now() >= driven.reopen_at {
                if let Err(error) = driven.open(&self.queue, false) {
                    driven.fail(&error);
                } else {
                    tracing::info!(path = %driven.attached.spec.path.display(), "brick opened again");
                }
            }
            let crawling = driven.brick.as_ref().is_none_or(Brick::crawling);
            driven.attached.crawling.store(crawling, Ordering::Relaxed);
            if let Some(brick) = &mut driven.brick {
                driven.attached.crawls.fetch_add(brick.take_crawls(), Ordering::Relaxed);
            }
        }
    }

    fn answer_barriers(&mut self) {
        let now = Instant::now();
        let bricks = &mut self.bricks;
        self.waiting.retain(|waiting| {
            let driven = bricks.iter_mut().find(|driven| driven.attached.spec.id == waiting.brick);
            let Some(driven) = driven else {
                drop(waiting.reply.send(Err("the brick is not attached".into())));
                return false;
            };
            let Some(brick) = &mut driven.brick else {
                drop(waiting.reply.send(Err(lock(&driven.attached.error).clone())));
                return false;
            };
            if !brick.settled() && (brick.busy() || now < waiting.patience_until) {
                return true;
            }
            let answer = brick.pay_owed(true).map(|()| brick.position());
            drop(waiting.reply.send(answer.map_err(|error| error.chain())));
            false
        });
    }
}

impl Driven {
    /// Opens the brick. `is_trusted`: its index may go on where it ended.
    fn open(&mut self, queue: &Mutex<Queue>, is_trusted: bool) -> Result<()> {
        let spec = self.attached.spec.clone();
        let root = Root::open(&spec.path)?;
        let admitted = identity::admit(&spec.path, &spec.state, &root)?;
        let state = {
            let mut queue = lock(queue);
            // Events first: what happens from now on is seen, either by the crawl or by them.
            queue.mark(root.fd(), &spec.path)?;
            QueueState { progress: queue.progress(None), acked: is_trusted.then(|| queue.ring().acked()) }
        };
        let disk = Arc::new(Disk::new(root, &spec.path, Namer::new(spec.id, &admitted.identity)));
        let mut brick = Brick::open(spec, disk, &admitted, &state)?;
        if let Some(from) = brick.resume_from() {
            brick.resume(missed(queue, from))?;
        }
        let open = Open { disk: brick.disk().clone(), index: brick.index().clone() };
        *self.attached.open.write().unwrap_or_else(PoisonError::into_inner) = Some(open);
        self.attached.crawling.store(brick.crawling(), Ordering::Relaxed);
        lock(&self.attached.error).clear();
        self.brick = Some(brick);
        Ok(())
    }

    fn fail(&mut self, error: &Error) {
        let pause = if matches!(error, Error::NotThere { .. }) { LOOK_EVERY } else { REOPEN_AFTER };
        let error = error.chain();
        let before = std::mem::replace(&mut *lock(&self.attached.error), error.clone());
        if before != error {
            tracing::error!(path = %self.attached.spec.path.display(), %error, "brick failed, opened again soon");
        }
        self.let_go();
        self.reopen_at = Instant::now() + pause;
    }

    fn close(&mut self) -> Result<()> {
        let result = self.brick.as_mut().map_or(Ok(()), Brick::finish);
        self.let_go();
        result
    }

    /// Closes index and changelog, also for those who answer questions.
    fn let_go(&mut self) {
        *self.attached.open.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.brick = None;
    }
}

/// The events behind a position in the ring, as far as they were read.
fn missed(queue: &Mutex<Queue>, from: u64) -> Dirty {
    let (mut queue, mut missed) = (lock(queue), Dirty::default());
    let replayed = queue.ring().replay(from, |position, bytes| {
        Events::new(bytes).for_each(|event| missed.absorb(&event, None, position));
    });
    if let Err(error) = replayed {
        tracing::warn!(%error, "the ring of events is damaged");
        missed.absorb_overflow(from);
    }
    missed
}
