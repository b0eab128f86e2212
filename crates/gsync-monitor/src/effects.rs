//! Carrying out what the machine decided. Every effect that takes time runs in a task and reports with an event.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use cluster::{BrickId, Epoch, LogLevel, Registry};
use gsync_worker::config::WorkerConfig;
use rustix::process::Signal;
use tokio::sync::mpsc;

use crate::event::{Effect, Event, Unit};
use crate::paths::{RunDir, StateDir};
use crate::process::{self, Handle, Program};
use crate::programs::Programs;
use crate::recorder;
use crate::want::{WorkerKey, WorkerSpec};

/// What the effects work with.
#[derive(Debug)]
pub struct Tools {
    /// What survives a reboot.
    pub state: StateDir,
    /// Sockets.
    pub run: RunDir,
    /// Where programs are.
    pub programs: Programs,
    /// Where elections are held.
    pub registry: Registry,
    /// Name of this node, as a candidate.
    pub node: String,
    /// How much recorders log.
    pub log_level: LogLevel,
}

/// What a task reports.
#[derive(Debug)]
pub struct Report {
    /// What happened.
    pub event: Event,
    /// The process that was started, with [`Event::Started`].
    pub handle: Option<Handle>,
}

/// Carries effects out. Has to live on a thread that lasts as long as the process, because the children die with it.
#[derive(Debug)]
pub struct Executor {
    tools: Arc<Tools>,
    reports: mpsc::UnboundedSender<Report>,
    handles: HashMap<Unit, Handle>,
}

impl Executor {
    /// An executor that sends its reports there. The channel is unbounded because each report answers one effect.
    pub fn new(tools: Arc<Tools>, reports: mpsc::UnboundedSender<Report>) -> Executor {
        Executor { tools, reports, handles: HashMap::new() }
    }

    /// Takes note of a report before its event is applied.
    pub fn note(&mut self, report: Report) -> Event {
        match (&report.event, report.handle) {
            (Event::Started { unit, .. }, Some(handle)) => {
                self.handles.insert(*unit, handle);
            }
            (Event::Exited { unit, .. }, _) => {
                self.handles.remove(unit);
            }
            _ => {}
        }
        report.event
    }

    /// Begins an effect.
    pub fn begin(&self, effect: Effect) {
        tracing::debug!(?effect, "effect");
        let (tools, reports) = (Arc::clone(&self.tools), self.reports.clone());
        match effect {
            Effect::Terminate(unit) => self.signal(unit, Signal::TERM),
            Effect::Kill(unit) => {
                tracing::warn!(unit = %unit, "did not end in time and is killed");
                self.signal(unit, Signal::KILL);
            }
            Effect::StartRecorder(device) => tools.start_recorder(device, &reports),
            Effect::StartWorker(key, spec) => {
                tokio::spawn(async move { tools.start_worker(key, *spec, &reports).await });
            }
            Effect::Resign(key, replica_set, epoch) => {
                tokio::spawn(async move {
                    if let Err(error) = tools.registry.resign(key.session, replica_set, epoch).await {
                        tracing::warn!(%error, "a role could not be given up");
                    }
                });
            }
            Effect::Release(device) => {
                tokio::spawn(async move { recorder::release(&tools.run.holder_socket(device)).await });
            }
            Effect::Attach { device, brick, path } => {
                tokio::spawn(async move { send(&reports, tools.attach(device, brick, &path).await) });
            }
            Effect::Detach { device, brick } => {
                tokio::spawn(async move {
                    if let Err(error) = recorder::detach(&tools.run.recorder_socket(device), brick).await {
                        tracing::warn!(%brick, %error, "a brick could not be detached");
                    }
                    send(&reports, Event::Detached { device, brick });
                });
            }
        }
    }

    fn signal(&self, unit: Unit, signal: Signal) {
        if let Some(handle) = self.handles.get(&unit) {
            handle.signal(signal);
        }
    }
}

impl Tools {
    fn start_recorder(&self, device: u64, reports: &mpsc::UnboundedSender<Report>) {
        let unit = Unit::Recorder(device);
        let socket = self.run.recorder_socket(device);
        let log_level = self.log_level.to_string();
        let program = Program {
            path: self.programs.find("gsync-recorder"),
            args: vec![
                "--socket".into(),
                socket.clone().into(),
                "--holders".into(),
                self.run.path().into(),
                "--log-level".into(),
                log_level.into(),
            ],
            log: self.state.recorder_log(device),
        };
        let ready = remove_stale(&socket);
        launch(unit, Epoch::default(), ready, &program, reports);
    }

    async fn start_worker(&self, key: WorkerKey, spec: WorkerSpec, reports: &mpsc::UnboundedSender<Report>) {
        let unit = Unit::Worker(key);
        let epoch = match self.registry.campaign(key.session, spec.replica_set, &self.node).await {
            Ok(leadership) => leadership.epoch(),
            Err(error) => {
                let error = format!("no epoch could be had: {error}");
                return send(reports, Event::StartFailed { unit, error });
            }
        };
        let file = self.run.worker_config(key.session, spec.number);
        let program = Program {
            path: self.programs.find("gsync-worker"),
            args: vec!["--config".into(), file.clone().into(), "--log-level".into(), spec.log_level.to_string().into()],
            log: self.state.worker_log(&spec.session_name, spec.number),
        };
        let ready = self.prepare_worker(key, &spec, epoch, &file);
        launch(unit, epoch, ready, &program, reports);
    }

    fn prepare_worker(&self, key: WorkerKey, spec: &WorkerSpec, epoch: Epoch, file: &Path) -> io::Result<()> {
        let config = WorkerConfig {
            session: key.session.to_string(),
            session_name: spec.session_name.clone(),
            node: self.node.clone(),
            replica_set: spec.replica_set,
            brick: key.brick.to_string(),
            brick_path: spec.brick_path.clone(),
            epoch: epoch.0,
            recorder_socket: self.recorder_socket_of(&spec.brick_path)?,
            control_socket: self.run.worker_socket(key.session, spec.number),
            run_dir: self.run.worker_dir(key.session, spec.number),
            secondary: spec.secondary.clone(),
            settings: spec.settings.clone(),
        };
        remove_stale(&config.control_socket)?;
        fs::create_dir_all(&config.run_dir)?;
        fs::write(file, serde_json::to_vec_pretty(&config)?)
    }

    fn recorder_socket_of(&self, brick: &Path) -> io::Result<std::path::PathBuf> {
        let device = std::os::unix::fs::MetadataExt::dev(&fs::metadata(brick)?);
        Ok(self.run.recorder_socket(device))
    }

    async fn attach(&self, device: u64, brick: BrickId, path: &Path) -> Event {
        let state = self.state.brick(brick);
        let attached = match fs::create_dir_all(&state) {
            Ok(()) => recorder::attach(&self.run.recorder_socket(device), brick, path, &state).await,
            Err(error) => Err(error.into()),
        };
        match attached {
            Ok(()) => Event::Attached { device, brick },
            Err(error) => Event::AttachFailed { device, brick, error: with_causes(&error) },
        }
    }
}

/// Starts a process when it was prepared, and reports.
fn launch(unit: Unit, epoch: Epoch, ready: io::Result<()>, program: &Program, reports: &mpsc::UnboundedSender<Report>) {
    let at_end = reports.clone();
    let ended = move |error: String| {
        tracing::info!(unit = %unit, error, "ended");
        send(&at_end, Event::Exited { unit, error });
    };
    match ready.and_then(|()| process::start(program, ended)) {
        Ok((pid, handle)) => {
            tracing::info!(unit = %unit, pid, %epoch, "started");
            let _ = reports.send(Report { event: Event::Started { unit, pid, epoch }, handle: Some(handle) });
        }
        Err(error) => {
            let error = format!("cannot start {}: {error}", program.path.display());
            tracing::warn!(unit = %unit, error, "not started");
            send(reports, Event::StartFailed { unit, error });
        }
    }
}

fn send(reports: &mpsc::UnboundedSender<Report>, event: Event) {
    // Nobody listens any more when the monitor has ended.
    let _ = reports.send(Report { event, handle: None });
}

/// A socket that a killed process left makes its successor fail to bind.
fn remove_stale(socket: &Path) -> io::Result<()> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// An error and its causes in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}
