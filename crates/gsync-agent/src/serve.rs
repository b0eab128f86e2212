//! The agent of one root: listens for doors, runs a thread for each, stops when nobody needs it.

use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use posix::passing::FdStream;
use protocol::{FrameError, read_frame};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Resource, Rlimit};

use crate::applier::{Applier, Job, QUEUE_JOBS};
use crate::channel::{Ends, Stopper, content, control};
use crate::door::asked::{Asked, DOOR_VERSION, DoorAnswer, DoorHello, answer};
use crate::door::rsync::RunningRsync;
use crate::error::AgentError;
use crate::private::{Private, SOCKET};
use crate::stage::Stages;

/// Connections at a time; a door beyond is turned away and tries again.
const MAX_CONNECTIONS: usize = 512;

/// What a door has to say itself; it sends its first message at once.
const DOOR_PATIENCE: Duration = Duration::from_secs(10);

/// How long channels may take to end when the agent stops.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// How often the agent looks whether it is idle or broken.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How an agent behaves.
#[derive(Clone, Copy, Debug)]
pub struct ServeOptions {
    /// Ends by itself after so long without a connection.
    pub idle_exit: Duration,
}

/// How an agent ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Served {
    /// Another one serves this root.
    AlreadyServed,
    /// Everything is durable; the next start is quick.
    Clean,
    /// The next start makes a new index.
    Unclean,
}

/// Shared by the threads of the channels.
struct Shared {
    stages: Arc<Stages>,
    active: AtomicUsize,
    stoppers: Mutex<Vec<Stopper>>,
}

/// Serves a root until `stop` or until nobody needs it.
///
/// # Errors
/// [`AgentError`] when it cannot begin.
pub fn serve(root: &Path, options: ServeOptions, stop: &Stopper) -> Result<Served, AgentError> {
    let private = Arc::new(Private::open(root)?);
    let own = |name| move |source| AgentError::Private { name, source };
    let Some(lock) = private.lock().map_err(own("lock"))? else { return Ok(Served::AlreadyServed) };
    let open_files = raise_open_files();
    let socket = private.path_to(SOCKET);
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).map_err(own(SOCKET))?;
    listener.set_nonblocking(true).map_err(own(SOCKET))?;

    let stages = Arc::new(Stages::default());
    let (queue, jobs) = sync_channel(QUEUE_JOBS);
    let applier = {
        let (private, stages) = (private.clone(), stages.clone());
        std::thread::spawn(move || Applier::open(private, stages, open_files / 2).run(&jobs))
    };
    let shared = Arc::new(Shared { stages, active: AtomicUsize::new(0), stoppers: Mutex::default() });
    tracing::info!(root = %root.display(), "serving");

    let mut next_connection = 0;
    let mut idle_since = Instant::now();
    while !applier.is_finished() && wait_for_door(&listener, stop) {
        if shared.active.load(Ordering::SeqCst) > 0 {
            idle_since = Instant::now();
        }
        match listener.accept() {
            Ok((stream, _)) => {
                next_connection += 1;
                receive(&shared, &queue, stream, next_connection);
                idle_since = Instant::now();
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => tracing::warn!(%error, "a door could not be accepted"),
        }
        if idle_since.elapsed() >= options.idle_exit {
            break;
        }
    }

    let _ = std::fs::remove_file(&socket);
    drop(listener);
    lock_stoppers(&shared).iter().for_each(Stopper::stop);
    let deadline = Instant::now() + STOP_PATIENCE;
    while shared.active.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let all_ended = shared.active.load(Ordering::SeqCst) == 0;
    drop(queue);
    // A channel that did not end holds the queue open: no clean stop then.
    let clean = all_ended && applier.join().unwrap_or(false);
    tracing::info!(clean, "stopped");
    drop(lock);
    Ok(if clean { Served::Clean } else { Served::Unclean })
}

/// Waits for a door, at most [`LOOK_INTERVAL`]; `false` when stopped.
fn wait_for_door(listener: &UnixListener, stop: &Stopper) -> bool {
    let mut fds = [
        PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
    ];
    let patience = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK_INTERVAL.subsec_nanos()) };
    let _ = rustix::event::poll(&mut fds, Some(&patience));
    fds[1].revents().is_empty()
}

fn receive(shared: &Arc<Shared>, queue: &SyncSender<Job>, stream: UnixStream, connection: u64) {
    if shared.active.fetch_add(1, Ordering::SeqCst) >= MAX_CONNECTIONS {
        shared.active.fetch_sub(1, Ordering::SeqCst);
        return;
    }
    let (shared, queue) = (shared.clone(), queue.clone());
    std::thread::spawn(move || {
        let active = Active(&shared);
        match channel(&shared, &queue, stream, connection) {
            Ok(()) | Err(AgentError::Channel(FrameError::Closed)) => {}
            Err(error) => tracing::info!(connection, error = crate::applier::explain(&error), "a channel ended"),
        }
        drop(queue);
        drop(active);
    });
}

/// Counts a connection as long as it lives, also when its thread panics.
struct Active<'a>(&'a Shared);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::SeqCst);
    }
}

fn channel(shared: &Shared, queue: &SyncSender<Job>, stream: UnixStream, connection: u64) -> Result<(), AgentError> {
    let system = |tried| move |source| AgentError::System { tried, source };
    stream.set_nonblocking(false).map_err(system("using a door's socket"))?;
    stream.set_read_timeout(Some(DOOR_PATIENCE)).map_err(system("using a door's socket"))?;
    let mut door = FdStream::new(stream);
    let hello: DoorHello = read_frame(&mut door)?;
    if hello.version != DOOR_VERSION {
        answer(&mut door, &DoorAnswer::Refused("the agent that runs is of another release".into()), None)?;
        return Ok(());
    }
    if let Asked::Rsync { token } = hello.asked {
        return rsync(shared, door, &token);
    }
    let (Some(input), Some(output)) = (door.take_fd(), door.take_fd()) else {
        answer(&mut door, &DoorAnswer::Refused("no descriptors".into()), None)?;
        return Ok(());
    };
    answer(&mut door, &DoorAnswer::Accepted, None)?;
    let stopper = Stopper::new().map_err(system("making an event"))?;
    {
        let mut stoppers = lock_stoppers(shared);
        stoppers.retain(Stopper::is_used);
        stoppers.push(stopper.clone());
    }
    let socket = door.get_ref().try_clone().map_err(system("using a door's socket"))?;
    let ends = Ends::new(input, output, socket, stopper.clone());
    match hello.asked {
        Asked::Control => control::run(&ends, connection, queue)?,
        Asked::Stage => content::run(&ends, stopper, &shared.stages)?,
        Asked::Rsync { .. } => {}
    }
    Ok(())
}

/// Hands a stage's directory to a door that becomes rsync.
fn rsync(shared: &Shared, mut door: FdStream, token: &str) -> Result<(), AgentError> {
    let running = RunningRsync::of(door.get_ref())
        .map_err(|source| AgentError::System { tried: "looking at a door's process", source })?;
    let stage = shared.stages.get(token).filter(|stage| stage.add_rsync(running));
    match stage {
        Some(stage) => answer(&mut door, &DoorAnswer::Accepted, Some(stage.dir.as_fd()))?,
        None => answer(&mut door, &DoorAnswer::Refused("the stage token is not known".into()), None)?,
    }
    Ok(())
}

fn lock_stoppers(shared: &Shared) -> std::sync::MutexGuard<'_, Vec<Stopper>> {
    shared.stoppers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Allows as many open files as the system lets us, and returns how many.
fn raise_open_files() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current =
        if rustix::process::setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    current.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX))
}
