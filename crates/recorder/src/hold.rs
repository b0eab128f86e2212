//! The holder: a process for each file system that does nothing but hold two descriptors.
//!
//! It is started by the first recorder and outlives it. While no recorder reads, it sees to it that the kernel's queue
//! does not grow without bound. It ends when the file system was unmounted (the kernel took the mark away), when it is
//! told to, when its socket is not there any more, or when nobody has asked for so long that a crawl is cheaper.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use posix::passing::FdStream;
use protocol::hold::{Ask, HELD, HOLD_BYTES, NOTHING};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{Error, Result};
use crate::group;
use crate::keeper::holder::is_silent;
use crate::queue::{Counter, EVENTS_MAX, discard};
use crate::ring::Ring;

/// How long either side waits for the other.
pub const TALK_LIMIT: Duration = Duration::from_secs(10);

/// How often the holder looks whether it is still needed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A queue of which no recorder made use for this long is given up.
const UNUSED_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// A holder that was given nothing for this long ends.
const EMPTY_LIMIT: Duration = Duration::from_secs(60);

/// How a holder works.
#[derive(Clone, Copy, Debug)]
pub struct HoldOptions {
    /// More waiting events than this are thrown away.
    pub events_max: u64,
}

impl Default for HoldOptions {
    fn default() -> HoldOptions {
        HoldOptions { events_max: EVENTS_MAX }
    }
}

struct Content {
    group: OwnedFd,
    ring: Ring,
    count: Counter,
}

/// Holds until nobody needs it.
///
/// # Errors
/// When it cannot listen, e.g. because another one does.
pub fn hold(socket: &Path, options: HoldOptions) -> Result<()> {
    // Not a part of whatever starts and ends the recorder. It fails for one that was started by hand in a terminal.
    let _ = rustix::process::setsid();
    let listener = crate::server::listen(socket)?;
    let inode = inode(socket);
    listener.set_nonblocking(true).map_err(Error::io("listen on", socket))?;
    let mut content: Option<Content> = None;
    let mut user: Option<UnixStream> = None;
    let mut used = Instant::now();
    loop {
        if wait(&listener, user.as_ref())
            && let Ok((stream, _)) = listener.accept()
        {
            match serve(stream, &mut content) {
                Ok(Served::User(stream)) => user = Some(stream),
                Ok(Served::Nothing) => {}
                Ok(Served::End) => break,
                // A peer that does not know what it wants.
                Err(_) => continue,
            }
        }
        if !user.as_ref().is_some_and(is_silent) {
            user = None;
        }
        if user.is_some() {
            used = Instant::now();
        }
        let limit = if content.is_some() { UNUSED_LIMIT } else { EMPTY_LIMIT };
        // A recorder waits for the file system to come back.
        let is_unmounted = user.is_none()
            && content
                .as_ref()
                .is_some_and(|content| group::info_of(content.group.as_fd()).is_ok_and(|info| info.mark.is_none()));
        if is_unmounted || used.elapsed() > limit || self::inode(socket) != inode {
            break;
        }
        if let Some(Content { group, ring, count }) = &mut content
            && count.is_too_long(group.as_fd(), options.events_max)
        {
            discard(group.as_fd(), ring);
        }
    }
    if self::inode(socket) == inode {
        drop(std::fs::remove_file(socket));
    }
    Ok(())
}

enum Served {
    /// Somebody uses the queue as long as this is open.
    User(UnixStream),
    Nothing,
    End,
}

fn serve(stream: UnixStream, content: &mut Option<Content>) -> io::Result<Served> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TALK_LIMIT))?;
    stream.set_write_timeout(Some(TALK_LIMIT))?;
    let mut stream = FdStream::new(stream);
    let mut asked = [0; HOLD_BYTES];
    stream.read_exact(&mut asked)?;
    match Ask::parse(asked).ok_or(io::ErrorKind::InvalidData)? {
        Ask::Take => match content {
            Some(Content { group, ring, .. }) => stream.send(&HELD, &[group.as_fd(), ring.memory()])?,
            None => {
                stream.send(&NOTHING, &[])?;
                return Ok(Served::Nothing);
            }
        },
        Ask::Keep => {
            let (Some(group), Some(ring)) = (stream.take_fd(), stream.take_fd()) else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            *content = Some(Content { group, ring: Ring::peek(ring)?, count: Counter::default() });
            stream.send(&HELD, &[])?;
        }
        Ask::End => return Ok(Served::End),
    }
    Ok(Served::User(stream.into_inner()))
}

/// Waits for a connection or for the end of the user's. Returns whether there is a connection.
fn wait(listener: &UnixListener, user: Option<&UnixStream>) -> bool {
    let patience = Timespec { tv_sec: LOOK_EVERY.as_secs() as i64, tv_nsec: 0 };
    let mut fds = vec![PollFd::new(listener, PollFlags::IN)];
    fds.extend(user.map(|user| PollFd::new(user, PollFlags::IN)));
    let _ = poll(&mut fds, Some(&patience));
    fds[0].revents().contains(PollFlags::IN)
}

/// Which file is at the socket's path; `None`: there is none.
fn inode(socket: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(socket).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
