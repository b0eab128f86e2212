//! Writes the changelog of plain bricks: kernel events, look, index, slices.
//!
//! An event only says where to look. What is there is looked at after the event was read and compared with the index;
//! the difference is written to the changelog in an order that a strict file system would accept, and then committed
//! to the index. The first crawl is the difference to an empty index; a crawl after an outage is the same code.
//!
//! Layout, in the order in which a change passes through:
//! - [`event`], `sys`: what the kernel reports, out of raw bytes
//! - [`group`]: one fanotify group per file system
//! - [`ring`], [`queue`]: events until they are written down
//! - [`keeper`], [`hold`]: who holds them while there is no recorder
//! - [`dirty`]: which names and objects are to be looked at
//! - [`handle`], [`slot`]: file handles and the GFIDs derived from them; a name by identity
//! - [`identity`], [`presence`]: whether a directory is the brick that was recorded before, and still there
//! - [`disk`]: looking at the brick, never by path; [`gone`]: what cannot be opened is gone, or cannot be read
//! - [`survey`]: looking until the looks make sense together
//! - [`plan`]: from changed names to operations in an order that works (pure)
//! - [`judge`]: whether content or attributes changed (pure)
//! - [`batch`]: survey, plan and judgement of one batch
//! - [`journal`], [`index`]: where the result is written
//! - [`brick`]: the state of one brick; [`listing`] and [`removal`] are its long jobs
//! - [`pipeline`]: the thread that drives the bricks of one file system
//! - [`registry`]: all attached bricks
//! - [`server`], [`answers`]: the local socket for workers and the monitor

pub mod answers;
pub mod batch;
pub mod brick;
pub mod dirty;
pub mod disk;
pub mod error;
pub mod event;
pub mod gone;
pub mod group;
pub mod handle;
pub mod hold;
pub mod identity;
pub mod index;
pub mod journal;
pub mod judge;
pub mod keeper;
pub mod listing;
pub mod pipeline;
pub mod plan;
pub mod presence;
pub mod queue;
pub mod registry;
pub mod removal;
pub mod ring;
pub mod server;
pub mod slot;
pub mod survey;
mod sys;

pub use brick::BrickSpec;
pub use error::{Error, Result};
pub use registry::{Options, Registry};
pub use sys::StopSignals;
