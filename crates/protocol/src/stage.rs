//! Content on its way into the stage of the secondary.
//!
//! A stage channel starts as a control channel does: [`MAGIC`](crate::hello::MAGIC) both ways, a frame
//! [`StageHello`] from the worker, a frame [`StageReady`] from the agent. Then the worker sends a tar stream: 512-byte
//! ustar headers, each followed by its content padded to 512 bytes. The name of an entry is
//! `<gfid>/<offset>` (offset in decimal) for a piece of content at that offset, and `<gfid>/end/<size>` with no
//! content for the end of a file of that size: bytes that no piece covered are a hole. The first entry of a file
//! starts it anew; entries of different files are not mixed on one channel. To
//! each end entry the agent answers with a frame [`Staged`].

use changelog::Gfid;
use serde::{Deserialize, Serialize};

use crate::hello::Versions;

/// The largest piece of content in one entry, bytes: what both sides hold in memory for a channel.
pub const MAX_PIECE_BYTES: usize = 1 << 20;

/// Opens a stage channel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StageHello {
    /// What the worker speaks.
    pub versions: Versions,
    /// The token of the control channel ([`Welcome::stage_token`](crate::agent::Welcome::stage_token)).
    pub token: String,
}

/// The agent's answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum StageReady {
    /// Send.
    Ready,
    /// The token is not known (any more).
    Refused,
}

/// What became of one file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Staged {
    /// The object.
    pub gfid: Gfid,
    /// 0, or the `errno` of the first write that failed (the rest of the file was thrown away).
    pub errno: i32,
}
