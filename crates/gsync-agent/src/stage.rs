//! Content on its way: one directory `stage/<token>/` for each control connection.
//!
//! `<number>`: written by a stage channel, with attributes and stamp, or claimed from rsync. A number is used once, so
//! that what is complete needs no other name to be out of the reach of channels. `<gfid>`: what rsync works on.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use posix::{Kind, Object, Time};
use protocol::Gfid;
use rustix::fs::AtFlags;
use rustix::io::Errno;
use rustix::rand::GetRandomFlags;

use crate::channel::Stopper;
use crate::door::rsync::RunningRsync;
use crate::private::{Private, open_or_make};
use crate::tree::Spot;

/// Complete files that may wait in one stage: more than a worker has under way. What is known of them is held in memory
/// (about 12 MiB).
const MAX_COMPLETE: usize = 1 << 17;

/// Default ACLs of a directory above would be inherited by what is made in a stage.
const DEFAULT_ACL: &str = "system.posix_acl_default";

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
    /// What channels completed and nobody claimed yet.
    complete: Mutex<HashMap<Gfid, Received>>,
    last_number: AtomicU64,
    users: Mutex<Users>,
}

/// A file that a channel completed.
#[derive(Clone, Copy, Debug)]
struct Received {
    number: u64,
    attributes: Attributes,
}

/// What a file in the stage looks like, without xattrs: it has none but its stamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// Permission bits (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change of content.
    pub mtime: Time,
}

impl Attributes {
    /// Whether nothing has to be done to a file with these so that it looks like `object`.
    pub fn suffice(&self, object: &Object) -> bool {
        let wanted = Attributes { mode: object.mode, uid: object.uid, gid: object.gid, mtime: object.mtime };
        *self == wanted && object.xattrs.is_empty()
    }
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
        let dir = Arc::new(open_or_make(private.stage.as_fd(), token.as_bytes())?);
        match rustix::fs::fremovexattr(&dir, DEFAULT_ACL) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
        let stage = Arc::new(Stage {
            token: token.clone(),
            dir,
            complete: Mutex::default(),
            last_number: AtomicU64::new(0),
            users: Mutex::default(),
        });
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

    /// The name under which rsync works.
    pub fn spot(&self, gfid: Gfid) -> Spot {
        Spot::unindexed(&self.dir, gfid.to_string())
    }

    /// The name of a numbered file.
    pub fn numbered(&self, number: u64) -> Spot {
        Spot::unindexed(&self.dir, number.to_string())
    }

    /// A number that nothing in this stage has or had.
    pub fn next_number(&self) -> u64 {
        self.last_number.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Takes a file that a channel has written completely and given these attributes and its stamp.
    ///
    /// # Errors
    /// `EDQUOT` when too many files wait already.
    pub fn complete(&self, gfid: Gfid, number: u64, attributes: Attributes) -> io::Result<()> {
        let mut complete = lock(&self.complete);
        if complete.len() >= MAX_COMPLETE && !complete.contains_key(&gfid) {
            return Err(Errno::DQUOT.into());
        }
        if let Some(older) = complete.insert(gfid, Received { number, attributes }) {
            self.remove_numbered(older.number);
        }
        Ok(())
    }

    /// Takes a file out of reach of channels and rsync when it is complete: sent to its end, or of the size and mtime of
    /// `object`, which rsync sets last, or `vouched` for by its sender. Returns what it is.
    ///
    /// # Errors
    /// What the system says.
    pub fn claim(&self, gfid: Gfid, object: &Object, vouched: bool) -> io::Result<Option<Claimed>> {
        if let Some(Received { number, attributes }) = lock(&self.complete).remove(&gfid) {
            return Ok(Some(Claimed { number, by: By::Channel(attributes) }));
        }
        let name = gfid.to_string();
        let stat = match rustix::fs::statat(&self.dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let found = Object::from_stat(&stat)?;
        let whole = vouched || (found.size, found.mtime) == (object.size, object.mtime);
        if found.kind != Kind::File || !whole {
            return Ok(None);
        }
        let number = self.next_number();
        rustix::fs::renameat(&self.dir, name.as_str(), &self.dir, number.to_string())?;
        Ok(Some(Claimed { number, by: By::Rsync { inode: stat.st_ino } }))
    }

    /// Puts a claimed file back, unless there is a newer one.
    pub fn unclaim(&self, gfid: Gfid, claimed: &Claimed) {
        let Claimed { number, by } = *claimed;
        match by {
            By::Channel(attributes) => {
                let mut complete = lock(&self.complete);
                match complete.entry(gfid) {
                    Entry::Occupied(_) => self.remove_numbered(number),
                    Entry::Vacant(vacant) => drop(vacant.insert(Received { number, attributes })),
                }
            }
            By::Rsync { .. } => {
                let _ = rustix::fs::renameat(&self.dir, number.to_string(), &self.dir, gfid.to_string());
            }
        }
    }

    /// Removes what is staged of an object, complete or not.
    pub fn discard(&self, gfid: Gfid) {
        if let Some(received) = lock(&self.complete).remove(&gfid) {
            self.remove_numbered(received.number);
        }
        let _ = rustix::fs::unlinkat(&self.dir, gfid.to_string(), AtFlags::empty());
    }

    /// Removes a numbered file that is of no use. What stays goes with the stage.
    pub fn remove_numbered(&self, number: u64) {
        let _ = rustix::fs::unlinkat(&self.dir, number.to_string(), AtFlags::empty());
    }
}

/// A complete file, out of reach of channels and rsync.
#[derive(Clone, Copy, Debug)]
pub struct Claimed {
    /// Its name.
    pub number: u64,
    /// Who wrote it.
    pub by: By,
}

/// Who wrote a file.
#[derive(Clone, Copy, Debug)]
pub enum By {
    /// A stage channel, which gave it these attributes and its stamp.
    Channel(Attributes),
    /// rsync; it may have worked on the live file itself.
    Rsync {
        /// Its inode number.
        inode: u64,
    },
}

fn dead_name(token: &str) -> String {
    format!("dead-{token}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked holding one of these locks left nothing half done: each holds plain collections.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
