//! An open file of the brick, and whether it stood still while it was read.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use posix::writers::{Writers, probe};
use protocol::{Gfid, Object, Version};

/// A file whose content is to be sent.
#[derive(Debug)]
pub struct Source {
    /// The object.
    pub gfid: Gfid,
    /// Open for reading; addresses the object whatever it is called.
    pub fd: OwnedFd,
    /// Send it although somebody is writing to it (it has been waiting for long).
    pub accept_unstable: bool,
}

/// A file as it was before it was read.
#[derive(Debug)]
pub struct Snapshot {
    /// Its attributes, without xattrs: those are read again when the content is stated.
    pub object: Object,
    /// Whether nobody had it open for writing.
    quiet: bool,
}

impl Source {
    /// Looks at the file before it is read. `None`: somebody is writing to it and that is not accepted.
    ///
    /// # Errors
    /// What the system says.
    pub fn begin(&self) -> io::Result<Option<Snapshot>> {
        let quiet = self.is_quiet()?;
        if !quiet && !self.accept_unstable {
            return Ok(None);
        }
        Ok(Some(Snapshot { object: Object::read_stat(self.fd.as_fd())?, quiet }))
    }

    /// Whether what was read between [`begin`](Source::begin) and now is one state of the file that was not being
    /// written; always true for a file whose instability is accepted.
    ///
    /// # Errors
    /// What the system says.
    pub fn stood_still(&self, before: &Snapshot) -> io::Result<bool> {
        if self.accept_unstable {
            return Ok(true);
        }
        let now = Object::read_stat(self.fd.as_fd())?;
        Ok(before.quiet && Version::of(&now) == Version::of(&before.object) && self.is_quiet()?)
    }

    fn is_quiet(&self) -> io::Result<bool> {
        Ok(probe(self.fd.as_fd())? != Writers::Some)
    }
}
