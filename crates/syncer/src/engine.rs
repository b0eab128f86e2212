//! How content gets into the stage.

use std::future::Future;
use std::pin::Pin;

use protocol::{Gfid, Object};

use crate::error::SyncError;
use crate::source::Source;

/// What became of one file.
#[derive(Debug)]
pub struct Sent {
    /// The object.
    pub gfid: Gfid,
    /// What became of it.
    pub state: SentState,
    /// Bytes of content that were read for it.
    pub bytes: u64,
}

/// Where a file is now.
#[derive(Debug)]
pub enum SentState {
    /// In the stage, with the content that belongs to these attributes.
    Staged {
        /// The file as it was when its content was read, without xattrs.
        object: Object,
        /// The engine vouches that it arrived to its end, where the secondary cannot tell by itself.
        whole: bool,
    },
    /// It is being written to; nothing usable is in the stage.
    Busy,
    /// It could not be read here or written there.
    Failed {
        /// `errno`.
        errno: i32,
        /// What was tried.
        reason: String,
    },
}

/// The future of [`Engine::send`].
pub type Sending<'a> = Pin<Box<dyn Future<Output = Result<Vec<Sent>, SyncError>> + Send + 'a>>;

/// Carries content into the stage.
///
/// Contract: `send` may be called many times at once; it returns one [`Sent`] for each source, in any order. An error
/// means that the way to the secondary is broken: nothing is known of the sources and all have to be sent again
/// through a new connection. Sending a file again replaces what the stage has of it; the same file is never sent twice
/// at once (the caller sees to that).
pub trait Engine: Send + Sync {
    /// Sends files.
    fn send(&self, sources: Vec<Source>) -> Sending<'_>;

    /// How many files make a good call.
    fn batch_files(&self) -> usize;
}
