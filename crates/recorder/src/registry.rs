//! All attached bricks, and the file systems they are on.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use changelog::Position;
use protocol::brick::BrickStatus;

use crate::brick::{BrickSpec, Claims};
use crate::disk::Root;
use crate::error::{Error, Result};
use crate::identity;
use crate::keeper::Keepers;
use crate::pipeline::{Attached, Command, Pipeline, Reply};
use crate::queue::{Queue, QueueOptions};

/// How a recorder works.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Who holds the queues of events while no recorder runs.
    pub keepers: Keepers,
    /// How new queues are made.
    pub queue: QueueOptions,
}

struct Entry {
    attached: Arc<Attached>,
    pipeline: Arc<Pipeline>,
}

/// The recorder as a whole.
#[derive(Default)]
pub struct Registry {
    options: Options,
    bricks: RwLock<HashMap<[u8; 16], Entry>>,
    /// By device number. Its lock makes attaching and detaching happen one after the other.
    pipelines: Mutex<HashMap<u64, Arc<Pipeline>>>,
}

impl Registry {
    /// Without bricks.
    pub fn new(options: Options) -> Registry {
        Registry { options, ..Registry::default() }
    }

    /// Records a directory from now on. Again: nothing happens.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] with what is wrong, or what went wrong.
    pub fn attach(&self, id: [u8; 16], path: &Path, state: &Path) -> Result<()> {
        let mut pipelines = self.pipelines();
        let spec = self.check(id, path, state)?;
        let Some(spec) = spec else { return Ok(()) };
        // Before anything is marked: what is there may be the directory below a mount that is missing.
        let root = Root::open(&spec.path)?;
        identity::admit(&spec.path, &spec.state, &root)?;
        let device = root.id().0;
        let pipeline = match pipelines.get(&device) {
            Some(pipeline) => pipeline.clone(),
            None => {
                let keeper = self.options.keepers.of(device);
                let queue = Queue::open(keeper, root.fd(), &spec.path, self.options.queue)?;
                let pipeline = Arc::new(Pipeline::start(queue)?);
                pipelines.insert(device, pipeline.clone());
                pipeline
            }
        };
        drop(root);
        mute(&pipeline, &spec);
        let attached = Arc::new(Attached {
            spec,
            open: RwLock::new(None),
            crawling: AtomicBool::new(true),
            crawls: AtomicU64::new(0),
            error: Mutex::new(String::new()),
        });
        let result = ask(&pipeline, |reply| Command::Attach(attached.clone(), reply));
        if result.is_ok() {
            self.bricks_mut().insert(id, Entry { attached, pipeline });
        } else {
            self.stop_unused(&mut pipelines, false);
        }
        result.map_err(Error::Unsuitable)
    }

    /// Stops recording a brick; what was seen is written down first.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] when it is not attached, or what could not be written.
    pub fn detach(&self, id: [u8; 16]) -> Result<()> {
        let mut pipelines = self.pipelines();
        let entry = self.bricks_mut().remove(&id);
        let Some(entry) = entry else { return Err(Error::Unsuitable("the brick is not attached".into())) };
        let result = ask(&entry.pipeline, |reply| Command::Detach(id, reply));
        drop(entry);
        self.stop_unused(&mut pipelines, true);
        result.map_err(Error::Unsuitable)
    }

    /// How each brick is.
    pub fn status(&self) -> Vec<BrickStatus> {
        let bricks = self.bricks.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<BrickStatus> = bricks
            .iter()
            .map(|(id, Entry { attached, pipeline })| {
                let open = attached.open.read().unwrap_or_else(PoisonError::into_inner);
                let objects = open.as_ref().and_then(|open| open.index.view().ok()?.objects().ok());
                BrickStatus {
                    brick: *id,
                    crawling: attached.crawling.load(Ordering::Relaxed),
                    objects: objects.unwrap_or(0),
                    crawls: attached.crawls.load(Ordering::Relaxed),
                    level: pipeline.level().name().into(),
                    error: attached.error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
                }
            })
            .collect();
        all.sort_by_key(|status| status.brick);
        all
    }

    /// A brick, to ask about.
    pub fn brick(&self, id: [u8; 16]) -> Option<Arc<Attached>> {
        let bricks = self.bricks.read().unwrap_or_else(PoisonError::into_inner);
        bricks.get(&id).map(|entry| entry.attached.clone())
    }

    /// Says what sessions still need of a brick's changelog.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] when it is not attached.
    pub fn retain(&self, id: [u8; 16], claims: Claims) -> Result<()> {
        let pipeline = {
            let bricks = self.bricks.read().unwrap_or_else(PoisonError::into_inner);
            bricks.get(&id).map(|entry| entry.pipeline.clone())
        };
        let pipeline = pipeline.ok_or_else(|| Error::Unsuitable("the brick is not attached".into()))?;
        ask(&pipeline, |reply| Command::Retain(id, claims, reply)).map_err(Error::Unsuitable)
    }

    /// Waits until everything that happened before is in the brick's changelog, and says where it ends.
    ///
    /// # Errors
    /// Why not, for the operator.
    pub fn barrier(&self, id: [u8; 16]) -> std::result::Result<Position, String> {
        let pipeline = {
            let bricks = self.bricks.read().unwrap_or_else(PoisonError::into_inner);
            bricks.get(&id).map(|entry| entry.pipeline.clone())
        };
        let pipeline = pipeline.ok_or("the brick is not attached")?;
        ask(&pipeline, |reply| Command::Barrier(id, reply))
    }

    /// Writes everything down and lets go of all bricks.
    pub fn stop(&self) {
        let mut pipelines = self.pipelines();
        for (_, pipeline) in pipelines.drain() {
            drop(ask(&pipeline, Command::Stop));
            pipeline.join();
        }
        self.bricks_mut().clear();
    }

    /// Refuses what cannot work. `None`: it is attached already.
    fn check(&self, id: [u8; 16], path: &Path, state: &Path) -> Result<Option<BrickSpec>> {
        let unsuitable = |what: String| Err(Error::Unsuitable(what));
        if !path.is_absolute() || !state.is_absolute() {
            return unsuitable("brick and state directory must be absolute paths".into());
        }
        let path = std::fs::canonicalize(path).map_err(|error| Error::not_there(path, &error.to_string()))?;
        if !path.is_dir() {
            return unsuitable(format!("{} is not a directory", path.display()));
        }
        // Checked before it is made: a state directory inside of the brick must not even appear there.
        let state = canonical_ahead(state)?;
        if state.starts_with(&path) {
            return unsuitable(format!("the state directory {} is inside of the brick", state.display()));
        }
        if path.starts_with(&state) {
            return unsuitable(format!("the brick {} is inside of its state directory", path.display()));
        }
        std::fs::create_dir_all(&state).map_err(Error::io("create", &state))?;
        let bricks = self.bricks.read().unwrap_or_else(PoisonError::into_inner);
        for (other_id, Entry { attached, .. }) in bricks.iter() {
            let other = &attached.spec;
            if *other_id == id {
                return if (&other.path, &other.state) == (&path, &state) {
                    Ok(None)
                } else {
                    unsuitable(format!("the brick is attached with another directory: {}", other.path.display()))
                };
            }
            if path.starts_with(&other.path) || other.path.starts_with(&path) {
                return unsuitable(format!("{} and the brick {} overlap", path.display(), other.path.display()));
            }
            if state == other.state {
                return unsuitable(format!("the state directory {} belongs to another brick", state.display()));
            }
            if state.starts_with(&other.path) {
                return unsuitable(format!("the state directory {} is inside of another brick", state.display()));
            }
        }
        Ok(Some(BrickSpec { id, path, state }))
    }

    /// Ends what no brick uses; `for_ever`: also the queue of events, which would be kept otherwise.
    fn stop_unused(&self, pipelines: &mut HashMap<u64, Arc<Pipeline>>, for_ever: bool) {
        let bricks = self.bricks.read().unwrap_or_else(PoisonError::into_inner);
        pipelines.retain(|_, pipeline| {
            let used = bricks.values().any(|entry| Arc::ptr_eq(&entry.pipeline, pipeline));
            if !used {
                drop(ask(pipeline, Command::Stop));
                pipeline.join();
                let mut queue = pipeline.queue();
                // Others that were recorded before may still come.
                if for_ever && queue.ring().bricks().is_empty() {
                    queue.forget();
                }
            }
            used
        });
    }

    fn pipelines(&self) -> MutexGuard<'_, HashMap<u64, Arc<Pipeline>>> {
        self.pipelines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bricks_mut(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<[u8; 16], Entry>> {
        self.bricks.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ask<T>(pipeline: &Pipeline, command: impl FnOnce(Reply<T>) -> Command) -> std::result::Result<T, String> {
    let (reply, answer) = sync_channel(1);
    pipeline.send(command(reply));
    answer.recv().unwrap_or_else(|_| Err("the recorder is stopping".into()))
}

/// Canonical form of a path whose last components may not exist yet.
fn canonical_ahead(path: &Path) -> Result<PathBuf> {
    let mut missing = Vec::new();
    let mut at = path;
    loop {
        match std::fs::canonicalize(at) {
            Ok(mut found) => {
                found.extend(missing.iter().rev());
                return Ok(found);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let (Some(name), Some(above)) = (at.file_name(), at.parent()) else {
                    return Err(Error::io("find", path)(error));
                };
                missing.push(name);
                at = above;
            }
            Err(error) => return Err(Error::io("find", path)(error)),
        }
    }
}

/// Events of our own files would wake us for nothing.
fn mute(pipeline: &Pipeline, spec: &BrickSpec) {
    drop(std::fs::create_dir_all(spec.journal_dir()));
    for dir in [spec.state.clone(), spec.journal_dir()] {
        if let Ok(dir) = std::fs::File::open(&dir) {
            pipeline.queue().group().ignore(dir.as_fd());
        }
    }
}
