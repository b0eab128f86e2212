//! Answering requests: changes of what is declared, status, waiting.

use std::sync::Arc;
use std::time::Duration;

use cluster::registry::Declared;
use cluster::session::Refused;
use cluster::{Brick, Desired, RegistryError, Secondary, Session, SessionId, Transition, Volume, options};
use protocol::brick::ACCEPT_FILE;
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use crate::api::{API_VERSION, Answer, Failure, FailureCode, Request};
use crate::effects::{Tools, with_causes};
use crate::event::Unit;
use crate::machine::Machine;
use crate::run::Clock;
use crate::status::{BrickRow, Facts, SessionReport, StatusReport};
use crate::unit::{Phase, STOP_LIMIT_MS};
use crate::want::WorkerKey;
use crate::{recorder, worker};

/// How long a stopped session's processes may take to be gone: SIGTERM, the limit, SIGKILL, and some time.
const STOP_WAIT: Duration = Duration::from_millis(STOP_LIMIT_MS + 5_000);

/// How long a worker may take to store that both sides are to be compared.
const RESYNC_LIMIT: Duration = Duration::from_secs(25);

/// How often a worker that is not up is asked again while somebody waits for it.
const WAIT_POLL: Duration = Duration::from_millis(200);

/// Answers requests.
#[derive(Debug)]
pub struct Service {
    tools: Arc<Tools>,
    machine: watch::Receiver<Arc<Machine>>,
    refresh: mpsc::Sender<oneshot::Sender<()>>,
    clock: Clock,
    /// Held while something is checked against all sessions and then declared.
    creating: Mutex<()>,
}

impl Service {
    pub(crate) fn new(
        tools: Arc<Tools>,
        machine: watch::Receiver<Arc<Machine>>,
        refresh: mpsc::Sender<oneshot::Sender<()>>,
        clock: Clock,
    ) -> Service {
        Service { tools, machine, refresh, clock, creating: Mutex::new(()) }
    }

    /// Answers one request.
    ///
    /// # Errors
    /// A [`Failure`] for the operator; nothing was changed then.
    pub async fn answer(&self, request: Request) -> Result<Answer, Failure> {
        match request {
            Request::Hello => Ok(Answer::Hello {
                version: API_VERSION,
                node: self.tools.node.clone(),
                pid: std::process::id(),
                state_dir: self.tools.state.path().into(),
            }),
            Request::Declared => {
                let Declared { volumes, sessions } = self.declared().await?;
                Ok(Answer::Declared { volumes, sessions })
            }
            Request::Create { id, name, primary, secondary, settings } => {
                self.create(id, name, primary, secondary, settings).await
            }
            Request::Transition { session, transition, force } => self.transition(&session, transition, force).await,
            Request::AcceptBrick { session } => self.accept_brick(&session).await,
            Request::Resume { session, force, accept_removals } => {
                if self.resume_halted(&session, accept_removals).await? {
                    let (session, _) = self.tools.registry.session(&session).await?;
                    return Ok(Answer::Session { session });
                }
                if accept_removals {
                    let text = format!("geo-replication session '{session}' has not halted");
                    return Err(Failure::new(FailureCode::Refused, text).hint("there are no removals to accept"));
                }
                self.transition(&session, Transition::Resume, force).await
            }
            Request::Configure { session, changes } => self.configure(&session, &changes).await,
            Request::Status { session } => Ok(Answer::Status(self.status(session.as_deref()).await?)),
            Request::Resync { session } => self.resync(&session).await,
            Request::Wait { session, timeout_ms } => self.wait(&session, Duration::from_millis(timeout_ms)).await,
        }
    }

    async fn declared(&self) -> Result<Declared, Failure> {
        Ok(self.tools.registry.declared().await?)
    }

    async fn create(
        &self,
        id: SessionId,
        name: String,
        primary: std::path::PathBuf,
        secondary: Secondary,
        settings: Vec<(String, String)>,
    ) -> Result<Answer, Failure> {
        let _creating = self.creating.lock().await;
        if !cluster::ids::is_name(&name) {
            let what = "a name has 1 to 64 letters, digits, '.', '_' or '-' and begins with a letter or digit";
            return Err(Failure::new(FailureCode::BadRequest, format!("'{name}' cannot name a session: {what}")));
        }
        let declared = self.declared().await?;
        if declared.sessions.iter().any(|session| session.name == name) {
            return Err(RegistryError::Taken { what: "session", name }.into());
        }
        if let Some(other) = declared.sessions.iter().find(|session| session.secondary.is_same(&secondary)) {
            let text = format!("{secondary} is the secondary of session '{}' already", other.name);
            return Err(Failure::new(FailureCode::Taken, text).hint("give each session a secondary of its own"));
        }
        let mut session = Session {
            id,
            name,
            primary: String::new(),
            secondary,
            settings: Default::default(),
            desired: Desired::Created,
            version: 1,
        };
        for (name, value) in settings {
            set_option(&mut session, &name, Some(&value))?;
        }
        let volume = self.volume_of(&declared, primary);
        session.primary.clone_from(&volume.name);
        if !declared.volumes.contains(&volume) {
            self.tools.registry.create_volume(&volume).await?;
        }
        self.tools.registry.create_session(&session).await?;
        tracing::info!(session = session.name, primary = session.primary, secondary = %session.secondary, "created");
        Ok(Answer::Session { session })
    }

    /// The volume that is this directory: a declared one, so that brick and index stay the same, or a new one.
    fn volume_of(&self, declared: &Declared, primary: std::path::PathBuf) -> Volume {
        let node = &self.tools.node;
        if let Some(known) = declared.volumes.iter().find(|volume| volume.is_single(node, &primary)) {
            return known.clone();
        }
        let base = cluster::ids::to_name(&primary.file_name().unwrap_or_default().to_string_lossy());
        let is_taken = |name: &str| declared.volumes.iter().any(|volume| volume.name == name);
        let numbered = (2..).map(|number: u32| format!("{base}-{number}"));
        let name = std::iter::once(base.clone()).chain(numbered).find(|name| !is_taken(name)).unwrap_or(base);
        Volume::single(name, node.clone(), primary)
    }

    async fn transition(&self, name: &str, transition: Transition, force: bool) -> Result<Answer, Failure> {
        let registry = &self.tools.registry;
        let (session, revision) = registry.session(name).await?;
        let refused = |refused: Refused| refusal(&session, refused);
        match session.desired.after(transition, force).map_err(refused)? {
            None => {
                registry.delete_session(name, revision).await?;
            }
            Some(_) => {
                let change = |session: &mut Session| {
                    let next = session.desired.after(transition, force);
                    session.desired = next.map_err(|r| refusal(session, r))?.unwrap_or(session.desired);
                    Ok::<(), Failure>(())
                };
                registry.update_session(name, change).await?;
            }
        }
        tracing::info!(session = name, ?transition, "changed");
        self.refreshed().await;
        if matches!(transition, Transition::Stop | Transition::Pause | Transition::Delete) {
            self.wait_for_end(session.id).await?;
        }
        if transition == Transition::Delete {
            registry.forget_marks(session.id).await?;
            let _ = std::fs::remove_dir_all(self.tools.state.session(session.id));
            return Ok(Answer::Session { session });
        }
        let (session, _) = registry.session(name).await?;
        Ok(Answer::Session { session })
    }

    async fn accept_brick(&self, name: &str) -> Result<Answer, Failure> {
        let (session, _) = self.tools.registry.session(name).await?;
        if !session.desired.is_recorded() {
            return Err(refusal(&session, Refused::NotRunning));
        }
        let declared = self.declared().await?;
        let bricks = declared.volumes.iter().filter(|volume| volume.name == session.primary).flat_map(|v| &v.bricks);
        for brick in bricks.filter(|brick| brick.node == self.tools.node) {
            let file = self.tools.state.brick(brick.id).join(ACCEPT_FILE);
            std::fs::write(&file, "").map_err(|error| {
                Failure::new(FailureCode::Internal, format!("cannot write {}: {error}", file.display()))
            })?;
            tracing::warn!(session = name, path = %brick.path.display(), "the brick is taken as it is now");
        }
        Ok(Answer::Session { session })
    }

    /// Lets workers go on that halted; returns whether there were any.
    async fn resume_halted(&self, name: &str, accept_removals: bool) -> Result<bool, Failure> {
        let (session, _) = self.tools.registry.session(name).await?;
        let declared = self.declared().await?;
        let volume = declared.volumes.iter().find(|volume| volume.name == session.primary);
        let mut was_halted = false;
        for number in 0..volume.map_or(0, |volume| volume.bricks.len()) {
            let socket = self.tools.run.worker_socket(session.id, number);
            // One that cannot be asked now has not halted.
            was_halted |= worker::resume(&socket, accept_removals).await.unwrap_or(false);
        }
        if was_halted {
            tracing::info!(session = name, accept_removals, "resumed after a halt");
        }
        Ok(was_halted)
    }

    async fn configure(&self, name: &str, changes: &[(String, Option<String>)]) -> Result<Answer, Failure> {
        let change = |session: &mut Session| {
            let before = session.settings.clone();
            for (option, value) in changes {
                set_option(session, option, value.as_deref())?;
            }
            session.version += u64::from(session.settings != before);
            Ok::<(), Failure>(())
        };
        self.tools.registry.update_session(name, change).await?;
        tracing::info!(session = name, ?changes, "configured");
        self.refreshed().await;
        let (session, _) = self.tools.registry.session(name).await?;
        Ok(Answer::Session { session })
    }

    /// Returns when the loop has seen what is declared now.
    async fn refreshed(&self) {
        let (done, wait) = oneshot::channel();
        if self.refresh.send(done).await.is_ok() {
            let _ = wait.await;
        }
    }

    async fn wait_for_end(&self, session: SessionId) -> Result<(), Failure> {
        let mut machine = self.machine.clone();
        let is_gone = |machine: &Arc<Machine>| machine.workers.keys().all(|key| key.session != session);
        match tokio::time::timeout(STOP_WAIT, machine.wait_for(is_gone)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Failure::new(FailureCode::Internal, "the worker does not end")
                .hint("it hangs in the kernel, on a dead disk or mount; it will be stopped as soon as it can be")),
        }
    }

    async fn status(&self, name: Option<&str>) -> Result<StatusReport, Failure> {
        let declared = self.declared().await?;
        let mut report = StatusReport::default();
        for session in declared.sessions.iter().filter(|session| name.is_none_or(|name| session.name == name)) {
            let volume = declared.volumes.iter().find(|volume| volume.name == session.primary);
            let bricks = volume.map(|volume| volume.bricks.as_slice()).unwrap_or_default();
            let mut rows = Vec::with_capacity(bricks.len());
            for (number, brick) in bricks.iter().enumerate() {
                rows.push(BrickRow::new(session, brick, self.facts(session, number, brick).await));
            }
            report.sessions.push(SessionReport {
                name: session.name.clone(),
                id: session.id.to_string(),
                desired: session.desired,
                config_version: session.version,
                bricks: rows,
            });
        }
        match name {
            Some(name) if report.sessions.is_empty() => Err(RegistryError::NoSession { name: name.into() }.into()),
            _ => Ok(report),
        }
    }

    async fn facts(&self, session: &Session, number: usize, brick: &Brick) -> Facts {
        let machine = Arc::clone(&self.machine.borrow());
        let key = WorkerKey { session: session.id, brick: brick.id };
        let log = self.tools.state.worker_log(&session.name, number).display().to_string();
        let mut facts = Facts { trouble: trouble(&machine, key), log, ..Facts::default() };
        let process = machine.workers.get(&key).map(|worker| &worker.process);
        if let Some((process, Phase::Running(since))) = process.map(|process| (process, process.phase)) {
            facts.running_ms = Some(self.clock.now().saturating_sub(since));
            facts.worker_pid = process.pid;
            facts.epoch = Some(process.epoch.0);
            facts.worker = worker::status(&self.tools.run.worker_socket(session.id, number)).await.ok();
        }
        if let Some(device) = machine.recorder_of(brick.id) {
            facts.recorder_pid = machine.recorders.get(&device).and_then(|recorder| recorder.process.pid);
            let bricks = recorder::status(&self.tools.run.recorder_socket(device)).await.unwrap_or_default();
            facts.recorder = bricks.into_iter().find(|status| status.brick == brick.id.bytes());
        }
        facts
    }

    async fn wait(&self, name: &str, limit: Duration) -> Result<Answer, Failure> {
        self.ask_workers(name, limit, worker::wait).await
    }

    async fn resync(&self, name: &str) -> Result<Answer, Failure> {
        let answer = self.ask_workers(name, RESYNC_LIMIT, worker::resync).await?;
        if matches!(answer, Answer::Waited { done: false, .. }) {
            let text = format!("the worker of session '{name}' cannot store that both sides are to be compared");
            let hint = format!("'geo-rep status {name}' shows how it is; ask again when it is Active");
            return Err(Failure::new(FailureCode::Refused, text).hint(hint));
        }
        tracing::info!(session = name, "both sides are compared as a whole");
        Ok(answer)
    }

    /// Asks each worker of a started session for something that takes a while; tries again while one is starting.
    async fn ask_workers(
        &self,
        name: &str,
        limit: Duration,
        ask: impl AsyncFn(&std::path::Path, Duration) -> std::io::Result<(bool, u64)>,
    ) -> Result<Answer, Failure> {
        let deadline = tokio::time::Instant::now() + limit;
        let (session, _) = self.tools.registry.session(name).await?;
        if session.desired != Desired::Started {
            return Err(refusal(&session, Refused::NotRunning));
        }
        let declared = self.declared().await?;
        let volume = declared.volumes.iter().find(|volume| volume.name == session.primary);
        let (mut done, mut pending) = (true, 0);
        for number in 0..volume.map_or(0, |volume| volume.bricks.len()) {
            let socket = self.tools.run.worker_socket(session.id, number);
            loop {
                let left = deadline.saturating_duration_since(tokio::time::Instant::now());
                match ask(&socket, left).await {
                    Ok((is_done, is_pending)) => {
                        done &= is_done;
                        pending += is_pending;
                        break;
                    }
                    // It may just be starting again.
                    Err(_) if left > WAIT_POLL => tokio::time::sleep(WAIT_POLL).await,
                    Err(_) => {
                        done = false;
                        break;
                    }
                }
            }
        }
        Ok(Answer::Waited { done, pending })
    }
}

/// Why a worker is not up, if something is wrong.
fn trouble(machine: &Machine, key: WorkerKey) -> Option<String> {
    if let Some(reason) = machine.want.broken.get(&key) {
        return Some(reason.clone());
    }
    let brick = machine.want.bricks.get(&key.brick)?;
    let device = match &brick.device {
        Ok(device) => *device,
        Err(reason) => return Some(reason.clone()),
    };
    let worker = machine.workers.get(&key).and_then(|worker| worker.process.error.clone());
    let recorder = machine.recorders.get(&device);
    let attachment = recorder.and_then(|recorder| recorder.bricks.get(&key.brick));
    if let Some(error) = attachment.and_then(|attachment| attachment.error.as_ref()) {
        return Some(format!("the brick is not recorded: {error}"));
    }
    if let Some(error) =
        recorder.filter(|r| !matches!(r.process.phase, Phase::Running(_))).and_then(|r| r.process.error.as_ref())
    {
        return Some(format!("the {} ended: {error}", Unit::Recorder(device)));
    }
    worker.map(|error| format!("the worker ended: {error}"))
}

fn set_option(session: &mut Session, name: &str, value: Option<&str>) -> Result<(), Failure> {
    let hint = "'geo-rep config SESSION' lists all options with their values";
    let failed = |error: options::OptionError| Failure::new(FailureCode::BadOption, error.to_string()).hint(hint);
    let spec = options::find(name).map_err(failed)?;
    match value {
        Some(value) => {
            session.settings.insert(spec.name.into(), spec.parse(value).map_err(failed)?);
        }
        None => {
            session.settings.remove(spec.name);
        }
    }
    Ok(())
}

fn refusal(session: &Session, refused: Refused) -> Failure {
    let text = format!(
        "geo-replication session '{}' between {} & {}: {refused}",
        session.name, session.primary, session.secondary
    );
    let name = &session.name;
    let hint = match refused {
        Refused::AlreadyStarted => format!("'geo-rep status {name}' shows how it is"),
        Refused::IsPaused => format!("geo-rep resume {name}"),
        Refused::NotRunning => format!("geo-rep start {name}"),
        Refused::AlreadyPaused => format!("'geo-rep resume {name}' lets it go on"),
        Refused::NotPaused => format!("'geo-rep status {name}' shows how it is"),
        Refused::StillActive => format!("geo-rep stop {name}"),
    };
    Failure::new(FailureCode::Refused, text).hint(hint)
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Failure {
        match &error {
            RegistryError::NoSession { .. } => {
                Failure::new(FailureCode::NoSession, error.to_string()).hint("'geo-rep status' lists all sessions")
            }
            RegistryError::Taken { .. } => {
                Failure::new(FailureCode::Taken, error.to_string()).hint("choose another one with --name")
            }
            _ => Failure::new(FailureCode::Internal, with_causes(&error)),
        }
    }
}
