//! What the writers did.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::io;

use rustix::io::Errno;

/// What a call may well say when others get in its way: there is nothing, something else, or too much.
const EXPECTED: [Errno; 16] = [
    Errno::NOENT,
    Errno::EXIST,
    Errno::NOTEMPTY,
    Errno::INVAL,
    Errno::ISDIR,
    Errno::NOTDIR,
    Errno::XDEV,
    Errno::LOOP,
    Errno::BUSY,
    // A link to a directory, a user xattr on a link or fifo.
    Errno::PERM,
    // A default ACL on what is no directory.
    Errno::ACCESS,
    // An fifo without a reader.
    Errno::NXIO,
    Errno::NODATA,
    Errno::OPNOTSUPP,
    // Full; ext4 and btrfs also say so of xattrs that do not fit.
    Errno::NOSPC,
    Errno::MLINK,
];

/// How many unexpected errors are kept.
const UNEXPECTED_MAX: usize = 20;

/// What the writers did, by the kind of call.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Calls that were made, and those of them that changed something.
    pub calls: BTreeMap<&'static str, (u64, u64)>,
    /// The first errors that nothing explains.
    pub unexpected: Vec<String>,
}

impl Counts {
    /// Number of calls that changed something.
    pub fn done(&self) -> u64 {
        self.calls.values().map(|(_, done)| done).sum()
    }

    /// Number of calls.
    pub fn tried(&self) -> u64 {
        self.calls.values().map(|(tried, _)| tried).sum()
    }

    pub(super) fn note(&mut self, name: &'static str, result: io::Result<()>) {
        let (tried, done) = self.calls.entry(name).or_default();
        *tried += 1;
        match result {
            Ok(()) => *done += 1,
            Err(e) if is_expected(&e) => {}
            Err(e) => {
                if self.unexpected.len() < UNEXPECTED_MAX {
                    self.unexpected.push(format!("{name}: {e}"));
                }
            }
        }
    }

    pub(super) fn add(&mut self, other: &Counts) {
        for (name, (tried, done)) in &other.calls {
            let sum = self.calls.entry(name).or_default();
            *sum = (sum.0 + tried, sum.1 + done);
        }
        self.unexpected.extend(other.unexpected.iter().cloned());
    }
}

impl Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} calls changed something:", self.done(), self.tried())?;
        for (name, (tried, done)) in &self.calls {
            write!(f, " {name} {done}/{tried}")?;
        }
        self.unexpected.iter().try_for_each(|error| write!(f, "\nunexpected: {error}"))
    }
}

fn is_expected(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(|errno| EXPECTED.contains(&errno))
}
