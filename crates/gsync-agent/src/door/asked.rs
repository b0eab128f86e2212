//! What a door says to the agent, through the socket in `.gsync/`.

use std::os::fd::BorrowedFd;

use posix::passing::FdStream;
use protocol::{FrameError, encode};
use serde::{Deserialize, Serialize};

/// Raised with every change here: door and agent are of the same release, except for the moment of an upgrade.
pub const DOOR_VERSION: u16 = 1;

/// The first frame; stdin and stdout of the door come with it for channels.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DoorHello {
    /// [`DOOR_VERSION`] of the door.
    pub version: u16,
    /// What is asked.
    pub asked: Asked,
}

/// What a door may ask the agent for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Asked {
    /// Serve a control channel.
    Control,
    /// Serve a stage channel.
    Stage,
    /// The directory of a stage: the door becomes the rsync server in it.
    Rsync {
        /// The stage.
        token: String,
    },
}

/// The agent's answer. A connection that ends without one was not taken: the door tries again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DoorAnswer {
    /// Taken; with a directory for [`Asked::Rsync`].
    Accepted,
    /// Not possible.
    Refused(String),
}

/// Sends an answer, with a descriptor where one belongs to it.
///
/// # Errors
/// [`FrameError`].
pub fn answer(door: &mut FdStream, answer: &DoorAnswer, fd: Option<BorrowedFd<'_>>) -> Result<(), FrameError> {
    Ok(door.send(&encode(answer)?, fd.as_slice())?)
}
