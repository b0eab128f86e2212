//! The agent's own directory `.gsync/` at the root of the secondary, and the root itself.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use posix::beneath;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::AgentError;

/// Name of the private directory; it can never be bound.
pub const PRIVATE: &[u8] = b".gsync";

/// Socket on which doors reach the agent.
pub const SOCKET: &str = "agent.sock";
/// What the agent says on stderr.
pub const LOG: &str = "agent.log";
/// The index.
pub const INDEX: &str = "index.redb";
/// The index of before an unclean stop, while a new one is made.
pub const OLD_INDEX: &str = "index.old.redb";
/// Held by the one agent of the root.
const LOCK: &[u8] = b"lock";
/// There after a clean stop only.
const CLEAN: &[u8] = b"clean";
/// On which boot of the machine the index was written.
const BOOT: &[u8] = b"boot";

/// A boot id has 37 bytes.
const BOOT_ID_MAX: u64 = 64;

/// The root and the directories of `.gsync/`, all open.
#[derive(Debug)]
pub struct Private {
    /// The root of the secondary.
    pub root: Arc<OwnedFd>,
    /// `.gsync/`.
    pub base: Arc<OwnedFd>,
    /// One directory per stage token.
    pub stage: Arc<OwnedFd>,
    /// Objects and links on their way to their names; worth nothing after a crash.
    pub made: Arc<OwnedFd>,
    /// New contents of files with several names, while the names are replaced one by one.
    pub relink: Arc<OwnedFd>,
    /// Objects without a name, named by GFID.
    pub parked: Arc<OwnedFd>,
    /// What was found and could not be explained.
    pub quarantine: Arc<OwnedFd>,
}

impl Private {
    /// Opens the root and opens or makes what the agent needs below it.
    ///
    /// # Errors
    /// [`AgentError::NotRoot`], [`AgentError::Root`], [`AgentError::GlusterBrick`] or [`AgentError::Private`].
    pub fn open(path: &Path) -> Result<Private, AgentError> {
        if !rustix::process::geteuid().is_root() {
            return Err(AgentError::NotRoot);
        }
        let root = open_root(path)?;
        let mut id = [0u8; 16];
        if rustix::fs::fgetxattr(&root, c"trusted.glusterfs.volume-id", &mut id).is_ok() {
            return Err(AgentError::GlusterBrick { path: path.into() });
        }
        let base = open_base(&root)?;
        let below = |name: &'static str| {
            let opened = open_or_make(base.as_fd(), name.as_bytes());
            opened.map(Arc::new).map_err(|source| AgentError::Private { name, source })
        };
        let (stage, made, relink) = (below("stage")?, below("made")?, below("relink")?);
        let (parked, quarantine) = (below("parked")?, below("quarantine")?);
        let (root, base) = (Arc::new(root), Arc::new(base));
        Ok(Private { root, base, stage, made, relink, parked, quarantine })
    }

    /// A path to `name` in `.gsync/` for calls that take no descriptor, valid while `self` lives.
    pub fn path_to(&self, name: &str) -> String {
        format!("{}/{name}", posix::fd_path(self.base.as_fd()))
    }

    /// Becomes the one agent of this root; `None` when there is one.
    ///
    /// # Errors
    /// What the system says.
    pub fn lock(&self) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::RDWR | OFlags::CREATE;
        let file = beneath::open_file(self.base.as_fd(), LOCK, flags, Mode::RUSR | Mode::WUSR)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                // For the operator: who it is.
                rustix::fs::ftruncate(&file, 0)?;
                rustix::io::write(&file, format!("{}\n", std::process::id()).as_bytes())?;
                Ok(Some(file))
            }
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Takes the marker of a clean stop away, durably; whether it was there.
    ///
    /// # Errors
    /// What the system says.
    pub fn take_clean_marker(&self) -> io::Result<bool> {
        match rustix::fs::unlinkat(&self.base, CLEAN, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(false),
            Err(e) => return Err(e.into()),
        }
        rustix::fs::fsync(&self.base)?;
        Ok(true)
    }

    /// Writes the marker of a clean stop, durably; the last thing an agent does.
    ///
    /// # Errors
    /// What the system says.
    pub fn put_clean_marker(&self) -> io::Result<()> {
        self.put(CLEAN, &boot_id()?)
    }

    /// Whether the machine was not started anew since [`Private::note_boot`]: only then is everything on the disk that
    /// was written before.
    ///
    /// # Errors
    /// What the system says.
    pub fn is_same_boot(&self) -> io::Result<bool> {
        let mut noted = String::new();
        match beneath::open_file(self.base.as_fd(), BOOT, OFlags::RDONLY, Mode::empty()) {
            Ok(file) => File::from(file).take(BOOT_ID_MAX).read_to_string(&mut noted)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        Ok(noted == boot_id()?)
    }

    /// Notes on which boot of the machine the index is written, durably.
    ///
    /// # Errors
    /// What the system says.
    pub fn note_boot(&self) -> io::Result<()> {
        if self.is_same_boot()? { Ok(()) } else { self.put(BOOT, &boot_id()?) }
    }

    fn put(&self, name: &[u8], text: &str) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let mut file = File::from(beneath::open_file(self.base.as_fd(), name, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Ok(rustix::fs::fsync(&self.base)?)
    }

    /// Removes what is worth nothing after a restart: stages and half-made objects.
    ///
    /// # Errors
    /// What the system says.
    pub fn sweep(&self) -> io::Result<()> {
        empty(self.stage.as_fd())?;
        empty(self.made.as_fd())
    }
}

fn boot_id() -> io::Result<String> {
    let mut id = String::new();
    File::open("/proc/sys/kernel/random/boot_id")?.take(BOOT_ID_MAX).read_to_string(&mut id)?;
    Ok(id)
}

/// Opens the root of a secondary.
///
/// # Errors
/// [`AgentError::Root`].
pub fn open_root(path: &Path) -> Result<OwnedFd, AgentError> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| AgentError::Root { path: path.into(), source: e.into() })
}

/// Opens `.gsync/`, or makes it.
///
/// # Errors
/// [`AgentError::Private`].
pub fn open_base(root: &OwnedFd) -> Result<OwnedFd, AgentError> {
    open_or_make(root.as_fd(), PRIVATE).map_err(|source| AgentError::Private { name: ".gsync", source })
}

/// Opens the directory `name`, making it with mode 0700 when it is not there.
///
/// # Errors
/// What the system says.
pub fn open_or_make(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    beneath::open_file(dir, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

/// Removes everything in a directory of ours, links not followed.
///
/// # Errors
/// The first that the system says.
pub fn empty(dir: BorrowedFd<'_>) -> io::Result<()> {
    for entry in std::fs::read_dir(posix::fd_path(dir))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
