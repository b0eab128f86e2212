//! Who holds the descriptors of a queue while there is no recorder.
//!
//! - [`holder`]: a small process of our own for each file system
//! - [`store`]: systemd's file descriptor store

pub mod holder;
pub mod store;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

pub use holder::Holder;
pub use store::Store;

/// The two descriptors of a queue.
#[derive(Debug)]
pub struct Held {
    /// The fanotify group.
    pub group: OwnedFd,
    /// The ring's memory.
    pub ring: OwnedFd,
}

/// Holds the queue of one file system.
///
/// A keeper that fails costs a crawl at the next start and nothing else, so no error stops the recorder.
pub trait Keeper: Send {
    /// What an earlier process gave it, if it still has it. To be called once, first.
    fn take(&mut self) -> Option<Held>;

    /// Gives it a queue to hold, in the place of any other. Both descriptors stay open here too.
    ///
    /// # Errors
    /// Why it does not hold it.
    fn keep(&mut self, group: BorrowedFd<'_>, ring: BorrowedFd<'_>) -> io::Result<()>;

    /// Whether it still has what it was given; asked every now and then.
    fn is_holding(&mut self) -> bool;

    /// Lets go: the queue is not needed any more.
    fn forget(&mut self);
}

/// Where keepers are to be found.
#[derive(Clone, Debug, Default)]
pub enum Keepers {
    /// There are none: every start crawls.
    #[default]
    Nobody,
    /// Processes with sockets in this directory; they are started when there are none.
    Holders(PathBuf),
    /// The service manager.
    Store(Arc<store::Manager>),
}

impl Keepers {
    /// The keeper of a file system, named by its device number.
    pub fn of(&self, device: u64) -> Box<dyn Keeper> {
        match self {
            Keepers::Nobody => Box::new(Nobody),
            Keepers::Holders(dir) => Box::new(Holder::new(dir.join(protocol::hold::socket_name(device)))),
            Keepers::Store(manager) => Box::new(Store::new(manager.clone(), device)),
        }
    }
}

/// Holds nothing.
struct Nobody;

impl Keeper for Nobody {
    fn take(&mut self) -> Option<Held> {
        None
    }

    fn keep(&mut self, _: BorrowedFd<'_>, _: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }

    fn is_holding(&mut self) -> bool {
        true
    }

    fn forget(&mut self) {}
}
