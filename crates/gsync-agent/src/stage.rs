//! Content on its way: one directory `stage/<token>/` for each control connection.
//!
//! `<gfid>`: complete (sent through a stage channel), or what rsync works on. `<gfid>.part`: a stage channel is
//! writing it. `<gfid>.ready`: complete, with attributes and stamp, waiting for its name. Only the thread that
//! applies touches `.ready`; `.part` becomes `<gfid>` under the lock below, so that a file is taken whole or not at
//! all.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use posix::{Kind, Object};
use protocol::Gfid;
use rustix::fs::AtFlags;
use rustix::io::Errno;
use rustix::rand::GetRandomFlags;

use crate::channel::Stopper;
use crate::door::rsync::RunningRsync;
use crate::private::{Private, open_or_make};
use crate::tree::Spot;

/// Complete files that may wait in one stage; their GFIDs are held in memory (16 MiB and some).
const MAX_COMPLETE: usize = 1 << 20;

/// The stages of all control connections, by token.
#[derive(Debug, Default)]
pub struct Stages {
    by_token: Mutex<HashMap<String, Arc<Stage>>>,
}

/// The stage of one control connection.
#[derive(Debug)]
pub struct Stage {
    /// Its token, the name of its directory.
    pub token: String,
    /// Its directory.
    pub dir: Arc<OwnedFd>,
    complete: Mutex<HashSet<Gfid>>,
    users: Mutex<Users>,
}

/// Who writes into a stage; stopped when the token dies.
#[derive(Debug, Default)]
struct Users {
    closed: bool,
    channels: Vec<Stopper>,
    rsyncs: Vec<RunningRsync>,
}

impl Stages {
    /// Makes a stage with a new token.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(&self, private: &Private) -> io::Result<Arc<Stage>> {
        let mut random = [0u8; protocol::rsync::TOKEN_LEN / 2];
        rustix::rand::getrandom(&mut random, GetRandomFlags::empty())?;
        let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        rustix::fs::mkdirat(&private.stage, token.as_str(), rustix::fs::Mode::RWXU)?;
        let dir = Arc::new(open_or_make(std::os::fd::AsFd::as_fd(&private.stage), token.as_bytes())?);
        let stage = Arc::new(Stage { token: token.clone(), dir, complete: Mutex::default(), users: Mutex::default() });
        lock(&self.by_token).insert(token, stage.clone());
        Ok(stage)
    }

    /// The stage of a token.
    pub fn get(&self, token: &str) -> Option<Arc<Stage>> {
        lock(&self.by_token).get(token).cloned()
    }

    /// Ends a stage: the token is not known any more, its channels and rsyncs are stopped (and have ended when this
    /// returns, as far as rsync is concerned: it may have a live file open), its directory is out of the way.
    pub fn close(&self, private: &Private, stage: &Stage) {
        lock(&self.by_token).remove(&stage.token);
        let (channels, rsyncs) = {
            let mut users = lock(&stage.users);
            users.closed = true;
            (std::mem::take(&mut users.channels), std::mem::take(&mut users.rsyncs))
        };
        channels.iter().for_each(Stopper::stop);
        rsyncs.into_iter().for_each(RunningRsync::end);
        let _ = rustix::fs::renameat(&private.stage, stage.token.as_str(), &private.made, dead_name(&stage.token));
    }

    /// Removes the directory of a closed stage; may take its time.
    pub fn remove(private: &Private, token: &str) {
        let path = format!("{}/{}", private.path_to("made"), dead_name(token));
        if let Err(error) = std::fs::remove_dir_all(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "a stage could not be removed; the next start does it");
        }
    }
}

impl Stage {
    /// Has a channel stopped with this stage; `false` when the stage is closed already.
    pub fn add_channel(&self, stopper: Stopper) -> bool {
        let mut users = lock(&self.users);
        users.channels.retain(Stopper::is_used);
        if !users.closed {
            users.channels.push(stopper);
        }
        !users.closed
    }

    /// Has an rsync ended with this stage; `false` when the stage is closed already.
    pub fn add_rsync(&self, rsync: RunningRsync) -> bool {
        let mut users = lock(&self.users);
        users.rsyncs.retain(|r| !r.has_ended());
        if !users.closed {
            users.rsyncs.push(rsync);
        }
        !users.closed
    }

    /// The name under which content is sent.
    pub fn spot(&self, gfid: Gfid) -> Spot {
        Spot::unindexed(&self.dir, gfid.to_string())
    }

    /// The name of a complete file with attributes.
    pub fn ready_spot(&self, gfid: Gfid) -> Spot {
        Spot::unindexed(&self.dir, format!("{gfid}.ready"))
    }

    /// Takes a file that a channel has written completely from its `.part` name.
    ///
    /// # Errors
    /// What the system says; `EDQUOT` when too many files wait already.
    pub fn complete(&self, gfid: Gfid, part: &str) -> io::Result<()> {
        let mut complete = lock(&self.complete);
        if complete.len() >= MAX_COMPLETE {
            return Err(Errno::DQUOT.into());
        }
        rustix::fs::renameat(&self.dir, part, &self.dir, gfid.to_string())?;
        complete.insert(gfid);
        Ok(())
    }

    /// Takes a file out of reach of channels, as [`Stage::ready_spot`], when it is complete: sent to its end, or of the
    /// size and mtime of `object`, which rsync sets last, or `vouched` for by its sender. Returns what it is.
    ///
    /// # Errors
    /// What the system says.
    pub fn claim(&self, gfid: Gfid, object: &Object, vouched: bool) -> io::Result<Option<Claimed>> {
        let mut complete = lock(&self.complete);
        let name = gfid.to_string();
        let stat = match rustix::fs::statat(&self.dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let found = Object::from_stat(&stat)?;
        let sent = complete.contains(&gfid);
        let whole = sent || vouched || (found.size, found.mtime) == (object.size, object.mtime);
        if found.kind != Kind::File || !whole {
            return Ok(None);
        }
        rustix::fs::renameat(&self.dir, name.as_str(), &self.dir, format!("{gfid}.ready"))?;
        complete.remove(&gfid);
        Ok(Some(Claimed { sent, inode: stat.st_ino }))
    }

    /// Puts a claimed file back.
    pub fn unclaim(&self, gfid: Gfid, claimed: &Claimed) {
        let mut complete = lock(&self.complete);
        let back = rustix::fs::renameat(&self.dir, format!("{gfid}.ready"), &self.dir, gfid.to_string());
        if back.is_ok() && claimed.sent {
            complete.insert(gfid);
        }
    }

    /// Removes what is staged of an object, complete or not.
    pub fn discard(&self, gfid: Gfid) {
        lock(&self.complete).remove(&gfid);
        let _ = rustix::fs::unlinkat(&self.dir, gfid.to_string(), AtFlags::empty());
    }
}

/// A complete file, out of reach of channels.
#[derive(Debug)]
pub struct Claimed {
    /// Whether it came through a stage channel.
    pub sent: bool,
    /// Its inode number.
    pub inode: u64,
}

fn dead_name(token: &str) -> String {
    format!("dead-{token}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked holding one of these locks left nothing half done: each holds plain collections.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
