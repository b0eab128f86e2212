//! One fanotify group: everything that happens on one file system.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::error::{Error, Result};
use crate::sys;

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

/// How much the kernel reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Level {
    /// Everything: renames are one event, and every event names its object.
    #[default]
    Full,
    /// The same with a rename in two halves and without the objects of entry events (Linux before 5.17). What is looked
    /// at tells the same; it takes more looks.
    FullMoved,
}

impl Level {
    /// As the operator reads it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Full => "full",
            Level::FullMoved => "full-moved",
        }
    }

    /// The level with this name.
    pub fn parse(name: &str) -> Option<Level> {
        [Level::Full, Level::FullMoved].into_iter().find(|level| level.name() == name)
    }

    fn mask(self) -> u64 {
        match self {
            Level::Full => MASK,
            Level::FullMoved => OLD_MASK,
        }
    }
}

const FLAGS: u32 = libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
const UNLIMITED: u32 = libc::FAN_UNLIMITED_QUEUE | libc::FAN_UNLIMITED_MARKS;

/// Bytes that the kernel counts for each waiting event, however long it is.
const EVENT_BYTES: u64 = 24;

/// What the kernel says of a group.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GroupInfo {
    /// Flags with which it was made, without those of the descriptor.
    pub flags: u32,
    /// Device number, as the kernel writes it, and events of the mark on a file system. None: it was unmounted.
    pub mark: Option<(u64, u64)>,
}

impl GroupInfo {
    /// Out of the text in `/proc/self/fdinfo`.
    pub fn parse(text: &str) -> GroupInfo {
        let mut info = GroupInfo::default();
        for line in text.lines().filter_map(|line| line.strip_prefix("fanotify ")) {
            let hex = |name: &str| {
                let word = line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix(':'))?;
                u64::from_str_radix(word, 16).ok()
            };
            if let Some(flags) = hex("flags") {
                info.flags = flags as u32;
            } else if line.starts_with("sdev:") {
                info.mark = hex("sdev").zip(hex("mask"));
            }
        }
        info
    }
}

/// An open group.
#[derive(Debug)]
pub struct Group {
    fd: OwnedFd,
    level: Level,
}

impl Group {
    /// Opens a group, which collects nothing yet.
    ///
    /// `limited` leaves the kernel's default limit of 16,384 events in place, and a level below the best is not tried to
    /// be surpassed (for tests).
    ///
    /// # Errors
    /// [`Error::Unsuitable`] with what the operator has to do.
    pub fn open(path: &Path, limited: bool, best: Level) -> Result<Group> {
        // Tried, not derived from a version: distributions port features back.
        let flags = FLAGS | if limited { 0 } else { UNLIMITED };
        let new = || sys::fanotify_init(flags | libc::FAN_REPORT_DFID_NAME_TARGET);
        let old = || sys::fanotify_init(flags | libc::FAN_REPORT_DFID_NAME | libc::FAN_REPORT_FID);
        let opened = if best == Level::Full { new() } else { Err(io::Error::from_raw_os_error(libc::EINVAL)) };
        let (fd, level) = match opened {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (old(), Level::FullMoved),
            opened => (opened, Level::Full),
        };
        let fd = fd.map_err(|error| unsuitable(path, &error))?;
        Ok(Group { fd, level })
    }

    /// Begins to collect events of the file system on which `root` is; again: nothing happens. A mark goes without a
    /// word when its file system is unmounted.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] with what the operator has to do.
    pub fn mark(&self, root: BorrowedFd<'_>, path: &Path) -> Result<()> {
        let mark = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
        sys::fanotify_mark(self.fd.as_fd(), mark, self.level.mask(), root).map_err(|error| unsuitable(path, &error))
    }

    /// Takes over a group that was opened by an earlier process, if it has collected events of the file system of `root`
    /// ever since, and the same ones that a new one would. `None`, with the reason in the log, otherwise.
    pub fn adopt(fd: OwnedFd, root: BorrowedFd<'_>, path: &Path, limited: bool, best: Level) -> Option<Group> {
        // The kernel's number of a file system is not always that of its files (btrfs); what a new mark is on tells.
        // A mark vanishes with its file system, so one that is there saw everything.
        let new = Group::open(path, limited, best).ok()?;
        new.mark(root, path).ok()?;
        let group = Group { fd, level: new.level };
        let (held, wanted) = (group.info().ok()?, new.info().ok()?);
        if held == wanted {
            return Some(group);
        }
        tracing::warn!(?held, ?wanted, "the held queue is of another file system, or that was unmounted meanwhile");
        None
    }

    /// What it can see.
    pub fn level(&self) -> Level {
        self.level
    }

    /// What the kernel says of it.
    ///
    /// # Errors
    /// What the system says.
    pub fn info(&self) -> io::Result<GroupInfo> {
        info_of(self.fd.as_fd())
    }

    /// Keeps the kernel from reporting what happens in a directory (our own state). Best effort: what is reported
    /// all the same is told apart by process and by directory.
    pub fn ignore(&self, dir: BorrowedFd<'_>) {
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_IGNORE_SURV;
        if let Err(error) = sys::fanotify_mark(self.fd.as_fd(), flags, MASK | libc::FAN_EVENT_ON_CHILD, dir) {
            tracing::debug!(%error, "a directory of our own cannot be muted");
        }
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What the kernel says of the group behind a descriptor.
///
/// # Errors
/// What the system says.
pub fn info_of(group: BorrowedFd<'_>) -> io::Result<GroupInfo> {
    use std::os::fd::AsRawFd;
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", group.as_raw_fd()))?;
    Ok(GroupInfo::parse(&text))
}

/// How many events wait in a group. The kernel walks through all of them with a lock held that writers need, so this is
/// not to be asked often.
///
/// # Errors
/// What the system says.
pub fn waiting_events(group: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(rustix::io::ioctl_fionread(group)? / EVENT_BYTES)
}

fn unsuitable(path: &Path, error: &io::Error) -> Error {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_of_a_group() {
        let text = "pos:\t0\nflags:\t02004002\nmnt_id:\t17\nino:\t26\nfanotify flags:1e33 event-flags:8000\n\
                    fanotify ino:1 sdev:27 mflags:40 mask:0 ignored_mask:1000030e fhandle-bytes:c fhandle-type:1\n\
                    fanotify sdev:800013 mflags:0 mask:5800030e ignored_mask:0\n";
        let info = GroupInfo::parse(text);
        assert_eq!(info, GroupInfo { flags: 0x1e33, mark: Some((0x80_0013, 0x5800_030e)) });
        let unmounted = GroupInfo::parse("fanotify flags:1e33 event-flags:8000\n");
        assert_eq!(unmounted, GroupInfo { flags: 0x1e33, mark: None });
        assert_eq!(GroupInfo::parse("nonsense\nfanotify sdev:x mask:\n"), GroupInfo::default());
    }
}
