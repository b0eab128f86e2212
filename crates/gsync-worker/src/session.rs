//! One connection to the secondary: carries out what the state machine says, until something breaks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::Gfid;
use protocol::agent::{Request, Response, Stored, WorkerHello};
use protocol::hello::Versions;
use syncer::master::Master;
use syncer::per_file::{Choice, PerFileEngine};
use syncer::rsync::RsyncEngine;
use syncer::tar::TarEngine;
use syncer::target::SshTarget;
use syncer::{Control, Engine, SyncError, Target};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::adoption::{Swept, sweep};
use crate::brake::{Brake, Halt};
use crate::brick::Brick;
use crate::config::{EngineKind, SecondaryConfig, WorkerConfig};
use crate::control::{CrawlState, Halted, WorkerState};
use crate::core::Core;
use crate::error::WorkerError;
use crate::event::{Effect, Event, TransferState};
use crate::journal::{self, Delivery, now_secs};
use crate::listing::list;
use crate::plan::{self, Round, Survey};
use crate::run::parse_uuid;
use crate::shared::{Progress, Shared};
use crate::transfer::transfer;

/// How often the mark is stored under load: storing makes the secondary's file system write everything out.
const COMMIT_PERIOD: Duration = Duration::from_secs(1);

/// How soon the mark is stored when there is nothing else to do.
const COMMIT_IDLE: Duration = Duration::from_millis(200);

/// Under load, a store that takes long is given this many times its own length before the next. Without load the next
/// one costs nobody anything but the disk, and follows after once its length; at once when somebody waits for it.
const COMMIT_SHARE: u32 = 4;

/// How often the agent is asked whether it is there while nothing else is.
const PING_PERIOD: Duration = Duration::from_secs(15);

/// An agent that does not answer for so long is taken for dead.
const PING_LIMIT: Duration = Duration::from_secs(120);

/// How often it is looked whether an adoption can end.
const ADOPTION_PERIOD: Duration = Duration::from_millis(200);

/// How long an adoption waits after a first sweep that was not the last; doubled each time.
const FIRST_SWEEP_PAUSE: Duration = Duration::from_millis(500);

/// The longest wait between two sweeps.
const LAST_SWEEP_PAUSE: Duration = Duration::from_secs(60);

/// What a stopping worker still waits for.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// tar streams beside rsync: both are channels of one connection.
const MAX_STREAMS_BESIDE_RSYNC: usize = 2;

/// A connection at work.
struct Session {
    brick: Brick,
    /// Directory of the changelog, and what is read from it.
    journal: PathBuf,
    records: mpsc::Receiver<Result<Delivery, WorkerError>>,
    control: Control,
    engine: Arc<dyn Engine>,
    core: Core,
    shared: Arc<Shared>,
    tasks: JoinSet<Result<(Event, u64, u64), WorkerError>>,
    /// When the mark was stored last, and how long it took.
    last_commit: Instant,
    commit_took: Duration,
    /// An older copy is being adopted.
    adoption: Option<Adoption>,
    _master: Option<Master>,
}

/// An adoption under way.
#[derive(Debug)]
struct Adoption {
    /// What is over there is being compared just now.
    is_sweeping: bool,
    /// When it may be compared next.
    next_sweep: Instant,
    /// How long to wait after a sweep that was not the last.
    pause: Duration,
    /// Objects that went to quarantine.
    left_over: u64,
}

/// Connects and replicates until something breaks or `stop` is given. `accepted`: removals that the operator accepted;
/// taken when the secondary knows of them.
///
/// # Errors
/// What broke. `Ok`: it was stopped, and everything that was done is stored.
pub async fn replicate(
    config: &WorkerConfig,
    shared: &Arc<Shared>,
    accepted: &mut Option<u64>,
    stop: &CancellationToken,
) -> Result<(), WorkerError> {
    let brick_id = parse_uuid(&config.brick)?;
    let (brick, journal) = Brick::connect(&config.recorder_socket, brick_id).await?;
    let target = target(config);
    let master = match &target {
        Target::Ssh(ssh) => Some(Master::connect(ssh).await?),
        Target::Local { .. } => None,
    };
    let hello = WorkerHello {
        versions: Versions::ours(),
        session: parse_uuid(&config.session)?,
        replica_set: config.replica_set,
        brick: brick_id,
        epoch: config.epoch,
        root: config.secondary.path().as_os_str().as_encoded_bytes().to_vec(),
        name: config.session_name.clone(),
        primary: format!("{}:{}", config.node, config.brick_path.display()),
    };
    let (control, mut welcome) = Control::connect(&target, &hello).await?;
    if let Some(removals) = *accepted {
        control.call(Request::Accept { removals, forget: true }).await?;
        *accepted = None;
        (welcome.balance.accepted, welcome.balance.lost) = (removals, 0);
    }
    let engine = engine(config, target, &control, &welcome.stage_token).await?;
    let jobs = config.settings.sync_jobs as usize;
    let limits = (jobs * 2, engine.batch_files());
    let brake = Brake::new(config.settings.brake(), welcome.balance, Instant::now());
    let mut core = Core::new(brick_id, welcome.stored, limits, brake, Instant::now());
    core.restore_parked(&welcome.parked, Instant::now());
    let from = core.mark();
    tracing::info!(session = %config.session_name, brick = %config.brick_path.display(), mark = %from, "connected");
    let records = journal::follow(journal.clone(), from)?;
    let session = Session {
        brick,
        journal,
        records,
        control,
        engine,
        core,
        shared: shared.clone(),
        tasks: JoinSet::new(),
        last_commit: Instant::now(),
        commit_took: Duration::ZERO,
        adoption: welcome.adopting.then(|| Adoption {
            is_sweeping: false,
            next_sweep: Instant::now(),
            pause: FIRST_SWEEP_PAUSE,
            left_over: 0,
        }),
        _master: master,
    };
    session.run(stop).await
}

fn target(config: &WorkerConfig) -> Target {
    match &config.secondary {
        SecondaryConfig::Local { path, agent } => Target::Local { root: path.clone(), agent: agent.clone() },
        SecondaryConfig::Ssh { user, host, port, identity, known_hosts, options, command, .. } => {
            Target::Ssh(SshTarget {
                user: user.clone(),
                host: host.clone(),
                port: *port,
                identity: identity.clone(),
                known_hosts: known_hosts.clone(),
                options: options.clone(),
                command: command.clone(),
                control_path: config.run_dir.join("ssh"),
            })
        }
    }
}

async fn engine(
    config: &WorkerConfig,
    target: Target,
    control: &Control,
    token: &str,
) -> Result<Arc<dyn Engine>, WorkerError> {
    let jobs = config.settings.sync_jobs as usize;
    let choice = match config.settings.sync_engine {
        EngineKind::Tar => return Ok(Arc::new(TarEngine::open(&target, token, jobs).await?)),
        EngineKind::Rsync => Choice::Rsync,
        EngineKind::Auto => Choice::Auto,
    };
    let tar = TarEngine::open(&target, token, jobs.min(MAX_STREAMS_BESIDE_RSYNC)).await?;
    let program = config.settings.rsync_command.clone();
    let rsync = RsyncEngine::new(target, control.clone(), token.into(), program, config.run_dir.clone());
    Ok(Arc::new(PerFileEngine::new(tar, rsync, choice)))
}

impl Session {
    async fn run(mut self, stop: &CancellationToken) -> Result<(), WorkerError> {
        self.shared.update(|s| {
            s.state = WorkerState::Active;
            s.error.clear();
        });
        let effects = self.core.tick(Instant::now());
        self.carry_out(effects).await?;
        let control = self.control.clone();
        let mut ping = tokio::time::interval(PING_PERIOD);
        loop {
            self.commit_if_due().await?;
            self.sweep_if_due();
            self.publish();
            let wake = self.next_wake();
            let event = tokio::select! {
                () = stop.cancelled() => return self.finish().await,
                () = control.ended() => return Err(SyncError::Ended.into()),
                delivery = self.records.recv(), if self.core.wants_records() => self.read(delivery)?,
                Some(done) = self.tasks.join_next() => match self.count(done)? {
                    Some(Event::Swept(swept)) => Some(Event::Swept(self.swept(swept).await?)),
                    other => other,
                },
                () = tokio::time::sleep_until(wake.into()) => None,
                () = self.shared.hurry.notified() => { self.obey(); None }
                _ = ping.tick() => { self.ping().await?; None }
            };
            self.core.wall_secs = now_secs();
            let effects = match event {
                Some(event) => self.core.apply(event, Instant::now()),
                None => self.core.tick(Instant::now()),
            };
            self.carry_out(effects).await?;
            if let Some(halt) = self.core.halt().cloned() {
                return self.halt(halt).await;
            }
        }
    }

    /// Does what the operator asked for.
    fn obey(&mut self) {
        if self.shared.take_resync() {
            tracing::info!("both sides are compared as a whole: the operator asked for it");
            self.core.begin_rescan("the operator asked for it".into());
        }
    }

    /// Ends in order, and says why.
    async fn halt(self, halt: Halt) -> Result<(), WorkerError> {
        let control = self.control.clone();
        let answer = control.call(Request::Paths(halt.examples.clone())).await?;
        let Response::Paths(paths) = answer else { return Err(WorkerError::Nonsense) };
        self.finish().await?;
        Err(WorkerError::Halted(Box::new(Halted::new(&halt, &paths))))
    }

    fn read(&self, delivery: Option<Result<Delivery, WorkerError>>) -> Result<Option<Event>, WorkerError> {
        let Delivery { unproven, records, next, at_tail, read_until } = match delivery {
            Some(delivery) => delivery?,
            None => {
                let source = std::io::Error::other("the reading thread ended");
                return Err(WorkerError::Local { doing: "reading the changelog", source });
            }
        };
        if let Some(reason) = &unproven {
            tracing::warn!(reason, "both sides are compared as a whole");
        }
        Ok(Some(Event::Records { unproven, records, next, at_tail, read_until }))
    }

    fn count(
        &mut self,
        done: Result<Result<(Event, u64, u64), WorkerError>, tokio::task::JoinError>,
    ) -> Result<Option<Event>, WorkerError> {
        let failed = |e| WorkerError::Local { doing: "running a task", source: std::io::Error::other(e) };
        let (event, files, bytes) = done.map_err(failed)??;
        if matches!(event, Event::Committed) {
            self.commit_took = self.last_commit.elapsed();
        }
        if files > 0 {
            self.shared.update(|s| {
                s.sent_files += files;
                s.sent_bytes += bytes;
            });
        }
        Ok(Some(event))
    }

    async fn carry_out(&mut self, effects: Vec<Effect>) -> Result<(), WorkerError> {
        for effect in effects {
            match effect {
                Effect::Survey(round) => {
                    let brick = self.brick.clone();
                    self.tasks.spawn(async move {
                        let survey = survey(&brick, &round).await?;
                        Ok((Event::Surveyed(round, survey), 0, 0))
                    });
                }
                Effect::Transfer(jobs) => {
                    let (brick, control, engine) = (self.brick.clone(), self.control.clone(), self.engine.clone());
                    let adopting = self.adoption.is_some();
                    self.tasks.spawn(async move {
                        let (files, bytes) = transfer(&brick, &control, engine.as_ref(), adopting, jobs).await?;
                        let count =
                            files.iter().filter(|f| matches!(f.state, TransferState::Staged { .. })).count() as u64;
                        Ok((Event::Transferred(files), count, bytes))
                    });
                }
                Effect::Apply(ticket, batch) => {
                    let answer = self.control.send(Request::Apply(batch)).await?;
                    self.tasks.spawn(async move { Ok((applied(ticket, answer).await?, 0, 0)) });
                }
                Effect::Commit(stored) => self.commit(stored).await?,
                Effect::List(request) => {
                    let (brick, control) = (self.brick.clone(), self.control.clone());
                    self.tasks.spawn(async move { Ok((list(&brick, &control, request).await?, 0, 0)) });
                }
                Effect::Count(gfids) => {
                    let answer = self.control.send(Request::Known(gfids.clone())).await?;
                    self.tasks.spawn(async move { Ok((counted(gfids, answer).await?, 0, 0)) });
                }
                Effect::FindEnd => {
                    let brick = self.brick.clone();
                    self.tasks.spawn(async move { Ok((Event::End(brick.barrier().await?), 0, 0)) });
                }
                Effect::Accept(removals) => {
                    // Answered like a commit, and nobody has to wait for it.
                    drop(self.control.send(Request::Accept { removals, forget: false }).await?);
                }
                Effect::Rewind(from) => {
                    tracing::info!(%from, "removals were counted; they pass");
                    self.records = journal::follow(self.journal.clone(), from)?;
                }
            }
        }
        Ok(())
    }

    async fn commit(&mut self, stored: Stored) -> Result<(), WorkerError> {
        self.last_commit = Instant::now();
        let answer = self.control.send(Request::Commit(stored)).await?;
        self.tasks.spawn(async move {
            match receive(answer).await? {
                Response::Committed => Ok((Event::Committed, 0, 0)),
                _ => Err(WorkerError::Nonsense),
            }
        });
        Ok(())
    }

    /// When something has to be done without an event.
    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let commit = self.commit_due().max(now + Duration::from_millis(1));
        let commit = if self.core.has_news() { commit } else { now + PING_PERIOD };
        let commit = if self.adoption.is_some() { commit.min(now + ADOPTION_PERIOD) } else { commit };
        self.core.next_wake().map_or(commit, |wake| wake.min(commit))
    }

    fn commit_due(&self) -> Instant {
        let took = self.commit_took;
        self.last_commit
            + match (self.shared.has_waiters(), self.core.is_idle()) {
                (true, true) => Duration::ZERO,
                (false, true) => COMMIT_IDLE.max(took),
                (true, false) => COMMIT_IDLE.max(took * COMMIT_SHARE),
                (false, false) => COMMIT_PERIOD.max(took * COMMIT_SHARE),
            }
    }

    async fn commit_if_due(&mut self) -> Result<(), WorkerError> {
        if Instant::now() < self.commit_due() {
            return Ok(());
        }
        match self.core.commit() {
            Some(effect) => self.carry_out(vec![effect]).await,
            None => Ok(()),
        }
    }

    /// When everything was stated and stored, what the secondary has besides is looked for.
    fn sweep_if_due(&mut self) {
        let is_quiet = self.core.is_live() && self.core.is_idle() && !self.core.has_news();
        let Some(adoption) = &mut self.adoption else { return };
        if adoption.is_sweeping || !is_quiet || Instant::now() < adoption.next_sweep {
            return;
        }
        adoption.is_sweeping = true;
        let (brick, control) = (self.brick.clone(), self.control.clone());
        self.tasks.spawn(async move { Ok((Event::Swept(sweep(&brick, &control).await?), 0, 0)) });
    }

    /// Ends the adoption when nothing was left to do; returns what has to be stated.
    async fn swept(&mut self, mut swept: Swept) -> Result<Swept, WorkerError> {
        // What is pending is known to differ, and is tried again by itself.
        let names = &self.core.dirty.names;
        swept.stale.retain(|(place, _)| names.get(place).is_none_or(|work| work.pending.is_none()));
        let Some(adoption) = &mut self.adoption else { return Ok(swept) };
        adoption.is_sweeping = false;
        adoption.left_over += swept.left_over;
        if swept.is_unclear || !swept.stale.is_empty() {
            adoption.next_sweep = Instant::now() + adoption.pause;
            adoption.pause = (adoption.pause * 2).min(LAST_SWEEP_PAUSE);
            return Ok(swept);
        }
        match self.control.call(Request::EndAdoption).await? {
            Response::Committed => {}
            _ => return Err(WorkerError::Nonsense),
        }
        let left_over = adoption.left_over;
        tracing::warn!(left_over, "the older copy is adopted; what was left over is in .gsync/quarantine/left-over");
        self.adoption = None;
        Ok(swept)
    }

    async fn ping(&mut self) -> Result<(), WorkerError> {
        if !self.tasks.is_empty() {
            return Ok(());
        }
        match tokio::time::timeout(PING_LIMIT, self.control.call(Request::Ping)).await {
            Ok(answer) => answer.map(drop).map_err(WorkerError::from),
            Err(_) => Err(SyncError::Ended.into()),
        }
    }

    fn publish(&self) {
        let dirty = &self.core.dirty;
        let pending = dirty.pending_len() as u64;
        let durable = self.core.durable_mark();
        let valid = durable.filter(|_| self.core.is_mark_valid());
        self.shared.publish(Progress { durable: valid, resyncs: self.core.rescans_stored(), pending });
        self.shared.update(|s| {
            s.crawl = match (self.core.rescan_reason(), self.core.is_live()) {
                (Some(_), _) => CrawlState::HybridCrawl,
                (None, true) => CrawlState::ChangelogCrawl,
                (None, false) => CrawlState::HistoryCrawl,
            };
            s.rescan = self.core.rescan_reason().unwrap_or_default().to_owned();
            s.last_synced = self.core.synced_until();
            s.entry = (dirty.names.len() - dirty.names.pending_len()) as u64;
            s.data = (dirty.contents.len() - dirty.contents.pending_len()) as u64;
            s.meta = (dirty.attributes.len() - dirty.attributes.pending_len()) as u64;
            s.failures = pending;
            s.mark = durable.map(|p| p.to_string()).unwrap_or_default();
            if pending > 0 || !s.failure_reasons.is_empty() {
                s.failure_reasons = dirty.failure_reasons();
            }
        });
    }

    /// Lets what is on its way arrive, and stores the mark.
    async fn finish(mut self) -> Result<(), WorkerError> {
        let work = async {
            loop {
                if self.core.is_quiet() {
                    match self.core.commit() {
                        Some(effect) => self.carry_out(vec![effect]).await?,
                        None => return Ok(()),
                    }
                }
                let Some(done) = self.tasks.join_next().await else { return Ok(()) };
                if let Some(event) = self.count(done)? {
                    // Only what is needed to finish: nothing new is begun.
                    let effects = self.core.settle(event, Instant::now());
                    self.carry_out(effects).await?;
                }
            }
        };
        match tokio::time::timeout(STOP_LIMIT, work).await {
            Ok(result) => result,
            Err(_) => Ok(()),
        }
    }
}

async fn applied(ticket: u64, answer: oneshot::Receiver<Response>) -> Result<Event, WorkerError> {
    match receive(answer).await? {
        Response::Applied { items, gone, quarantined, parked, balance } => {
            for line in quarantined {
                tracing::warn!(object = line, "the secondary had something unknown; it is in quarantine");
            }
            Ok(Event::Applied { ticket, items, gone, parked, balance })
        }
        _ => Err(WorkerError::Nonsense),
    }
}

async fn counted(gfids: Vec<Gfid>, answer: oneshot::Receiver<Response>) -> Result<Event, WorkerError> {
    match receive(answer).await? {
        Response::Known(known) if known.len() == gfids.len() => {
            let known = gfids.into_iter().zip(known).filter_map(|(gfid, is_known)| is_known.then_some(gfid));
            Ok(Event::Counted(known.collect()))
        }
        _ => Err(WorkerError::Nonsense),
    }
}

async fn receive(answer: oneshot::Receiver<Response>) -> Result<Response, WorkerError> {
    match answer.await {
        Ok(Response::Refused(reason)) => Err(SyncError::Refused(reason).into()),
        Ok(response) => Ok(response),
        Err(_) => Err(SyncError::Ended.into()),
    }
}

/// Carries out one [`Effect::Survey`].
async fn survey(brick: &Brick, round: &Round) -> Result<Survey, WorkerError> {
    let looks = brick.look(round.names.iter().map(|(place, _)| place.clone()).collect()).await?;
    let asked = plan::asked(round, &looks);
    let lives = brick.names(asked.clone()).await?;
    let objects = brick.stat(round.attributes.clone()).await?;
    Ok(Survey { looks, lives: asked.into_iter().zip(lives).collect(), objects })
}
