//! The one thread that owns tree, index and state: requests of all workers in the order in which they came.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender};
use std::time::{SystemTime, UNIX_EPOCH};

use protocol::agent::{
    AgentHello, Balance, Candidate, MAX_BATCH_ITEMS, MAX_LISTED, MAX_PARKED, MAX_PENDING_ITEMS, Numbered, Refusal,
    Request, Response, Stored, Welcome, WorkerHello,
};
use protocol::hello::Versions;
use protocol::{Gfid, Place};

use crate::adopt::examine::{self, MAX_CANDIDATES};
use crate::adopt::sweep::Sweep;
use crate::apply::prepare::{self, MAX_PREPARE};
use crate::apply::{self, Staging};
use crate::channel::control::Reply;
use crate::claim;
use crate::crawl::open_tree;
use crate::error::{AgentError, Trouble};
use crate::losses::Losses;
use crate::private::Private;
use crate::stage::Stages;
use crate::state::{State, StateFile};
use crate::tree::Tree;

/// Jobs that may wait; behind them each worker has its own budget.
pub const QUEUE_JOBS: usize = 64;

/// What the channels ask for.
#[derive(Debug)]
pub enum Job {
    /// A worker introduces itself.
    Hello {
        /// Number of the connection.
        connection: u64,
        /// Who it is.
        hello: WorkerHello,
        /// Where answers go.
        replies: Sender<Reply>,
        /// Where what was done beside this thread is reported.
        queue: SyncSender<Job>,
    },
    /// A worker asks for something.
    Request {
        /// Number of the connection.
        connection: u64,
        /// What.
        request: Numbered<Request>,
        /// Its size, to be given back with the answer.
        bytes: usize,
    },
    /// The file system wrote everything out that was done before a [`Request::Commit`].
    Synced {
        /// Number of the connection.
        connection: u64,
        /// Number and size of the request.
        request: (u64, usize),
        /// What is to be stored now.
        stored: Stored,
        /// Whether it did.
        result: std::io::Result<()>,
    },
    /// A worker is gone.
    Closed {
        /// Number of the connection.
        connection: u64,
    },
}

/// Session and replica set.
type SessionKey = ([u8; 16], u32);

/// A session and replica set with a worker.
struct Session {
    file: StateFile,
    state: State,
    connection: u64,
    /// Whether something was removed that is not stored yet.
    has_counted: bool,
}

/// A welcomed worker.
struct Connection {
    key: SessionKey,
    staging: Staging,
    replies: Sender<Reply>,
    queue: SyncSender<Job>,
    /// Where the listing of the tree is.
    sweep: Sweep,
}

/// The state of the thread.
pub struct Applier {
    private: Arc<Private>,
    stages: Arc<Stages>,
    /// The tree, or why there is none (any more).
    tree: Result<Tree, String>,
    sessions: HashMap<SessionKey, Session>,
    connections: HashMap<u64, Connection>,
}

impl Applier {
    /// Opens the tree; when that fails, workers are told why.
    pub fn open(private: Arc<Private>, stages: Arc<Stages>, open_directories: usize) -> Applier {
        let tree = open_tree(private.clone(), open_directories).map_err(|error| {
            let reason = explain(&error);
            tracing::error!(reason, "the root cannot be served");
            reason
        });
        let tree = tree.and_then(|mut tree| {
            let parked =
                tree.list_parked(usize::MAX).map_err(|e| format!("the parking place cannot be listed: {e}"))?;
            tree.parked_count = parked.len() as u64;
            Ok(tree)
        });
        Applier { private, stages, tree, sessions: HashMap::new(), connections: HashMap::new() }
    }

    /// Carries jobs out until all channels are gone, then stops cleanly. Returns whether that worked.
    pub fn run(mut self, jobs: &Receiver<Job>) -> bool {
        for job in jobs {
            match job {
                Job::Hello { connection, hello, replies, queue } => {
                    let answer = self.hello(connection, &hello, &replies, queue);
                    let answer =
                        answer.unwrap_or_else(|reason| AgentHello::Refused { versions: Versions::ours(), reason });
                    let _ = replies.send(Reply::Hello(answer));
                }
                Job::Request { connection, request, bytes } => self.request(connection, request, bytes),
                Job::Synced { connection, request, stored, result } => {
                    self.synced(connection, request, stored, result);
                }
                Job::Closed { connection } => self.close(connection),
            }
        }
        self.finish()
    }

    fn finish(mut self) -> bool {
        let Ok(tree) = &mut self.tree else { return false };
        let stopped = tree.sync().map_err(explain_trouble);
        let stopped = stopped.and_then(|()| self.private.put_clean_marker().map_err(|e| e.to_string()));
        if let Err(reason) = &stopped {
            tracing::error!(reason, "no clean stop; the next start makes a new index");
        }
        stopped.is_ok()
    }

    fn hello(
        &mut self,
        connection: u64,
        hello: &WorkerHello,
        replies: &Sender<Reply>,
        queue: SyncSender<Job>,
    ) -> Result<AgentHello, Refusal> {
        if hello.versions.common(&Versions::ours()).is_none() {
            return Err(Refusal::Version);
        }
        claim::admit(&self.private, hello)?;
        let adopting = claim::is_adopting(&self.private);
        let (can_clone, parked) = match &mut self.tree {
            Ok(tree) => {
                tree.adopting = adopting;
                (tree.can_clone, tree.list_parked(MAX_PARKED))
            }
            Err(reason) => return Err(Refusal::Root(reason.clone())),
        };
        let key = (hello.session, hello.replica_set);
        self.keep_removals(key);
        let (mut file, mut state) = self.read_session(key)?;
        if hello.epoch < state.epoch {
            return Err(Refusal::Fenced { current: state.epoch });
        }
        if hello.epoch > state.epoch {
            state.epoch = hello.epoch;
            file.write(&self.private, &state).map_err(|e| Refusal::Root(format!("the epoch cannot be stored: {e}")))?;
        }
        // Only now: a worker that is refused must not cost another one its connection.
        self.retire(key, state.epoch);
        let stage = self.stages.create(&self.private);
        let stage = stage.map_err(|e| Refusal::Root(format!("no stage can be made: {e}")))?;
        let welcome = Welcome {
            versions: Versions::ours(),
            stored: state.stored.clone(),
            stage_token: stage.token.clone(),
            parked: parked.map_err(|e| Refusal::Root(format!("the parking place cannot be listed: {e}")))?,
            can_clone,
            adopting,
            balance: self.balance(&mut state.losses, 0)?,
        };
        tracing::info!(session = %protocol::Gfid(key.0), replica_set = key.1, epoch = hello.epoch, "a worker is here");
        self.sessions.insert(key, Session { file, state, connection, has_counted: false });
        let staging = Staging::new(stage);
        self.connections
            .insert(connection, Connection { key, staging, replies: replies.clone(), queue, sweep: Sweep::default() });
        Ok(AgentHello::Welcome(Box::new(welcome)))
    }

    /// What is stored; of a session that has a worker the same is in memory.
    fn read_session(&self, key: SessionKey) -> Result<(StateFile, State), Refusal> {
        StateFile::open(&self.private, key.0, key.1)
            .map_err(|e| Refusal::Root(format!("the state cannot be read: {e}")))
    }

    /// Stores what was removed since the last commit: whoever kills workers must not get around their brake.
    fn keep_removals(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key).filter(|session| session.has_counted) else { return };
        match session.file.write(&self.private, &session.state) {
            Ok(()) => session.has_counted = false,
            Err(error) => tracing::warn!(%error, "what was lost could not be stored"),
        }
    }

    /// Ends the connection that a session has.
    fn retire(&mut self, key: SessionKey, current: u64) {
        let Some(session) = self.sessions.remove(&key) else { return };
        if let Some(old) = self.connections.remove(&session.connection) {
            let _ = old.replies.send(Reply::Last(Response::Refused(Refusal::Fenced { current })));
            self.end_stage(&old);
        }
    }

    fn request(&mut self, connection: u64, request: Numbered<Request>, bytes: usize) {
        // Of a connection that was retired nothing is carried out any more, whatever still waits.
        let Some(mut worker) = self.connections.remove(&connection) else { return };
        let Numbered { number, body } = request;
        let answer = match body {
            Request::Commit(stored) => {
                self.begin_commit(connection, worker, (number, bytes), stored);
                return;
            }
            Request::Examine(candidates) => {
                self.begin_examination(connection, worker, (number, bytes), &candidates);
                return;
            }
            body => self.answer(&mut worker, body),
        };
        self.reply(connection, worker, (number, bytes), answer);
    }

    fn reply(
        &mut self,
        connection: u64,
        worker: Connection,
        (number, bytes): (u64, usize),
        answer: Result<Response, Refusal>,
    ) {
        match answer {
            Ok(body) => {
                let _ = worker.replies.send(Reply::Response(Numbered { number, body }, bytes));
                self.connections.insert(connection, worker);
            }
            Err(refusal) => {
                let _ = worker.replies.send(Reply::Last(Response::Refused(refusal)));
                self.sessions.remove(&worker.key);
                self.end_stage(&worker);
            }
        }
    }

    /// Has the file system write everything out, beside this thread: that can take a second, in which the next
    /// statements are carried out already.
    fn begin_commit(&mut self, connection: u64, worker: Connection, request: (u64, usize), stored: Stored) {
        if stored.pending.len() > MAX_PENDING_ITEMS {
            let refusal = Refusal::Root("the pending list is too long".into());
            return self.reply(connection, worker, request, Err(refusal));
        }
        let (private, queue) = (self.private.clone(), worker.queue.clone());
        self.connections.insert(connection, worker);
        std::thread::spawn(move || {
            let result = rustix::fs::syncfs(&private.root).map_err(Into::into);
            let _ = queue.send(Job::Synced { connection, request, stored, result });
        });
    }

    /// Has candidates read beside this thread.
    fn begin_examination(
        &mut self,
        connection: u64,
        worker: Connection,
        (number, bytes): (u64, usize),
        candidates: &[Candidate],
    ) {
        let found = match &mut self.tree {
            _ if candidates.len() > MAX_CANDIDATES => Err(Refusal::Root("too many objects in one request".into())),
            Ok(tree) => examine::find(tree, candidates).map_err(|error| self.fail(&error.into())),
            Err(reason) => Err(Refusal::Root(reason.clone())),
        };
        let found = match found {
            Ok(found) => found,
            Err(refusal) => return self.reply(connection, worker, (number, bytes), Err(refusal)),
        };
        let replies = worker.replies.clone();
        self.connections.insert(connection, worker);
        std::thread::spawn(move || {
            let body = Response::Examined(examine::read(found));
            let _ = replies.send(Reply::Response(Numbered { number, body }, bytes));
        });
    }

    fn synced(&mut self, connection: u64, request: (u64, usize), stored: Stored, result: std::io::Result<()>) {
        let Some(worker) = self.connections.remove(&connection) else { return };
        let answer = match result {
            Ok(()) => self.commit(worker.key, stored),
            Err(error) => Err(Refusal::Root(format!("the file system does not write out: {error}"))),
        };
        self.reply(connection, worker, request, answer);
    }

    fn answer(&mut self, worker: &mut Connection, request: Request) -> Result<Response, Refusal> {
        match &request {
            Request::Known(gfids) | Request::Paths(gfids) if gfids.len() > MAX_BATCH_ITEMS => {
                return Err(Refusal::Root("too many objects in one request".into()));
            }
            _ => {}
        }
        let tree = self.tree.as_mut().map_err(|reason| Refusal::Root(reason.clone()))?;
        let result = match request {
            Request::Apply(batch) => match apply::batch(tree, &mut worker.staging, &batch) {
                Ok(answer) => return self.count_removals(worker.key, answer),
                Err(error) => Err(error),
            },
            Request::Prepare(gfids) if gfids.len() > MAX_PREPARE => {
                return Err(Refusal::Root("too many objects in one request".into()));
            }
            Request::Prepare(gfids) => prepare::prepare(tree, &worker.staging, &gfids).map(Response::Prepared),
            Request::Commit(stored) => return self.commit(worker.key, stored),
            Request::Examine(_) => return Err(Refusal::Root("examined elsewhere".into())),
            Request::Sweep => match worker.sweep.next(tree) {
                Ok((names, done)) => Ok(Response::Swept { names, done }),
                Err(Trouble::Index(error)) => Err(error),
                Err(trouble) => return Err(Refusal::Root(explain_trouble(trouble))),
            },
            Request::EndAdoption => {
                tree.adopting = false;
                let ended = claim::set_adopting(&self.private, false);
                return ended
                    .map(|()| Response::Committed)
                    .map_err(|e| Refusal::Root(format!("the adoption cannot be ended: {e}")));
            }
            Request::List(after) => tree.index.list(after.as_ref(), MAX_LISTED).map(Response::Listed),
            Request::Accept { removals, forget } => return self.accept(worker.key, removals, forget),
            Request::Known(gfids) => {
                let has_name = |places: Vec<Place>| places.iter().any(|place| place.parent != Gfid::PARKING);
                let known = gfids.iter().map(|gfid| Ok(has_name(tree.index.names(*gfid)?)));
                known.collect::<Result<_, _>>().map(Response::Known)
            }
            Request::Paths(gfids) => {
                let paths = gfids.iter().map(|gfid| tree.path_of(*gfid).unwrap_or_default());
                Ok(Response::Paths(paths.collect()))
            }
            Request::Ping => {
                let free = rustix::fs::fstatvfs(&self.private.root);
                let free = free.map_err(|e| Refusal::Root(format!("the file system does not answer: {e}")))?;
                let free_bytes = free.f_bavail.saturating_mul(free.f_frsize);
                Ok(Response::Pong { free_bytes, free_inodes: free.f_favail })
            }
        };
        result.map_err(|error| self.fail(&error.into()))
    }

    /// Completes the answer to a batch with what the brake has to know.
    fn count_removals(&mut self, key: SessionKey, mut answer: Response) -> Result<Response, Refusal> {
        let removed = self.tree.as_mut().map_or(0, |tree| std::mem::take(&mut tree.removed));
        let session = self.sessions.get_mut(&key).ok_or(Refusal::Fenced { current: 0 })?;
        session.has_counted |= removed > 0;
        let mut losses = std::mem::take(&mut session.state.losses);
        let after = self.balance(&mut losses, removed);
        if let Some(session) = self.sessions.get_mut(&key) {
            session.state.losses = losses;
        }
        if let Response::Applied { balance, .. } = &mut answer {
            *balance = after?;
        }
        Ok(answer)
    }

    /// Takes in that so many objects were removed.
    fn balance(&self, losses: &mut Losses, removed: u64) -> Result<Balance, Refusal> {
        let tree = self.tree.as_ref().map_err(|reason| Refusal::Root(reason.clone()))?;
        let objects = tree.index.objects().map_err(|error| Refusal::Root(explain(&error)))?;
        // The root is in the index too, and what is parked has no name any more.
        let objects = objects.saturating_sub(1 + tree.parked_count);
        let now_secs = now_secs();
        losses.update(now_secs, objects, removed);
        Ok(Balance { objects, lost: losses.lost(now_secs, objects), accepted: losses.accepted() })
    }

    fn accept(&mut self, key: SessionKey, count: u64, forget: bool) -> Result<Response, Refusal> {
        let session = self.sessions.get_mut(&key).ok_or(Refusal::Fenced { current: 0 })?;
        session.state.losses.accept(count, forget);
        let written = session.file.write(&self.private, &session.state);
        written.map_err(|e| Refusal::Root(format!("what was accepted cannot be stored: {e}")))?;
        Ok(Response::Committed)
    }

    fn commit(&mut self, key: SessionKey, stored: Stored) -> Result<Response, Refusal> {
        let tree = self.tree.as_mut().map_err(|reason| Refusal::Root(reason.clone()))?;
        match tree.sync_index() {
            Ok(()) => {}
            Err(Trouble::Index(error)) => return Err(self.fail(&error.into())),
            Err(trouble) => return Err(Refusal::Root(explain_trouble(trouble))),
        }
        let session = self.sessions.get_mut(&key).ok_or(Refusal::Fenced { current: 0 })?;
        session.state.stored = stored;
        let written = session.file.write(&self.private, &session.state);
        written.map_err(|e| Refusal::Root(format!("the mark cannot be stored: {e}")))?;
        session.has_counted = false;
        Ok(Response::Committed)
    }

    /// The index is broken: nothing is applied any more, so that the next start finds no marker of a clean stop.
    fn fail(&mut self, error: &AgentError) -> Refusal {
        let reason = explain(error);
        tracing::error!(reason, "the agent cannot go on");
        self.tree = Err(reason.clone());
        Refusal::Root(reason)
    }

    fn close(&mut self, connection: u64) {
        let Some(worker) = self.connections.remove(&connection) else { return };
        self.keep_removals(worker.key);
        self.sessions.remove(&worker.key);
        self.end_stage(&worker);
    }

    fn end_stage(&mut self, worker: &Connection) {
        let stage = &worker.staging.stage;
        self.stages.close(&self.private, stage);
        if let Ok(tree) = &mut self.tree {
            tree.in_place.retain(|_, token| *token != stage.token);
        }
        let (private, token) = (self.private.clone(), stage.token.clone());
        std::thread::spawn(move || Stages::remove(&private, &token));
    }
}

/// Wall clock, seconds since 1970.
fn now_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// An error with its causes, in one line.
pub fn explain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        line += &format!(": {cause}");
        next = cause.source();
    }
    line
}

fn explain_trouble(trouble: Trouble) -> String {
    match trouble {
        Trouble::Index(error) => explain(&error),
        Trouble::Answer(outcome) => format!("{outcome:?}"),
    }
}
