//! One fanotify group: everything that happens on one file system.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::dirty::Dirty;
use crate::error::{Error, Result};
use crate::event::Events;
use crate::sys;

/// One read(2): some thousand events.
const BUFFER_BYTES: usize = 256 * 1024;

/// What is reported. `*_SELF` and `MOVED_*` would bring nothing more; `MODIFY` stays because truncate(2) closes nothing.
const MASK: u64 = libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_RENAME
    | libc::FAN_MODIFY
    | libc::FAN_ATTRIB
    | libc::FAN_CLOSE_WRITE
    | libc::FAN_ONDIR;

/// The same for kernels before 5.17, which do not know `FAN_RENAME` and targets of entry events.
const OLD_MASK: u64 = MASK & !libc::FAN_RENAME | libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO;

/// An open group.
#[derive(Debug)]
pub struct Group {
    fd: OwnedFd,
    mask: u64,
    buffer: Vec<u8>,
    own_pid: i32,
}

impl Group {
    /// Opens a group, which collects nothing yet.
    ///
    /// `limited` leaves the kernel's default limit of 16,384 events in place (for tests).
    ///
    /// # Errors
    /// [`Error::Unsuitable`] with what the operator has to do.
    pub fn open(path: &std::path::Path, limited: bool) -> Result<Group> {
        let unlimited = if limited { 0 } else { libc::FAN_UNLIMITED_QUEUE | libc::FAN_UNLIMITED_MARKS };
        let flags = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | unlimited;
        let new = flags | libc::FAN_REPORT_DFID_NAME_TARGET;
        let old = flags | libc::FAN_REPORT_DFID_NAME | libc::FAN_REPORT_FID;
        // Tried, not derived from a version: distributions port features back.
        let (fd, mask) = match sys::fanotify_init(new) {
            Ok(fd) => (fd, MASK),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                (sys::fanotify_init(old).map_err(|error| unsuitable(path, &error))?, OLD_MASK)
            }
            Err(error) => return Err(unsuitable(path, &error)),
        };
        let own_pid = rustix::process::getpid().as_raw_nonzero().get();
        Ok(Group { fd, mask, buffer: vec![0; BUFFER_BYTES], own_pid })
    }

    /// Begins to collect events of the file system on which `root` is; again: nothing happens. A mark goes without a
    /// word when its file system is unmounted.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] with what the operator has to do.
    pub fn mark(&self, root: BorrowedFd<'_>, path: &std::path::Path) -> Result<()> {
        let mark = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
        sys::fanotify_mark(self.fd.as_fd(), mark, self.mask, root).map_err(|error| unsuitable(path, &error))
    }

    /// Keeps the kernel from reporting what happens in a directory (our own state). Best effort: what is reported
    /// all the same is told apart by process and by directory.
    pub fn ignore(&self, dir: BorrowedFd<'_>) {
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_IGNORE_SURV;
        if let Err(error) = sys::fanotify_mark(self.fd.as_fd(), flags, MASK | libc::FAN_EVENT_ON_CHILD, dir) {
            tracing::debug!(%error, "a directory of our own cannot be muted");
        }
    }

    /// Reads everything that has happened so far. Returns whether there was something.
    ///
    /// # Errors
    /// What the system says.
    pub fn drain(&mut self, mut absorb: impl FnMut(&mut dyn FnMut(&mut Dirty))) -> io::Result<bool> {
        let mut any = false;
        loop {
            let length = match rustix::io::read(&self.fd, &mut self.buffer[..]) {
                Ok(0) | Err(rustix::io::Errno::AGAIN) => return Ok(any),
                Ok(length) => length,
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            any = true;
            let (bytes, own_pid) = (&self.buffer[..length], self.own_pid);
            absorb(&mut |dirty| {
                for event in Events::new(bytes) {
                    dirty.absorb(&event, own_pid);
                }
            });
        }
    }

    /// A descriptor to wait on, independent of the group's lock.
    ///
    /// # Errors
    /// What the system says.
    pub fn poll_fd(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }
}

fn unsuitable(path: &std::path::Path, error: &io::Error) -> Error {
    let path = path.display();
    Error::Unsuitable(match error.raw_os_error() {
        Some(libc::EPERM) => format!("recording {path} needs CAP_SYS_ADMIN: start the recorder as root"),
        Some(libc::EXDEV) => format!(
            "{path} is on a btrfs subvolume, whose changes the kernel does not report: mount the top level \
             (mount -o subvolid=5 DEVICE DIRECTORY) and attach the brick's directory below that"
        ),
        Some(libc::EOPNOTSUPP | libc::ENODEV) => {
            format!("the file system of {path} does not report changes by file handle: {error}")
        }
        Some(libc::EINVAL | libc::ENOSYS) => format!("the kernel is too old to record {path} (5.9 is needed): {error}"),
        _ => format!("changes of {path} cannot be collected: {error}"),
    })
}
