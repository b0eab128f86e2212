//! The secondary as the worker sees it.
//!
//! Layout:
//! - [`target`]: where the secondary is and how a channel to it is started
//! - [`master`]: the one ssh connection that carries all channels
//! - [`channel`]: a child process whose stdin and stdout are the channel
//! - [`control`]: requests to the agent, many under way
//! - [`source`]: an open file of the brick, and whether it stood still while it was read
//! - [`engine`]: how content gets into the stage; [`tar`] and [`rsync`] are the two ways, [`per_file`] uses both

#![forbid(unsafe_code)]

pub mod channel;
pub mod control;
pub mod engine;
pub mod error;
pub mod master;
pub mod per_file;
pub mod rsync;
pub mod source;
pub mod tar;
pub mod target;

pub use control::Control;
pub use engine::{Engine, Sent, SentState};
pub use error::SyncError;
pub use source::Source;
pub use target::Target;
