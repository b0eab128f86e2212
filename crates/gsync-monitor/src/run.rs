//! The loop: events, decision, effects.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::LogLevel;
use cluster::registry::Declared;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::claims;
use crate::declarations::{self, News};
use crate::effects::{Executor, Tools};
use crate::error::MonitorError;
use crate::event::{Event, Millis};
use crate::machine::Machine;
use crate::paths::{RUN_DIR_MAX, RunDir, StateDir};
use crate::programs::Programs;
use crate::server;
use crate::service::Service;
use crate::store;
use crate::want::{Node, Want};

/// How often the bricks' directories are looked at: notices one that was mounted or unmounted.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// News of what is declared that may wait.
const NEWS_QUEUE: usize = 4;

/// Requests to look at the store at once that may wait.
const REFRESH_QUEUE: usize = 64;

/// What a monitor is started with.
#[derive(Clone, Debug)]
pub struct MonitorConfig {
    /// What survives a reboot.
    pub state: StateDir,
    /// Sockets and process ids.
    pub run: RunDir,
    /// Tells how to reach etcd; without it, the store is in the state directory.
    pub cluster_file: Option<PathBuf>,
    /// Where programs are.
    pub programs: Programs,
    /// How much recorders log.
    pub log_level: LogLevel,
    /// For the jitter of delays.
    pub seed: u64,
}

/// Milliseconds since the monitor started.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Now.
    pub fn now(&self) -> Millis {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }
}

/// Runs a monitor until `shutdown`, then ends its processes in order. To be called on the runtime's main thread, with
/// a runtime of that one thread: child processes are bound to the thread that starts them.
///
/// # Errors
/// [`MonitorError`].
pub async fn run(config: MonitorConfig, shutdown: CancellationToken) -> Result<(), MonitorError> {
    let _locks = prepare(&config)?;
    let node = node_name(&config.state)?;
    let registry = store::open(&config.state, config.cluster_file.as_deref(), &node).await?;
    let socket = config.run.monitor_socket();
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).map_err(MonitorError::io("bind", &socket))?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).map_err(MonitorError::io("protect", &socket))?;

    let tools = Arc::new(Tools {
        state: config.state,
        run: config.run,
        programs: config.programs,
        registry,
        node,
        log_level: config.log_level,
    });
    let clock = Clock(Instant::now());
    let (publish, machine) = watch::channel(Arc::new(Machine::new(config.seed)));
    let (refresh, refreshes) = mpsc::channel(REFRESH_QUEUE);
    let claiming = tokio::spawn(claims::keep(Arc::clone(&tools), machine.clone()));
    let service = Arc::new(Service::new(Arc::clone(&tools), machine, refresh, clock));
    let serving = tokio::spawn(server::serve(listener, service));
    tracing::info!(node = tools.node, state = %tools.state.path().display(), "the monitor runs");
    let (sender, news) = mpsc::channel(NEWS_QUEUE);
    let following = tokio::spawn(declarations::follow(tools.registry.clone(), refreshes, sender));
    let result = keep(&tools, &publish, news, clock, shutdown).await;
    serving.abort();
    claiming.abort();
    following.abort();
    if let Err(error) = tools.registry.close().await {
        tracing::warn!(%error, "roles end only when the lease does");
    }
    let _ = fs::remove_file(socket);
    tracing::info!("the monitor ends");
    result
}

/// The loop itself.
async fn keep(
    tools: &Arc<Tools>,
    publish: &watch::Sender<Arc<Machine>>,
    mut news: mpsc::Receiver<News>,
    clock: Clock,
    shutdown: CancellationToken,
) -> Result<(), MonitorError> {
    let mut machine = Machine::clone(&publish.borrow());
    let (sender, mut reports) = mpsc::unbounded_channel();
    let mut executor = Executor::new(Arc::clone(tools), sender);
    let mut declared = Declared::default();
    let mut probe = tokio::time::interval(PROBE_EVERY);
    let mut ending = false;
    let mut waiting: Option<oneshot::Sender<()>> = None;
    loop {
        let now = clock.now();
        let next = machine.deadline(now).map_or(PROBE_EVERY, |at| Duration::from_millis(at - now));
        let event = tokio::select! {
            () = shutdown.cancelled(), if !ending => {
                ending = true;
                Event::Shutdown
            }
            Some(report) = reports.recv() => executor.note(report),
            Some(news) = news.recv() => {
                (declared, waiting) = news?;
                Event::Want(want(tools, &declared))
            }
            _ = probe.tick() => Event::Want(want(tools, &declared)),
            () = tokio::time::sleep(next) => Event::Tick,
        };
        let effects = machine.apply(clock.now(), event);
        publish.send_replace(Arc::new(machine.clone()));
        for effect in effects {
            executor.begin(effect);
        }
        if let Some(asker) = waiting.take() {
            let _ = asker.send(());
        }
        if ending && machine.is_idle() {
            return Ok(());
        }
    }
}

/// What should run, by what is declared and mounted now.
fn want(tools: &Tools, declared: &Declared) -> Want {
    let node = Node { name: &tools.node, state: &tools.state, programs: &tools.programs };
    Want::derive(declared, &node, device)
}

fn device(path: &Path) -> Result<u64, String> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(metadata.dev()),
        Ok(_) => Err(format!("the brick {} is not a directory", path.display())),
        Err(error) => Err(format!("the brick {} cannot be looked at: {error}", path.display())),
    }
}

/// Makes the directories and takes the locks that make this monitor the only one.
fn prepare(config: &MonitorConfig) -> Result<[File; 2], MonitorError> {
    let run = config.run.path();
    if run.as_os_str().len() > RUN_DIR_MAX {
        return Err(MonitorError::RunDirTooLong { path: run.into() });
    }
    for dir in [config.state.path(), run, &config.state.logs()] {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(MonitorError::io("create the directory", dir))?;
    }
    let state_lock = lock(&config.state.lock())?;
    let mut pid_file = lock(&config.run.monitor_pid())?;
    let write = pid_file.set_len(0).and_then(|()| writeln!(pid_file, "{}", std::process::id()));
    write.map_err(MonitorError::io("write", &config.run.monitor_pid()))?;
    Ok([state_lock, pid_file])
}

fn lock(path: &Path) -> Result<File, MonitorError> {
    let open = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path);
    let file = open.map_err(MonitorError::io("open", path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(MonitorError::Running { path: path.into() }),
        Err(TryLockError::Error(source)) => Err(MonitorError::Io { doing: "lock", path: path.into(), source }),
    }
}

/// Reads the node's name, or makes it out of the host name the first time.
fn node_name(state: &StateDir) -> Result<String, MonitorError> {
    let file = state.node();
    if let Ok(name) = fs::read_to_string(&file) {
        let name = name.trim();
        if cluster::ids::is_name(name) {
            return Ok(name.to_owned());
        }
    }
    let source = Path::new("/proc/sys/kernel/hostname");
    let host = fs::read_to_string(source).map_err(MonitorError::io("read", source))?;
    let name = cluster::ids::to_name(host.trim());
    let write = || -> std::io::Result<()> {
        let mut out = File::create(&file)?;
        writeln!(out, "{name}")?;
        out.sync_all()
    };
    write().map_err(MonitorError::io("write", &file))?;
    Ok(name)
}
